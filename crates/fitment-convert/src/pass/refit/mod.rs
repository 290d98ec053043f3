//! An adapter on a base that has the same linear layers fused, or apart: `qkv_proj` against `q_proj`, `k_proj` and `v_proj`,
//! `gate_up_proj` against `gate_proj` and `up_proj`; or the experts of a layer in one tensor, which the adapter has each by itself.
//!
//! The adapter is read on a [`View`] of the base under the names that it has. What it then changes of a part becomes a change of a slice
//! of the whole; what it changes of a whole comes apart by rows. Nothing is computed: rows of factors are taken, and what a part does
//! not get of a low-rank update, because its rows there are zero, is left out.

mod experts;
mod fusing;
mod moved;
mod view;

pub use fusing::{NoSuchRows, QkvRows};

use crate::bind::bind;
use crate::error::{Error, Unmapped};
use crate::files::Files;
use crate::formats::Reader;
use crate::loss::Loss;
use crate::pass::experts::is_stack;
use crate::pass::stacks::unstacked;
use crate::read::{Converted, ReadOptions};
use fitment_core::checkpoint::Checkpoint;
use fitment_core::model::{Edit, LoraForm};
use std::collections::BTreeSet;
use view::View;

/// Reads an adapter whose targets the base lacks, by what it has of them in another form. Without such, `missing` is the error.
pub(crate) fn read<'a>(
    reader: Reader,
    files: &Files<'a>,
    options: &ReadOptions<'_>,
    base: &dyn Checkpoint,
    missing: Vec<Unmapped>,
) -> Result<Converted<'a>, Error> {
    let view = View::of(base, options.qkv_rows);
    if let Some(error) = missing.iter().find_map(|culprit| view.undecided(&culprit.expected)) {
        return Err(error);
    }
    if view.is_plain() {
        return Err(Error::Unmapped { culprits: missing });
    }
    let through = ReadOptions { base: Some(&view), refit: false, ..*options };
    match reader(files, &through) {
        Ok(mut converted) => {
            let refitted = moved::moved(&mut converted.adapter, &view)?;
            if let (Some(rows), Some(source)) = (options.qkv_rows, &mut converted.adapter.source) {
                source.options.insert("qkv-rows".to_owned(), rows.name().to_owned());
            }
            bind(&mut converted.adapter, base)?;
            converted.losses.extend(refitted);
            Ok(Converted { id: None, ..converted })
        }
        Err(Error::Unmapped { .. }) => Err(Error::Unmapped { culprits: missing }),
        Err(other) => Err(other),
    }
}

/// Reads a Fitment file of stacks of experts on a base that has the matrices of each by itself; `None` where it is bound to a base that
/// has stacks, or has none.
pub(crate) fn by_expert<'a>(
    reader: Reader,
    files: &Files<'a>,
    options: &ReadOptions<'_>,
    base: &dyn Checkpoint,
) -> Option<Converted<'a>> {
    let mut converted = reader(files, &ReadOptions { base: None, ..*options }).ok()?;
    let stacks: BTreeSet<String> = converted.adapter.edits.iter().filter_map(stack).collect();
    if stacks.is_empty() || converted.adapter.base.is_bound() {
        return None;
    }
    converted.adapter.edits = unstacked(&converted.adapter, Some(base));
    converted.adapter.base.tensors.retain(|tensor| !stacks.contains(tensor.name.as_str()));
    bind(&mut converted.adapter, base).ok()?;
    let last = |name: &String| name.rsplit('.').next().unwrap_or(name).to_owned();
    let words: BTreeSet<String> = stacks.iter().map(last).collect();
    let words = words.into_iter().collect::<Vec<_>>().join(", ");
    converted.losses.push(loss(&words, "the matrices of each expert", stacks.len()));
    Some(Converted { id: None, ..converted })
}

fn stack(edit: &Edit<'_>) -> Option<String> {
    match edit {
        Edit::Lora(lora) if lora.form == LoraForm::Stacked => Some(lora.target.name.to_string()),
        Edit::Set(set) if is_stack(set.target.name.as_str()) => Some(set.target.name.to_string()),
        _ => None,
    }
}

/// What was moved, by the last parts of the names on both sides.
fn loss(from: &str, to: &str, targets: usize) -> Loss {
    Loss::Refitted { from: from.to_owned(), to: to.to_owned(), targets }
}
