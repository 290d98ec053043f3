//! Which adapters act on which rows of a batch, and how strongly.

use candle_core::{Device, Result, Tensor, bail};
use std::sync::{Arc, PoisonError, RwLock};

/// Which adapters act.
#[derive(Clone, Debug, PartialEq)]
pub enum Mix {
    /// The same ones on every row of a batch: a weight for each adapter, 0 for none of it.
    Same(Vec<f64>),
    /// For each row of the batch at most one, by its number among the adapters, with its weight.
    Rows(Vec<Option<(usize, f64)>>),
}

impl Mix {
    /// Whether nothing acts.
    pub fn is_none(&self) -> bool {
        match self {
            Mix::Same(weights) => weights.iter().all(|weight| *weight == 0.0),
            Mix::Rows(rows) => rows.iter().flatten().all(|(_, weight)| *weight == 0.0),
        }
    }

    fn check(&self, adapters: usize) -> Result<()> {
        let (weights, most): (Vec<f64>, usize) = match self {
            Mix::Same(weights) if weights.len() != adapters => {
                bail!("{} weights for {adapters} adapters", weights.len())
            }
            Mix::Same(weights) => (weights.clone(), adapters),
            Mix::Rows(rows) => {
                let most = rows.iter().flatten().map(|(adapter, _)| adapter + 1).max().unwrap_or(0);
                (rows.iter().flatten().map(|(_, weight)| *weight).collect(), most)
            }
        };
        match weights.iter().find(|weight| !weight.is_finite()) {
            Some(weight) => bail!("the weight {weight} is not a finite number"),
            None if most > adapters => bail!("a row names adapter {} of {adapters}", most - 1),
            None => Ok(()),
        }
    }
}

/// The mix that all layers of a model read.
#[derive(Clone, Debug)]
pub(super) struct Shared(Arc<RwLock<Arc<Mix>>>);

impl Shared {
    pub(super) fn new(adapters: usize) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(Mix::Same(vec![1.0; adapters])))))
    }

    pub(super) fn set(&self, mix: Mix, adapters: usize) -> Result<()> {
        mix.check(adapters)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(mix);
        Ok(())
    }

    pub(super) fn get(&self) -> Arc<Mix> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Rows of a batch on which one adapter acts.
pub(super) struct Group {
    pub(super) adapter: usize,
    /// Row numbers, U32.
    pub(super) rows: Tensor,
    /// A weight for each, f32.
    pub(super) weights: Tensor,
}

/// The rows of a batch by adapter, of those that act there.
pub(super) fn groups(
    rows: &[Option<(usize, f64)>],
    batch: usize,
    device: &Device,
    acts: impl Fn(usize) -> bool,
) -> Result<Vec<Group>> {
    if rows.len() != batch {
        bail!("the mix names adapters for {} rows, the batch has {batch}", rows.len());
    }
    let mut found: Vec<(usize, Vec<u32>, Vec<f32>)> = Vec::new();
    for (row, entry) in rows.iter().enumerate() {
        let Some((adapter, weight)) = *entry else { continue };
        if weight == 0.0 || !acts(adapter) {
            continue;
        }
        let at = match found.iter().position(|group| group.0 == adapter) {
            Some(at) => at,
            None => {
                found.push((adapter, Vec::new(), Vec::new()));
                found.len() - 1
            }
        };
        found[at].1.push(u32::try_from(row).map_err(candle_core::Error::wrap)?);
        found[at].2.push(weight as f32);
    }
    let group = |(adapter, rows, weights): (usize, Vec<u32>, Vec<f32>)| {
        let (rows, weights) = (Tensor::new(rows, device)?, Tensor::new(weights, device)?);
        Ok(Group { adapter, rows, weights })
    };
    found.into_iter().map(group).collect()
}
