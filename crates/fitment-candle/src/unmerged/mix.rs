//! Which adapters act on which rows of a batch, and how strongly.

use candle_core::{Result, bail};
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
