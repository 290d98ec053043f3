use super::step::{Action, Restore, Share, Step};
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
    /// A bit-exact change of a base tensor, and nothing else.
    Restore(Restored<'a>),
    /// Arithmetic, rounded once.
    Compute(Compute<'a>),
}

/// A base tensor and the change that makes another of it.
#[derive(Clone, Debug)]
pub struct Restored<'a> {
    /// The base tensor.
    pub from: String,
    /// Index of the adapter.
    pub file: usize,
    /// The change.
    pub change: Restore<'a>,
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
            Job::Restore(restored) => Some(&restored.from),
            Job::Compute(compute) => compute.base.as_ref().map(|(name, _)| name.as_str()),
        }
    }
}

/// Whether the first thing that happens is a replacement of the whole tensor.
pub(super) fn begins_anew(shares: &[Share<'_>]) -> bool {
    let replaces = |step: &Step<'_>| match &step.action {
        Action::Set(values) => values.is_all_of(&step.region),
        Action::LowRank(_)
        | Action::Add(_)
        | Action::Put(_)
        | Action::Scatter { .. }
        | Action::Restore(_) => false,
    };
    matches!(shares, [share] if share.weight == 1.0 && share.steps.first().is_some_and(replaces))
}

/// A result that is a bit-exact change of the base and nothing else.
pub(super) fn restored<'a>(
    base: Option<(&str, &TensorInfo)>,
    result: &TensorInfo,
    shares: &[Share<'a>],
) -> Option<Restored<'a>> {
    let (from, info) = base.filter(|(_, info)| info.dtype == result.dtype)?;
    let [share] = shares else { return None };
    let [Step { action: Action::Restore(change), .. }] = &share.steps[..] else { return None };
    let restored = Restored { from: from.to_owned(), file: share.file, change: *change };
    (share.weight == 1.0 && info.shape == result.shape).then_some(restored)
}

/// A result that is stored bytes only; otherwise gives the shares back.
pub(super) fn patch<'a>(
    base: Option<(&str, &TensorInfo)>,
    result: &TensorInfo,
    shares: Vec<Share<'a>>,
) -> Result<Patch<'a>, Vec<Share<'a>>> {
    let copies = |step: &Step<'_>| match &step.action {
        Action::Set(values) => values.value.dtype == result.dtype,
        Action::Put(elements) => elements.value.dtype == result.dtype,
        Action::LowRank(_) | Action::Add(_) | Action::Scatter { .. } | Action::Restore(_) => false,
    };
    if !shares.iter().all(|share| share.weight == 1.0 && share.steps.iter().all(copies)) {
        return Err(shares);
    }
    let mut steps: Vec<Step<'a>> = Vec::new();
    let mut ground = None;
    let lone = shares.len() == 1;
    for step in shares.iter().flat_map(|share| &share.steps) {
        match &step.action {
            Action::Set(values) if lone && values.is_all_of(&step.region) => {
                steps.clear();
                ground = Some(Ground::Stored(values.value.clone()));
            }
            _ => steps.push(step.clone()),
        }
    }
    if !steps.is_empty() && result.dtype.bytes().is_none() {
        return Err(shares);
    }
    let below = base.filter(|(_, info)| info.dtype == result.dtype);
    match ground.or_else(|| below.map(|(name, _)| Ground::Base(name.to_owned()))) {
        Some(ground) => Ok(Patch { ground, steps }),
        None => Err(shares),
    }
}
