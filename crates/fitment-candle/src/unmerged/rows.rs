//! The rows of a batch, sorted by what they take from the adapters of a layer.

use candle_core::{Device, Result, Tensor};

/// What a row of a batch takes: an adapter by its number, with its weight.
pub(super) type Row = Option<(usize, f64)>;

/// Where a layer holds what an adapter does to it.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// At this place of its stacks.
    Stacked(u32),
    /// By itself.
    Alone,
}

/// Rows that are worked on together.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    /// Their numbers, U32; `None` for the whole batch in its order.
    rows: Option<Tensor>,
    /// A weight for each, f32; `None` when all are 1.
    weights: Option<Tensor>,
}

/// The rows of a batch on which something acts.
#[derive(Clone, Debug, Default)]
pub(super) struct Sorted {
    /// Those that take what is at different places of the stacks: the place of each, U32.
    pub(super) stacked: Option<(Tensor, Taken)>,
    /// Those that take the same adapter.
    pub(super) alone: Vec<(usize, Taken)>,
}

/// Rows and their weights, as they are found.
#[derive(Default)]
struct Found {
    rows: Vec<u32>,
    weights: Vec<f32>,
}

impl Found {
    fn push(&mut self, row: usize, weight: f64) -> Result<()> {
        self.rows.push(u32::try_from(row).map_err(candle_core::Error::wrap)?);
        self.weights.push(weight as f32);
        Ok(())
    }

    fn on(self, batch: usize, device: &Device) -> Result<Taken> {
        let plain = self.weights.iter().all(|weight| *weight == 1.0);
        let weights = (!plain).then(|| Tensor::new(self.weights, device)).transpose()?;
        // Rows come in order, so as many as the batch has are the batch.
        let rows = (self.rows.len() != batch).then(|| Tensor::new(self.rows, device)).transpose()?;
        Ok(Taken { rows, weights })
    }
}

impl Sorted {
    /// Sorts the entries of a mix; `place` says where the layer holds an adapter, `None` where it has nothing of it.
    pub(super) fn new(rows: &[Row], device: &Device, place: impl Fn(usize) -> Option<Place>) -> Result<Self> {
        let batch = rows.len();
        let acting = rows.iter().enumerate().filter_map(|(row, entry)| {
            let (adapter, weight) = (*entry)?;
            (weight != 0.0).then_some(())?;
            Some((row, adapter, weight, place(adapter)?))
        });
        let acting: Vec<_> = acting.collect();
        let mut stacked = acting.iter().filter(|(.., place)| matches!(place, Place::Stacked(_)));
        let first = stacked.next().map(|(_, adapter, ..)| *adapter);
        // One adapter alone needs no factors for each row.
        let several = stacked.any(|(_, adapter, ..)| Some(*adapter) != first);
        let (mut slots, mut together) = (Vec::new(), Found::default());
        let mut alone: Vec<(usize, Found)> = Vec::new();
        for (row, adapter, weight, place) in acting {
            if let (Place::Stacked(slot), true) = (place, several) {
                slots.push(slot);
                together.push(row, weight)?;
                continue;
            }
            let at = match alone.iter().position(|(known, _)| *known == adapter) {
                Some(at) => at,
                None => {
                    alone.push((adapter, Found::default()));
                    alone.len() - 1
                }
            };
            alone[at].1.push(row, weight)?;
        }
        let stacked = match slots.is_empty() {
            true => None,
            false => Some((Tensor::new(slots, device)?, together.on(batch, device)?)),
        };
        let alone = alone.into_iter().map(|(adapter, found)| Ok((adapter, found.on(batch, device)?)));
        Ok(Self { stacked, alone: alone.collect::<Result<_>>()? })
    }
}

impl Taken {
    /// These rows of a tensor whose first axis counts the rows of the batch.
    pub(super) fn of(&self, tensor: &Tensor) -> Result<Tensor> {
        match &self.rows {
            None => Ok(tensor.clone()),
            Some(rows) => tensor.index_select(rows, 0),
        }
    }

    /// As [`Taken::add`], of a `delta` that is one and the same for all of the rows.
    pub(super) fn add_to_all(&self, sum: Tensor, delta: &Tensor) -> Result<Tensor> {
        let mut times = vec![1; delta.rank()];
        times[0] = self.rows.as_ref().map_or_else(|| sum.dim(0), |rows| rows.dim(0))?;
        self.add(sum, delta.repeat(times)?)
    }

    /// `sum`, of the whole batch and of `delta`'s dtype, with what `delta` adds to these rows.
    pub(super) fn add(&self, sum: Tensor, delta: Tensor) -> Result<Tensor> {
        let delta = match &self.weights {
            None => delta,
            Some(weights) => {
                let mut dims = vec![1; delta.rank()];
                dims[0] = weights.dim(0)?;
                delta.broadcast_mul(&weights.to_dtype(delta.dtype())?.reshape(dims)?)?
            }
        };
        match &self.rows {
            None => sum + delta,
            Some(rows) => sum.index_add(rows, &delta, 0),
        }
    }
}
