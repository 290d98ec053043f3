//! Steps made ready: factors decoded and oriented as the tensor is stored.

use super::kernel::LowRank;
use crate::part::Part;
use crate::plan::Values;
use crate::region::Region;
use fitment_math::Wide;
use fitment_math::round::{Element, decode};
use std::ops::Range;

/// What one adapter does to the tensor.
pub(super) struct PreparedShare<'p, T> {
    /// The adapter's strength; of an additive share, already in its factors.
    pub(super) weight: f64,
    /// Steps add to whatever they meet.
    pub(super) additive: bool,
    pub(super) steps: Vec<PreparedStep<'p, T>>,
}

pub(super) struct PreparedStep<'p, T> {
    pub(super) region: &'p Region,
    pub(super) op: Op<'p, T>,
}

/// What happens to a contiguous run of `W`.
pub(super) enum Op<'p, T> {
    Product(Product<T>),
    Add { factor: f64, value: &'p Part<'p>, element: Element },
    Set { values: &'p Values<'p>, element: Element },
    /// Positions of `W`, ascending, and their values.
    Exceptions { positions: &'p [u64], value: &'p Part<'p>, element: Element },
    Scale { kept: Kept, factors: Vec<T> },
}

/// `s·up·down` in the stored orientation: `[rows, columns]` for each expert.
pub(super) struct Product<T> {
    pub(super) experts: Vec<LowRank<T>>,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// Which index of a magnitude belongs to a position of `W`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kept {
    /// That of the row.
    Row { columns: usize },
    /// That of the column; `per` columns share one (the positions of a kernel).
    Column { columns: usize, per: usize },
}

impl Kept {
    /// Cuts a run of `W` at rows: calls `each` with the elements' places in the run, the row, and the first column.
    pub(super) fn for_rows(self, run: Range<usize>, mut each: impl FnMut(Range<usize>, usize, usize)) {
        let (Kept::Row { columns } | Kept::Column { columns, .. }) = self;
        let mut at = run.start;
        while at < run.end && columns > 0 {
            let (row, column) = (at / columns, at % columns);
            let end = run.end.min(at - column + columns);
            each(at - run.start..end - run.start, row, column);
            at = end;
        }
    }
}

impl<T: Wide> PreparedStep<'_, T> {
    /// Changes a block of the tensor that starts at flat position `first`.
    pub(super) fn apply(&self, first: usize, block: &mut [T], gathered: &mut Vec<T>) {
        on_w(self.region, (first, block), gathered, |position, w| self.op.apply(position, w));
    }
}

/// Gives `change` the elements of `W` in a block as one run, with the position of the first.
pub(super) fn on_w<T: Wide>(
    region: &Region,
    (first, block): (usize, &mut [T]),
    gathered: &mut Vec<T>,
    change: impl FnOnce(usize, &mut [T]),
) {
    let Some(located) = region.locate_unbounded(first..first + block.len()) else { return };
    if let [run] = located.runs.as_slice() {
        change(located.first, &mut block[run.clone()]);
        return;
    }
    gathered.clear();
    for run in &located.runs {
        gathered.extend_from_slice(&block[run.clone()]);
    }
    change(located.first, gathered);
    let mut rest = gathered.as_slice();
    for run in &located.runs {
        let (here, behind) = rest.split_at(run.len());
        block[run.clone()].copy_from_slice(here);
        rest = behind;
    }
}

impl<T: Wide> Op<'_, T> {
    /// Changes the elements of `W` from `position` on.
    fn apply(&self, position: usize, w: &mut [T]) {
        match self {
            Op::Product(product) => product.add(position, w),
            Op::Add { factor, value, element } => add(*factor, (value, *element), position, w),
            Op::Set { values, element } => values.for_stretches(position..position + w.len(), |in_w, from| {
                let target = &mut w[in_w.start - position..in_w.end - position];
                decode(*element, values.value.bits_at(from, target.len()), target).expect("as long");
            }),
            Op::Exceptions { positions, value, element } => {
                let end = position + w.len();
                let from = positions.partition_point(|at| (*at as usize) < position);
                let inside = positions[from..].iter().zip(from..).take_while(|(at, _)| (**at as usize) < end);
                for (at, index) in inside {
                    let target = &mut w[*at as usize - position..][..1];
                    decode(*element, value.bits_at(index, 1), target).expect("one element");
                }
            }
            Op::Scale { kept, factors } => {
                kept.for_rows(position..position + w.len(), |places, row, column| match *kept {
                    Kept::Row { .. } => {
                        w[places].iter_mut().for_each(|w| *w = (*w * factors[row]).canonical());
                    }
                    Kept::Column { per, .. } => {
                        for (w, column) in w[places].iter_mut().zip(column..) {
                            *w = (*w * factors[column / per]).canonical();
                        }
                    }
                });
            }
        }
    }
}

impl<T: Wide> Product<T> {
    /// Adds to whole rows of `W`; rows beyond the product's stay as they are.
    pub(super) fn add(&self, position: usize, mut w: &mut [T]) {
        let mut row = position / self.columns;
        while !w.is_empty() {
            let Some(expert) = self.experts.get(row / self.rows) else { return };
            let local = row % self.rows;
            let rows = (self.rows - local).min(w.len() / self.columns);
            if rows == 0 {
                return;
            }
            let (here, behind) = w.split_at_mut(rows * self.columns);
            expert.add_to(local, here);
            w = behind;
            row += rows;
        }
    }
}

/// Elements decoded at once beside a block.
const CHUNK: usize = 1024;

fn add<T: Wide>(factor: f64, (value, element): (&Part<'_>, Element), position: usize, w: &mut [T]) {
    let known = value.elements().saturating_sub(position).min(w.len());
    let mut delta = [0.0f64; CHUNK];
    for (w, first) in w[..known].chunks_mut(CHUNK).zip((position..).step_by(CHUNK)) {
        let delta = &mut delta[..w.len()];
        decode(element, value.bits_at(first, delta.len()), delta).expect("as long");
        for (w, delta) in w.iter_mut().zip(delta) {
            *w = (*w + T::from_f64(factor * *delta)).canonical();
        }
    }
}
