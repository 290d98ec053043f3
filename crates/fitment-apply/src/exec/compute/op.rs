//! Steps made ready: factors decoded, packed, and oriented as the tensor is stored.

use crate::part::Part;
use crate::plan::{Elements, Values};
use crate::region::Region;
use fitment_core::model::NormOf;
use fitment_math::lowrank::LowRank;
use fitment_math::ndarray::ArrayViewMut2;
use fitment_math::round::{Element, decode};
use fitment_math::{Error, dense, norm};

/// What one adapter does to the tensor.
pub(super) struct PreparedShare<'p> {
    /// The adapter's strength; of an additive share, already in its factors.
    pub(super) weight: f64,
    /// Steps add to whatever they meet.
    pub(super) additive: bool,
    pub(super) steps: Vec<PreparedStep<'p>>,
}

pub(super) struct PreparedStep<'p> {
    pub(super) region: &'p Region,
    pub(super) op: Op<'p>,
}

/// What happens to a contiguous run of `W`.
pub(super) enum Op<'p> {
    Product(Product),
    Add {
        factor: f64,
        value: &'p Part<'p>,
        element: Element,
    },
    Set {
        values: &'p Values<'p>,
        element: Element,
    },
    /// Positions of `W`, ascending, and their values.
    Exceptions {
        positions: &'p [u64],
        value: &'p Part<'p>,
        element: Element,
    },
    Put {
        elements: &'p Elements<'p>,
        element: Element,
    },
    Scatter {
        factor: f64,
        elements: &'p Elements<'p>,
        element: Element,
    },
    /// All elements of the tensor anew.
    Whole {
        bytes: Vec<u8>,
        element: Element,
    },
    /// A product and DoRA's rescaling of the rows that it gives.
    Rows(Rows),
    /// A product and DoRA's rescaling of columns, whose norms a pass before this one took.
    Columns {
        product: Product,
        factors: Vec<f64>,
    },
}

/// `s·up·down` in the stored orientation: `[rows, columns]` for each expert.
pub(super) struct Product {
    pub(super) experts: Vec<LowRank>,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// A product and the magnitudes of its rows.
pub(super) struct Rows {
    pub(super) product: Product,
    pub(super) magnitude: Vec<f64>,
    pub(super) norm_of: NormOf,
    pub(super) eps: f64,
}

impl PreparedShare<'_> {
    pub(super) fn apply(
        &self,
        first: usize,
        block: &mut [f64],
        gathered: &mut Vec<f64>,
    ) -> Result<(), Error> {
        self.steps.iter().try_for_each(|step| step.apply(first, block, gathered))
    }
}

impl PreparedStep<'_> {
    /// Changes a block of the tensor that starts at flat position `first`.
    pub(super) fn apply(
        &self,
        first: usize,
        block: &mut [f64],
        gathered: &mut Vec<f64>,
    ) -> Result<(), Error> {
        on_w(self.region, (first, block), gathered, |position, w| self.op.apply(position, w))
    }
}

/// Gives `change` the elements of `W` in a block as one run, with the position of the first.
pub(super) fn on_w(
    region: &Region,
    (first, block): (usize, &mut [f64]),
    gathered: &mut Vec<f64>,
    change: impl FnOnce(usize, &mut [f64]) -> Result<(), Error>,
) -> Result<(), Error> {
    let Some(located) = region.locate_unbounded(first..first + block.len()) else { return Ok(()) };
    if let [run] = located.runs.as_slice() {
        return change(located.first, &mut block[run.clone()]);
    }
    gathered.clear();
    for run in &located.runs {
        gathered.extend_from_slice(&block[run.clone()]);
    }
    change(located.first, gathered)?;
    let mut rest = gathered.as_slice();
    for run in &located.runs {
        let (here, behind) = rest.split_at(run.len());
        block[run.clone()].copy_from_slice(here);
        rest = behind;
    }
    Ok(())
}

