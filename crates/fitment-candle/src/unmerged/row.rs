//! The sum over adapters, for all rows of a batch or row by row.

use super::change::{Change, Factors};
use super::mix::{Mix, Shared};
use super::rows::{Place, Row, Sorted};
use super::stack::Stack;
use candle_core::{Device, Result, Tensor, bail};
use std::sync::{Arc, Mutex, PoisonError};

/// What adapters do to a layer, and which of them act.
#[derive(Clone, Debug)]
pub(super) struct Changes {
    by_adapter: Vec<Option<Change>>,
    stack: Option<Stack>,
    mix: Shared,
    sorted: Kept,
}

/// The rows of a batch as they were last sorted, and for which mix: on a device their numbers are sent once for each mix.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept(Arc<Mutex<Option<Last>>>);

type Last = (Arc<Mix>, Arc<Sorted>);

impl Kept {
    /// The rows of a mix, for a batch of so many.
    pub(super) fn sorted(
        &self,
        (mix, rows): (&Arc<Mix>, &[Row]),
        (batch, device): (usize, &Device),
        place: impl Fn(usize) -> Option<Place>,
    ) -> Result<Arc<Sorted>> {
        if rows.len() != batch {
            bail!("the mix names adapters for {} rows, the batch has {batch}", rows.len());
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, sorted)) = &*kept
            && Arc::ptr_eq(of, mix)
        {
            return Ok(sorted.clone());
        }
        let sorted = Arc::new(Sorted::new(rows, device, place)?);
        *kept = Some((mix.clone(), sorted.clone()));
        Ok(sorted)
    }
}

impl Changes {
    /// Changes of which each is held by itself.
    pub(super) fn new(by_adapter: Vec<Option<Change>>, mix: Shared) -> Self {
        Self { by_adapter, stack: None, mix, sorted: Kept::default() }
    }

    /// Changes whose factors are stacked.
    pub(super) fn stacked(mut by_adapter: Vec<Option<Change>>, mix: Shared) -> Result<Self> {
        let stack = Stack::of(&mut by_adapter)?;
        Ok(Self { by_adapter, stack, mix, sorted: Kept::default() })
    }

    /// The mix as it is now.
    pub(super) fn mix(&self) -> Arc<Mix> {
        self.mix.get()
    }

    fn place(&self, adapter: usize) -> Option<Place> {
        let stacked = self.stack.as_ref().and_then(|stack| stack.place(adapter)).map(Place::Stacked);
        stacked.or_else(|| self.by_adapter.get(adapter)?.as_ref().map(|_| Place::Alone))
    }
}

/// A layer with adapters beside it. The first axis of its inputs and outputs counts rows of the batch.
pub(super) trait Beside {
    /// What adapters do to it.
    fn changes(&self) -> &Changes;

    /// What a change adds to the outputs `y` of the plain layer for the inputs `x`.
    fn delta(&self, change: &Change, x: &Tensor, y: &Tensor) -> Result<Tensor>;

    /// The same for rows that take theirs from the places `slots` of the stacks, which layers have whose changes are stacked.
    fn delta_by_row(&self, _stack: &Stack, _slots: &Tensor, _x: &Tensor, _y: &Tensor) -> Result<Tensor> {
        bail!("this layer stacks nothing")
    }
}

/// `y` with what the adapters of the mix add, in `y`'s dtype.
pub(super) fn add(layer: &impl Beside, mix: &Arc<Mix>, x: &Tensor, y: Tensor) -> Result<Tensor> {
    let changes = layer.changes();
    let mut sum: Option<Tensor> = None;
    let before = |sum: Option<Tensor>, delta: &Tensor| match sum {
        None => y.to_dtype(delta.dtype()),
        Some(sum) => Ok(sum),
    };
    match &**mix {
        Mix::Same(weights) => {
            for (change, weight) in changes.by_adapter.iter().zip(weights) {
                let (Some(change), true) = (change, *weight != 0.0) else { continue };
                let delta = layer.delta(change, x, &y)?;
                let delta = if *weight == 1.0 { delta } else { (delta * *weight)? };
                sum = Some((before(sum, &delta)? + delta)?);
            }
        }
        Mix::Rows(rows) => {
            let batch = (x.dim(0)?, x.device());
            let sorted = changes.sorted.sorted((mix, rows), batch, |adapter| changes.place(adapter))?;
            if let (Some((slots, taken)), Some(stack)) = (&sorted.stacked, &changes.stack) {
                let delta = layer.delta_by_row(stack, slots, &taken.of(x)?, &taken.of(&y)?)?;
                sum = Some(taken.add(before(sum, &delta)?, delta)?);
            }
            for (adapter, taken) in &sorted.alone {
                let Some(Some(change)) = changes.by_adapter.get(*adapter) else { continue };
                let delta = layer.delta(change, &taken.of(x)?, &taken.of(&y)?)?;
                sum = Some(taken.add(before(sum, &delta)?, delta)?);
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
