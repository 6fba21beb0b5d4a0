//! A machine for the few pickle opcodes that describe tensors; it runs nothing.
//!
//! Values lie in one flat list and refer to each other by index, so that nesting costs no stack, and every opcode makes
//! at most one, so that memory stays in proportion to the file. Opcodes: `pickletools` of Python's library.

use std::collections::HashMap;

use super::callable::{self, Callable, StorageName, TensorParts};
use super::error::Flaw;

/// Where a value lies in the list of values.
pub(super) type Id = usize;

/// What a pickle can hold here.
#[derive(Debug)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 8 bytes, little-endian two's complement.
    Long(&'a [u8]),
    Float,
    Text(&'a str),
    Bytes,
    Tuple(Vec<Id>),
    List(Vec<Id>),
    /// In the order of insertion; a key may come twice, and the later one holds.
    Dict(Vec<(Id, Id)>),
    Callable(Callable),
    Storage(StorageName<'a>),
    Tensor(TensorParts),
}

impl Value<'_> {
    /// A word for messages and listings.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::None => "None",
            Value::Bool(_) => "bool",
            Value::Int(_) | Value::Long(_) => "int",
            Value::Float => "float",
            Value::Text(_) => "string",
            Value::Bytes => "bytes",
            Value::Tuple(_) => "tuple",
            Value::List(_) => "list",
            Value::Dict(_) => "dict",
            Value::Callable(Callable::ElementType) => "dtype",
            Value::Callable(_) => "class",
            Value::Storage(_) => "storage",
            Value::Tensor(_) => "tensor",
        }
    }

    /// The value as a count; none if it is no integer or a negative one.
    pub(super) fn as_size(&self) -> Option<usize> {
        match self {
            Value::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        }
    }
}

/// What one pickle holds.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    values: Vec<Value<'a>>,
    root: Id,
    /// The byte behind its STOP.
    pub end: usize,
}

impl<'a> Pickle<'a> {
    /// Reads the pickle that starts at byte `start`; the offsets in errors count from the start of `bytes`.
    pub(super) fn read(bytes: &'a [u8], start: usize) -> Result<Self, Flaw> {
        let mut machine = Machine {
            bytes,
            next: start,
            opcode_at: start,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            pairs: 0,
        };
        loop {
            if let Some(root) = machine.step()? {
                return Ok(Pickle { values: machine.values, root, end: machine.next });
            }
        }
    }

    pub(super) fn get(&self, id: Id) -> &Value<'a> {
        self.values.get(id).unwrap_or(&Value::None)
    }

    pub(super) fn root(&self) -> &Value<'a> {
        self.get(self.root)
    }

    /// Every storage that is mentioned.
    pub(super) fn storages(&self) -> impl Iterator<Item = StorageName<'a>> {
        self.values.iter().filter_map(|value| if let Value::Storage(storage) = value { Some(*storage) } else { None })
    }
}

/// A pickle while it is read.
pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    next: usize,
    /// Of the opcode that is being carried out.
    opcode_at: usize,
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
    /// Copied out of lists so far.
    pairs: usize,
}

