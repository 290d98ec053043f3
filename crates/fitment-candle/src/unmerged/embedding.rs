//! Embeddings.

use super::change::{Change, Factors};
use super::mix::Shared;
use super::row::{Beside, add, grown, sum};
use candle_core::{D, Result, Tensor};
use candle_nn::{Embedding, Module};

/// An embedding and what adapters add to it. Its input are numbers of rows, U32; the first axis counts the rows of a batch.
#[derive(Clone, Debug)]
pub struct AdaptedEmbedding {
    /// `[vocab, dim]`
    weight: Tensor,
    changes: Vec<Option<Change>>,
    mix: Shared,
}

impl AdaptedEmbedding {
    pub(super) fn new(layer: Embedding, changes: Vec<Option<Change>>, mix: Shared) -> Result<Self> {
        let (weight, changes) = grown(layer.embeddings().clone(), changes)?;
        Ok(Self { weight, changes, mix })
    }
}

/// Rows of a matrix, or elements of a vector.
fn look_up(tensor: &Tensor, numbers: &Tensor) -> Result<Tensor> {
    let dims = [numbers.dims(), &tensor.dims()[1..]].concat();
    tensor.index_select(&numbers.flatten_all()?, 0)?.reshape(dims)
}

impl Beside for AdaptedEmbedding {
    fn acts(&self, adapter: usize) -> bool {
        self.changes.get(adapter).is_some_and(Option::is_some)
    }

    fn delta(&self, adapter: usize, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        match self.changes.get(adapter).and_then(Option::as_ref) {
            None => y.zeros_like(),
            Some(Change::Dense(delta)) => look_up(delta, x),
            Some(Change::Factors(Factors { product, row, column })) => {
                let mut parts = Vec::new();
                if let Some((left, right)) = product {
                    let rows = look_up(left, x)?;
                    let flat = rows.reshape((x.elem_count(), rows.dim(D::Minus1)?))?;
                    parts.push(flat.matmul(right)?.reshape(y.dims())?);
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
        }
    }
}

impl Module for AdaptedEmbedding {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.contiguous()?;
        add(self, &self.mix.get(), &x, look_up(&self.weight, &x)?)
    }
}
