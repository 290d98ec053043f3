//! Linear layers.

use super::change::{Change, Factors};
use super::mix::Shared;
use super::row::{Beside, Changes, add, grown, sum};
use super::stack::{Stack, taken};
use super::vector::AdaptedVector;
use candle_core::{D, Result, Tensor};
use candle_nn::{Linear, Module};

/// A linear layer and what adapters add to it. The first axis of its input counts the rows of a batch.
#[derive(Clone, Debug)]
pub struct AdaptedLinear {
    /// `[out, in]`
    weight: Tensor,
    changes: Changes,
    bias: AdaptedVector,
}

impl AdaptedLinear {
    pub(super) fn new(
        layer: Linear,
        changes: Vec<Option<Change>>,
        bias: AdaptedVector,
        mix: Shared,
    ) -> Result<Self> {
        let (weight, changes) = grown(layer.weight().clone(), changes)?;
        Ok(Self { weight, changes: Changes::stacked(changes, mix)?, bias })
    }
}

/// `x·matrixᵀ`, on the last axis of `x`, in the dtype of the matrix.
fn times(x: &Tensor, matrix: &Tensor) -> Result<Tensor> {
    let mut dims = x.dims().to_vec();
    let width = x.dim(D::Minus1)?;
    let rows = x.elem_count() / width.max(1);
    let flat = x.reshape((rows, width))?.to_dtype(matrix.dtype())?;
    if let Some(last) = dims.last_mut() {
        *last = matrix.dim(0)?;
    }
    flat.matmul(&matrix.t()?)?.reshape(dims)
}

impl AdaptedLinear {
    /// The plain weight's outputs for `x ∘ gains`.
    fn scaled(&self, x: &Tensor, gains: &Tensor) -> Result<Tensor> {
        let scaled = x.to_dtype(gains.dtype())?.broadcast_mul(gains)?;
        times(&scaled, &self.weight.to_dtype(gains.dtype())?)
    }
}

impl Beside for AdaptedLinear {
    fn changes(&self) -> &Changes {
        &self.changes
    }

    fn delta(&self, change: &Change, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        let Factors { product, row, column } = match change {
            Change::Dense(delta) => return times(x, delta),
            Change::Factors(factors) => factors,
        };
        let mut parts = Vec::new();
        if let Some((left, right)) = product {
            parts.push(times(&times(x, right)?, left)?);
        }
        if let Some(row) = row {
            parts.push(y.to_dtype(row.dtype())?.broadcast_mul(row)?);
        }
        if let Some(column) = column {
            parts.push(self.scaled(x, column)?);
        }
        sum(parts, y)
    }

    fn delta_by_row(&self, stack: &Stack, slots: &Tensor, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        let mut parts = Vec::new();
        if let Some((left, right)) = &stack.product {
            let (batch, width) = (x.dim(0)?, x.dim(D::Minus1)?);
            let flat = x.reshape((batch, x.elem_count() / (batch * width).max(1), width))?;
            let narrow = flat.to_dtype(right.dtype())?.matmul(&right.index_select(slots, 0)?.t()?)?;
            parts.push(narrow.matmul(&left.index_select(slots, 0)?.t()?)?.reshape(y.dims())?);
        }
        if let Some(row) = &stack.row {
            parts.push(y.to_dtype(row.dtype())?.broadcast_mul(&taken(row, slots, y.rank())?)?);
        }
        if let Some(column) = &stack.column {
            parts.push(self.scaled(x, &taken(column, slots, x.rank())?)?);
        }
        sum(parts, y)
    }
}

impl Module for AdaptedLinear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.contiguous()?;
        let mix = self.changes.mix();
        let y = add(self, &mix, &x, times(&x, &self.weight)?)?;
        self.bias.add_to(&mix, y, x.rank() - 1)
    }
}
