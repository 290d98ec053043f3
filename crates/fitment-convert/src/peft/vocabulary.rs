//! Vocabularies that were resized before training.

use super::leftovers::vocabulary_size;
use super::placed::Ground;
use super::units::{Change, Unit};
use crate::error::{Clash, Error};
use crate::tying::{is_head_module, is_vocabulary_module};
use std::collections::BTreeSet;

/// The new `vocab_size`, when an embedding or head with another number of rows replaces the base's.
///
/// # Errors
/// [`Error::Unsupported`] when the other side of the vocabulary keeps its rows: PEFT leaves it to chance then; and when the
/// size stands in the config of a nested model.
pub(super) fn resized(units: &[Unit<'_>], ground: &Ground<'_>) -> Result<Option<u64>, Error> {
    let resized = |unit: &Unit<'_>| {
        let Change::Whole { value, .. } = &unit.change else { return None };
        let (disk, info) = ground.source(&unit.name).filter(|_| is_vocabulary_module(&unit.module))?;
        let (rows, before) = (*value.dims().first()?, *info.shape.dims().first()?);
        (rows != before).then(|| (disk.to_owned(), rows, before))
    };
    let found: Vec<(String, u64, u64)> = units.iter().filter_map(resized).collect();
    let (Some((_, rows, before)), Some(config)) = (found.first(), ground.base.config()) else {
        return Ok(None);
    };
    let hint = || "resize the base with transformers first, save it, and use that as --base".to_owned();
    let covered: BTreeSet<&str> = found.iter().map(|(disk, ..)| disk.as_str()).collect();
    if let Some(what) = left_behind(units, ground, &covered, *before) {
        let reason = format!(
            "the vocabulary is resized from {before} to {rows} rows, but the file does not hold this side of it"
        );
        return Err(Error::Unsupported { what, reason, hint: hint() });
    }
    if config.contains_key("vocab_size") {
        return Ok(Some(*rows));
    }
    match vocabulary_size(ground.base) {
        None => Ok(None),
        Some(_) => Err(Error::Unsupported {
            what: "vocab_size".to_owned(),
            reason: "it belongs to a nested model, whose config this version does not edit".to_owned(),
            hint: hint(),
        }),
    }
}

/// Token rows that the base, or what replaces it, does not have: PEFT fails on them.
///
/// # Errors
/// [`Error::Mismatch`] with every such module.
pub(super) fn check_rows(units: &[Unit<'_>], ground: &Ground<'_>) -> Result<(), Error> {
    let replaced = |name: &str| {
        units.iter().find_map(|unit| match &unit.change {
            Change::Whole { value, .. } if unit.name == name => value.dims().first().copied(),
            _ => None,
        })
    };
    let beyond = |unit: &Unit<'_>| {
        let Change::Rows { indices, .. } = &unit.change else { return None };
        let (disk, info) = ground.source(&unit.name)?;
        let rows = replaced(&unit.name).or(info.shape.dims().first().copied())?;
        let last = indices.iter().max().filter(|last| **last >= rows)?;
        let (expected, found) = (format!("row {last}"), format!("{rows} rows"));
        Some(Clash { target: disk.to_owned(), expected, found })
    };
    let culprits: Vec<Clash> = units.iter().filter_map(beyond).collect();
    if culprits.is_empty() { Ok(()) } else { Err(Error::Mismatch { culprits }) }
}

/// An embedding or head of the adapter's model that keeps the old number of rows.
fn left_behind(
    units: &[Unit<'_>],
    ground: &Ground<'_>,
    covered: &BTreeSet<&str>,
    before: u64,
) -> Option<String> {
    let of_vocabulary = |(name, disk): &(&str, &str)| {
        let module = name.strip_suffix(".weight").unwrap_or_default();
        let old_rows =
            ground.base.tensors().get(*disk).is_some_and(|info| info.shape.dims().first() == Some(&before));
        let in_model = !is_head_module(module) || ground.has_head(Some(name), units);
        is_vocabulary_module(module) && old_rows && in_model && !covered.contains(disk)
    };
    ground.names.all().find(of_vocabulary).map(|(_, disk)| disk.to_owned())
}
