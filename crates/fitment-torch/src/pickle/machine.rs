//! The stack machine that a pickle is a program of.

use super::globals::{self, Known};
use super::heap::{Heap, Id, Node};
use super::op::{self, Op};
use crate::cursor::Cursor;
use crate::error::{Fault, Global, Place, limit};
use crate::limits;
use std::collections::{BTreeMap, BTreeSet};

/// What a pickle makes.
#[derive(Debug)]
pub(crate) struct Outcome<'a> {
    pub(crate) heap: Heap<'a>,
    pub(crate) root: Id,
    /// Bytes that it takes; others may follow.
    pub(crate) len: u64,
}

/// Reads one pickle: `bytes` from their start on, which is `base` bytes behind the start of the named member.
///
/// # Errors
/// [`Fault::Unsafe`] with every name that is not allowed, even when the pickle is malformed behind the first;
/// [`Fault::Pickle`], [`Fault::Tensor`], [`Fault::Limit`].
pub(crate) fn run<'a>(bytes: &'a [u8], base: u64, member: &str) -> Result<Outcome<'a>, Fault> {
    let mut machine = Machine::new(member, base);
    let mut cursor = Cursor::new(bytes);
    let root = machine.execute(&mut cursor);
    if !machine.listed.is_empty() {
        let more = machine.refused.len().saturating_sub(machine.listed.len());
        return Err(Fault::Unsafe { globals: machine.listed, more });
    }
    Ok(Outcome { root: root?, heap: machine.heap, len: cursor.offset() })
}

pub(super) struct Machine<'a, 'm> {
    pub(super) heap: Heap<'a>,
    stack: Vec<Id>,
    /// Heights of the stack at its marks.
    marks: Vec<usize>,
    memo: BTreeMap<u32, Id>,
    /// Storages by key.
    pub(super) storages: BTreeMap<&'a str, usize>,
    refused: BTreeSet<(String, String)>,
    listed: Vec<Global>,
    /// Values that calls have copied.
    copied: usize,
    member: &'m str,
    base: u64,
    /// Offset of the instruction at work.
    at: u64,
}

impl<'a, 'm> Machine<'a, 'm> {
    fn new(member: &'m str, base: u64) -> Self {
        Self {
            heap: Heap::default(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: BTreeMap::new(),
            storages: BTreeMap::new(),
            refused: BTreeSet::new(),
            listed: Vec::new(),
            copied: 0,
            member,
            base,
            at: 0,
        }
    }

    fn execute(&mut self, cursor: &mut Cursor<'a>) -> Result<Id, Fault> {
        loop {
            self.at = cursor.offset();
            if self.at > limits::MAX_PICKLE_BYTES {
                return Err(limit(self.member, "bytes of a pickle", limits::MAX_PICKLE_BYTES, "more"));
            }
            let op = op::next(cursor).map_err(|message| self.broken(message))?;
            if matches!(op, Op::Stop) {
                let root = self.pop()?;
                if !self.stack.is_empty() || !self.marks.is_empty() {
                    return Err(self.broken("ends with more than one value"));
                }
                self.check_keys()?;
                return Ok(root);
            }
            self.step(op)?;
        }
    }

    fn step(&mut self, op: Op<'a>) -> Result<(), Fault> {
        match op {
            Op::Nothing | Op::Stop => {}
            Op::Mark => {
                if self.marks.len() >= limits::MAX_DEPTH {
                    return Err(limit(self.member, "marks inside marks", limits::MAX_DEPTH, "more"));
                }
                self.marks.push(self.stack.len());
            }
            Op::Pop if self.stack.len() > self.fence() => drop(self.stack.pop()),
            Op::Pop | Op::PopMark => drop(self.pop_mark()?),
            Op::Dup => {
                let top = self.top()?;
                self.push_id(top)?;
            }
            Op::Push(node) => self.push(node)?,
            Op::Put(index) => self.put(index)?,
            Op::Memoize => {
                let index = u32::try_from(self.memo.len()).map_err(|_| self.broken("a memo without end"))?;
                self.put(index)?;
            }
            Op::Get(index) => {
                let id = self.memo.get(&index).copied();
                let id = id.ok_or_else(|| self.broken(format!("the memo has no entry {index}")))?;
                self.push_id(id)?;
            }
            Op::Global(module, name) => self.push_global(module, name)?,
            Op::StackGlobal => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (self.heap.text(module), self.heap.text(name)) {
                    (Some(module), Some(name)) => self.push_global(module, name)?,
                    _ => return Err(self.broken("STACK_GLOBAL without two texts")),
                }
            }
            Op::Extension(code) => self.push_global("copyreg", &format!("extension {code}"))?,
            op => self.build(op)?,
        }
        Ok(())
    }

