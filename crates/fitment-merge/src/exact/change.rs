//! What one adapter does to a tensor: where it starts, and what it adds to that.

use super::Fault;
use crate::gather::{Touch, is_additive};
use fitment_core::model::{Add, Bits, Edit, Lora, Remove, Set, SparseSet};

/// One adapter's change of a tensor.
#[derive(Debug)]
pub(super) struct Change<'a> {
    pub(super) file: usize,
    pub(super) weight: f64,
    pub(super) start: Start<'a>,
    /// What it adds afterwards.
    pub(super) added: Vec<Touch<'a>>,
}

/// The edit that is no sum.
#[derive(Debug)]
pub(super) enum Start<'a> {
    Nothing,
    Whole(&'a Set<'a>),
    Rows(&'a Set<'a>),
    Elements(&'a SparseSet<'a>),
    Bits(&'a Bits<'a>),
    /// A difference with exceptions.
    Corrected(&'a Add<'a>),
    Dora(&'a Lora<'a>),
    Remove(&'a Remove),
}

impl Start<'_> {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Start::Nothing => "a sum",
            Start::Whole(_) => "a replacement",
            Start::Rows(_) => "new rows",
            Start::Elements(_) => "new elements",
            Start::Bits(_) => "a bit-exact change",
            Start::Corrected(_) => "a difference with exceptions",
            Start::Dora(_) => "a magnitude",
            Start::Remove(_) => "a removal",
        }
    }
}

/// Sorts the edits of a tensor by adapter.
///
/// # Errors
/// When an adapter replaces what it changed before, or the adapters mean different parts of the tensor.
pub(super) fn changes<'a>(touches: &[Touch<'a>]) -> Result<Vec<Change<'a>>, Fault> {
    if touches.windows(2).any(|pair| !same_part(&pair[0], &pair[1])) {
        return Err(Fault::exact("the edits mean different parts of the tensor"));
    }
    let mut changes: Vec<Change<'a>> = Vec::new();
    for touch in touches {
        if changes.last().is_none_or(|change| change.file != touch.file) {
            let (file, weight) = (touch.file, touch.weight);
            changes.push(Change { file, weight, start: Start::Nothing, added: Vec::new() });
        }
        let Some(change) = changes.last_mut() else { continue };
        if is_additive(touch.edit) {
            change.added.push(*touch);
            continue;
        }
        let is_whole = matches!(touch.edit, Edit::Set(set) if set.rows.is_none());
        if is_whole {
            // What was there before does not matter any more.
            (change.start, change.added) = (Start::Nothing, Vec::new());
        }
        if !matches!(change.start, Start::Nothing) || !change.added.is_empty() {
            return Err(Fault::exact("one adapter replaces what it has changed before"));
        }
        change.start = match touch.edit {
            Edit::Set(set) if set.rows.is_some() => Start::Rows(set),
            Edit::Set(set) => Start::Whole(set),
            Edit::SparseSet(edit) => Start::Elements(edit),
            Edit::Bits(bits) => Start::Bits(bits),
            Edit::Add(add) => Start::Corrected(add),
            Edit::Lora(lora) => Start::Dora(lora),
            Edit::Remove(remove) => Start::Remove(remove),
            Edit::SparseAdd(_) | Edit::Config(_) | Edit::Intervention(_) => Start::Nothing,
        };
    }
    Ok(changes)
}

/// Whether two edits mean one part of their tensor.
pub(crate) fn same_part(a: &Touch<'_>, b: &Touch<'_>) -> bool {
    let part =
        |touch: &Touch<'_>| touch.edit.target().map(|target| (target.slice.clone(), target.when.clone()));
    a.uses() == b.uses() && part(a) == part(b)
}
