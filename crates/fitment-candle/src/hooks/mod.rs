//! Interventions on hidden states of candle models.
//!
//! A model calls a [`Hook`] at its sites: where hidden states have just been computed that an intervention may change. [`Interventions`] are
//! the hook of adapters; [`Untouched`] leaves everything as it is.
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use fitment_apply::Input;
//! use fitment_candle::hooks::{Hook, Interventions, Point};
//! use fitment_core::model::*;
//! use fitment_core::tensor::{Dtype, Shape, Tensor as Stored};
//!
//! // A model of one layer, which adds 1.
//! fn forward(x: &Tensor, hook: &dyn Hook) -> candle_core::Result<Tensor> {
//!     let point = Point { layer: 0, component: SiteComponent::BlockOutput, module: "layers.0.output" };
//!     hook.states(point, (x + 1.0)?)
//! }
//!
//! // A vector that is added behind layer 0, to the last token of the prompt.
//! let bytes: Vec<u8> = [10.0_f32, 20.0].iter().flat_map(|number| number.to_le_bytes()).collect();
//! let site = Site::Layer { layer: 0, component: SiteComponent::BlockOutput };
//! let positions = Positions { phase: Phase::Prompt, select: Select::Explicit(vec![-1]) };
//! let steer = Intervention {
//!     up_bias: Some(Stored::owned(Dtype::F32, Shape::new(&[2])?, bytes)?),
//!     ..Intervention::at(site, positions)
//! };
//! let adapter = Adapter { edits: vec![Edit::Intervention(steer)], ..Adapter::default() };
//! let hook = Interventions::new(&[Input { adapter: &adapter, weight: 1.0, name: "steer".to_owned() }]);
//!
//! // A prompt of two tokens, padded on the left, and one token behind it.
//! hook.prompt(&[vec![false, true, true]])?;
//! let y = forward(&Tensor::zeros((1, 3, 2), candle_core::DType::F32, &Device::Cpu)?, &hook)?;
//! assert_eq!(y.to_vec3::<f32>()?, [[[1.0, 1.0], [1.0, 1.0], [11.0, 21.0]]]);
//! hook.step(&[true])?;
//! let y = forward(&Tensor::zeros((1, 1, 2), candle_core::DType::F32, &Device::Cpu)?, &hook)?;
//! assert_eq!(y.to_vec3::<f32>()?, [[[1.0, 1.0]]]);
//! hook.check_all_met()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is computed
//! What [`fitment_apply::hidden`] says, on the processor and in its order of operations, so that states come out the same from every
//! device. Passes in which no token of a site is addressed cost nothing: of an intervention on prompts, every decoding step.

mod interventions;
mod states;

pub use interventions::{Error, Interventions};

use candle_core::{Result, Tensor};
use fitment_core::model::SiteComponent;

/// A point of a model's forward pass.
#[derive(Clone, Copy, Debug)]
pub struct Point<'p> {
    /// Number of the layer, from 0.
    pub layer: u64,
    /// pyvene's word for it.
    pub component: SiteComponent,
    /// The module whose input or output it is, as the model names it: `model.layers.2.mlp.output`.
    pub module: &'p str,
}

/// Looks at hidden states and changes them.
pub trait Hook {
    /// The states, `[batch, seq, width]`, as they go on from this point.
    ///
    /// # Errors
    /// States that do not fit what is to be done with them.
    fn states(&self, point: Point<'_>, states: Tensor) -> Result<Tensor>;
}

/// Changes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Untouched;

impl Hook for Untouched {
    fn states(&self, _: Point<'_>, states: Tensor) -> Result<Tensor> {
        Ok(states)
    }
}
