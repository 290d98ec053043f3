use super::step::{Share, Step};
use crate::part::Part;
use fitment_core::checkpoint::{OutputTensor, TensorInfo};

/// One tensor of the result and how it comes about.
#[derive(Clone, Debug)]
pub struct Output<'a> {
    /// What is written.
    pub tensor: OutputTensor,
    /// How.
    pub job: Job<'a>,
}

/// How a tensor comes about.
#[derive(Clone, Debug)]
pub enum Job<'a> {
    /// The base tensor's bytes.
    Copy {
        /// The base tensor.
        from: String,
    },
    /// Bytes of the base with others over them; no number is decoded.
    Patch(Patch<'a>),
    /// Arithmetic, rounded once.
    Compute(Compute<'a>),
}

/// A tensor made of stored bytes.
#[derive(Clone, Debug)]
pub struct Patch<'a> {
    /// What lies below.
    pub ground: Ground<'a>,
    /// `set` steps, in order; values of the result's dtype.
    pub steps: Vec<Step<'a>>,
}

/// What a [`Patch`] starts from.
#[derive(Clone, Debug)]
pub enum Ground<'a> {
    /// A base tensor.
    Base(String),
    /// A stored tensor.
    Stored(Part<'a>),
}

/// `W' = W + Σ wᵢ·(Fᵢ(W) − W)`.
#[derive(Clone, Debug)]
pub struct Compute<'a> {
    /// The base tensor, its dtype and shape; `None` for a tensor that is created and then edited.
    pub base: Option<(String, TensorInfo)>,
    /// What each adapter does, in their order.
    pub shares: Vec<Share<'a>>,
}

impl Job<'_> {
    /// The base tensor that is read, when its bytes pass through this program.
    pub(crate) fn reads(&self) -> Option<&str> {
        match self {
            Job::Copy { .. } => None,
            Job::Patch(patch) => match &patch.ground {
                Ground::Base(name) => Some(name),
                Ground::Stored(_) => None,
            },
            Job::Compute(compute) => compute.base.as_ref().map(|(name, _)| name.as_str()),
        }
    }
}
