//! The values of a pickle. They are in one flat list and refer to each other by index, so that nesting costs no stack.

use safetensors::tensor::Dtype;

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
    /// A set, whose members are not needed.
    Set,
    /// In boxes, since a hostile file may ask for millions of values.
    Storage(Box<StorageName<'a>>),
    Tensor(Box<TensorParts>),
    /// A class or function of Python's that means nothing here: module and name. It is never called, nor looked for.
    Class(Box<(&'a str, &'a str)>),
    /// What such a class would have made; which class it is. Its parts are not kept.
    Opaque(Id),
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
            Value::Callable(_) | Value::Class(_) => "class",
            Value::Set => "set",
            Value::Opaque(_) => "object",
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

/// What a global name of a pickle stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Callable {
    /// `collections.OrderedDict`
    OrderedDict,
    /// `torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`: storage, offset, shape, strides, and what is not kept.
    RebuildTensor,
    /// `collections.defaultdict`: what fills it is not kept.
    DefaultDict,
    /// `torch._utils._rebuild_parameter` and `_rebuild_parameter_with_state`: a tensor, and what is not kept.
    RebuildParameter,
    /// `torch._tensor._rebuild_from_type_v2`: a function and its arguments, in between a class, and what is not kept.
    RebuildFromType,
    /// `builtins.getattr`: members of enums and methods of schedules are pickled as attributes.
    Attribute,
    /// `torch.Size`
    Size,
    /// `torch.FloatStorage` and its kin: a word in the description of a storage, never called.
    Storage(Dtype),
    /// `torch.float32` and its kin: a value of its own, never called.
    ElementType,
}

/// The arguments of a tensor, not yet looked into: most checkpoints hold tensors that nobody asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct TensorParts {
    pub storage: Id,
    pub offset: Id,
    pub shape: Id,
    pub strides: Id,
    /// Where in the pickle it is made.
    pub at: usize,
}

/// A run of elements that tensors share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct StorageName<'a> {
    /// Under which the file keeps the bytes.
    pub key: &'a str,
    pub dtype: Dtype,
    /// Elements of the whole storage.
    pub count: usize,
    /// First element and elements of the part that tensors count from: files of PyTorch 0.3 and older.
    pub view: Option<(usize, usize)>,
}

/// `module.name`, printable and of a bounded length.
pub(super) fn full_name(module: &str, name: &str) -> String {
    format!("{module}.{name}").escape_debug().take(200).collect()
}
