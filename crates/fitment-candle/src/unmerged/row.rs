//! The sum over adapters, for all rows of a batch or row by row.

use super::change::{Change, Factors};
use super::mix::{Mix, groups};
use candle_core::{Result, Tensor};

/// A layer with adapters beside it.
pub(super) trait Beside {
    /// Whether an adapter changes this layer.
    fn acts(&self, adapter: usize) -> bool;

    /// What an adapter adds to the outputs `y` of the plain layer for the inputs `x`. The first axis of both counts rows of the batch.
    fn delta(&self, adapter: usize, x: &Tensor, y: &Tensor) -> Result<Tensor>;
}

/// `y` with what the adapters of the mix add, in `y`'s dtype.
pub(super) fn add(layer: &impl Beside, mix: &Mix, x: &Tensor, y: Tensor) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    match mix {
        Mix::Same(weights) => {
            for (adapter, weight) in weights.iter().enumerate() {
                if *weight != 0.0 && layer.acts(adapter) {
                    let delta = (layer.delta(adapter, x, &y)? * *weight)?;
                    sum = Some(match sum {
                        None => (y.to_dtype(delta.dtype())? + delta)?,
                        Some(sum) => (sum + delta)?,
                    });
                }
            }
        }
        Mix::Rows(rows) => {
            for group in groups(rows, x.dim(0)?, x.device(), |adapter| layer.acts(adapter))? {
                let chosen = |tensor: &Tensor| tensor.index_select(&group.rows, 0);
                let delta = layer.delta(group.adapter, &chosen(x)?, &chosen(&y)?)?;
                let mut dims = vec![1; delta.rank()];
                dims[0] = delta.dim(0)?;
                let weights = group.weights.to_dtype(delta.dtype())?.reshape(dims)?;
                let before = match sum {
                    None => y.to_dtype(delta.dtype())?,
                    Some(sum) => sum,
                };
                sum = Some(before.index_add(&group.rows, &delta.broadcast_mul(&weights)?, 0)?);
            }
        }
    }
    match sum {
        None => Ok(y),
        Some(sum) => sum.to_dtype(y.dtype()),
    }
}

/// The sum of what makes up a change of the outputs `y`.
pub(super) fn sum(parts: Vec<Tensor>, y: &Tensor) -> Result<Tensor> {
    let mut parts = parts.into_iter();
    let first = parts.next().map_or_else(|| y.zeros_like(), Ok)?;
    parts.try_fold(first, |sum, part| sum + part)
}

/// Weights of as many rows as the largest of the changes makes of it; the new ones are 0, and so is what other changes do there.
pub(super) fn grown(weight: Tensor, changes: Vec<Option<Change>>) -> Result<(Tensor, Vec<Option<Change>>)> {
    let rows = |change: &Change| match change {
        Change::Dense(delta) => delta.dim(0),
        Change::Factors(Factors { product: Some((left, _)), .. }) => left.dim(0),
        Change::Factors(Factors { row: Some(row), .. }) => row.dim(0),
        Change::Factors(_) => Ok(0),
    };
    let mut most = weight.dim(0)?;
    for change in changes.iter().flatten() {
        most = most.max(rows(change)?);
    }
    let pad = |tensor: Tensor| {
        let missing = most - tensor.dim(0)?;
        if missing == 0 { Ok(tensor) } else { tensor.pad_with_zeros(0, 0, missing) }
    };
    let grow = |change: Option<Change>| -> Result<Option<Change>> {
        Ok(match change {
            None => None,
            Some(Change::Dense(delta)) => Some(Change::Dense(pad(delta)?)),
            Some(Change::Factors(factors)) => {
                let product = match factors.product {
                    None => None,
                    Some((left, right)) => Some((pad(left)?, right)),
                };
                let row = factors.row.map(pad).transpose()?;
                Some(Change::Factors(Factors { product, row, column: factors.column }))
            }
        })
    };
    let changes = changes.into_iter().map(grow).collect::<Result<_>>()?;
    Ok((pad(weight)?, changes))
}
