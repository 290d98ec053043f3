//! Tensors made of stored bytes: no number is decoded, so every bit survives, whatever the dtype.

use super::digest::Hasher;
use super::work::Item;
use super::{Context, Error};
use crate::plan::{Action, Ground, Patch, Step};
use fitment_core::checkpoint::OutputTensor;
use std::borrow::Cow;
use std::ops::Range;

/// Bytes written at once.
const PIECE: usize = 1 << 20;

pub(super) fn run(
    context: &Context<'_>,
    (tensor, job): (&OutputTensor, &Patch<'_>),
    item: &Item<'_>,
    buffer: &mut Vec<u8>,
) -> Result<(), Error> {
    let len = usize::try_from(super::byte_len(tensor)).unwrap_or(usize::MAX);
    let ground = match &job.ground {
        Ground::Base(name) => context.base.read(name)?,
        Ground::Stored(part) => Cow::Borrowed(part.bytes),
    };
    let mut hasher = Hasher::new(item.expected);
    for start in (0..len).step_by(PIECE) {
        let piece = start..len.min(start + PIECE);
        let below = ground.get(piece.start..ground.len().min(piece.end)).unwrap_or_default();
        hasher.update(below);
        if job.steps.is_empty() && below.len() == piece.len() {
            context.write(tensor, start, below)?;
            continue;
        }
        buffer.clear();
        buffer.extend_from_slice(below);
        buffer.resize(piece.len(), 0);
        for step in &job.steps {
            overlay(step, &piece, buffer);
        }
        context.write(tensor, start, buffer)?;
    }
    match &job.ground {
        Ground::Base(name) => context.judge(name, hasher, item),
        Ground::Stored(_) => Ok(()),
    }
}

/// Puts the step's values over the bytes `piece` of the tensor.
fn overlay(step: &Step<'_>, piece: &Range<usize>, buffer: &mut [u8]) {
    let values = match &step.action {
        Action::Set(values) => values,
        Action::Put(elements) => {
            let Some(size) = elements.value.dtype.bytes() else { return };
            elements.for_each_in(piece.start / size..piece.end / size, |position, at| {
                let from = position * size - piece.start;
                buffer[from..from + size].copy_from_slice(elements.value.bits_at(at, 1));
            });
            return;
        }
        _ => return,
    };
    let Some(size) = values.value.dtype.bytes() else { return };
    let block = piece.start / size..piece.end / size;
    let Some(located) = step.region.locate_unbounded(block) else { return };
    values.for_stretches(located.range(), |in_w, in_value| {
        let mut from = in_value;
        for run in located.runs_of(&in_w) {
            let bytes = values.value.bits_at(from, run.len());
            buffer[run.start * size..run.end * size].copy_from_slice(bytes);
            from += run.len();
        }
    });
}
