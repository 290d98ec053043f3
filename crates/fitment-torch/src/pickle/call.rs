//! What the allowed names make of their arguments, as data: tensors, storages, containers.

use super::globals::Known;
use super::heap::{Id, Node, Storage};
use super::machine::Machine;
use super::op::Op;
use crate::error::{Fault, one_line};
use crate::limits;
use crate::tensor::View;
use fitment_core::tensor::Dtype;
use std::borrow::Cow;

impl<'a> Machine<'a, '_> {
    /// REDUCE and its kin.
    pub(super) fn call(&mut self, op: Op<'a>) -> Result<(), Fault> {
        match op {
            Op::Reduce => {
                let (arguments, callee) = (self.pop()?, self.pop()?);
                self.reduce(callee, arguments)
            }
            Op::NewObj => {
                let (arguments, class) = (self.pop()?, self.pop()?);
                self.instance(class, arguments)
            }
            Op::NewObjEx => {
                let (keywords, arguments, class) = (self.pop()?, self.pop()?, self.pop()?);
                if matches!(self.heap.node(keywords), Node::Dict(pairs) if pairs.is_empty()) {
                    self.instance(class, arguments)
                } else if self.is_refused(class) {
                    self.push(Node::Refused)
                } else {
                    Err(self.broken("an object made with keywords"))
                }
            }
            Op::Inst(module, name) => {
                let items = self.pop_mark()?;
                let node = self.global(module, name);
                self.push(node)?;
                let class = self.pop()?;
                self.push(Node::Tuple(items))?;
                let arguments = self.pop()?;
                self.instance(class, arguments)
            }
            Op::Obj => {
                let mut items = self.pop_mark()?;
                if items.is_empty() {
                    return Err(self.broken("OBJ without a class"));
                }
                let class = items.remove(0);
                self.push(Node::Tuple(items))?;
                let arguments = self.pop()?;
                self.instance(class, arguments)
            }
            Op::Build => self.set_state(),
            Op::PersistentId => self.storage(),
            _ => Err(self.broken("an instruction out of place")),
        }
    }

    fn is_refused(&self, id: Id) -> bool {
        matches!(self.heap.node(id), Node::Refused)
    }

    /// An object of a class: only the containers among the allowed names have any.
    fn instance(&mut self, class: Id, arguments: Id) -> Result<(), Fault> {
        match self.known(class) {
            Some(Known::OrderedDict | Known::Set | Known::Size) => self.reduce(class, arguments),
            _ if self.is_refused(class) => self.push(Node::Refused),
            _ => Err(self.broken(format!("an object of {}", self.heap.node(class).kind()))),
        }
    }

    fn reduce(&mut self, callee: Id, arguments: Id) -> Result<(), Fault> {
        if self.is_refused(callee) || self.is_refused(arguments) {
            return self.push(Node::Refused);
        }
        let kind = self.heap.node(callee).kind();
        let known = self.known(callee).ok_or_else(|| self.broken(format!("calls {kind}")))?;
        let arguments = self.short_tuple(arguments);
        let arguments = arguments.ok_or_else(|| self.broken("a call without a short tuple of arguments"))?;
        if arguments.iter().any(|id| self.is_refused(*id)) {
            return self.push(Node::Refused);
        }
        let node = match (known, &arguments[..]) {
            (Known::OrderedDict, []) => Node::Dict(Vec::new()),
            (Known::OrderedDict, [pairs]) => self.dict_of(*pairs)?,
            (Known::Set, [items]) => Node::Set(self.items_of(*items)?),
            (Known::Set, []) => Node::Set(Vec::new()),
            (Known::Size, [items]) => Node::Tuple(self.items_of(*items)?),
            (Known::Encode, [text, _] | [text]) => self.encoded(*text)?,
            (Known::Device, [name, ..]) => match self.heap.text(*name) {
                Some(name) => Node::Text(name),
                None => return Err(self.broken("a device without a name")),
            },
            (Known::Tensor, [storage, offset, size, stride]) => {
                self.tensor(*storage, None, [*offset, *size, *stride])?
            }
            (Known::TensorV2, [storage, offset, size, stride, _gradient, _hooks, metadata @ ..])
                if metadata.len() <= 1 =>
            {
                self.check_metadata(metadata)?;
                self.tensor(*storage, None, [*offset, *size, *stride])?
            }
            (Known::TensorV3, [storage, offset, size, stride, _gradient, _hooks, dtype, metadata @ ..])
                if metadata.len() <= 1 =>
            {
                self.check_metadata(metadata)?;
                let dtype = self.dtype(*dtype)?;
                self.tensor(*storage, Some(dtype), [*offset, *size, *stride])?
            }
            (Known::Parameter, [tensor, ..]) if matches!(self.heap.node(*tensor), Node::Tensor(_)) => {
                return self.push_id(*tensor);
            }
            (Known::Unheld, _) => return Err(self.wrong("a sparse, quantised, nested or meta tensor")),
            (Known::FromType, [maker, class, arguments, _state])
                if self.known(*class) == Some(Known::TensorClass)
                    && matches!(
                        self.known(*maker),
                        Some(Known::Tensor | Known::TensorV2 | Known::TensorV3 | Known::Parameter)
                    ) =>
            {
                // The maker is none of this kind: no deeper than once.
                return self.reduce(*maker, *arguments);
            }
            _ => {
                return Err(self.broken(format!(
                    "calls {known:?} with {} arguments of the wrong kind",
                    arguments.len()
                )));
            }
        };
        self.push(node)
    }

    fn short_tuple(&self, id: Id) -> Option<Vec<Id>> {
        let items = self.heap.tuple(id)?;
        (items.len() <= limits::MAX_ARGUMENTS).then(|| items.to_vec())
    }

    fn items_of(&mut self, id: Id) -> Result<Vec<Id>, Fault> {
        match self.heap.node(id) {
            Node::List(items) | Node::Tuple(items) => {
                let items = items.clone();
                self.count_copies(items.len())?;
                Ok(items)
            }
            other => Err(self.broken(format!("a list is expected, found {}", other.kind()))),
        }
    }

    /// A dict from a list of pairs.
    fn dict_of(&mut self, pairs: Id) -> Result<Node<'a>, Fault> {
        let mut dict = Vec::new();
        for pair in self.items_of(pairs)? {
            match self.items_of(pair)?[..] {
                [key, value] => dict.push((key, value)),
                _ => return Err(self.broken("a pair of key and value is expected")),
            }
        }
        Ok(Node::Dict(dict))
    }

    /// Bytes that were written as a text, one character each.
    fn encoded(&mut self, text: Id) -> Result<Node<'a>, Fault> {
        let text = self.heap.text(text).ok_or_else(|| self.broken("no text to encode"))?;
        self.count_copies(text.len())?;
        let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
        let bytes = bytes.ok_or_else(|| self.broken("a text that is not Latin-1"))?;
        Ok(Node::Bytes(Cow::Owned(bytes)))
    }

    /// BUILD: only an OrderedDict has attributes that mean nothing.
    fn set_state(&mut self) -> Result<(), Fault> {
        let state = self.pop()?;
        let object = self.top()?;
        match self.heap.node(object) {
            Node::Refused => Ok(()),
            Node::Dict(_) => {
                self.heap.attributes.insert(object, state);
                Ok(())
            }
            other => Err(self.broken(format!("sets the state of {}", other.kind()))),
        }
    }

    /// BINPERSID: `('storage', class, key, location, elements)`, in older files with a view behind it.
    fn storage(&mut self) -> Result<(), Fault> {
        let id = self.pop()?;
        if self.is_refused(id) {
            return self.push(Node::Refused);
        }
        let parts = self.short_tuple(id).unwrap_or_default();
        if parts.iter().any(|id| self.is_refused(*id)) {
            return self.push(Node::Refused);
        }
        let (class, key, location, count) = match parts[..] {
            [word, class, key, location, count] if self.heap.text(word) == Some("storage") => {
                (class, key, location, count)
            }
            [word, class, key, location, count, view] if self.heap.text(word) == Some("storage") => {
                if !matches!(self.heap.node(view), Node::None) {
                    return Err(self.wrong("a view of another storage (torch before 0.4)"));
                }
                (class, key, location, count)
            }
            _ => return Err(self.broken("a persistent id that is no storage")),
        };
        let dtype = match self.known(class) {
            Some(Known::Storage(dtype)) => dtype,
            Some(Known::Unheld) => return Err(self.wrong("a storage of a dtype that safetensors lacks")),
            _ => return Err(self.broken("a storage without its class")),
        };
        let texts = self.heap.text(key).zip(self.heap.text(location)).zip(self.heap.count(count));
        let ((key, location), count) =
            texts.ok_or_else(|| self.broken("a storage without key, location or size"))?;
        if location == "meta" {
            return Err(self.wrong("a storage on the meta device, which has no values"));
        }
        let size = dtype.and_then(Dtype::bytes).unwrap_or(1) as u64;
        let byte_len =
            count.checked_mul(size).ok_or_else(|| self.wrong(format!("a storage of {count} elements")))?;
        let number = match self.storages.get(key).copied() {
            Some(number) => {
                let same = self.heap.storages.get(number);
                if same.is_none_or(|same| same.dtype != dtype || same.byte_len != byte_len) {
                    return Err(self.wrong(format!("storage {:?} has two dtypes or sizes", one_line(key))));
                }
                number
            }
            None => {
                let number = self.heap.storages.len();
                let place = self.place();
                self.heap.storages.push(Storage { key, dtype, byte_len, place, data: &[] });
                self.storages.insert(key, number);
                number
            }
        };
        self.push(Node::Storage(number))
    }

    fn dtype(&self, id: Id) -> Result<Dtype, Fault> {
        match self.known(id) {
            Some(Known::Dtype(dtype)) => Ok(dtype),
            Some(Known::Unheld) => Err(self.wrong("a tensor of a dtype that safetensors lacks")),
            _ => Err(self.broken("a tensor without its dtype")),
        }
    }

    /// The bits by which torch postpones conjugation and negation change the values.
    fn check_metadata(&self, metadata: &[Id]) -> Result<(), Fault> {
        let Some(id) = metadata.first() else { return Ok(()) };
        match self.heap.node(*id) {
            Node::None => Ok(()),
            Node::Dict(pairs)
                if pairs.len() <= limits::MAX_ARGUMENTS
                    && pairs.iter().all(|(_, value)| matches!(self.heap.node(*value), Node::Bool(false))) =>
            {
                Ok(())
            }
            _ => Err(self.wrong("a tensor whose values are conjugated or negated when it is used")),
        }
    }

    fn tensor(&self, storage: Id, dtype: Option<Dtype>, parts: [Id; 3]) -> Result<Node<'a>, Fault> {
        let [offset, size, stride] = parts;
        let Node::Storage(number) = *self.heap.node(storage) else {
            return Err(self.broken("a tensor without a storage"));
        };
        let Some(held) = self.heap.storages.get(number) else {
            return Err(self.broken("a tensor without a storage"));
        };
        let counts = |id: Id, what: &str| -> Result<Vec<u64>, Fault> {
            let items =
                self.heap.tuple(id).ok_or_else(|| self.broken(format!("a tensor without its {what}")))?;
            let counts = items.iter().map(|id| self.heap.count(*id)).collect::<Option<_>>();
            counts.ok_or_else(|| self.wrong(format!("a tensor whose {what} are negative, or no numbers")))
        };
        let (dims, strides) = (counts(size, "extents")?, counts(stride, "strides")?);
        let offset = self
            .heap
            .count(offset)
            .ok_or_else(|| self.wrong("a tensor whose offset is negative, or no number"))?;
        let dtype = dtype
            .or(held.dtype)
            .ok_or_else(|| self.wrong("an untyped storage, and a tensor that does not say its dtype"))?;
        let view = View::new(dtype, &dims, strides, (number, offset, held.byte_len));
        view.map(|view| Node::Tensor(Box::new(view))).map_err(|message| self.wrong(message))
    }

    fn wrong(&self, message: impl Into<String>) -> Fault {
        Fault::Tensor { place: self.place(), message: message.into() }
    }
}
