//! What several adapters do to one matrix, as one tensor of each factor: every row of a batch takes its adapter's by number.

use super::change::{Change, Factors};
use candle_core::{Result, Tensor};

/// Factors of the adapters of a layer, with an axis of adapters in front. What one of them lacks is 0 there.
#[derive(Clone, Debug, Default)]
pub(super) struct Stack {
    /// By adapter: its place on the first axis.
    places: Vec<Option<u32>>,
    /// `[adapters, rows, r]` and `[adapters, r, columns]`, r being the largest rank.
    pub(super) product: Option<(Tensor, Tensor)>,
    /// `[adapters, rows]`
    pub(super) row: Option<Tensor>,
    /// `[adapters, columns]`
    pub(super) column: Option<Tensor>,
}

impl Stack {
    /// Stacks the factors of changes; `None` for fewer than two. Factors of the largest rank become parts of the stack, so that
    /// nothing is held twice where all ranks are the same.
    pub(super) fn of(changes: &mut [Option<Change>]) -> Result<Option<Self>> {
        let mut places = vec![None; changes.len()];
        let (mut rank, mut count) = (0, 0);
        for (place, change) in places.iter_mut().zip(changes.iter()) {
            let Some(Change::Factors(factors)) = change else { continue };
            *place = Some(count);
            count += 1;
            if let Some((left, _)) = &factors.product {
                rank = rank.max(left.dim(1)?);
            }
        }
        if count < 2 {
            return Ok(None);
        }
        let padded = |factors: &Factors, left: bool| -> Result<Option<Tensor>> {
            let Some((a, b)) = &factors.product else { return Ok(None) };
            let (factor, axis) = if left { (a, 1) } else { (b, 0) };
            factor.pad_with_zeros(axis, 0, rank - factor.dim(axis)?).map(Some)
        };
        let left = stacked(changes, |factors| padded(factors, true))?;
        let right = stacked(changes, |factors| padded(factors, false))?;
        let row = stacked(changes, |factors| Ok(factors.row.clone()))?;
        let column = stacked(changes, |factors| Ok(factors.column.clone()))?;
        let stack = Self { places, product: left.zip(right), row, column };
        stack.share(changes, rank)?;
        Ok(Some(stack))
    }

    /// Puts the stacks' own parts in the places of what they were made of.
    fn share(&self, changes: &mut [Option<Change>], rank: usize) -> Result<()> {
        for (place, change) in self.places.iter().zip(changes) {
            let (Some(place), Some(Change::Factors(factors))) = (place, change) else { continue };
            let part = |stack: &Tensor| stack.get(*place as usize);
            if let (Some((left, right)), Some((lefts, rights))) = (&mut factors.product, &self.product)
                && left.dim(1)? == rank
            {
                (*left, *right) = (part(lefts)?, part(rights)?);
            }
            for (own, stack) in [(&mut factors.row, &self.row), (&mut factors.column, &self.column)] {
                if let (Some(own), Some(stack)) = (own, stack) {
                    *own = part(stack)?;
                }
            }
        }
        Ok(())
    }

    /// Where an adapter is.
    pub(super) fn place(&self, adapter: usize) -> Option<u32> {
        self.places.get(adapter).copied().flatten()
    }
}

/// One tensor of what `part` finds in each adapter's factors; `None` where it finds nothing at all.
fn stacked(
    changes: &[Option<Change>],
    part: impl Fn(&Factors) -> Result<Option<Tensor>>,
) -> Result<Option<Tensor>> {
    let mut parts = Vec::new();
    for change in changes {
        if let Some(Change::Factors(factors)) = change {
            parts.push(part(factors)?);
        }
    }
    let Some(like) = parts.iter().flatten().next().cloned() else { return Ok(None) };
    let parts = parts.into_iter().map(|part| part.map_or_else(|| like.zeros_like(), Ok));
    Tensor::stack(&parts.collect::<Result<Vec<_>>>()?, 0).map(Some)
}

/// The vectors at the places `slots` of `[adapters, n]`, as `[slots, 1, …, n]` of the given rank.
pub(super) fn taken(stack: &Tensor, slots: &Tensor, rank: usize) -> Result<Tensor> {
    let mut dims = vec![1; rank];
    dims[0] = slots.dim(0)?;
    dims[rank - 1] = stack.dim(1)?;
    stack.index_select(slots, 0)?.reshape(dims)
}