    /// Containers and calls.
    fn build(&mut self, op: Op<'a>) -> Result<(), Fault> {
        match op {
            Op::Tuple(count) => {
                let mut items = vec![0; count];
                for item in items.iter_mut().rev() {
                    *item = self.pop()?;
                }
                self.push(Node::Tuple(items))
            }
            Op::TupleFromMark => {
                let items = self.pop_mark()?;
                self.push(Node::Tuple(items))
            }
            Op::ListFromMark => {
                let items = self.pop_mark()?;
                self.push(Node::List(items))
            }
            Op::SetFromMark => {
                let items = self.pop_mark()?;
                self.push(Node::Set(items))
            }
            Op::DictFromMark => {
                let items = self.pop_mark()?;
                let pairs = self.pairs(&items)?;
                self.push(Node::Dict(pairs))
            }
            Op::Append => {
                let item = self.pop()?;
                self.extend(vec![item], "APPEND")
            }
            Op::Appends => {
                let items = self.pop_mark()?;
                self.extend(items, "APPENDS")
            }
            Op::AddItems => {
                let items = self.pop_mark()?;
                self.extend(items, "ADDITEMS")
            }
            Op::SetItem => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.insert(vec![(key, value)])
            }
            Op::SetItems => {
                let items = self.pop_mark()?;
                let pairs = self.pairs(&items)?;
                self.insert(pairs)
            }
            op => self.call(op),
        }
    }

    /// Adds items to the list or set on top of the stack.
    fn extend(&mut self, items: Vec<Id>, op: &str) -> Result<(), Fault> {
        let top = self.top()?;
        match self.heap.nodes.get_mut(top as usize) {
            Some(Node::List(list)) if op != "ADDITEMS" => list.extend(items),
            Some(Node::Set(set)) if op == "ADDITEMS" => set.extend(items),
            Some(Node::Refused) => {}
            _ => return Err(self.broken(format!("{op} on {}", self.heap.node(top).kind()))),
        }
        Ok(())
    }

    /// Adds pairs to the dict on top of the stack.
    fn insert(&mut self, pairs: Vec<(Id, Id)>) -> Result<(), Fault> {
        let top = self.top()?;
        match self.heap.nodes.get_mut(top as usize) {
            Some(Node::Dict(dict)) => dict.extend(pairs),
            Some(Node::Refused) => {}
            _ => return Err(self.broken(format!("items are set on {}", self.heap.node(top).kind()))),
        }
        Ok(())
    }

    fn pairs(&self, items: &[Id]) -> Result<Vec<(Id, Id)>, Fault> {
        let (pairs, rest) = items.as_chunks::<2>();
        if rest.is_empty() {
            Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
        } else {
            Err(self.broken("a key without its value"))
        }
    }

    /// Python keeps the last of two equal keys; two readers could differ, and torch writes none.
    fn check_keys(&self) -> Result<(), Fault> {
        for node in &self.heap.nodes {
            let Node::Dict(pairs) = node else { continue };
            let mut seen = BTreeSet::new();
            for (key, _) in pairs {
                let (key, len) = match self.heap.node(*key) {
                    Node::Text(text) => (Key::Text(text), text.len()),
                    Node::Int(value) => (Key::Int(*value), 0),
                    Node::Bytes(bytes) => (Key::Bytes(bytes), bytes.len()),
                    _ => continue,
                };
                if len > limits::MAX_KEY_BYTES {
                    return Err(limit(self.member, "bytes of a key", limits::MAX_KEY_BYTES, len));
                }
                if !seen.insert(key) {
                    return Err(self.broken(format!("a dict has the key {} twice", key.shown())));
                }
            }
        }
        Ok(())
    }

    fn push_global(&mut self, module: &str, name: &str) -> Result<(), Fault> {
        let known = self.global(module, name);
        self.push(known)
    }

    /// The value that a name stands for; a name that is not allowed is noted.
    pub(super) fn global(&mut self, module: &str, name: &str) -> Node<'a> {
        match globals::find(module, name) {
            Some(known) => Node::Known(known),
            None => {
                // Of a length that can be shown: a pickle may name one long text again and again.
                let start = |text: &str| text.chars().take(limits::MAX_SHOWN).collect::<String>();
                let (module, name) = (start(module), start(name));
                let is_new = self.refused.insert((module.clone(), name.clone()));
                if is_new && self.listed.len() < limits::MAX_LISTED {
                    let place = self.place();
                    self.listed.push(Global { module, name, place });
                }
                Node::Refused
            }
        }
    }

    fn put(&mut self, index: u32) -> Result<(), Fault> {
        let top = self.top()?;
        if self.memo.len() >= limits::MAX_MEMO {
            return Err(limit(self.member, "entries of the memo", limits::MAX_MEMO, "more"));
        }
        self.memo.insert(index, top);
        Ok(())
    }

    pub(super) fn push(&mut self, node: Node<'a>) -> Result<(), Fault> {
        let id = self.add(node)?;
        self.push_id(id)
    }

    pub(super) fn push_id(&mut self, id: Id) -> Result<(), Fault> {
        if self.stack.len() >= limits::MAX_VALUES {
            return Err(limit(self.member, "values on the stack", limits::MAX_VALUES, "more"));
        }
        self.stack.push(id);
        Ok(())
    }

    fn add(&mut self, node: Node<'a>) -> Result<Id, Fault> {
        if self.heap.nodes.len() >= limits::MAX_VALUES {
            return Err(limit(self.member, "values in a pickle", limits::MAX_VALUES, "more"));
        }
        let id = u32::try_from(self.heap.nodes.len()).map_err(|_| self.broken("values without end"))?;
        self.heap.nodes.push(node);
        Ok(id)
    }

    /// Counts what a call copies: a short pickle may have one long list copied again and again.
    pub(super) fn count_copies(&mut self, items: usize) -> Result<(), Fault> {
        self.copied = self.copied.saturating_add(items);
        if self.copied > limits::MAX_VALUES {
            return Err(limit(self.member, "values copied by calls", limits::MAX_VALUES, self.copied));
        }
        Ok(())
    }

    fn fence(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    pub(super) fn pop(&mut self) -> Result<Id, Fault> {
        if self.stack.len() > self.fence()
            && let Some(top) = self.stack.pop()
        {
            return Ok(top);
        }
        Err(self.broken("takes a value from an empty stack"))
    }

    pub(super) fn top(&self) -> Result<Id, Fault> {
        let top = self.stack.last().filter(|_| self.stack.len() > self.fence());
        top.copied().ok_or_else(|| self.broken("looks at an empty stack"))
    }

    /// Everything above the last mark, which goes too.
    pub(super) fn pop_mark(&mut self) -> Result<Vec<Id>, Fault> {
        let height = self.marks.pop().ok_or_else(|| self.broken("looks for a mark that is not there"))?;
        Ok(self.stack.split_off(height.min(self.stack.len())))
    }

    pub(super) fn place(&self) -> Place {
        Place { member: self.member.to_owned(), byte: self.base.saturating_add(self.at) }
    }

    pub(super) fn broken(&self, message: impl Into<String>) -> Fault {
        Fault::Pickle { place: self.place(), message: message.into() }
    }

    pub(super) fn known(&self, id: Id) -> Option<Known> {
        match self.heap.node(id) {
            Node::Known(known) => Some(*known),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Key<'k> {
    Text(&'k str),
    Int(i64),
    Bytes(&'k [u8]),
}

impl Key<'_> {
    fn shown(self) -> String {
        match self {
            Key::Text(text) => format!("{:?}", crate::error::one_line(text)),
            Key::Int(value) => value.to_string(),
            Key::Bytes(_) => "of some bytes".to_owned(),
        }
    }
}
