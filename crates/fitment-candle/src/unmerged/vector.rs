//! Vectors: biases, and the weights of norms.

use super::change::Change;
use super::mix::{Mix, Shared};
use super::row::Kept;
use super::rows::Place;
use candle_core::{Result, Tensor, bail};
use std::sync::Arc;

/// A vector of a model and what adapters add to it.
#[derive(Clone, Debug)]
pub struct AdaptedVector {
    /// `None` for one that only adapters bring.
    vector: Option<Tensor>,
    /// By adapter: its place on the first axis of the stack.
    places: Vec<Option<u32>>,
    /// What they add, `[adapters, n]`; `None` when there is nothing.
    stack: Option<Tensor>,
    mix: Shared,
    sorted: Kept,
}

impl AdaptedVector {
    pub(super) fn new(vector: Option<Tensor>, changes: Vec<Option<Change>>, mix: Shared) -> Result<Self> {
        let (mut places, mut vectors) = (Vec::new(), Vec::new());
        for change in changes {
            let delta = match change {
                None => {
                    places.push(None);
                    continue;
                }
                Some(Change::Dense(delta)) if delta.rank() == 1 => delta,
                Some(_) => bail!("an adapter makes a matrix of a vector"),
            };
            places.push(Some(u32::try_from(vectors.len()).map_err(candle_core::Error::wrap)?));
            vectors.push(delta);
        }
        let stack = if vectors.is_empty() { None } else { Some(Tensor::stack(&vectors, 0)?) };
        Ok(Self { vector, places, stack, mix, sorted: Kept::default() })
    }

    /// The vector for states `like`, of which it is to meet the axis `axis`: `[n]` with axes of extent 1 around it, and the rows of the batch in
    /// front when they differ.
    ///
    /// # Errors
    /// A batch of other rows than the mix names.
    pub fn meeting(&self, like: &Tensor, axis: usize) -> Result<Option<Tensor>> {
        self.of_mix(&self.mix.get(), like, axis)
    }

    fn of_mix(&self, mix: &Arc<Mix>, like: &Tensor, axis: usize) -> Result<Option<Tensor>> {
        let Some(dtype) = self.stack.as_ref().or(self.vector.as_ref()).map(Tensor::dtype) else {
            return Ok(None);
        };
        let shaped = |vectors: &Tensor, rows: usize| {
            let mut dims = vec![1; like.rank()];
            (dims[0], dims[axis]) = (rows, vectors.elem_count() / rows.max(1));
            vectors.reshape(dims)
        };
        let plain = match (&self.vector, &self.stack) {
            (Some(vector), _) => shaped(&vector.to_dtype(dtype)?, 1)?,
            (None, Some(stack)) => shaped(&stack.get(0)?.zeros_like()?, 1)?,
            (None, None) => return Ok(None),
        };
        let Some(stack) = &self.stack else { return plain.to_dtype(like.dtype()).map(Some) };
        let mut sum = plain;
        match &**mix {
            Mix::Same(weights) => {
                for (place, weight) in self.places.iter().zip(weights) {
                    let (Some(place), true) = (place, *weight != 0.0) else { continue };
                    sum = (sum + shaped(&(stack.get(*place as usize)? * *weight)?, 1)?)?;
                }
            }
            Mix::Rows(rows) => {
                let batch = like.dim(0)?;
                let place = |adapter: usize| self.places.get(adapter).copied().flatten().map(Place::Stacked);
                let sorted = self.sorted.sorted((mix, rows), (batch, like.device()), place)?;
                if sorted.stacked.is_some() || !sorted.alone.is_empty() {
                    let mut dims = vec![1; like.rank()];
                    dims[0] = batch;
                    sum = sum.repeat(dims)?;
                }
                if let Some((slots, taken)) = &sorted.stacked {
                    sum = taken.add(sum, shaped(&stack.index_select(slots, 0)?, slots.dim(0)?)?)?;
                }
                for (adapter, taken) in &sorted.alone {
                    let Some(place) = self.places.get(*adapter).copied().flatten() else { continue };
                    sum = taken.add_to_all(sum, &shaped(&stack.get(place as usize)?, 1)?)?;
                }
            }
        }
        sum.to_dtype(like.dtype()).map(Some)
    }

    /// `states` with the vector added along an axis.
    pub(super) fn add_to(&self, mix: &Arc<Mix>, states: Tensor, axis: usize) -> Result<Tensor> {
        match self.of_mix(mix, &states, axis)? {
            None => Ok(states),
            Some(vector) => states.broadcast_add(&vector),
        }
    }
}
