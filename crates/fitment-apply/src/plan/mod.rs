//! From adapters and a base to a list of tensor jobs: everything is checked here, so that executing only computes.

mod bind;
mod build;
mod config;
mod finite;
mod fit;
mod gather;
mod job;
mod overlap;
mod settle;
mod share;
mod step;
mod target;
mod tied;

pub use bind::Expected;
pub use config::ConfigChange;
pub use job::{Compute, Ground, Job, Output, Patch, Restored};
pub use step::{Action, Dense, Elements, LowRank, Magnitude, Restore, Share, Step, Values};

use crate::note::Note;
use crate::options::{Input, Options};
use crate::refusal::Refusal;
use fitment_core::checkpoint::{Checkpoint, OutputTensor};
use std::collections::BTreeMap;

/// What an application writes, and how each tensor comes about.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// The tensors of the result, by name.
    pub outputs: Vec<Output<'a>>,
    /// Digests to check, by base tensor.
    pub digests: BTreeMap<String, Vec<Expected>>,
    /// Changes of the base's config.
    pub config: Vec<ConfigChange>,
    /// What a user should know.
    pub notes: Vec<Note>,
    /// Names of the adapters, for messages.
    pub files: Vec<String>,
    /// Go on when a digest differs.
    pub allow_base_mismatch: bool,
}

impl<'a> Plan<'a> {
    /// Checks the adapters against the base and each other and lays out the work. Reads tensors of the base only where
    /// tied tensors must be compared.
    ///
    /// # Errors
    /// [`Refusal`] with everything that is wrong.
    pub fn new(inputs: &[Input<'a>], base: &dyn Checkpoint, options: &Options) -> Result<Self, Refusal> {
        build::build(inputs, base, options)
    }

    /// The tensors of the result, by name.
    pub fn tensors(&self) -> impl Iterator<Item = &OutputTensor> {
        self.outputs.iter().map(|output| &output.tensor)
    }

    /// Bytes of the result's tensors.
    pub fn bytes(&self) -> u64 {
        let len = |tensor: &OutputTensor| tensor.info.shape.byte_len(tensor.info.dtype).unwrap_or(0);
        self.tensors().map(len).sum()
    }

    /// How many tensors are not mere copies of the base's.
    pub fn changed(&self) -> usize {
        self.outputs.iter().filter(|output| !matches!(output.job, Job::Copy { .. })).count()
    }
}
