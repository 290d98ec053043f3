//! What happens to a tensor's values, with everything of the model resolved: one expert's factors, row numbers, the part
//! of the tensor that is meant.

use crate::part::Part;
use crate::region::Region;
use fitment_core::model::{LoraForm, NormOf};
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
            Action::Set(_) => false,
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
