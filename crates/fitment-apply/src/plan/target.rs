//! All edits of one tensor: what they make of it.

use super::bind::Findings;
use super::build::Builder;
use super::fit::{Misfit, fit};
use super::gather::Touch;
use super::job::{Compute, Ground, Job, Output, Patch};
use super::overlap::{drop_common, overlap, sets};
use super::step::{Action, Share, Step};
use crate::note::Note;
use crate::part::Part;
use crate::refusal::Culprit;
use fitment_core::checkpoint::{OutputTensor, TensorInfo};
use fitment_core::model::{Edit, Set, SetDtype};
use fitment_core::tensor::{Dtype, Shape};
use std::collections::BTreeMap;

/// What one adapter makes of a tensor.
struct Made<'a> {
    share: Share<'a>,
    info: TensorInfo,
}

impl<'a> Builder<'_, 'a> {
    /// Plans everything that becomes of the tensor `name`.
    pub(super) fn target(
        &mut self,
        name: &str,
        touches: &[Touch<'a>],
        all: &BTreeMap<String, Vec<Touch<'a>>>,
    ) {
        let Some(info) = self.base.tensors().get(name).cloned() else {
            self.create(name, touches);
            return;
        };
        if let Some(touch) = touches.iter().find(|touch| touch.creates()) {
            let culprit = Culprit::AlreadyThere { file: self.file(touch.file), target: name.to_owned() };
            self.culprits.push(culprit);
            return;
        }
        if !self.bind(name, &info, touches) {
            return;
        }
        if touches.iter().any(|touch| touch.removes()) {
            self.remove(name, touches);
            return;
        }
        for output in self.names_of(name, touches, all) {
            let applying: Vec<Touch<'a>> =
                touches.iter().copied().filter(|touch| touch.applies_to(&output)).collect();
            let output = match applying.is_empty() {
                true => Some(self.untouched(&output, name, &info)),
                false => self.change(&output, Some((name, &info)), &applying),
            };
            self.outputs.extend(output.map(|output| (output.tensor.name.clone(), output)));
        }
    }

    /// Compares records and keeps the digests to check; `false` when the adapters are for another base.
    fn bind(&mut self, name: &str, info: &TensorInfo, touches: &[Touch<'a>]) -> bool {
        let before = self.culprits.len();
        let mut expected = Vec::new();
        for group in touches.chunk_by(|a, b| a.file == b.file) {
            let file = group[0].file;
            let mut found = Findings { culprits: &mut self.culprits, notes: &mut self.notes };
            let allow = self.options.allow_base_mismatch;
            expected.extend(self.records.compare(
                (file, &self.inputs[file]),
                (name, info),
                allow,
                &mut found,
            ));
        }
        let clash = expected.windows(2).find(|pair| pair[0].digest != pair[1].digest);
        if let Some([first, second]) = clash.filter(|_| !self.options.allow_base_mismatch) {
            let (first, second) = (self.file(first.file), self.file(second.file));
            self.culprits.push(Culprit::DifferentBases { target: name.to_owned(), first, second });
        }
        if !expected.is_empty() {
            self.digests.insert(name.to_owned(), expected);
        }
        self.culprits.len() == before
    }

    fn remove(&mut self, name: &str, touches: &[Touch<'a>]) {
        let removers: Vec<usize> =
            touches.iter().filter(|touch| touch.removes()).map(|touch| touch.file).collect();
        if let Some(other) = touches.iter().find(|touch| !removers.contains(&touch.file)) {
            self.culprits.push(Culprit::RemovedAndChanged {
                target: name.to_owned(),
                remover: self.file(removers[0]),
                other: self.file(other.file),
            });
        }
        for file in removers {
            self.only_whole(name, file, "a tensor is removed");
        }
        self.removed.insert(name.to_owned());
        self.notes.push(Note::Removed { target: name.to_owned() });
    }

    fn create(&mut self, name: &str, touches: &[Touch<'a>]) {
        let mut complete = true;
        for group in touches.chunk_by(|a, b| a.file == b.file) {
            if group[0].creates() {
                self.only_whole(name, group[0].file, "a tensor is created");
            } else {
                self.missing_target(name, group[0].file);
                complete = false;
            }
        }
        if !complete {
            return;
        }
        self.notes.push(Note::Created { target: name.to_owned() });
        let output = self.change(name, None, touches);
        self.outputs.extend(output.map(|output| (name.to_owned(), output)));
    }

    /// Reports a weight other than 1 for something that cannot happen by halves.
    fn only_whole(&mut self, name: &str, file: usize, what: &'static str) {
        let weight = self.inputs[file].weight;
        if weight != 1.0 {
            let (file, target) = (self.file(file), name.to_owned());
            self.culprits.push(Culprit::NotScalable { file, target, weight, what });
        }
    }

    fn change(
        &mut self,
        name: &str,
        base: Option<(&str, &TensorInfo)>,
        touches: &[Touch<'a>],
    ) -> Option<Output<'a>> {
        let mut made = Vec::new();
        for group in touches.chunk_by(|a, b| a.file == b.file) {
            made.push(self.share(name, base.map(|(_, info)| info), group)?);
        }
        let resizer = made.iter().find(|made| resizes(made, base.map(|(_, info)| info)));
        if let Some(file) = resizer.map(|made| made.share.file).filter(|_| made.len() > 1) {
            let message =
                "it gives the tensor another size, beside which no other adapter can change it".to_owned();
            self.misfit(name, file, Misfit::Malformed(message));
            return None;
        }
        if !self.settle_sets(name, &mut made) {
            return None;
        }
        let info = self.result(name, base.map(|(_, info)| info), &made)?;
        let rows = |info: &TensorInfo| info.shape.dims().first().copied().unwrap_or(0);
        if let Some((from, to)) = base.map(|(_, base)| (rows(base), rows(&info))).filter(|(a, b)| a != b) {
            self.grown.push((from, to));
            self.notes.push(Note::Grown { target: name.to_owned(), from, to });
        }
        let shares: Vec<Share<'a>> =
            made.into_iter().map(|made| made.share).filter(|share| !share.steps.is_empty()).collect();
        let job = self.job(name, base, (&info, shares))?;
        let beside = base.map(|(base, _)| base.to_owned());
        Some(Output { tensor: OutputTensor { name: name.to_owned(), info, beside }, job })
    }

    fn share(&mut self, name: &str, base: Option<&TensorInfo>, touches: &[Touch<'a>]) -> Option<Made<'a>> {
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
            self.only_whole(name, file, "rows are appended");
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

    fn misfit(&mut self, name: &str, file: usize, misfit: Misfit) {
        let (file, target) = (self.file(file), name.to_owned());
        self.culprits.push(match misfit {
            Misfit::Shape { what, expected, found } => {
                Culprit::WrongShape { file, target, what, expected, found }
            }
            Misfit::Malformed(message) => Culprit::Malformed { file, target, message },
        });
    }

    /// Elements that several adapters set are set once when they agree, and are a culprit when not.
    fn settle_sets(&mut self, name: &str, made: &mut [Made<'a>]) -> bool {
        let mut settled = true;
        for later in 1..made.len() {
            let (before, rest) = made.split_at_mut(later);
            let later = &mut rest[0].share;
            for earlier in before.iter().map(|made| &made.share) {
                settled &= self.settle_pair(name, earlier, later);
            }
        }
        settled
    }

    fn settle_pair(&mut self, name: &str, earlier: &Share<'a>, later: &mut Share<'a>) -> bool {
        let meet = |a, b| overlap(a, b).map(|overlap| (overlap.equal, overlap.position));
        let worst = sets(earlier).flat_map(|a| sets(later).filter_map(move |b| meet(a, b))).min();
        let Some((equal, position)) = worst else { return true };
        let whole = earlier.weight == 1.0 && later.weight == 1.0;
        let adds_only = later.steps.iter().all(|step| match &step.action {
            Action::Set(_) | Action::Add(_) => true,
            Action::LowRank(edit) => edit.magnitude.is_none(),
        });
        let (first, second) = (self.file(earlier.file), self.file(later.file));
        let dropped = equal && whole && adds_only && {
            let mut drop = |step: &mut Step<'a>| sets(earlier).all(|set| drop_common(set, step));
            later.steps.iter_mut().all(&mut drop)
        };
        let target = name.to_owned();
        if dropped {
            later.steps.retain(|step| {
                !matches!(&step.action, Action::Set(values) if values.rows.as_ref().is_some_and(Vec::is_empty))
            });
            self.notes.push(Note::SharedSet { target, first, second });
        } else {
            let place = format!("element {position}");
            self.culprits.push(Culprit::SetTwice { target, first, second, place, equal });
        }
        dropped
    }

    /// Dtype and shape of the result.
    fn result(&mut self, name: &str, base: Option<&TensorInfo>, made: &[Made<'a>]) -> Option<TensorInfo> {
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

    fn job(
        &mut self,
        name: &str,
        base: Option<(&str, &TensorInfo)>,
        (result, shares): (&TensorInfo, Vec<Share<'a>>),
    ) -> Option<Job<'a>> {
        match patch(base, result, shares) {
            Ok(patch) => Some(Job::Patch(patch)),
            Err(shares) => {
                // Where the first thing that happens is a replacement of everything, the base is not read.
                let replaced = |shares: &[Share<'_>]| match shares {
                    [share] if share.weight == 1.0 => share.steps.first().is_some_and(
                        |step| matches!(&step.action, Action::Set(values) if values.is_all_of(&step.region)),
                    ),
                    _ => false,
                };
                let base =
                    base.filter(|_| !replaced(&shares)).map(|(name, info)| (name.to_owned(), info.clone()));
                let plain = |dtype: &Dtype| !dtype.is_weight();
                let stored = shares
                    .iter()
                    .flat_map(|share| sets(share).map(move |(_, values)| (share.file, values.value.dtype)));
                let file = shares.first().map_or(0, |share| share.file);
                let below = base.as_ref().map(|(_, info)| (file, info.dtype));
                let culprit = below.into_iter().chain(stored).find(|(_, dtype)| plain(dtype));
                if let Some((file, dtype)) = culprit {
                    let (file, target) = (self.file(file), name.to_owned());
                    self.culprits.push(Culprit::Dtype { file, target, dtype });
                    return None;
                }
                Some(Job::Compute(Compute { base, shares }))
            }
        }
    }
}

/// Whether a whole tensor of another size takes the base tensor's place.
fn resizes(made: &Made<'_>, base: Option<&TensorInfo>) -> bool {
    let is_other = |step: &Step<'_>| match &step.action {
        Action::Set(values) => {
            values.is_all_of(&step.region) && base.is_some_and(|base| base.shape.dims() != values.value.dims)
        }
        Action::LowRank(_) | Action::Add(_) => false,
    };
    made.share.steps.iter().any(is_other)
}

/// A result that is stored bytes only; otherwise gives the shares back.
fn patch<'a>(
    base: Option<(&str, &TensorInfo)>,
    result: &TensorInfo,
    shares: Vec<Share<'a>>,
) -> Result<Patch<'a>, Vec<Share<'a>>> {
    let copies = |step: &Step<'_>| match &step.action {
        Action::Set(values) => values.value.dtype == result.dtype,
        Action::LowRank(_) | Action::Add(_) => false,
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