impl Op<'_> {
    /// Changes the elements of `W` from `position` on.
    fn apply(&self, position: usize, w: &mut [f64]) -> Result<(), Error> {
        match self {
            Op::Product(product) => product.add(position, w),
            Op::Add { factor, value, element } => add(*factor, (value, *element), position, w),
            Op::Set { values, element } => {
                let mut result = Ok(());
                values.for_stretches(position..position + w.len(), |in_w, from| {
                    let target = &mut w[in_w.start - position..in_w.end - position];
                    let decoded = decode(*element, values.value.bits_at(from, target.len()), target);
                    result = std::mem::replace(&mut result, Ok(())).and(decoded);
                });
                result
            }
            Op::Exceptions { positions, value, element } => {
                let end = position + w.len();
                let place = |at: &u64| usize::try_from(*at).unwrap_or(usize::MAX);
                let from = positions.partition_point(|at| place(at) < position);
                let inside = positions[from..].iter().map(place).zip(from..).take_while(|(at, _)| *at < end);
                for (at, index) in inside {
                    decode(*element, value.bits_at(index, 1), &mut w[at - position..][..1])?;
                }
                Ok(())
            }
            Op::Put { elements, element } => {
                at_elements(elements, *element, position, w, |w, value| *w = value)
            }
            Op::Scatter { factor, elements, element } => {
                let mut result = Ok(());
                at_elements(elements, *element, position, w, |w, value| {
                    let sum = dense::add_scaled(std::slice::from_mut(w), &[value], *factor);
                    result = std::mem::replace(&mut result, Ok(())).and(sum);
                })?;
                result
            }
            Op::Whole { bytes, element } => {
                let size = element.size();
                decode(*element, &bytes[position * size..(position + w.len()) * size], w)
            }
            Op::Rows(rows) => rows.apply(position, w),
            Op::Columns { product, factors } => {
                product.add(position, w)?;
                norm::scale_columns(product.matrix(w).1, factors)
            }
        }
    }
}

impl Product {
    /// Adds to whole rows of `W`; rows beyond the product's stay as they are.
    pub(super) fn add(&self, position: usize, w: &mut [f64]) -> Result<(), Error> {
        let mut rest = w;
        let mut row = position / self.columns;
        while let Some(expert) = self.experts.get(row / self.rows).filter(|_| !rest.is_empty()) {
            let local = row % self.rows;
            let rows = (self.rows - local).min(rest.len() / self.columns);
            if rows == 0 {
                break;
            }
            let (here, behind) = rest.split_at_mut(rows * self.columns);
            expert.add_to(local, self.matrix(here).1)?;
            rest = behind;
            row += rows;
        }
        Ok(())
    }

    /// Whole rows as a matrix, and how many there are.
    pub(super) fn matrix<'w>(&self, w: &'w mut [f64]) -> (usize, ArrayViewMut2<'w, f64>) {
        let rows = w.len() / self.columns;
        let whole = &mut w[..rows * self.columns];
        (rows, ArrayViewMut2::from_shape((rows, self.columns), whole).expect("whole rows"))
    }
}

impl Rows {
    fn apply(&self, position: usize, w: &mut [f64]) -> Result<(), Error> {
        let first = position / self.product.columns;
        let known = self.magnitude.len().saturating_sub(first) * self.product.columns;
        let known = known.min(w.len());
        let w = &mut w[..known];
        let before = (self.norm_of == NormOf::Base).then(|| norm::row_norms(self.product.matrix(w).1.view()));
        self.product.add(position, w)?;
        let (rows, matrix) = self.product.matrix(w);
        let norms = before.unwrap_or_else(|| norm::row_norms(matrix.view()));
        let magnitude = self.magnitude.get(first..first + rows).unwrap_or_default();
        norm::scale_rows(matrix, &norm::magnitude_factors(first, &norms, magnitude, self.eps)?)
    }
}

/// Calls `change` with the elements of `w`, a block from `position` on, that have a value.
fn at_elements(
    elements: &Elements<'_>,
    element: Element,
    position: usize,
    w: &mut [f64],
    mut change: impl FnMut(&mut f64, f64),
) -> Result<(), Error> {
    let mut result = Ok(());
    elements.for_each_in(position..position + w.len(), |at, place| {
        let mut value = [0.0];
        let decoded = decode(element, elements.value.bits_at(place, 1), &mut value);
        result = std::mem::replace(&mut result, Ok(())).and(decoded);
        change(&mut w[at - position], value[0]);
    });
    result
}

/// Elements decoded at once beside a block.
const CHUNK: usize = 1024;

fn add(
    factor: f64,
    (value, element): (&Part<'_>, Element),
    position: usize,
    w: &mut [f64],
) -> Result<(), Error> {
    let known = value.elements().saturating_sub(position).min(w.len());
    let mut delta = [0.0; CHUNK];
    for (w, first) in w[..known].chunks_mut(CHUNK).zip((position..).step_by(CHUNK)) {
        let delta = &mut delta[..w.len()];
        decode(element, value.bits_at(first, delta.len()), delta)?;
        dense::add_scaled(w, delta, factor)?;
    }
    Ok(())
}
