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
use crate::read::{Converted, ReadOptions};
use fitment_core::checkpoint::Checkpoint;
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
            bind(&mut converted.adapter, base)?;
            converted.losses.extend(refitted);
            Ok(Converted { id: None, ..converted })
        }
        Err(Error::Unmapped { .. }) => Err(Error::Unmapped { culprits: missing }),
        Err(other) => Err(other),
    }
}

/// What was moved, by the last parts of the names on both sides.
fn loss(from: &str, to: &str, targets: usize) -> Loss {
    Loss::Refitted { from: from.to_owned(), to: to.to_owned(), targets }
}
