//! Interventions on hidden states: which act at a site, on which tokens, and what they make of the states.
//!
//! Whoever runs the model makes a [`SitePlan`] for each of its [`sites`] once, and calls it in every forward pass where the
//! states of that site have just been computed:
//!
//! ```
//! use fitment_apply::Input;
//! use fitment_apply::hidden::{At, Inputs, Pass, SitePlan, sites};
//! use fitment_core::model::*;
//! use fitment_core::tensor::{Dtype, Shape, Tensor};
//! use fitment_math::ndarray::{Array3, array};
//!
//! // A vector that is added behind layer 7, to the last token of the prompt.
//! let bytes: Vec<u8> = [1.0_f32, -2.0].iter().flat_map(|number| number.to_le_bytes()).collect();
//! let site = Site::Layer { layer: 7, component: SiteComponent::BlockOutput };
//! let positions = Positions { phase: Phase::Prompt, select: Select::Explicit(vec![-1]) };
//! let steer = Intervention {
//!     up_bias: Some(Tensor::owned(Dtype::F32, Shape::new(&[2])?, bytes)?),
//!     ..Intervention::at(site, positions)
//! };
//! let adapter = Adapter { edits: vec![Edit::Intervention(steer)], ..Adapter::default() };
//!
//! let inputs = [Input { adapter: &adapter, weight: 0.5, name: "steer".to_owned() }];
//! let (_, site) = sites(&inputs).into_iter().next().expect("the adapter has one");
//! let plan = SitePlan::new(&inputs, &At { component: None, site: &site, width: 2 })?;
//!
//! // Two prompts, the first one shorter and padded on the left. States may be f32, or bf16 and f16 of the crate `half`.
//! let mut states = Array3::<f32>::zeros((2, 3, 2));
//! let mask = array![[false, true, true], [true, true, true]];
//! plan.apply(states.view_mut(), &Inputs::new(), &Pass::prompt(mask.view()))?;
//! assert_eq!(states, array![[[0.0, 0.0], [0.0, 0.0], [0.5, -1.0]], [[0.0, 0.0], [0.0, 0.0], [0.5, -1.0]]]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Arithmetic is that of [`fitment_math::intervention`]: where a file names the rounding of a class of pyreft and the states have the dtype of
//! its weights, results are rounded where that class rounds them; [`SitePlan::notes`] says where that cannot be.

mod act;
mod error;
mod pass;
mod positions;
mod stored;

pub use error::{Error, Note};
pub use pass::Pass;
pub use positions::columns;

use crate::options::Input;
use act::Act;
use fitment_core::model::{ComponentName, Edit, Overlap, Positions, Site};
use fitment_math::intervention::State;
use fitment_math::ndarray::{Array2, ArrayView3, ArrayViewMut3};
use std::collections::{BTreeMap, BTreeSet};

/// States of other sites, `[batch, seq, width]`, that interventions read as `x`: each after its own interventions.
pub type Inputs<'i, S> = BTreeMap<Site, ArrayView3<'i, S>>;

/// A site of a model.
#[derive(Clone, Copy, Debug)]
pub struct At<'s> {
    /// Part of a pipeline; `None` for a single model.
    pub component: Option<&'s ComponentName>,
    /// The point.
    pub site: &'s Site,
    /// Extent of the last axis of its states; of all heads together, for a site that is cut into heads.
    pub width: usize,
}

/// Every site at which these adapters act, with its component.
pub fn sites(inputs: &[Input<'_>]) -> BTreeSet<(Option<ComponentName>, Site)> {
    let edits = inputs.iter().flat_map(|input| &input.adapter.edits);
    let interventions = edits.filter_map(|edit| match edit {
        Edit::Intervention(edit) => Some((edit.component.clone(), edit.site.clone())),
        _ => None,
    });
    interventions.collect()
}

/// The interventions of one site, in order.
#[derive(Clone, Debug)]
pub struct SitePlan<'a> {
    acts: Vec<Act<'a>>,
    width: usize,
}

