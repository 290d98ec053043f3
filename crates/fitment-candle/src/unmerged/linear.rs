//! Linear layers.

use super::change::{Change, Factors};
use super::mix::Shared;
use super::row::{Beside, add, grown, sum};
use super::vector::AdaptedVector;
use candle_core::{D, Result, Tensor};
use candle_nn::{Linear, Module};

/// A linear layer and what adapters add to it. The first axis of its input counts the rows of a batch.
#[derive(Clone, Debug)]
pub struct AdaptedLinear {
    /// `[out, in]`
    weight: Tensor,
    changes: Vec<Option<Change>>,
    bias: AdaptedVector,
    mix: Shared,
}

impl AdaptedLinear {
    pub(super) fn new(
        layer: Linear,
        changes: Vec<Option<Change>>,
        bias: AdaptedVector,
        mix: Shared,
    ) -> Result<Self> {
        let (weight, changes) = grown(layer.weight().clone(), changes)?;
        Ok(Self { weight, changes, bias, mix })
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

impl Beside for AdaptedLinear {
    fn acts(&self, adapter: usize) -> bool {
        self.changes.get(adapter).is_some_and(Option::is_some)
    }

    fn delta(&self, adapter: usize, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        match self.changes.get(adapter).and_then(Option::as_ref) {
            None => y.zeros_like(),
            Some(Change::Dense(delta)) => times(x, delta),
            Some(Change::Factors(Factors { product, row, column })) => {
                let mut parts = Vec::new();
                if let Some((left, right)) = product {
                    parts.push(times(&times(x, right)?, left)?);
                }
                if let Some(row) = row {
                    parts.push(y.to_dtype(row.dtype())?.broadcast_mul(row)?);
                }
                if let Some(column) = column {
                    let scaled = x.to_dtype(column.dtype())?.broadcast_mul(column)?;
                    parts.push(times(&scaled, &self.weight.to_dtype(column.dtype())?)?);
                }
                sum(parts, y)
            }
        }
    }
}

impl Module for AdaptedLinear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.contiguous()?;
        let mix = self.mix.get();
        let y = add(self, &mix, &x, times(&x, &self.weight)?)?;
        self.bias.add_to(&mix, y, x.rank() - 1)
    }
}
