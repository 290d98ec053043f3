//! What happens to a tensor's values, with everything of the model resolved: one expert's factors, row numbers, the part
//! of the tensor that is meant.

use crate::part::Part;
use crate::region::Region;
use fitment_core::model::{Digest, LoraForm, NormOf};
use std::collections::BTreeSet;
use std::ops::Range;

/// What one adapter does to one tensor.
#[derive(Clone, Debug)]
pub struct Share<'a> {
    /// Index of the adapter among the inputs.
    pub file: usize,
    /// Its strength.
    pub weight: f64,
    /// Its edits, each to the result of the one before.
    pub steps: Vec<Step<'a>>,
}

impl Share<'_> {
    /// Whether `F(W) − W` is a sum that does not depend on `W`.
    pub fn is_additive(&self) -> bool {
        self.steps.iter().all(|step| match &step.action {
            Action::LowRank(edit) => edit.magnitude.is_none(),
            Action::Add(edit) => edit.exceptions.is_none(),
            Action::Scatter { .. } => true,
            Action::Set(_) | Action::Put(_) | Action::Restore(_) => false,
        })
    }
}

/// One edit of one tensor.
#[derive(Clone, Debug)]
pub struct Step<'a> {
    /// The part of the tensor that is `W`.
    pub region: Region,
    /// What happens to it.
    pub action: Action<'a>,
}

/// What an edit does.
#[derive(Clone, Debug)]
pub enum Action<'a> {
    /// `W + s·up·down`, and with a magnitude `m ∘ V/‖V‖`.
    LowRank(LowRank<'a>),
    /// `W + s·Δ`.
    Add(Dense<'a>),
    /// `W` or rows of it get new values.
    Set(Values<'a>),
    /// Single elements get new values.
    Put(Elements<'a>),
    /// `W + s·Δ` at single elements.
    Scatter {
        /// The multiplier `s`.
        scale: f64,
        /// `Δ`.
        elements: Elements<'a>,
    },
    /// The whole tensor becomes another, bit for bit.
    Restore(Restore<'a>),
}

/// Single elements: flat positions, ascending, and as many values.
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    /// U32 or I64.
    pub index: Part<'a>,
    /// One for each position.
    pub value: Part<'a>,
    /// Those that another adapter has set already to the same bits.
    pub skip: BTreeSet<usize>,
}

impl Elements<'_> {
    /// Calls `each` with every position inside `range` and the place of its value, in order.
    pub(crate) fn for_each_in(&self, range: Range<usize>, mut each: impl FnMut(usize, usize)) {
        let count = self.index.elements();
        let position = |at: usize| self.index.position_at(at).map_or(usize::MAX, size);
        // The first place whose position is not before the range.
        let (mut from, mut end) = (0, count);
        while from < end {
            let middle = from + (end - from) / 2;
            if position(middle) < range.start { from = middle + 1 } else { end = middle }
        }
        for at in (from..count).take_while(|at| position(*at) < range.end) {
            if !self.skip.contains(&at) {
                each(position(at), at);
            }
        }
    }
}

/// A bit-exact change.
#[derive(Clone, Copy, Debug)]
pub struct Restore<'a> {
    /// Spec appendix D.
    pub payload: &'a [u8],
    /// SHA-256 of the result.
    pub result: Digest,
}

/// A low-rank update whose shapes fit its region.
#[derive(Clone, Debug)]
pub struct LowRank<'a> {
    /// How `W` and the factors are read.
    pub form: LoraForm,
    /// `W` is the transpose of the stored slice.
    pub transposed: bool,
    /// The multiplier `s`.
    pub scale: f64,
    /// `[out, r]`, conv `[out, r, 1…]`, stacked `[E, out, r]`.
    pub up: Part<'a>,
    /// `[r, in]`, conv `[r, in, k…]`, stacked `[E, r, in]`.
    pub down: Part<'a>,
    /// Conv only: `[r, r, k…]`.
    pub mid: Option<Part<'a>>,
    /// DoRA's magnitude.
    pub magnitude: Option<Magnitude<'a>>,
}

impl LowRank<'_> {
    /// The kernel axes of a conv update.
    pub fn kernel(&self) -> &[u64] {
        let dims = self.mid.as_ref().map_or(&self.down.dims, |mid| &mid.dims);
        dims.get(2..).unwrap_or_default()
    }
}

/// A magnitude with one element for each index of its axis.
#[derive(Clone, Debug)]
pub struct Magnitude<'a> {
    /// The elements.
    pub value: Part<'a>,
    /// Kept axis of `W`, 0 or 1.
    pub axis: u64,
    /// Whose norm divides.
    pub norm_of: NormOf,
    /// Added to the norm.
    pub eps: f64,
}

/// A dense update of its region's extents.
#[derive(Clone, Debug)]
pub struct Dense<'a> {
    /// The multiplier `s`.
    pub scale: f64,
    /// `Δ`.
    pub value: Part<'a>,
    /// Flat positions in `W`, ascending, and what they become.
    pub exceptions: Option<(Vec<u64>, Part<'a>)>,
}

/// New values.
#[derive(Clone, Debug)]
pub struct Values<'a> {
    /// `W`, or one slice of axis 0 for each of `rows`.
    pub value: Part<'a>,
    /// Row numbers of `W`, ascending, each with the row of `value` that it gets; `None` for all of `W`.
    pub rows: Option<Vec<(u64, usize)>>,
}

impl Values<'_> {
    /// Whether all of a tensor is replaced.
    pub(crate) fn is_all_of(&self, region: &Region) -> bool {
        self.rows.is_none() && region.is_whole()
    }

    /// Calls `each` with every stretch of positions in `W` inside `range` that gets values, and the position of the
    /// first of them in `value`.
    pub(crate) fn for_stretches(&self, range: Range<usize>, mut each: impl FnMut(Range<usize>, usize)) {
        let Some(rows) = &self.rows else {
            let range = range.start..range.end.min(self.value.elements());
            if !range.is_empty() {
                each(range.clone(), range.start);
            }
            return;
        };
        let row: usize = self.value.dims.iter().skip(1).map(|dim| size(*dim)).product();
        let from = rows.partition_point(|(number, _)| (size(*number) + 1).saturating_mul(row) <= range.start);
        for (number, index) in &rows[from..] {
            let start = size(*number).saturating_mul(row);
            let common = start.max(range.start)..(start + row).min(range.end);
            if start >= range.end {
                return;
            }
            if !common.is_empty() {
                each(common.clone(), index * row + (common.start - start));
            }
        }
    }
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX - 1)
}
