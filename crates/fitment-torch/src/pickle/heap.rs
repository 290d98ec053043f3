//! The values of a pickle. They refer to each other by number: they may be shared, and hold themselves.

use super::globals::Known;
use crate::error::Place;
use crate::tensor::View;
use fitment_core::tensor::Dtype;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Number of a value in its heap.
pub(crate) type Id = u32;

#[derive(Clone, Debug)]
pub(crate) enum Node<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// Two's complement, little-endian, more than 8 bytes.
    Long(&'a [u8]),
    Float(f64),
    Text(&'a str),
    Bytes(Cow<'a, [u8]>),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Set(Vec<Id>),
    /// In order of insertion.
    Dict(Vec<(Id, Id)>),
    Known(Known),
    /// Number of a storage.
    Storage(usize),
    Tensor(Box<View>),
    /// Stands for whatever a refused name would have made.
    Refused,
}

/// A run of bytes that tensors view.
#[derive(Clone, Debug)]
pub(crate) struct Storage<'a> {
    pub(crate) key: &'a str,
    /// `None` for the untyped class.
    pub(crate) dtype: Option<Dtype>,
    /// What the pickle says it takes.
    pub(crate) byte_len: u64,
    /// Where the pickle names it.
    pub(crate) place: Place,
    /// Empty until the file's form has been read.
    pub(crate) data: &'a [u8],
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Heap<'a> {
    pub(crate) nodes: Vec<Node<'a>>,
    pub(crate) storages: Vec<Storage<'a>>,
    /// Attributes of dicts (`_metadata` of a state dict): the dict that holds them.
    pub(crate) attributes: BTreeMap<Id, Id>,
}

impl<'a> Heap<'a> {
    pub(crate) fn node(&self, id: Id) -> &Node<'a> {
        // Every id was given out by this heap.
        self.nodes.get(id as usize).unwrap_or(&Node::None)
    }

    pub(crate) fn text(&self, id: Id) -> Option<&'a str> {
        match self.node(id) {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn tuple(&self, id: Id) -> Option<&[Id]> {
        match self.node(id) {
            Node::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// A count: an integer that is not negative.
    pub(crate) fn count(&self, id: Id) -> Option<u64> {
        match self.node(id) {
            Node::Int(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }
}

impl Node<'_> {
    /// What it is, in Python's words.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Node::None => "None",
            Node::Bool(_) => "a bool",
            Node::Int(_) | Node::Long(_) => "an int",
            Node::Float(_) => "a float",
            Node::Text(_) => "a str",
            Node::Bytes(_) => "bytes",
            Node::List(_) => "a list",
            Node::Tuple(_) => "a tuple",
            Node::Set(_) => "a set",
            Node::Dict(_) => "a dict",
            Node::Known(_) => "a class or function",
            Node::Storage(_) => "a storage",
            Node::Tensor(_) => "a tensor",
            Node::Refused => "a refused object",
        }
    }
}
