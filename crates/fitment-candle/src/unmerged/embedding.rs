//! Embeddings.

use super::change::{Change, Factors};
use super::mix::Shared;
use super::row::{Beside, Changes, add, grown, sum};
use super::stack::{Stack, taken};
use candle_core::{D, DType, Result, Tensor};
use candle_nn::{Embedding, Module};

/// An embedding and what adapters add to it. Its input are numbers of rows, U32; the first axis counts the rows of a batch.
#[derive(Clone, Debug)]
pub struct AdaptedEmbedding {
    /// `[vocab, dim]`
    weight: Tensor,
    changes: Changes,
}

impl AdaptedEmbedding {
    pub(super) fn new(layer: Embedding, changes: Vec<Option<Change>>, mix: Shared) -> Result<Self> {
        let (weight, changes) = grown(layer.embeddings().clone(), changes)?;
        Ok(Self { weight, changes: Changes::stacked(changes, mix)? })
    }
}

/// Rows of a matrix, or elements of a vector.
fn look_up(tensor: &Tensor, numbers: &Tensor) -> Result<Tensor> {
    let dims = [numbers.dims(), &tensor.dims()[1..]].concat();
    tensor.index_select(&numbers.flatten_all()?, 0)?.reshape(dims)
}

/// `rows`, of rank r in their last axis, times the factors `right`: `[r, dim]`, or one for each row of the batch.
fn widened(rows: &Tensor, right: &Tensor, dims: &[usize]) -> Result<Tensor> {
    let rank = rows.dim(D::Minus1)?;
    let batch = if right.rank() == 3 { rows.dim(0)? } else { 1 };
    let flat = rows.reshape((batch, rows.elem_count() / (batch * rank).max(1), rank))?;
    let right = if right.rank() == 3 { right.clone() } else { right.unsqueeze(0)? };
    flat.matmul(&right)?.reshape(dims)
}

impl Beside for AdaptedEmbedding {
    fn changes(&self) -> &Changes {
        &self.changes
    }

    fn delta(&self, change: &Change, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        let Factors { product, row, column } = match change {
            Change::Dense(delta) => return look_up(delta, x),
            Change::Factors(factors) => factors,
        };
        let mut parts = Vec::new();
        if let Some((left, right)) = product {
            parts.push(widened(&look_up(left, x)?, right, y.dims())?);
        }
        if let Some(row) = row {
            let gains = look_up(row, x)?.unsqueeze(D::Minus1)?;
            parts.push(y.to_dtype(row.dtype())?.broadcast_mul(&gains)?);
        }
        if let Some(column) = column {
            parts.push(y.to_dtype(column.dtype())?.broadcast_mul(column)?);
        }
        sum(parts, y)
    }

    fn delta_by_row(&self, stack: &Stack, slots: &Tensor, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        // The stacks as matrices of all adapters' rows, one below the other.
        let vocabulary = self.weight.dim(0)?;
        let mut first = vec![1; x.rank()];
        first[0] = slots.dim(0)?;
        let below = (slots.to_dtype(DType::I64)? * vocabulary as f64)?.reshape(first)?;
        let x = x.to_dtype(DType::I64)?.broadcast_add(&below)?;
        let flat = |stack: &Tensor| stack.flatten(0, 1);
        let mut parts = Vec::new();
        if let Some((left, right)) = &stack.product {
            parts.push(widened(&look_up(&flat(left)?, &x)?, &right.index_select(slots, 0)?, y.dims())?);
        }
        if let Some(row) = &stack.row {
            let gains = look_up(&flat(row)?, &x)?.unsqueeze(D::Minus1)?;
            parts.push(y.to_dtype(row.dtype())?.broadcast_mul(&gains)?);
        }
        if let Some(column) = &stack.column {
            parts.push(y.to_dtype(column.dtype())?.broadcast_mul(&taken(column, slots, y.rank())?)?);
        }
        sum(parts, y)
    }
}

impl Module for AdaptedEmbedding {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.contiguous()?;
        add(self, &self.changes.mix(), &x, look_up(&self.weight, &x)?)
    }
}