impl<'a> SitePlan<'a> {
    /// Collects the interventions of a site, file by file; the weight of an [`Input`] multiplies `s`. The plan is empty where none acts.
    ///
    /// # Errors
    /// [`Error`], when they do not fit the width, or several files do not go together (spec section 10).
    pub fn new(inputs: &[Input<'a>], at: &At<'_>) -> Result<Self, Error> {
        let mut acts: Vec<Act<'a>> = Vec::new();
        let mut files = BTreeSet::new();
        for (file, input) in inputs.iter().enumerate() {
            if !input.weight.is_finite() {
                return Err(Error::Weight { file: input.name.clone(), weight: input.weight });
            }
            for edit in &input.adapter.edits {
                let Edit::Intervention(edit) = edit else { continue };
                if edit.component.as_ref() == at.component && edit.site == *at.site {
                    acts.push(Act::new(input, edit, at.width)?);
                    files.insert(file);
                }
            }
        }
        let not_in_order = acts.iter().find(|act| act.edit.overlap != Overlap::Sequential);
        match not_in_order.filter(|_| files.len() > 1) {
            Some(act) => Err(Error::Overlap {
                file: act.file.clone(),
                site: act.edit.label(),
                overlap: act.edit.overlap.name(),
            }),
            None => Ok(Self { acts, width: at.width }),
        }
    }

    /// How many interventions act here.
    pub fn len(&self) -> usize {
        self.acts.len()
    }

    /// Whether none acts here.
    pub fn is_empty(&self) -> bool {
        self.acts.is_empty()
    }

    /// Whether some intervention addresses a token of this pass: if not, [`SitePlan::apply`] changes nothing.
    pub fn acts_in(&self, pass: &Pass<'_>) -> bool {
        self.acts.iter().any(|act| !tokens(&act.edit.positions, pass).is_empty())
    }

    /// The sites whose states [`SitePlan::apply`] asks for.
    pub fn input_sites(&self) -> BTreeSet<&Site> {
        self.acts.iter().filter_map(|act| act.edit.input_site.as_ref()).collect()
    }

    /// What a user should know when the states are of type `S`.
    pub fn notes<S: State>(&self) -> Vec<Note> {
        let other = self.acts.iter().filter(|act| !act.map.follows_rounding(S::ELEMENT));
        let note = |act: &Act<'_>| Note::RoundedOnce {
            file: act.file.clone(),
            site: act.edit.label(),
            rounding: act.edit.rounding,
        };
        other.map(note).collect()
    }

    /// Changes the states, `[batch, seq, width]`, of one forward pass in place. Padding and tokens that no intervention addresses keep
    /// their bits; a token that is addressed twice is changed once.
    ///
    /// # Errors
    /// [`Error::Mask`], [`Error::Width`] or [`Error::Input`] when states, pass and inputs do not fit; then nothing has changed.
    pub fn apply<S: State>(
        &self,
        mut states: ArrayViewMut3<'_, S>,
        inputs: &Inputs<'_, S>,
        pass: &Pass<'_>,
    ) -> Result<(), Error> {
        self.check(&states.view(), inputs, pass)?;
        // What stood there before all of them, which `sum` and `last_wins` read.
        let before =
            self.acts.iter().any(|act| act.edit.overlap != Overlap::Sequential).then(|| states.to_owned());
        let mut sums = before.as_ref().map(|before| before.mapv(State::widen));
        for act in &self.acts {
            let tokens = tokens(&act.edit.positions, pass);
            let (h, x) = {
                let read = before.as_ref().map_or(states.view(), |before| before.view());
                let h = act.gather(&read, &tokens);
                let x = act.edit.input_site.as_ref().and_then(|site| inputs.get(site));
                let x = x.map(|input| act.gather_input(input, &tokens));
                (h, x)
            };
            let mut change = Array2::zeros(h.raw_dim());
            let x = x.as_ref().unwrap_or(&h);
            act.map
                .change(h.view(), x.view(), S::ELEMENT, change.view_mut())
                .map_err(|source| act.misfit(source))?;
            match (&mut sums, act.edit.overlap) {
                (Some(sums), Overlap::Sum) => act.add(sums, &mut states, (&tokens, &change)),
                _ => act.write(&mut states, &tokens, &(h + change)),
            }
        }
        Ok(())
    }

    fn check<S: State>(
        &self,
        states: &ArrayView3<'_, S>,
        inputs: &Inputs<'_, S>,
        pass: &Pass<'_>,
    ) -> Result<(), Error> {
        let (rows, seq, width) = states.dim();
        if pass.shape() != [rows, seq] {
            return Err(Error::Mask { expected: pass.shape(), found: [rows, seq] });
        }
        for act in &self.acts {
            if width != self.width {
                return Err(act.width_error(self.width.to_string(), width));
            }
            let Some(site) = &act.edit.input_site else { continue };
            let input = inputs.get(site).ok_or_else(|| Error::Input {
                file: act.file.clone(),
                site: act.edit.label(),
                input: site.to_string(),
            })?;
            let (input_rows, input_seq, input_width) = input.dim();
            if [input_rows, input_seq] != [rows, seq] {
                return Err(Error::Mask { expected: [rows, seq], found: [input_rows, input_seq] });
            }
            let expected = act.map.input_width() * if act.reads_heads() { act.heads } else { 1 };
            if input_width != expected {
                return Err(act.width_error(format!("{expected} at {site}"), input_width));
            }
        }
        Ok(())
    }
}

/// Row and column of every token that positions select.
fn tokens(positions: &Positions, pass: &Pass<'_>) -> Vec<(usize, usize)> {
    let rows = 0..pass.shape()[0];
    rows.flat_map(|row| columns(positions, pass, row).into_iter().map(move |column| (row, column))).collect()
}
