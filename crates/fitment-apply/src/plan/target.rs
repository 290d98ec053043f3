//! All edits of one tensor: what they make of it.

use super::bind::{Expected, Findings};
use super::build::Builder;
use super::fit::Misfit;
use super::gather::Touch;
use super::job::{Compute, Job, Output, begins_anew, patch, restored};
use super::overlap::sets;
use super::step::{Action, Share};
use crate::note::Note;
use crate::refusal::Culprit;
use fitment_core::checkpoint::{OutputTensor, TensorInfo};
use fitment_core::model::{Edit, is_of_vocabulary};
use fitment_core::tensor::{Dtype, Shape};
use std::collections::BTreeMap;

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
            let (file, target) = (self.file(touch.file), name.to_owned());
            let is_bound = self.inputs[touch.file].adapter.base.is_bound();
            let rebinds = !is_bound && touch.sets_shape().is_some_and(|shape| *shape == info.shape);
            self.culprits.push(Culprit::AlreadyThere { file, target, rebinds });
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
            let exact = group.iter().any(|touch| matches!(touch.edit, Edit::Bits(_)));
            expected.extend(self.records.compare(
                (file, &self.inputs[file]),
                (name, info),
                (self.options.allow_base_mismatch, exact),
                &mut found,
            ));
            expected.extend(group.iter().filter_map(|touch| match touch.edit {
                Edit::Bits(edit) => Some(Expected { file, digest: edit.base, result: Some(edit.result) }),
                _ => None,
            }));
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

    /// Tensors that a diff lists as unchanged must be the recorded ones too, or the result is not the tuned checkpoint.
    pub(super) fn expect_unchanged(&mut self) {
        for (file, input) in self.inputs.iter().enumerate() {
            let entries = input.adapter.base.tensors.iter();
            for entry in entries.filter(|entry| entry.unchanged && entry.component.is_none()) {
                let name = entry.name.as_str();
                let Some(info) = self.base.tensors().get(name) else {
                    self.missing_target(name, file);
                    continue;
                };
                let mut found = Findings { culprits: &mut self.culprits, notes: &mut self.notes };
                let allow = (self.options.allow_base_mismatch, false);
                let expected = self.records.compare((file, input), (name, info), allow, &mut found);
                if let Some(expected) = expected {
                    self.digests.entry(name.to_owned()).or_default().push(expected);
                }
            }
        }
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
    pub(super) fn only_whole(&mut self, name: &str, file: usize, what: &'static str) {
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
        let resizer = made.iter().find(|made| made.resizes(base.map(|(_, info)| info)));
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
        if let Some((_, base)) = base {
            if let Some(culprit) = self.resized(name, (&base.shape, &info.shape), touches) {
                self.culprits.push(culprit);
                return None;
            }
            self.note_shape(name, &base.shape, &info.shape);
        }
        let shares: Vec<Share<'a>> =
            made.into_iter().map(|made| made.share).filter(|share| !share.steps.is_empty()).collect();
        let job = self.job(name, base, (&info, shares))?;
        let beside = base.map(|(base, _)| base.to_owned());
        Some(Output { tensor: OutputTensor { name: name.to_owned(), info, beside }, job })
    }

    /// An adapter that is not bound has only the embedding or the head of a resized vocabulary: other rows are those of another model.
    fn resized(
        &self,
        name: &str,
        (before, after): (&Shape, &Shape),
        touches: &[Touch<'a>],
    ) -> Option<Culprit> {
        let is_unsaid = |touch: &&Touch<'a>| {
            let is_set = matches!(touch.edit, Edit::Set(set) if !set.reshape);
            is_set && !self.inputs[touch.file].adapter.base.is_bound()
        };
        let is_other = before != after && before.dims().get(1..) == after.dims().get(1..);
        let touch = touches.iter().find(is_unsaid).filter(|_| is_other && !is_of_vocabulary(name))?;
        let (file, target) = (self.file(touch.file), name.to_owned());
        Some(Culprit::Resized { file, target, given: after.clone(), found: before.clone() })
    }

    fn note_shape(&mut self, name: &str, before: &Shape, after: &Shape) {
        let target = name.to_owned();
        match (before.dims(), after.dims()) {
            (before, after) if before == after => {}
            (&[from, ref before @ ..], &[to, ref after @ ..]) if before == after => {
                if is_of_vocabulary(name) {
                    self.grown.push((from, to));
                }
                self.notes.push(Note::Grown { target, from, to });
            }
            _ => self.notes.push(Note::Reshaped { target, from: before.clone(), to: after.clone() }),
        }
    }

    /// A bit-exact change that goes through arithmetic is not exact any more.
    fn note_inexact(&mut self, shares: &[Share<'a>]) {
        let has_bits =
            |share: &&Share<'a>| share.steps.iter().any(|step| matches!(step.action, Action::Restore(_)));
        for share in shares.iter().filter(has_bits) {
            let note = Note::Inexact { file: self.file(share.file) };
            if !self.notes.contains(&note) {
                self.notes.push(note);
            }
        }
    }

    fn job(
        &mut self,
        name: &str,
        base: Option<(&str, &TensorInfo)>,
        (result, shares): (&TensorInfo, Vec<Share<'a>>),
    ) -> Option<Job<'a>> {
        if let Some(restored) = restored(base, result, &shares) {
            return Some(Job::Restore(restored));
        }
        self.note_inexact(&shares);
        match patch(base, result, shares) {
            Ok(patch) => Some(Job::Patch(patch)),
            Err(shares) => {
                // Where the first thing that happens is a replacement of everything, the base is not read.
                let base = base.filter(|_| !begins_anew(&shares));
                let base = base.map(|(name, info)| (name.to_owned(), info.clone()));
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
