//! From a nested dict to tensors by dotted names.

use crate::error::{Fault, limit};
use crate::file::{Named, StateDict};
use crate::limits;
use crate::pickle::{Heap, Id, Node};
use crate::tensor::View;
use fitment_core::limits::MAX_NAME_BYTES;
use fitment_core::tensor::Tensor;
use std::collections::BTreeSet;

pub(crate) fn flatten<'a>(heap: &Heap<'a>, root: Id, file_len: u64) -> Result<StateDict<'a>, Fault> {
    let Node::Dict(_) = heap.node(root) else {
        let kind = heap.node(root).kind();
        let message = format!("the file holds {kind}, a dict of tensors is expected");
        return Err(Fault::Names { name: String::new(), message });
    };
    let mut walk = Walk {
        heap,
        budget: Budget::new(file_len),
        names: BTreeSet::new(),
        visits: heap.nodes.len().saturating_mul(limits::MAX_SHARING).saturating_add(1000),
        state: StateDict::default(),
    };
    walk.visit(root, "", 0)?;
    Ok(walk.state)
}

struct Walk<'h, 'a> {
    heap: &'h Heap<'a>,
    budget: Budget,
    names: BTreeSet<String>,
    /// How many values may still be looked at.
    visits: usize,
    state: StateDict<'a>,
}

impl<'a> Walk<'_, 'a> {
    fn visit(&mut self, id: Id, name: &str, depth: usize) -> Result<(), Fault> {
        self.visits = self
            .visits
            .checked_sub(1)
            .ok_or_else(|| limit("", "leaves for each value of the pickle", limits::MAX_SHARING, "more"))?;
        if depth > limits::MAX_DEPTH {
            return Err(limit("", "dicts inside dicts", limits::MAX_DEPTH, "more"));
        }
        match self.heap.node(id) {
            Node::Dict(pairs) => {
                for (key, value) in pairs {
                    let key = self.key(*key, name)?;
                    self.visit(*value, &self.join(name, &key, depth)?, depth + 1)?;
                }
            }
            Node::List(items) | Node::Tuple(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.visit(*item, &self.join(name, &index.to_string(), depth)?, depth + 1)?;
                }
            }
            Node::Tensor(view) => {
                self.claim(name)?;
                let tensor = self.budget.tensor(self.heap, view, name)?;
                let view = View::clone(view);
                self.state.tensors.push(Named { name: name.to_owned(), tensor, view, depth });
            }
            _ => self.state.others.push(name.to_owned()),
        }
        Ok(())
    }

    fn key(&self, key: Id, name: &str) -> Result<String, Fault> {
        match self.heap.node(key) {
            Node::Text(text) => Ok((*text).to_owned()),
            Node::Int(value) => Ok(value.to_string()),
            other => {
                let message = format!("a key that is {}, a str is expected", other.kind());
                Err(Fault::Names { name: name.to_owned(), message })
            }
        }
    }

    fn join(&self, name: &str, key: &str, depth: usize) -> Result<String, Fault> {
        let joined = if depth == 0 { key.to_owned() } else { format!("{name}.{key}") };
        if joined.is_empty() || joined.len() > MAX_NAME_BYTES || joined.chars().any(char::is_control) {
            let message = format!(
                "the key {:?} makes a name that is empty, too long or unprintable",
                crate::error::one_line(key)
            );
            return Err(Fault::Names { name: name.to_owned(), message });
        }
        Ok(joined)
    }

    fn claim(&mut self, name: &str) -> Result<(), Fault> {
        if self.names.insert(name.to_owned()) {
            return Ok(());
        }
        let message = "two tensors come to this name when dicts are laid flat".to_owned();
        Err(Fault::Names { name: name.to_owned(), message })
    }
}

/// How many bytes tensors may still take.
pub(crate) struct Budget {
    allowed: u64,
    left: u64,
}

impl Budget {
    pub(crate) fn new(file_len: u64) -> Self {
        let allowed = file_len.saturating_mul(limits::MAX_GROWTH).saturating_add(limits::FREE_GROWTH);
        Self { allowed, left: allowed }
    }

    /// The elements of a view in row-major order.
    pub(crate) fn tensor<'a>(
        &mut self,
        heap: &Heap<'a>,
        view: &View,
        name: &str,
    ) -> Result<Tensor<'a>, Fault> {
        let needed = view.byte_len();
        self.left = self.left.checked_sub(needed).ok_or_else(|| {
            let found = format!("{needed} more");
            limit(name, "bytes of all tensors, 16 times the file's", self.allowed, found)
        })?;
        let data = heap.storages.get(view.storage()).map(|storage| storage.data).unwrap_or_default();
        let (dtype, shape) = (view.dtype(), view.shape().clone());
        let tensor = match view.borrow(data) {
            Some(bytes) => Tensor::borrowed(dtype, shape, bytes),
            None => Tensor::owned(dtype, shape, view.gather(data).unwrap_or_default()),
        };
        tensor.map_err(|fault| Fault::Names { name: name.to_owned(), message: fault.to_string() })
    }
}
