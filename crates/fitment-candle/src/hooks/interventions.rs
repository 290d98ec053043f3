use super::{Hook, Point, states};
use candle_core::{DType, Result, Tensor, bail};
use fitment_apply::Input;
use fitment_apply::hidden::{At, Pass, SitePlan, sites};
use fitment_core::model::{Edit, Site};
use fitment_math::ndarray::Array2;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Why interventions cannot act.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// They do not fit the states.
    #[error(transparent)]
    Hidden(fitment_apply::hidden::Error),
    /// The model has not come by a site.
    #[error("{site}: the model has no such site, or has not run yet")]
    NotMet {
        /// The site's label.
        site: String,
    },
    /// States came before anybody said what they are.
    #[error("a forward pass began without `prompt` or `step`: the hook does not know which tokens these are")]
    NoPass,
    /// A pass of more or fewer rows than the prompt.
    #[error("the step has {found} rows, the prompt {expected}")]
    Rows {
        /// Rows of the prompt.
        expected: usize,
        /// Rows of the step.
        found: usize,
    },
    /// Rows of a mask that are not equally long.
    #[error("row {row} of the mask has another length than row 0")]
    Ragged {
        /// The row.
        row: usize,
    },
}

/// The interventions of adapters, as a hook.
#[derive(Debug)]
pub struct Interventions<'a> {
    inputs: Vec<Input<'a>>,
    sites: BTreeSet<Site>,
    /// Sites whose states another one reads.
    read: BTreeSet<Site>,
    run: Mutex<Run<'a>>,
}

/// What is known of the generation.
#[derive(Debug, Default)]
struct Run<'a> {
    plans: BTreeMap<Site, SitePlan<'a>>,
    pass: Option<OwnedPass>,
    /// States of this pass that are read elsewhere.
    kept: BTreeMap<Site, Tensor>,
    met: BTreeSet<Site>,
}

#[derive(Debug)]
struct OwnedPass {
    mask: Array2<bool>,
    seen: Vec<u64>,
    prompt: Vec<u64>,
}

impl<'a> Interventions<'a> {
    /// The interventions of some adapters of a single model, in their order; the weight of an [`Input`] multiplies `s`.
    pub fn new(inputs: &[Input<'a>]) -> Self {
        let inputs = inputs.to_vec();
        let all = sites(&inputs).into_iter().filter(|(component, _)| component.is_none());
        let read = inputs.iter().flat_map(|input| &input.adapter.edits).filter_map(|edit| match edit {
            Edit::Intervention(edit) => edit.input_site.clone(),
            _ => None,
        });
        let (sites, read) = (all.map(|(_, site)| site).collect(), read.collect());
        Self { inputs, sites, read, run: Mutex::default() }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sites.is_empty()
    }

    /// The next forward pass is that of a whole prompt: `mask`, `[batch][seq]`, is the attention mask, true for tokens.
    ///
    /// # Errors
    /// [`Error::Ragged`]
    pub fn prompt(&self, mask: &[Vec<bool>]) -> std::result::Result<(), Error> {
        let width = mask.first().map_or(0, Vec::len);
        if let Some(row) = mask.iter().position(|row| row.len() != width) {
            return Err(Error::Ragged { row });
        }
        let mask = Array2::from_shape_fn((mask.len(), width), |(row, column)| mask[row][column]);
        let prompt: Vec<u64> =
            mask.outer_iter().map(|row| row.iter().filter(|token| **token).count() as u64).collect();
        self.begin(OwnedPass { seen: vec![0; prompt.len()], prompt, mask });
        Ok(())
    }

    /// The next forward pass is that of one more token in each row; false for rows that have ended.
    ///
    /// # Errors
    /// [`Error::NoPass`] before any prompt, [`Error::Rows`].
    pub fn step(&self, tokens: &[bool]) -> std::result::Result<(), Error> {
        let (seen, prompt) = {
            let run = self.run();
            let before = run.pass.as_ref().ok_or(Error::NoPass)?;
            let here = before.mask.outer_iter().map(|row| row.iter().filter(|token| **token).count() as u64);
            let seen: Vec<u64> = before.seen.iter().zip(here).map(|(seen, here)| seen + here).collect();
            (seen, before.prompt.clone())
        };
        if tokens.len() != prompt.len() {
            return Err(Error::Rows { expected: prompt.len(), found: tokens.len() });
        }
        let mask = Array2::from_shape_fn((tokens.len(), 1), |(row, _)| tokens[row]);
        self.begin(OwnedPass { mask, seen, prompt });
        Ok(())
    }

    /// Checks that the model has come by all sites: after its first forward pass.
    ///
    /// # Errors
    /// [`Error::NotMet`] with the first site that it has not.
    pub fn check_all_met(&self) -> std::result::Result<(), Error> {
        let run = self.run();
        match self.sites.iter().find(|site| !run.met.contains(*site)) {
            Some(site) => Err(Error::NotMet { site: format!("@{site}") }),
            None => Ok(()),
        }
    }

    fn begin(&self, pass: OwnedPass) {
        let mut run = self.run();
        run.pass = Some(pass);
        run.kept.clear();
    }

    fn run(&self) -> MutexGuard<'_, Run<'a>> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn act(&self, run: &mut Run<'a>, site: &Site, states: Tensor) -> Result<Tensor> {
        let Run { plans, pass, kept, met } = run;
        let pass = pass.as_ref().ok_or_else(|| candle_core::Error::wrap(Error::NoPass))?;
        let width = states.dim(candle_core::D::Minus1)?;
        let plan = match plans.entry(site.clone()) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let plan = SitePlan::new(&self.inputs, &At { component: None, site, width });
                entry.insert(plan.map_err(Error::Hidden).map_err(candle_core::Error::wrap)?)
            }
        };
        met.insert(site.clone());
        let pass = Pass::new(pass.mask.view(), &pass.seen, &pass.prompt).map_err(Error::Hidden);
        let pass = pass.map_err(candle_core::Error::wrap)?;
        if !plan.acts_in(&pass) {
            return Ok(states);
        }
        match states.dtype() {
            DType::F32 => states::apply::<f32>(plan, (&states, kept), &pass),
            DType::F16 => states::apply::<half::f16>(plan, (&states, kept), &pass),
            DType::BF16 => states::apply::<half::bf16>(plan, (&states, kept), &pass),
            other => bail!("@{site}: states are {other:?}; interventions act on f32, f16 and bf16"),
        }
    }
}

impl Hook for Interventions<'_> {
    fn states(&self, point: Point<'_>, states: Tensor) -> Result<Tensor> {
        let layer = Site::Layer { layer: point.layer, component: point.component };
        let module = fitment_core::model::ModuleSite::new(point.module).map_err(candle_core::Error::wrap)?;
        let mut states = states;
        let mut run = self.run();
        for site in [layer, Site::Module(module)] {
            if self.sites.contains(&site) {
                states = self.act(&mut run, &site, states)?;
            }
            if self.read.contains(&site) {
                run.kept.insert(site, states.clone());
            }
        }
        Ok(states)
    }
}
