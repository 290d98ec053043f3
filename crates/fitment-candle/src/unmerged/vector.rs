//! Vectors: biases, and the weights of norms.

use super::change::Change;
use super::mix::{Mix, Shared, groups};
use candle_core::{Result, Tensor, bail};

/// A vector of a model and what adapters add to it.
#[derive(Clone, Debug)]
pub struct AdaptedVector {
    /// `None` for one that only adapters bring.
    vector: Option<Tensor>,
    changes: Vec<Option<Tensor>>,
    mix: Shared,
}

impl AdaptedVector {
    pub(super) fn new(vector: Option<Tensor>, changes: Vec<Option<Change>>, mix: Shared) -> Result<Self> {
        let dense = |change: Option<Change>| match change {
            None => Ok(None),
            Some(Change::Dense(delta)) if delta.rank() == 1 => Ok(Some(delta)),
            Some(_) => bail!("an adapter makes a matrix of a vector"),
        };
        let changes = changes.into_iter().map(dense).collect::<Result<_>>()?;
        Ok(Self { vector, changes, mix })
    }

    /// The vector for states `like`, of which it is to meet the axis `axis`: `[n]` with axes of extent 1 around it, and the rows of the batch in
    /// front when they differ.
    ///
    /// # Errors
    /// A batch of other rows than the mix names.
    pub fn meeting(&self, like: &Tensor, axis: usize) -> Result<Option<Tensor>> {
        self.of_mix(&self.mix.get(), like, axis)
    }

    fn of_mix(&self, mix: &Mix, like: &Tensor, axis: usize) -> Result<Option<Tensor>> {
        let changes = self.changes.iter().flatten();
        let Some(any) = self.vector.iter().chain(changes.clone()).next() else { return Ok(None) };
        let dtype = changes.clone().next().map_or(any.dtype(), Tensor::dtype);
        let mut shape = vec![1; like.rank()];
        shape[axis] = any.dim(0)?;
        let vector = match &self.vector {
            Some(vector) => vector.to_dtype(dtype)?.reshape(shape.as_slice())?,
            None => Tensor::zeros(shape.as_slice(), dtype, like.device())?,
        };
        let sum = match mix {
            Mix::Same(weights) => {
                let mut sum = vector;
                for (change, weight) in self.changes.iter().zip(weights) {
                    if let Some(change) = change {
                        sum = (sum + (change * *weight)?.reshape(shape.as_slice())?)?;
                    }
                }
                sum
            }
            Mix::Rows(rows) => {
                let batch = like.dim(0)?;
                let acts = |adapter: usize| self.changes.get(adapter).is_some_and(Option::is_some);
                let groups = groups(rows, batch, like.device(), acts)?;
                let mut sum =
                    if groups.is_empty() { vector } else { vector.repeat(batch_of(&shape, batch))? };
                for group in groups {
                    let Some(Some(change)) = self.changes.get(group.adapter) else { continue };
                    let count = group.weights.dim(0)?;
                    let weights = group.weights.to_dtype(dtype)?.reshape(batch_of(&shape, count))?;
                    let delta = weights.broadcast_mul(&change.reshape(shape.as_slice())?)?;
                    sum = sum.index_add(&group.rows, &delta, 0)?;
                }
                sum
            }
        };
        sum.to_dtype(like.dtype()).map(Some)
    }

    /// `states` with the vector added along an axis.
    pub(super) fn add_to(&self, mix: &Mix, states: Tensor, axis: usize) -> Result<Tensor> {
        match self.of_mix(mix, &states, axis)? {
            None => Ok(states),
            Some(vector) => states.broadcast_add(&vector),
        }
    }
}

/// How often each axis is repeated for so many rows.
fn batch_of(shape: &[usize], rows: usize) -> Vec<usize> {
    let mut dims = vec![1; shape.len()];
    dims[0] = rows;
    dims
}
