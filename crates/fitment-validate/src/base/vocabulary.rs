//! Sizes of the vocabulary: of embedding, head, config and adapter.

use super::Fit;
use crate::rules;
use fitment_convert::tying::is_vocabulary_module;
use fitment_core::model::{ConfigValue, Edit, Set, Target};
use std::collections::BTreeMap;

pub(super) fn check(fit: &mut Fit<'_, '_>) {
    let Some(size) = fit.config("vocab_size").and_then(serde_json::Value::as_u64) else { return };
    let tables = tables(fit, size);
    other_sizes(fit, &tables);
    let grown = grown(fit, &tables);
    together(fit, &tables, &grown);
    config(fit, &grown);
}

/// Tensors with a row for each token, by name: `[vocab, dim]`, of modules that read or write the vocabulary.
fn tables(fit: &Fit<'_, '_>, size: u64) -> BTreeMap<String, u64> {
    let module = |name: &str| name.strip_suffix(".weight").is_some_and(is_vocabulary_module);
    let tensors = fit.base.tensors().iter().filter(|(name, _)| module(name));
    tensors
        .filter(|(_, info)| matches!(info.shape.dims(), [rows, _] if *rows == size))
        .map(|(name, _)| (name.clone(), size))
        .collect()
}

/// Updates with a row for each token of another vocabulary.
fn other_sizes(fit: &mut Fit<'_, '_>, tables: &BTreeMap<String, u64>) {
    for (edit, target) in fit.edits() {
        let Some(rows) = tables.get(target.name.as_str()).filter(|_| is_whole(target)) else { continue };
        let update = match edit {
            Edit::Lora(lora) if !lora.transposed => lora.up.dims().first().copied(),
            Edit::Add(add) => add.value.dims().first().copied(),
            Edit::Lora(_)
            | Edit::Set(_)
            | Edit::SparseSet(_)
            | Edit::SparseAdd(_)
            | Edit::Bits(_)
            | Edit::Remove(_)
            | Edit::Config(_)
            | Edit::Intervention(_) => None,
        };
        let Some(update) = update.filter(|update| update != rows) else { continue };
        if !fit.handled.contains(&target.label()) {
            let message = format!("the adapter has a vocabulary of {update}, the base of {rows}");
            fit.report_once(&rules::B_VOCABULARY, target.label(), message);
        }
    }
}

fn is_whole(target: &Target) -> bool {
    target.component.is_none() && target.slice.is_empty()
}

/// Tables with another number of rows afterwards.
fn grown(fit: &Fit<'_, '_>, tables: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let mut after = tables.clone();
    for (edit, target) in fit.edits() {
        let counts = is_whole(target) && !fit.handled.contains(&target.label());
        let (Edit::Set(set), true) = (edit, counts) else { continue };
        if let Some(rows) = after.get_mut(target.name.as_str()) {
            *rows = rows_after(set, *rows);
        }
    }
    after.retain(|name, rows| tables.get(name) != Some(rows));
    after
}

fn rows_after(set: &Set<'_>, before: u64) -> u64 {
    match &set.rows {
        None => set.value.dims().first().copied().unwrap_or(before),
        Some(rows) => {
            let last = rows.bytes().as_chunks::<8>().0.last();
            let last = last.and_then(|last| u64::try_from(i64::from_le_bytes(*last)).ok());
            last.map_or(before, |last| before.max(last.saturating_add(1)))
        }
    }
}

/// A model has one vocabulary: tables grow together.
fn together(fit: &mut Fit<'_, '_>, tables: &BTreeMap<String, u64>, grown: &BTreeMap<String, u64>) {
    let Some((name, rows)) = grown.iter().next() else { return };
    let after = |other: &String| grown.get(other).or_else(|| tables.get(other));
    let other = tables.keys().find(|other| after(other) != Some(rows));
    if let Some((other, others)) = other.and_then(|other| Some((other, after(other)?))) {
        let message = format!("has {rows} rows afterwards, {other} has {others}");
        fit.report(&rules::B_VOCABULARY, name, message);
    }
}

/// Rows may be padded beyond the vocabulary, never the other way round.
fn config(fit: &mut Fit<'_, '_>, grown: &BTreeMap<String, u64>) {
    let wanted = fit.adapter.edits.iter().find_map(|edit| match edit {
        Edit::Config(config) if config.component.is_none() => match config.value {
            ConfigValue::VocabSize(size) => Some(size),
            _ => None,
        },
        _ => None,
    });
    let short = grown.iter().find(|(_, rows)| wanted.is_some_and(|wanted| wanted > **rows));
    if let (Some(wanted), Some((name, rows))) = (wanted, short) {
        let message = format!("the adapter sets vocab_size to {wanted}, {name} has {rows} rows afterwards");
        fit.report(&rules::B_VOCABULARY, "vocab_size", message);
    }
}
