//! Stored tensors and their names (spec sections 3.3 and 7.1).

use super::Checker;
use crate::finding::rules;
use crate::manifest::v1;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub(super) fn check(checker: &mut Checker<'_, '_>) {
    let stored = checker.stored;
    let is_empty = |name: &str| stored.get(name).is_some_and(|tensor| tensor.shape.elements() == 0);
    let expected = expected_names(checker.manifest, &is_empty);
    for (name, place) in &expected.named {
        if !stored.contains_key(*name) {
            let message = format!("the manifest names it in {place}, it is not stored");
            checker.report(&rules::M_MISSING_TENSOR, name, message);
        }
    }
    for name in stored.keys().filter(|name| !expected.named.contains_key(*name)) {
        checker.report(&rules::M_ORPHAN, name, "is stored, the manifest does not name it");
    }
    for (name, wanted) in &expected.misnamed {
        let message = format!("should be stored as {wanted:?}");
        checker.report(&rules::M_STORED_NAME, name, message);
    }
    check_digest_table(checker, &expected.named);
}

fn check_digest_table(checker: &mut Checker<'_, '_>, named: &BTreeMap<&str, Place>) {
    let table = &checker.manifest.tensors;
    for name in named.keys().filter(|name| checker.stored.contains_key(**name)) {
        if !table.contains_key(*name) {
            checker.report(&rules::M_DIGEST_TABLE, name, "has no digest in `tensors`");
        }
    }
    for (name, digest) in table {
        let is_hex = digest.len() == 64 && digest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !is_hex {
            let message = format!("digest {digest:?} is not 64 lower-case hexadecimal digits");
            checker.report(&rules::M_DIGEST_TABLE, name, message);
        } else if !checker.stored.contains_key(name.as_str()) && !named.contains_key(name.as_str()) {
            checker.report(&rules::M_DIGEST_TABLE, name, "`tensors` has a digest of it, it is not stored");
        }
    }
}

/// Where a manifest names a stored tensor.
#[derive(Clone, Copy)]
enum Place {
    Edit(usize),
    Other(&'static str),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Edit(index) => write!(f, "edits[{index}]"),
            Place::Other(place) => f.write_str(place),
        }
    }
}

#[derive(Default)]
struct Names<'m> {
    /// Every stored name that the manifest uses, and where first.
    named: BTreeMap<&'m str, Place>,
    /// Stored names that do not follow from their first use, and the one that would.
    misnamed: Vec<(&'m str, String)>,
}

impl<'m> Names<'m> {
    /// `shares`: whether the place may use a tensor that is stored under the name of an earlier use.
    fn use_tensor(&mut self, name: &'m str, wanted: &str, place: Place, shares: impl FnOnce(&str) -> bool) {
        let first = self.named.entry(name);
        if name != wanted && (matches!(first, Entry::Vacant(_)) || !shares(name)) {
            self.misnamed.push((name, wanted.to_owned()));
        }
        first.or_insert(place);
    }
}

fn expected_names<'m>(manifest: &'m v1::Manifest, is_empty: &dyn Fn(&str) -> bool) -> Names<'m> {
    let mut names = Names::default();
    let mut edits_of_label: BTreeMap<String, usize> = BTreeMap::new();
    for (at, edit) in manifest.edits.iter().enumerate() {
        let Some(mut wanted) = edit.label() else { continue };
        let index = edits_of_label.entry(wanted.clone()).or_default();
        wanted.push_str(&format!("::{index}.{}.", edit.kind()));
        let prefix = wanted.len();
        for (role, name) in edit.tensors() {
            wanted.truncate(prefix);
            wanted.push_str(role);
            names.use_tensor(name, &wanted, Place::Edit(at), |name| !is_empty(name));
        }
        *index += 1;
    }
    let mut own = |name, wanted: &str, place| names.use_tensor(name, wanted, Place::Other(place), |_| false);
    if let Some(name) = &manifest.base.digests {
        own(name, "@base::0.digest.sha256", "base.digests");
    }
    if let Some(source) = &manifest.source {
        for (index, file) in source.files.iter().enumerate() {
            own(&file.tensor, &format!("@source::{index}.file.data"), "source.files");
        }
        for (index, kept) in source.kept.iter().enumerate() {
            own(&kept.tensor, &format!("@source::{index}.kept.data"), "source.kept");
        }
    }
    // A name may be wanted by one use and taken by another; each is reported once.
    let mut seen = BTreeSet::new();
    names.misnamed.retain(|(name, _)| seen.insert(*name));
    names
}
