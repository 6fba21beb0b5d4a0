//! The values of a pickle. They are stored in one flat list and refer to each other by index, so that nesting uses no
//! stack.

use safetensors::tensor::Dtype;

/// The index of a value in the list of values.
pub(super) type Id = usize;

/// The kinds of values in a pickle.
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
    /// In insertion order; a key may occur twice, and the later one counts.
    Dict(Vec<(Id, Id)>),
    Callable(Callable),
    /// A set, whose members are not kept.
    Set,
    /// Boxed, since a hostile file may ask for millions of values.
    Storage(Box<StorageName<'a>>),
    Tensor(Box<TensorParts>),
    /// A class or function of Python that is unknown here: module and name. It is never called or imported.
    Class(Box<(&'a str, &'a str)>),
    /// An object that such a class would have constructed; the index of the class. Its parts are not kept.
    Opaque(Id),
}

impl Value<'_> {
    /// The kind in words, for messages and listings.
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
            Value::Callable(_) | Value::Class(_) => "class",
            Value::Set => "set",
            Value::Opaque(_) => "object",
            Value::Storage(_) => "storage",
            Value::Tensor(_) => "tensor",
        }
    }

    /// The value as a count; none if it is not an integer or is negative.
    pub(super) fn as_size(&self) -> Option<usize> {
        match self {
            Value::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        }
    }
}

/// The meaning of a global name in a pickle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Callable {
    /// `collections.OrderedDict`
    OrderedDict,
    /// `torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`: storage, offset, shape, strides, and arguments that are
    /// dropped.
    RebuildTensor,
    /// `collections.defaultdict`: its default factory is dropped.
    DefaultDict,
    /// `torch._utils._rebuild_parameter` and `_rebuild_parameter_with_state`: a tensor, and arguments that are dropped.
    RebuildParameter,
    /// `torch._tensor._rebuild_from_type_v2`: a function and its arguments, a class between them, and arguments that
    /// are dropped.
    RebuildFromType,
    /// `builtins.getattr`: members of enums and methods of schedules are pickled as attributes.
    Attribute,
    /// `torch.Size`
    Size,
    /// `torch.FloatStorage` and the like: a word in the description of a storage, never called.
    Storage(Dtype),
    /// `torch.float32` and the like: a value itself, never called.
    ElementType,
}

/// The arguments of a tensor, not yet resolved: most checkpoints hold tensors that are never requested.
#[derive(Debug, Clone, Copy)]
pub(super) struct TensorParts {
    pub storage: Id,
    pub offset: Id,
    pub shape: Id,
    pub strides: Id,
    /// The position in the pickle where it is constructed.
    pub at: usize,
}

/// A block of elements that tensors share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct StorageName<'a> {
    /// The key under which the file stores the bytes.
    pub key: &'a str,
    pub dtype: Dtype,
    /// Elements of the whole storage.
    pub count: usize,
    /// First element and length of the part from which tensors count: files of PyTorch 0.3 and older.
    pub view: Option<(usize, usize)>,
}

/// `module.name`, printable and of bounded length.
pub(super) fn full_name(module: &str, name: &str) -> String {
    format!("{module}.{name}").escape_debug().take(200).collect()
}
