use crate::pickle::{Heap, Id, Node};
use crate::tensor::View;
use std::fmt;

/// A value of a file. Values may be shared, and may even hold themselves: who walks through them bounds the depth.
#[derive(Clone, Copy)]
pub struct Value<'f, 'a> {
    heap: &'f Heap<'a>,
    id: Id,
}

/// What a value is, and what it says.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Kind<'f, 'a> {
    /// None.
    None,
    /// A bool.
    Bool(bool),
    /// An int of at most 64 bits.
    Int(i64),
    /// A float.
    Float(f64),
    /// A str; devices too.
    Text(&'a str),
    /// Bytes.
    Bytes(&'f [u8]),
    /// A list: see [`Value::items`].
    List,
    /// A tuple, or a torch.Size: see [`Value::items`].
    Tuple,
    /// A set: see [`Value::items`].
    Set,
    /// A dict, ordered or not: see [`Value::pairs`].
    Dict,
    /// A tensor, or a parameter.
    Tensor(&'f View),
    /// What has no use by itself: dtypes, storages, classes, integers of more than 64 bits.
    Other,
}

impl<'f, 'a> Value<'f, 'a> {
    pub(crate) fn new(heap: &'f Heap<'a>, id: Id) -> Self {
        Self { heap, id }
    }

    fn of(self, id: Id) -> Self {
        Self { id, ..self }
    }

    /// What the value is.
    pub fn kind(self) -> Kind<'f, 'a> {
        match self.heap.node(self.id) {
            Node::None => Kind::None,
            Node::Bool(value) => Kind::Bool(*value),
            Node::Int(value) => Kind::Int(*value),
            Node::Float(value) => Kind::Float(*value),
            Node::Text(text) => Kind::Text(text),
            Node::Bytes(bytes) => Kind::Bytes(bytes),
            Node::List(_) => Kind::List,
            Node::Tuple(_) => Kind::Tuple,
            Node::Set(_) => Kind::Set,
            Node::Dict(_) => Kind::Dict,
            Node::Tensor(view) => Kind::Tensor(view),
            Node::Long(_) | Node::Known(_) | Node::Storage(_) | Node::Refused => Kind::Other,
        }
    }

    /// The items of a list, tuple or set, in their order; nothing else has any.
    pub fn items(self) -> impl Iterator<Item = Value<'f, 'a>> {
        let items = match self.heap.node(self.id) {
            Node::List(items) | Node::Tuple(items) | Node::Set(items) => items.as_slice(),
            _ => &[],
        };
        items.iter().map(move |id| self.of(*id))
    }

    /// Keys and values of a dict, in its order; nothing else has any. No text, int or bytes comes twice as a key.
    pub fn pairs(self) -> impl Iterator<Item = (Value<'f, 'a>, Value<'f, 'a>)> {
        let pairs = match self.heap.node(self.id) {
            Node::Dict(pairs) => pairs.as_slice(),
            _ => &[],
        };
        pairs.iter().map(move |(key, value)| (self.of(*key), self.of(*value)))
    }

    /// The value under a text in a dict.
    pub fn get(self, key: &str) -> Option<Value<'f, 'a>> {
        self.pairs().find(|(found, _)| found.as_text() == Some(key)).map(|(_, value)| value)
    }

    /// The attributes of a dict: a state dict has `_metadata`.
    pub fn attributes(self) -> Option<Value<'f, 'a>> {
        self.heap.attributes.get(&self.id).map(|id| self.of(*id))
    }

    /// The text of a str.
    pub fn as_text(self) -> Option<&'a str> {
        self.heap.text(self.id)
    }

    /// The window of a tensor.
    pub fn as_tensor(self) -> Option<&'f View> {
        match self.kind() {
            Kind::Tensor(view) => Some(view),
            _ => None,
        }
    }
}

impl fmt::Debug for Value<'_, '_> {
    /// Without the contents, which may be shared without end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind().fmt(f)
    }
}
