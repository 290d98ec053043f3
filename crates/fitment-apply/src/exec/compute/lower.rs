//! The plan's steps with everything decoded that a block needs, but nothing laid out for an executor.

use super::super::restore;
use super::change::{Change, Kind};
use super::factors::{Factors, decoded};
use super::{Error, Pass};
use crate::plan::{Action, LowRank, Magnitude, Share, Step};
use crate::region::Region;
use fitment_core::model::NormOf;
use fitment_core::tensor::Dtype;
use fitment_math::round::Element;
use std::ops::Range;

/// What is to be done to a tensor: `W' = W + Σ wᵢ·(Fᵢ(W) − W)`.
pub struct Work<'p> {
    /// The result's name.
    pub name: &'p str,
    /// The result's extents.
    pub dims: Vec<usize>,
    /// How the base's numbers are stored.
    pub source: Element,
    /// How the result's are.
    pub target: Element,
    /// Elements of the result.
    pub len: usize,
    /// What each adapter does.
    pub shares: Vec<WorkShare<'p>>,
}

/// What one adapter does to a tensor.
pub struct WorkShare<'p> {
    /// The adapter's strength; of an additive share, already in its numbers.
    pub weight: f64,
    /// `F(W) − W` does not depend on `W`: steps add to whatever they meet.
    pub additive: bool,
    /// In order, each to the result of the one before.
    pub steps: Vec<WorkStep<'p>>,
}

/// One step.
pub struct WorkStep<'p> {
    /// The part of the tensor that is `W`.
    pub(super) region: &'p Region,
    pub(super) op: WorkOp<'p>,
}

/// What happens to the elements of `W`.
pub enum WorkOp<'p> {
    /// Single elements and runs.
    Change(Change<'p>),
    /// A product is added.
    Product(Factors),
    /// A product is added, and rows or columns get a magnitude.
    Rescaled(Factors, Rescale),
}

/// DoRA's magnitude in the orientation in which the tensor is stored.
pub struct Rescale {
    /// For each row, or each group of columns.
    pub magnitude: Vec<f64>,
    /// Whether rows keep their own magnitude, or columns.
    pub keeps_rows: bool,
    /// Whose norm divides.
    pub norm_of: NormOf,
    /// Added to the norm.
    pub eps: f64,
}

impl<'p> WorkStep<'p> {
    /// What happens.
    pub fn op(&self) -> &WorkOp<'p> {
        &self.op
    }

    /// The elements of `W` in a block of the tensor: position of the first one in `W`, and the runs of them in the block.
    pub fn locate(&self, block: Range<usize>) -> Option<(usize, Vec<Range<usize>>)> {
        self.region.locate_unbounded(block).map(|located| (located.first, located.runs))
    }

    /// The indices of an axis of the tensor that are `W`'s; `None` for all of them.
    pub fn indices(&self, axis: usize) -> Option<Vec<u64>> {
        self.region.indices(axis)
    }

    /// Elements of `W`, without rows that are being appended.
    pub fn elements(&self) -> usize {
        usize::try_from(self.region.elements()).unwrap_or(usize::MAX)
    }
}

pub(super) fn shares<'p>(pass: &Pass<'p>) -> Result<Vec<WorkShare<'p>>, Error> {
    pass.job.shares.iter().map(|share| lower(pass, share)).collect()
}

fn lower<'p>(pass: &Pass<'p>, share: &'p Share<'p>) -> Result<WorkShare<'p>, Error> {
    let additive = share.is_additive();
    let strength = if additive { share.weight } else { 1.0 };
    let mut steps = Vec::new();
    for Step { region, action } in &share.steps {
        let mut push = |op| steps.push(WorkStep { region, op });
        match action {
            Action::Add(dense) => {
                let element = element_of(pass, dense.value.dtype)?;
                let factor = strength * dense.scale;
                push(WorkOp::Change(Change(Kind::Add { factor, value: &dense.value, element })));
                if let Some((positions, value)) = &dense.exceptions {
                    let element = element_of(pass, value.dtype)?;
                    push(WorkOp::Change(Change(Kind::Exceptions { positions, value, element })));
                }
            }
            Action::Set(values) => {
                let element = element_of(pass, values.value.dtype)?;
                push(WorkOp::Change(Change(Kind::Set { values, element })));
            }
            Action::Put(elements) => {
                let element = element_of(pass, elements.value.dtype)?;
                push(WorkOp::Change(Change(Kind::Put { elements, element })));
            }
            Action::Scatter { scale, elements } => {
                let element = element_of(pass, elements.value.dtype)?;
                push(WorkOp::Change(Change(Kind::Scatter { factor: strength * scale, elements, element })));
            }
            Action::Restore(change) => {
                let bytes = restore::whole(pass, change)?;
                push(WorkOp::Change(Change(Kind::Whole { bytes, element: pass.source })));
            }
            Action::LowRank(edit) => {
                let factors = Factors::new(pass, edit, strength)?;
                push(match &edit.magnitude {
                    None => WorkOp::Product(factors),
                    Some(magnitude) => WorkOp::Rescaled(factors, rescale(pass, edit, magnitude)?),
                });
            }
        }
    }
    Ok(WorkShare { weight: share.weight, additive, steps })
}

fn rescale(pass: &Pass<'_>, edit: &LowRank<'_>, magnitude: &Magnitude<'_>) -> Result<Rescale, Error> {
    Ok(Rescale {
        magnitude: decoded(pass, &magnitude.value)?,
        keeps_rows: (magnitude.axis == 0) != edit.transposed,
        norm_of: magnitude.norm_of,
        eps: magnitude.eps,
    })
}

fn element_of(pass: &Pass<'_>, dtype: Dtype) -> Result<Element, Error> {
    Element::of(dtype).ok_or_else(|| pass.wrong(format!("{dtype} has no arithmetic")))
}
