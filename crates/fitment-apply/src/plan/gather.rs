//! Edits by the base tensor that they change.

use super::fit::Expert;
use crate::note::Note;
use crate::options::{Input, Options};
use crate::refusal::Culprit;
use fitment_core::glob;
use fitment_core::model::{ConfigValue, Edit};
use fitment_core::tensor::Shape;
use std::collections::BTreeMap;

/// One edit's effect on one base tensor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Touch<'a> {
    /// Index of the adapter.
    pub(super) file: usize,
    pub(super) edit: &'a Edit<'a>,
    pub(super) expert: Expert,
}

impl<'a> Touch<'a> {
    /// Whether the edit applies to that use of a tied tensor.
    pub(super) fn applies_to(&self, name: &str) -> bool {
        let uses = self.edit.target().map_or(&[][..], |target| &target.uses);
        uses.is_empty() || uses.iter().any(|other| other.as_str() == name)
    }

    pub(super) fn has_uses(&self) -> bool {
        self.edit.target().is_some_and(|target| !target.uses.is_empty())
    }

    /// The shape of what a `set` sets.
    pub(super) fn sets_shape(&self) -> Option<&'a Shape> {
        match self.edit {
            Edit::Set(set) => Some(set.value.shape()),
            _ => None,
        }
    }

    pub(super) fn creates(&self) -> bool {
        matches!(self.edit, Edit::Set(set) if set.create)
    }

    pub(super) fn removes(&self) -> bool {
        matches!(self.edit, Edit::Remove(_))
    }
}

/// All edits, sorted by what they change. Touches of one tensor stand in the order of the files and their edits.
#[derive(Debug, Default)]
pub(super) struct Gathered<'a> {
    pub(super) touches: BTreeMap<String, Vec<Touch<'a>>>,
    pub(super) config: Vec<(usize, ConfigValue)>,
    pub(super) culprits: Vec<Culprit>,
    pub(super) notes: Vec<Note>,
}

pub(super) fn gather<'a>(inputs: &[Input<'a>], options: &Options) -> Gathered<'a> {
    let mut gathered = Gathered::default();
    let mut matched = vec![false; options.skip.len()];
    for (file, input) in inputs.iter().enumerate() {
        if !input.weight.is_finite() {
            gathered.culprits.push(Culprit::Weight { file: input.name.clone(), weight: input.weight });
        }
        if input.adapter.edits.is_empty() {
            gathered.notes.push(Note::NoEdits { file: input.name.clone() });
        }
        for edit in &input.adapter.edits {
            gathered.add(file, input, edit, (&options.skip, &mut matched));
        }
    }
    let unmatched = options.skip.iter().zip(matched).filter(|(_, matched)| !matched);
    gathered
        .culprits
        .extend(unmatched.map(|(pattern, _)| Culprit::SkipWithoutMatch { pattern: pattern.clone() }));
    gathered
}

impl<'a> Gathered<'a> {
    fn add(
        &mut self,
        file: usize,
        input: &Input<'a>,
        edit: &'a Edit<'a>,
        (skip, matched): (&[String], &mut [bool]),
    ) {
        if let Edit::Config(config) = edit {
            match &config.component {
                None => self.config.push((file, config.value)),
                Some(component) => self.other_component(input, config.value.key(), component.as_str()),
            }
            return;
        }
        if let Edit::Intervention(edit) = edit {
            let (file, site) = (input.name.clone(), edit.label());
            self.culprits.push(Culprit::HiddenStates { file, site });
            return;
        }
        let Some(target) = edit.target() else { return };
        if let Some(component) = &target.component {
            self.other_component(input, target.name.as_str(), component.as_str());
            return;
        }
        for (index, name) in target.base_names().enumerate() {
            if is_skipped(&name, skip, matched) {
                self.notes.push(Note::Skipped { file: input.name.clone(), target: name });
                continue;
            }
            if target.when.is_some() {
                self.culprits.push(Culprit::When { file: input.name.clone(), target: name });
                continue;
            }
            let expert = target.experts.map(|range| (index, range.count()));
            self.touches.entry(name).or_default().push(Touch { file, edit, expert });
        }
    }

    fn other_component(&mut self, input: &Input<'_>, target: &str, component: &str) {
        let (file, target, component) = (input.name.clone(), target.to_owned(), component.to_owned());
        self.culprits.push(Culprit::Component { file, target, component });
    }
}

fn is_skipped(name: &str, skip: &[String], matched: &mut [bool]) -> bool {
    let mut skipped = false;
    for (pattern, matched) in skip.iter().zip(matched) {
        if glob::matches(pattern, name) {
            *matched = true;
            skipped = true;
        }
    }
    skipped
}
