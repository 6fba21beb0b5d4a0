//! A machine for the pickle opcodes that construct tensors and what is stored next to them; it executes no code.
//!
//! An unknown name becomes an opaque value, and so does everything constructed with it: nothing is called, imported or
//! inspected. Whether a needed tensor is such a value is checked when it is requested. A name that no checkpoint has a
//! reason to mention stops the reading.
//!
//! Every opcode creates at most one value, so that memory is proportional to the file. Opcodes: `pickletools` of
//! Python's standard library.

use std::collections::HashMap;

use super::callable;
use super::error::Flaw;
use super::suspects::is_suspect;
use super::value::{Callable, Id, Value, full_name};

/// More than any network and its optimiser need; some 200 MB of memory.
const VALUES: usize = 1 << 22;

/// A pickle being read.
pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    next: usize,
    /// The position of the opcode being executed.
    opcode_at: usize,
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// Stack heights of the marks.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
    /// Number of pairs copied out of lists so far.
    pairs: usize,
    /// Where `getattr` was named, if it has not yet been used for anything harmless.
    attribute: Option<usize>,
}

impl<'a> Machine<'a> {
    /// Starts at the pickle at byte `start`.
    pub(super) fn new(bytes: &'a [u8], start: usize) -> Self {
        Self {
            bytes,
            next: start,
            opcode_at: start,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            pairs: 0,
            attribute: None,
        }
    }

    /// The values, the index of the pickle's result, and the position after its STOP.
    pub(super) fn run(mut self) -> Result<(Vec<Value<'a>>, Id, usize), Flaw> {
        loop {
            if let Some(root) = self.step()? {
                return Ok((self.values, root, self.next));
            }
        }
    }

