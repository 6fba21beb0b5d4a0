//! The names in a pickle that this reader understands, and the effect of calling them.
//!
//! This list makes an unknown file safe to open: the names on it are implemented here, not by any code of the file, and
//! every other name stays a name.

use safetensors::tensor::Dtype;

use super::error::Flaw;
use super::machine::Machine;
use super::suspects::is_suspect;
use super::value::{Callable, Id, StorageName, TensorParts, Value};

/// The meaning of `module.name`, if this reader understands it.
pub(super) fn find(module: &str, name: &str) -> Option<Callable> {
    Some(match (module, name) {
        ("collections", "OrderedDict") => Callable::OrderedDict,
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Callable::RebuildTensor,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Callable::RebuildParameter,
        ("torch._tensor", "_rebuild_from_type_v2") => Callable::RebuildFromType,
        ("builtins" | "__builtin__", "getattr") => Callable::Attribute,
        ("collections", "defaultdict") => Callable::DefaultDict,
        ("torch", "Size") => Callable::Size,
        ("torch" | "torch.cuda", storage) if storage.ends_with("Storage") => Callable::Storage(match storage {
            "DoubleStorage" => Dtype::F64,
            "FloatStorage" => Dtype::F32,
            "HalfStorage" => Dtype::F16,
            "BFloat16Storage" => Dtype::BF16,
            "LongStorage" => Dtype::I64,
            "IntStorage" => Dtype::I32,
            "ShortStorage" => Dtype::I16,
            "CharStorage" => Dtype::I8,
            "ByteStorage" => Dtype::U8,
            "BoolStorage" => Dtype::BOOL,
            _ => return None,
        }),
        (
            "torch",
            "float64" | "float32" | "float16" | "bfloat16" | "int64" | "int32" | "int16" | "int8" | "uint8" | "bool",
        ) => Callable::ElementType,
        _ => return None,
    })
}

/// The result of calling `callable` with `arguments`.
pub(super) fn call<'a>(machine: &mut Machine<'a>, callable: Callable, arguments: &[Id]) -> Result<Id, Flaw> {
    match (callable, arguments) {
        (Callable::OrderedDict, []) => Ok(machine.add(Value::Dict(Vec::new()))),
        // Python 2 passes the pairs at once.
        (Callable::OrderedDict, &[pairs]) => {
            let pairs = machine.pairs(pairs)?;
            Ok(machine.add(Value::Dict(pairs)))
        }
        (Callable::DefaultDict, _) => Ok(machine.add(Value::Dict(Vec::new()))),
        (Callable::RebuildTensor, &[storage, offset, shape, strides, ..]) => match machine.get(storage) {
            Value::Storage(_) => {
                let at = machine.opcode_at();
                Ok(machine.add(Value::Tensor(Box::new(TensorParts { storage, offset, shape, strides, at }))))
            }
            // Of an unsupported type, and so is the tensor.
            Value::Opaque(_) => Ok(storage),
            other => Err(machine.damaged(format!("a tensor is built of a {}, expected a storage", other.kind()))),
        },
        (Callable::RebuildParameter, &[tensor, ..]) => match machine.get(tensor) {
            Value::Tensor(_) | Value::Opaque(_) => Ok(tensor),
            other => Err(machine.damaged(format!("a parameter is built of a {}, expected a tensor", other.kind()))),
        },
        (Callable::RebuildFromType, &[function, class, inner, ..]) => {
            match (machine.get(function), machine.get(class), machine.get(inner)) {
                (&Value::Callable(function @ Callable::RebuildTensor), Value::Class(class), Value::Tuple(inner))
                    if **class == ("torch", "Tensor") =>
                {
                    let inner: Vec<Id> = inner.iter().take(6).copied().collect();
                    call(machine, function, &inner)
                }
                _ => Ok(machine.add(Value::Opaque(class))),
            }
        }
        (Callable::Attribute, &[of, name, ..]) => match (machine.get(of), machine.get(name)) {
            (&Value::Class(_), &Value::Text(name)) if !is_suspect("", name) => Ok(machine.add(Value::Opaque(of))),
            (&Value::Opaque(class), &Value::Text(name)) if !is_suspect("", name) => {
                Ok(machine.add(Value::Opaque(class)))
            }
            _ => Err(Flaw::Suspect { at: machine.opcode_at(), what: "builtins.getattr".to_owned() }),
        },
        (Callable::Size, &[shape]) => match machine.get(shape) {
            Value::Tuple(_) => Ok(shape),
            other => Err(machine.damaged(format!("a torch.Size is built of a {}, expected a tuple", other.kind()))),
        },
        _ => Err(machine.damaged(format!("{callable:?} is called with {} arguments", arguments.len()))),
    }
}

/// The storage of a persistent id: `("storage", class, key, location, elements[, view])`. One of an unsupported type is
/// opaque.
pub(super) fn storage<'a>(machine: &Machine<'a>, id: Id) -> Result<Value<'a>, Flaw> {
    let Value::Tuple(ids) = machine.get(id) else {
        return Err(machine.damaged(format!("a persistent id is a {}, expected a tuple", machine.get(id).kind())));
    };
    let parts: Vec<&Value<'a>> = ids.iter().take(7).map(|&part| machine.get(part)).collect();
    if let ([Value::Text("storage"), Value::Class(_), ..], Some(&class)) = (&parts[..], ids.get(1)) {
        return Ok(Value::Opaque(class));
    }
    match parts[..] {
        [Value::Text("module"), ..] => {
            Err(Flaw::Refused { at: machine.opcode_at(), what: "the source code of a module".to_owned() })
        }
        [
            Value::Text("storage"),
            Value::Callable(Callable::Storage(dtype)),
            Value::Text(key),
            Value::Text(_),
            count,
            ref view @ ..,
        ] => {
            let view = match view {
                [] | [Value::None] => None,
                [Value::Tuple(view)] => match view[..] {
                    [_, start, len] => machine.get(start).as_size().zip(machine.get(len).as_size()),
                    _ => None,
                }
                .ok_or_else(|| machine.damaged("a view of a storage is not (key, offset, elements)".to_owned()))
                .map(Some)?,
                _ => return Err(machine.damaged("a storage has more than six parts".to_owned())),
            };
            let count = count
                .as_size()
                .ok_or_else(|| machine.damaged(format!("the size of storage {key:?} is not a count of elements")))?;
            if let Some((start, len)) = view
                && start.checked_add(len).is_none_or(|end| end > count)
            {
                let what = format!("a view of {len} elements from {start} reaches past storage {key:?} of {count}");
                return Err(machine.damaged(what));
            }
            Ok(Value::Storage(Box::new(StorageName { key, dtype: *dtype, count, view })))
        }
        _ => Err(machine.damaged("a persistent id is not (\"storage\", class, key, location, elements)".to_owned())),
    }
}
