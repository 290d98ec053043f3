//! What one adapter makes of a tensor, and what that makes of the result.

use super::build::Builder;
use super::fit::{Misfit, fit};
use super::gather::Touch;
use super::step::{Action, Share, Step};
use crate::part::Part;
use crate::refusal::Culprit;
use fitment_core::checkpoint::TensorInfo;
use fitment_core::model::{Edit, Set, SetDtype};
use fitment_core::tensor::{Dtype, Shape};

/// What one adapter makes of a tensor.
pub(super) struct Made<'a> {
    pub(super) share: Share<'a>,
    pub(super) info: TensorInfo,
}

impl<'a> Builder<'_, 'a> {
    pub(super) fn share(
        &mut self,
        name: &str,
        base: Option<&TensorInfo>,
        touches: &[Touch<'a>],
    ) -> Option<Made<'a>> {
        let file = touches[0].file;
        let weight = self.inputs[file].weight;
        let mut info = match base {
            Some(info) => info.clone(),
            None => self.created_info(name, touches[0])?,
        };
        let mut steps = Vec::new();
        for touch in touches {
            match fit(touch.edit, touch.expert, &info.shape) {
                Ok(None) => {}
                Ok(Some((step, shape))) => {
                    info.shape = shape;
                    if let (Edit::Set(Set { dtype: SetDtype::Stored, .. }), Action::Set(values)) =
                        (touch.edit, &step.action)
                        && values.is_all_of(&step.region)
                    {
                        info.dtype = values.value.dtype;
                    }
                    steps.push(step);
                }
                Err(misfit) => {
                    self.misfit(name, file, misfit);
                    return None;
                }
            }
        }
        if base.is_some_and(|base| base.shape != info.shape) {
            let reshapes = touches.iter().any(|touch| matches!(touch.edit, Edit::Set(set) if set.reshape));
            let what = if reshapes { "a tensor gets another shape" } else { "rows are appended" };
            self.only_whole(name, file, what);
        }
        Some(Made { share: Share { file, weight, steps }, info })
    }

    fn created_info(&mut self, name: &str, touch: Touch<'a>) -> Option<TensorInfo> {
        let Edit::Set(set) = touch.edit else { return None };
        let part = match touch.expert {
            None => Some(Part::whole(&set.value)),
            Some((index, count)) => Part::of_expert(&set.value, index, count),
        };
        let info = part.and_then(|part| {
            let shape = Shape::new(&part.dims).ok()?;
            Some(TensorInfo { dtype: part.dtype, shape })
        });
        if info.is_none() {
            let message = format!("its value has the shape {}", set.value.shape());
            self.misfit(name, touch.file, Misfit::Malformed(message));
        }
        info
    }

    pub(super) fn misfit(&mut self, name: &str, file: usize, misfit: Misfit) {
        let (file, target) = (self.file(file), name.to_owned());
        self.culprits.push(match misfit {
            Misfit::Shape { what, expected, found } => {
                Culprit::WrongShape { file, target, what, expected, found }
            }
            Misfit::Malformed(message) => Culprit::Malformed { file, target, message },
        });
    }

    /// Dtype and shape of the result.
    pub(super) fn result(
        &mut self,
        name: &str,
        base: Option<&TensorInfo>,
        made: &[Made<'a>],
    ) -> Option<TensorInfo> {
        let longest = made.iter().max_by_key(|made| made.info.shape.elements())?;
        let mut dtypes: Vec<Dtype> = made.iter().map(|made| made.info.dtype).collect();
        dtypes.retain(|dtype| base.is_none_or(|base| base.dtype != *dtype));
        dtypes.sort_unstable();
        dtypes.dedup();
        if let &[first, second, ..] = dtypes.as_slice() {
            self.culprits.push(Culprit::TwoDtypes { target: name.to_owned(), first, second });
            return None;
        }
        let own = dtypes.first().copied().or(base.map(|base| base.dtype))?;
        let dtype = self.options.dtype.filter(|_| own.is_weight()).unwrap_or(own);
        Some(TensorInfo { dtype, shape: longest.info.shape.clone() })
    }
}

impl Made<'_> {
    /// Whether a whole tensor of another size takes the base tensor's place.
    pub(super) fn resizes(&self, base: Option<&TensorInfo>) -> bool {
        let is_other = |step: &Step<'_>| match &step.action {
            Action::Set(values) => {
                values.is_all_of(&step.region)
                    && base.is_some_and(|base| base.shape.dims() != values.value.dims)
            }
            Action::LowRank(_)
            | Action::Add(_)
            | Action::Put(_)
            | Action::Scatter { .. }
            | Action::Restore(_) => false,
        };
        self.share.steps.iter().any(is_other)
    }
}