    /// Executes one opcode; returns the result of the pickle after its STOP.
    fn step(&mut self) -> Result<Option<Id>, Flaw> {
        self.opcode_at = self.next;
        if self.values.len() + self.memo.len() > VALUES {
            return Err(self.damaged(format!("more than {VALUES} values, expected the description of tensors")));
        }
        let [opcode] = self.array()?;
        match opcode {
            b'\x80' => {
                let [protocol] = self.array()?;
                if !(2..=5).contains(&protocol) {
                    return Err(self.damaged(format!("pickle protocol {protocol}, expected 2 to 5")));
                }
            }
            b'\x95' => {
                let length = self.unsigned::<8>()?;
                if length > self.left() {
                    return Err(self.damaged(format!("a frame of {length} bytes, of which {} are there", self.left())));
                }
            }
            b'.' => {
                if let Some(at) = self.attribute {
                    return Err(Flaw::Suspect { at, what: "builtins.getattr".to_owned() });
                }
                return self.pop().map(Some);
            }

            b'N' => self.push(Value::None),
            b'\x88' => self.push(Value::Bool(true)),
            b'\x89' => self.push(Value::Bool(false)),
            b'K' => self.count::<1>()?,
            b'M' => self.count::<2>()?,
            b'J' => {
                let value = i64::from(i32::from_le_bytes(self.array()?));
                self.push(Value::Int(value));
            }
            b'\x8a' => self.long::<1>()?,
            b'\x8b' => self.long::<4>()?,
            b'G' => {
                self.take(8)?;
                self.push(Value::Float);
            }

            b'\x8c' => self.text::<1>()?,
            b'X' => self.text::<4>()?,
            b'\x8d' => self.text::<8>()?,
            b'U' => self.old_text::<1>()?,
            b'T' => self.old_text::<4>()?,
            b'C' => self.blob::<1>()?,
            b'B' => self.blob::<4>()?,
            b'\x8e' | b'\x96' => self.blob::<8>()?,

            b'0' => {
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            b'1' => {
                self.pop_mark()?;
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
            b'\x8f' => self.push(Value::Set),
            b'\x90' => {
                self.pop_mark()?;
                let target = self.peek()?;
                if !matches!(self.get(target), Value::Set | Value::Opaque(_)) {
                    return Err(self.damaged(format!("adding to a {}", self.get(target).kind())));
                }
            }
            b'\x91' => {
                self.pop_mark()?;
                self.push(Value::Set);
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
                let index = self.unsigned::<1>()?;
                self.put(index)?;
            }
            b'r' => {
                let index = self.unsigned::<4>()?;
                self.put(index)?;
            }
            b'\x94' => self.put(self.memo.len() as u64)?,
            b'h' => self.recall::<1>()?,
            b'j' => self.recall::<4>()?,

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
                self.push(storage);
            }
            b'R' => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                let callable = match *self.get(callable) {
                    Value::Callable(callable) => callable,
                    Value::Class(_) => {
                        self.push(Value::Opaque(callable));
                        return Ok(None);
                    }
                    Value::Opaque(class) => {
                        self.push(Value::Opaque(class));
                        return Ok(None);
                    }
                    ref other => {
                        return Err(self.damaged(format!("REDUCE calls a {}, expected a name", other.kind())));
                    }
                };
                let Some(Value::Tuple(items)) = self.values.get_mut(arguments) else {
                    return Err(self.damaged("REDUCE without a tuple of arguments".to_owned()));
                };
                // Moved out rather than copied: the same tuple may be used a million times.
                let lent = std::mem::take(items);
                let made = callable::call(self, callable, &lent)?;
                if callable == Callable::Attribute {
                    self.attribute = None;
                }
                if let Some(Value::Tuple(items)) = self.values.get_mut(arguments) {
                    *items = lent;
                }
                self.stack.push(made);
            }
            b'\x81' => {
                self.pop()?;
                self.make()?;
            }
            b'\x92' => {
                self.pop()?;
                self.pop()?;
                self.make()?;
            }
            b'b' => {
                // The version numbers that a state dict carries as attributes, or the state of an opaque object.
                self.pop()?;
                let target = self.peek()?;
                if !matches!(self.get(target), Value::Dict(_) | Value::Opaque(_)) {
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

    /// Adds a value without pushing it on the stack.
    pub(super) fn add(&mut self, value: Value<'a>) -> Id {
        self.values.push(value);
        self.values.len() - 1
    }

    /// The pairs of a list of pairs.
    pub(super) fn pairs(&mut self, list: Id) -> Result<Vec<(Id, Id)>, Flaw> {
        let Value::List(items) = self.get(list) else {
            return Err(self.damaged(format!("a dict is built of a {}, expected a list", self.get(list).kind())));
        };
        // One list may be referenced many times; a real file copies each of its pairs once.
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

    /// A little-endian number of at most 8 bytes.
    fn unsigned<const N: usize>(&mut self) -> Result<u64, Flaw> {
        let bytes: [u8; N] = self.array()?;
        Ok(bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    /// Text up to the end of the line, as in GLOBAL.
    fn line(&mut self) -> Result<&'a str, Flaw> {
        let rest = self.bytes.get(self.next..).unwrap_or_default();
        let Some(length) = rest.iter().position(|&byte| byte == b'\n') else {
            return Err(self.damaged("a name without an end".to_owned()));
        };
        let line = self.take(length as u64)?;
        self.take(1)?;
        std::str::from_utf8(line).map_err(|_| self.damaged("a name that is not UTF-8".to_owned()))
    }

    fn count<const N: usize>(&mut self) -> Result<(), Flaw> {
        let value = self.unsigned::<N>()?;
        self.push(Value::Int(value.cast_signed()));
        Ok(())
    }

    /// An integer whose length in bytes is given by the `N` bytes before it.
    fn long<const N: usize>(&mut self) -> Result<(), Flaw> {
        let length = self.unsigned::<N>()?;
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

    fn text<const N: usize>(&mut self) -> Result<(), Flaw> {
        let length = self.unsigned::<N>()?;
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.damaged("a string that is not UTF-8".to_owned()))?;
        self.push(Value::Text(text));
        Ok(())
    }

    /// A string of Python 2: text if it is valid UTF-8.
    fn old_text<const N: usize>(&mut self) -> Result<(), Flaw> {
        let length = self.unsigned::<N>()?;
        let bytes = self.take(length)?;
        self.push(std::str::from_utf8(bytes).map_or(Value::Bytes, Value::Text));
        Ok(())
    }

    fn blob<const N: usize>(&mut self) -> Result<(), Flaw> {
        let length = self.unsigned::<N>()?;
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
            Some(Value::Opaque(_)) => {}
            _ => return Err(self.damaged(format!("appending to a {}", self.get(target).kind()))),
        }
        Ok(())
    }

    fn insert(&mut self, items: &[Id]) -> Result<(), Flaw> {
        let target = self.peek()?;
        let (pairs, rest) = items.as_chunks::<2>();
        match self.values.get_mut(target) {
            Some(Value::Dict(dict)) if rest.is_empty() => dict.extend(pairs.iter().map(|&[key, value]| (key, value))),
            Some(Value::Opaque(_)) if rest.is_empty() => {}
            Some(Value::Dict(_) | Value::Opaque(_)) => return Err(self.damaged("a key without a value".to_owned())),
            _ => return Err(self.damaged(format!("setting items of a {}", self.get(target).kind()))),
        }
        Ok(())
    }

    fn put(&mut self, index: u64) -> Result<(), Flaw> {
        let top = self.peek()?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn recall<const N: usize>(&mut self) -> Result<(), Flaw> {
        let index = self.unsigned::<N>()?;
        let Some(&id) = self.memo.get(&index) else {
            return Err(self.damaged(format!("memo {index} is read and was never written")));
        };
        self.stack.push(id);
        Ok(())
    }

    /// An object of the class on the stack; its arguments are dropped.
    fn make(&mut self) -> Result<(), Flaw> {
        let class = self.pop()?;
        if !matches!(self.get(class), Value::Class(_)) {
            let what = format!("an object of a {}", self.get(class).kind());
            return Err(Flaw::Refused { at: self.opcode_at, what });
        }
        self.push(Value::Opaque(class));
        Ok(())
    }

    fn global(&mut self, module: &'a str, name: &'a str) -> Result<(), Flaw> {
        match callable::find(module, name) {
            Some(callable) => {
                if callable == Callable::Attribute {
                    self.attribute = Some(self.opcode_at);
                }
                self.push(Value::Callable(callable));
            }
            None if is_suspect(module, name) => {
                return Err(Flaw::Suspect { at: self.opcode_at, what: full_name(module, name) });
            }
            None => self.push(Value::Class(Box::new((module, name)))),
        }
        Ok(())
    }
}

/// The names of the unsupported opcodes.
fn opcode_name(opcode: u8) -> String {
    let name = match opcode {
        b'2' => "DUP",
        b'F' => "FLOAT of pickle protocol 0 (save it with the default protocol)",
        b'I' => "INT of pickle protocol 0 (save it with the default protocol)",
        b'L' => "LONG of pickle protocol 0 (save it with the default protocol)",
        b'P' => "PERSID",
        b'S' => "STRING of pickle protocol 0 (save it with the default protocol)",
        b'V' => "UNICODE of pickle protocol 0 (save it with the default protocol)",
        b'd' => "DICT of pickle protocol 0 (save it with the default protocol)",
        b'g' => "GET of pickle protocol 0 (save it with the default protocol)",
        b'i' => "INST",
        b'l' => "LIST of pickle protocol 0 (save it with the default protocol)",
        b'o' => "OBJ",
        b'p' => "PUT of pickle protocol 0 (save it with the default protocol)",
        b'\x82' => "EXT1",
        b'\x83' => "EXT2",
        b'\x84' => "EXT4",
        b'\x97' => "NEXT_BUFFER",
        b'\x98' => "READONLY_BUFFER",
        other => return format!("0x{other:02x}"),
    };
    name.to_owned()
}
