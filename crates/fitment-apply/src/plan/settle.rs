//! Elements that several adapters set.

use super::build::Builder;
use super::overlap::{Overlap, drop_common, overlap, sets, settle_elements};
use super::share::Made;
use super::step::{Action, Share, Step};
use crate::note::Note;
use crate::refusal::Culprit;

impl<'a> Builder<'_, 'a> {
    /// Elements that several adapters set are set once when they agree, and are a culprit when not.
    pub(super) fn settle_sets(&mut self, name: &str, made: &mut [Made<'a>]) -> bool {
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
        if let Some(Overlap { position, equal }) = settle_elements(earlier, later) {
            let (first, second) = (self.file(earlier.file), self.file(later.file));
            let (target, place) = (name.to_owned(), format!("element {position}"));
            self.culprits.push(Culprit::SetTwice { target, first, second, place, equal });
            return false;
        }
        let meet = |a, b| overlap(a, b).map(|overlap| (overlap.equal, overlap.position));
        let worst = sets(earlier).flat_map(|a| sets(later).filter_map(move |b| meet(a, b))).min();
        let Some((equal, position)) = worst else { return true };
        let whole = earlier.weight == 1.0 && later.weight == 1.0;
        let adds_only = later.steps.iter().all(|step| match &step.action {
            Action::Set(_) | Action::Add(_) | Action::Put(_) | Action::Scatter { .. } => true,
            Action::LowRank(edit) => edit.magnitude.is_none(),
            Action::Restore(_) => false,
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
}