impl<'a> Machine<'a> {
    /// Carries out one opcode; the result of the pickle after its STOP.
    fn step(&mut self) -> Result<Option<Id>, Flaw> {
        self.opcode_at = self.next;
        let [opcode] = self.array()?;
        match opcode {
            b'\x80' => {
                let [protocol] = self.array()?;
                if !(2..=5).contains(&protocol) {
                    return Err(self.damaged(format!("pickle protocol {protocol}, expected 2 to 5")));
                }
            }
            b'\x95' => {
                let length = u64::from_le_bytes(self.array()?);
                if length > self.left() {
                    return Err(self.damaged(format!("a frame of {length} bytes, of which {} are there", self.left())));
                }
            }
            b'.' => return self.pop().map(Some),

            b'N' => self.push(Value::None),
            b'\x88' => self.push(Value::Bool(true)),
            b'\x89' => self.push(Value::Bool(false)),
            b'K' => {
                let value = i64::from(u8::from_le_bytes(self.array()?));
                self.push(Value::Int(value));
            }
            b'M' => {
                let value = i64::from(u16::from_le_bytes(self.array()?));
                self.push(Value::Int(value));
            }
            b'J' => {
                let value = i64::from(i32::from_le_bytes(self.array()?));
                self.push(Value::Int(value));
            }
            b'\x8a' => {
                let length = u64::from(u8::from_le_bytes(self.array()?));
                self.long(length)?;
            }
            b'\x8b' => {
                let length = u64::from(u32::from_le_bytes(self.array()?));
                self.long(length)?;
            }
            b'G' => {
                self.take(8)?;
                self.push(Value::Float);
            }

            b'\x8c' => {
                let length = u64::from(u8::from_le_bytes(self.array()?));
                self.text(length)?;
            }
            b'X' => {
                let length = u64::from(u32::from_le_bytes(self.array()?));
                self.text(length)?;
            }
            b'\x8d' => {
                let length = u64::from_le_bytes(self.array()?);
                self.text(length)?;
            }
            // The strings of Python 2: text wherever they are.
            b'U' => {
                let length = u64::from(u8::from_le_bytes(self.array()?));
                self.old_text(length)?;
            }
            b'T' => {
                let length = u64::from(u32::from_le_bytes(self.array()?));
                self.old_text(length)?;
            }
            b'C' => {
                let length = u64::from(u8::from_le_bytes(self.array()?));
                self.blob(length)?;
            }
            b'B' => {
                let length = u64::from(u32::from_le_bytes(self.array()?));
                self.blob(length)?;
            }
            b'\x8e' => {
                let length = u64::from_le_bytes(self.array()?);
                self.blob(length)?;
            }

            b'(' => self.marks.push(self.stack.len()),
            b')' => self.push(Value::Tuple(Vec::new())),
            b'\x85' => self.tuple(1)?,
            b'\x86' => self.tuple(2)?,
            b'\x87' => self.tuple(3)?,
            b't' => {
                let items = self.pop_mark()?;
                self.push(Value::Tuple(items));
            }
            b']' => self.push(Value::List(Vec::new())),
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            b'e' => {
                let items = self.pop_mark()?;
                self.append(&items)?;
            }
            b'}' => self.push(Value::Dict(Vec::new())),
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.insert(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.insert(&items)?;
            }

            b'q' => {
                let index = u64::from(u8::from_le_bytes(self.array()?));
                self.put(index)?;
            }
            b'r' => {
                let index = u64::from(u32::from_le_bytes(self.array()?));
                self.put(index)?;
            }
            b'\x94' => self.put(self.memo.len() as u64)?,
            b'h' => {
                let index = u64::from(u8::from_le_bytes(self.array()?));
                self.recall(index)?;
            }
            b'j' => {
                let index = u64::from(u32::from_le_bytes(self.array()?));
                self.recall(index)?;
            }

            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            b'\x93' => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (self.get(module), self.get(name)) {
                    (&Value::Text(module), &Value::Text(name)) => self.global(module, name)?,
                    _ => return Err(self.damaged("STACK_GLOBAL without the two strings that it needs".to_owned())),
                }
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = callable::storage(self, id)?;
                self.push(Value::Storage(storage));
            }
            b'R' => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                let &Value::Callable(callable) = self.get(callable) else {
                    let kind = self.get(callable).kind();
                    return Err(self.damaged(format!("REDUCE calls a {kind}, expected a name")));
                };
                let Some(Value::Tuple(items)) = self.values.get_mut(arguments) else {
                    return Err(self.damaged("REDUCE without a tuple of arguments".to_owned()));
                };
                // Lent rather than copied: the same tuple may be used a million times.
                let lent = std::mem::take(items);
                let made = callable::call(self, callable, &lent)?;
                if let Some(Value::Tuple(items)) = self.values.get_mut(arguments) {
                    *items = lent;
                }
                self.stack.push(made);
            }
            b'b' => {
                // The version numbers that a state dict carries as attributes.
                self.pop()?;
                let target = self.peek()?;
                if !matches!(self.get(target), Value::Dict(_)) {
                    let what = format!("BUILD on a {}", self.get(target).kind());
                    return Err(Flaw::Refused { at: self.opcode_at, what });
                }
            }
            other => return Err(Flaw::Refused { at: self.opcode_at, what: format!("opcode {}", opcode_name(other)) }),
        }
        Ok(None)
    }

    pub(super) fn get(&self, id: Id) -> &Value<'a> {
        self.values.get(id).unwrap_or(&Value::None)
    }

    pub(super) fn opcode_at(&self) -> usize {
        self.opcode_at
    }

    pub(super) fn damaged(&self, what: String) -> Flaw {
        Flaw::Damaged { at: self.opcode_at, what }
    }

    /// A new value, not on the stack.
    pub(super) fn add(&mut self, value: Value<'a>) -> Id {
        self.values.push(value);
        self.values.len() - 1
    }

    /// The pairs of a list of pairs.
    pub(super) fn pairs(&mut self, list: Id) -> Result<Vec<(Id, Id)>, Flaw> {
        let Value::List(items) = self.get(list) else {
            return Err(self.damaged(format!("a dict is built of a {}, expected a list", self.get(list).kind())));
        };
        // One list may be named many times; a real file copies each of its pairs once.
        let pairs = self.pairs.saturating_add(items.len());
        if pairs > self.bytes.len() {
            return Err(self.damaged("lists of pairs are used over and over".to_owned()));
        }
        let found = items
            .iter()
            .map(|&item| match self.get(item) {
                Value::Tuple(pair) | Value::List(pair) => match pair[..] {
                    [key, value] => Ok((key, value)),
                    _ => Err(self.damaged(format!("a dict is built of {} things, expected pairs", pair.len()))),
                },
                other => Err(self.damaged(format!("a dict is built of a {}, expected pairs", other.kind()))),
            })
            .collect();
        self.pairs = pairs;
        found
    }

    fn left(&self) -> u64 {
        self.bytes.len().saturating_sub(self.next) as u64
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Flaw> {
        let taken = usize::try_from(length)
            .ok()
            .and_then(|length| self.next.checked_add(length))
            .and_then(|end| self.bytes.get(self.next..end));
        let Some(taken) = taken else {
            return Err(self.damaged(format!("{length} bytes expected, the pickle ends after {}", self.left())));
        };
        self.next += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Flaw> {
        let taken = self.take(N as u64)?;
        taken.try_into().map_err(|_| self.damaged(format!("{N} bytes expected")))
    }

    /// Text up to the end of the line, as GLOBAL has it.
    fn line(&mut self) -> Result<&'a str, Flaw> {
        let rest = self.bytes.get(self.next..).unwrap_or_default();
        let Some(length) = rest.iter().position(|&byte| byte == b'\n') else {
            return Err(self.damaged("a name without an end".to_owned()));
        };
        let line = self.take(length as u64)?;
        self.take(1)?;
        std::str::from_utf8(line).map_err(|_| self.damaged("a name that is not UTF-8".to_owned()))
    }

    fn long(&mut self, length: u64) -> Result<(), Flaw> {
        let bytes = self.take(length)?;
        let value = if bytes.len() > 8 {
            Value::Long(bytes)
        } else {
            let sign = if bytes.last().is_some_and(|&top| top >= 0x80) { 0xff } else { 0 };
            let mut whole = [sign; 8];
            whole.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            Value::Int(i64::from_le_bytes(whole))
        };
        self.push(value);
        Ok(())
    }

    fn text(&mut self, length: u64) -> Result<(), Flaw> {
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.damaged("a string that is not UTF-8".to_owned()))?;
        self.push(Value::Text(text));
        Ok(())
    }

    fn old_text(&mut self, length: u64) -> Result<(), Flaw> {
        let bytes = self.take(length)?;
        self.push(std::str::from_utf8(bytes).map_or(Value::Bytes, Value::Text));
        Ok(())
    }

    fn blob(&mut self, length: u64) -> Result<(), Flaw> {
        self.take(length)?;
        self.push(Value::Bytes);
        Ok(())
    }

    fn push(&mut self, value: Value<'a>) {
        let id = self.add(value);
        self.stack.push(id);
    }

    /// The top of the stack, but nothing below the last mark.
    fn peek(&self) -> Result<Id, Flaw> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.last() {
            Some(&top) if self.stack.len() > floor => Ok(top),
            _ => Err(self.damaged("nothing is on the stack".to_owned())),
        }
    }

    fn pop(&mut self) -> Result<Id, Flaw> {
        let top = self.peek()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>, Flaw> {
        let Some(floor) = self.marks.pop() else {
            return Err(self.damaged("no mark is on the stack".to_owned()));
        };
        Ok(self.stack.split_off(floor.min(self.stack.len())))
    }

    fn tuple(&mut self, length: usize) -> Result<(), Flaw> {
        let mut items = Vec::with_capacity(length);
        for _ in 0..length {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push(Value::Tuple(items));
        Ok(())
    }

    fn append(&mut self, items: &[Id]) -> Result<(), Flaw> {
        let target = self.peek()?;
        match self.values.get_mut(target) {
            Some(Value::List(list)) => list.extend_from_slice(items),
            _ => return Err(self.damaged(format!("appending to a {}", self.get(target).kind()))),
        }
        Ok(())
    }

    fn insert(&mut self, items: &[Id]) -> Result<(), Flaw> {
        let target = self.peek()?;
        let (pairs, rest) = items.as_chunks::<2>();
        match self.values.get_mut(target) {
            Some(Value::Dict(dict)) if rest.is_empty() => dict.extend(pairs.iter().map(|&[key, value]| (key, value))),
            Some(Value::Dict(_)) => return Err(self.damaged("a key without a value".to_owned())),
            _ => return Err(self.damaged(format!("setting items of a {}", self.get(target).kind()))),
        }
        Ok(())
    }

    fn put(&mut self, index: u64) -> Result<(), Flaw> {
        let top = self.peek()?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn recall(&mut self, index: u64) -> Result<(), Flaw> {
        let Some(&id) = self.memo.get(&index) else {
            return Err(self.damaged(format!("memo {index} is read and was never written")));
        };
        self.stack.push(id);
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), Flaw> {
        match callable::find(module, name) {
            Some(callable) => {
                self.push(Value::Callable(callable));
                Ok(())
            }
            None => {
                let what: String = format!("{module}.{name}").escape_debug().take(200).collect();
                Err(Flaw::Refused { at: self.opcode_at, what })
            }
        }
    }
}

/// The names of the opcodes that are not carried out.
fn opcode_name(opcode: u8) -> String {
    let name = match opcode {
        b'0' => "POP",
        b'1' => "POP_MARK",
        b'2' => "DUP",
        b'F' => "FLOAT",
        b'I' => "INT",
        b'L' => "LONG",
        b'P' => "PERSID",
        b'S' => "STRING",
        b'V' => "UNICODE",
        b'd' => "DICT",
        b'g' => "GET",
        b'i' => "INST",
        b'l' => "LIST",
        b'o' => "OBJ",
        b'p' => "PUT",
        b'\x81' => "NEWOBJ",
        b'\x82' => "EXT1",
        b'\x83' => "EXT2",
        b'\x84' => "EXT4",
        b'\x8f' => "EMPTY_SET",
        b'\x90' => "ADDITEMS",
        b'\x91' => "FROZENSET",
        b'\x92' => "NEWOBJ_EX",
        b'\x96' => "BYTEARRAY8",
        b'\x97' => "NEXT_BUFFER",
        b'\x98' => "READONLY_BUFFER",
        other => return format!("0x{other:02x}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests;
