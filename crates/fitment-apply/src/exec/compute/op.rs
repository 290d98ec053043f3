//! Steps made ready: factors decoded, packed, and oriented as the tensor is stored.

use super::change::Change;
use crate::region::Region;
use fitment_core::model::NormOf;
use fitment_math::lowrank::LowRank;
use fitment_math::ndarray::ArrayViewMut2;
use fitment_math::{Error, norm};

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
    Change(Change<'p>),
    Product(Product),
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
            Op::Change(change) => change.apply(position, w),
            Op::Product(product) => product.add(position, w),
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
