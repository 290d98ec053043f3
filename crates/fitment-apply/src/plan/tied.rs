//! Tied tensors: one on disk, several uses in the model.

use super::build::Builder;
use super::gather::Touch;
use crate::note::Note;
use crate::refusal::Culprit;
use std::collections::{BTreeMap, BTreeSet};

impl<'a> Builder<'_, 'a> {
    /// Under which names a changed tensor is written: its own; when edits concern single uses, every use's; and names
    /// under which the base stores the same tensor again.
    pub(super) fn names_of(
        &mut self,
        name: &str,
        touches: &[Touch<'a>],
        all: &BTreeMap<String, Vec<Touch<'a>>>,
    ) -> Vec<String> {
        let mut uses = BTreeSet::new();
        for touch in touches {
            let tied = &self.inputs[touch.file].adapter.base.tied;
            let declared = tied.iter().find(|(tied, _)| tied.as_str() == name).map(|(_, uses)| uses);
            uses.extend(declared.into_iter().flatten().map(|other| (other.to_string(), touch.file)));
            self.check_uses(name, *touch, declared.map_or(&[], Vec::as_slice));
        }
        let first_untying = touches.iter().find(|touch| touch.has_uses());
        if let Some(touch) = first_untying {
            self.untied.push((name.to_owned(), touch.file));
        }
        let mut names = BTreeSet::from([name.to_owned()]);
        let mut new = Vec::new();
        for (other, file) in uses {
            let stored = self.base.tensors().contains_key(&other);
            if names.contains(&other) || !(stored || first_untying.is_some()) {
                continue;
            }
            if all.contains_key(&other) {
                self.culprits.push(Culprit::UseEditedTwice { target: name.to_owned(), other });
                continue;
            }
            if stored {
                self.check_equal(name, &other, file);
            } else {
                new.push(other.clone());
            }
            names.insert(other);
        }
        if !new.is_empty() {
            self.notes.push(Note::Untied { target: name.to_owned(), uses: new });
        }
        names.into_iter().collect()
    }

    fn check_uses(&mut self, name: &str, touch: Touch<'a>, declared: &[fitment_core::model::TensorName]) {
        let Some(target) = touch.edit.target() else { return };
        let known = |other: &str| other == name || declared.iter().any(|use_| use_.as_str() == other);
        if let Some(other) = target.uses.iter().find(|other| !known(other.as_str())) {
            let (file, target, other) = (self.file(touch.file), name.to_owned(), other.to_string());
            self.culprits.push(Culprit::UnknownUse { file, target, other });
        }
    }

    /// Tensors that count as one must be one.
    fn check_equal(&mut self, name: &str, other: &str, file: usize) {
        let tensors = self.base.tensors();
        if tensors.get(name) == tensors.get(other) {
            match (self.base.read(name), self.base.read(other)) {
                (Ok(a), Ok(b)) if a == b => return,
                (Ok(_), Ok(_)) => {}
                (Err(error), _) | (_, Err(error)) => {
                    self.culprits.push(Culprit::Unreadable { message: error.to_string() });
                    return;
                }
            }
        }
        self.culprits.push(Culprit::NotTied {
            file: self.file(file),
            target: name.to_owned(),
            other: other.to_owned(),
        });
    }
}
