//! Binding an adapter to the base at hand: every touched tensor is found, fits, and is recorded with its digest.

use crate::each;
use crate::error::{Clash, Error, Unmapped};
use crate::sites;
use crate::states::misfits;
use fitment_core::checkpoint::{Checkpoint, TensorInfo};
use fitment_core::identity::{hex, sha256};
use fitment_core::model::{Adapter, BaseTensor, ComponentName, Digest, Edit, SetDtype, Target};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Values of a model's config that conversions need, where they stand at the top or under `text_config`.
const CONFIG_FACTS: &[&str] = &[
    "model_type",
    "tie_word_embeddings",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "num_kv_heads",
    "new_decoder_architecture",
    "multi_query",
    "num_local_experts",
    "num_experts",
];

/// Records in an adapter what it touches of a base: dtype, shape and SHA-256 of every target, architecture, config facts.
/// What it says to be unchanged is held against the base and stays recorded.
/// Interventions touch no tensor (spec section 5.6): of them layers and widths are compared.
/// A tensor that an adapter without a base was to create becomes a plain `set` where the base has it in the same shape.
///
/// # Errors
/// [`Error::Unmapped`] when targets are missing in the base; [`Error::Mismatch`] when some have another shape than the
/// edits ask, when it has not the sites of interventions, when a created tensor is there, or when the adapter is bound to a base of other content;
/// [`Error::Base`] when the base cannot be read.
pub fn bind(adapter: &mut Adapter<'_>, base: &dyn Checkpoint) -> Result<(), Error> {
    if let Some(component) = adapter.edits.iter().find_map(component) {
        return Err(Error::Unsupported {
            what: format!("component {component}"),
            reason: "the adapter is for a pipeline of several models, the base is a single one".to_owned(),
            hint: "name the pipeline's folder with --base".to_owned(),
        });
    }
    settle_created(adapter, base);
    let created = created(adapter);
    let mut targets: BTreeMap<Key, &Target> = BTreeMap::new();
    for target in adapter.edits.iter().filter_map(Edit::target) {
        targets.insert(key(target), target);
    }
    check_created(&created, base)?;
    targets.retain(|key, _| !created.contains(key));
    check_present(targets.values().copied(), base)?;
    fail_on(misfits(adapter, base))?;
    check_sites(adapter, base)?;
    let recorded = std::mem::take(&mut adapter.base.tensors);
    let known: BTreeMap<Key, &BaseTensor> = recorded
        .iter()
        .filter(|known| known.component.is_none())
        .map(|known| (entry_key(known), known))
        .collect();
    let unchanged: Vec<Target> =
        recorded.iter().filter(|known| known.unchanged && known.component.is_none()).map(target_of).collect();
    check_present(unchanged.iter(), base)?;
    for target in &unchanged {
        targets.entry(key(target)).or_insert(target);
    }
    let tensors = targets.iter().map(|(key, target)| (known.get(key).copied(), *target));
    adapter.base.tensors = bound(&tensors.collect::<Vec<_>>(), base)?;
    if let Some(config) = base.config() {
        record_config(adapter, config);
    }
    Ok(())
}

fn component<'e>(edit: &'e Edit<'_>) -> Option<&'e ComponentName> {
    match edit {
        Edit::Intervention(edit) => edit.component.as_ref(),
        _ => edit.target()?.component.as_ref(),
    }
}

/// Whether the base has the sites of the interventions.
///
/// # Errors
/// [`Error::Mismatch`].
pub(crate) fn check_sites(adapter: &Adapter<'_>, base: &dyn Checkpoint) -> Result<(), Error> {
    fail_on(sites::misfits(adapter, base))
}

/// Records the base's architecture and the few values of its config that conversions need.
pub fn record_config(adapter: &mut Adapter<'_>, config: &Map<String, Value>) {
    adapter.base.architecture = architecture(config).or(adapter.base.architecture.take());
    adapter.base.config.extend(facts(config));
}

/// Name and experts of a target.
pub(crate) type Key = (String, Option<(u64, u64)>);

pub(crate) fn key(target: &Target) -> Key {
    (target.name.to_string(), target.experts.map(|range| (range.start, range.end)))
}

fn created(adapter: &Adapter<'_>) -> BTreeSet<Key> {
    let creates = |edit: &Edit<'_>| match edit {
        Edit::Set(set) if set.create => Some(key(&set.target)),
        _ => None,
    };
    adapter.edits.iter().filter_map(creates).collect()
}

/// Converted without its base, an adapter takes heads for new; the base at hand knows better. A bound one was made for a
/// base without them.
fn settle_created(adapter: &mut Adapter<'_>, base: &dyn Checkpoint) {
    if adapter.base.is_bound() {
        return;
    }
    for edit in &mut adapter.edits {
        let Edit::Set(set) = edit else { continue };
        let found = base.tensors().get(set.target.name.as_str());
        if set.create && found.is_some_and(|info| info.shape == *set.value.shape()) {
            set.create = false;
            set.dtype = SetDtype::Base;
        }
    }
}

fn check_created(created: &BTreeSet<Key>, base: &dyn Checkpoint) -> Result<(), Error> {
    let clash = |(name, _): &Key| {
        let found = base.tensors().get(name)?;
        let expected = "no such tensor (it creates it)".to_owned();
        Some(Clash { target: name.clone(), expected, found: describe(found) })
    };
    fail_on(created.iter().filter_map(clash).collect())
}

fn check_present<'t>(targets: impl Iterator<Item = &'t Target>, base: &dyn Checkpoint) -> Result<(), Error> {
    let missing = targets.flat_map(Target::base_names).filter(|name| !base.tensors().contains_key(name));
    let culprits = unmapped(missing.collect(), base);
    if culprits.is_empty() { Ok(()) } else { Err(Error::Unmapped { culprits }) }
}

fn fail_on(culprits: Vec<Clash>) -> Result<(), Error> {
    if culprits.is_empty() { Ok(()) } else { Err(Error::Mismatch { culprits }) }
}

/// An entry that no edit touches, to be looked for like a target.
fn target_of(entry: &BaseTensor) -> Target {
    Target { experts: entry.experts, ..Target::whole(entry.name.clone()) }
}

fn entry_key(entry: &BaseTensor) -> Key {
    (entry.name.to_string(), entry.experts.map(|range| (range.start, range.end)))
}

/// The entries of all targets with the digests of their tensors, held against what the adapter recorded of them.
fn bound(
    targets: &[(Option<&BaseTensor>, &Target)],
    base: &dyn Checkpoint,
) -> Result<Vec<BaseTensor>, Error> {
    let names: Vec<Vec<String>> = targets.iter().map(|(_, target)| target.base_names().collect()).collect();
    let mut clashes = Vec::new();
    let mut entries = Vec::with_capacity(targets.len());
    for ((known, target), names) in targets.iter().zip(&names) {
        entries.push(entry(*known, target, names, base, &mut clashes));
    }
    fail_on(std::mem::take(&mut clashes))?;
    let mut digests = hash_all(&names.iter().flatten().collect::<Vec<_>>(), base)?.into_iter();
    for ((entry, (known, _)), names) in entries.iter_mut().zip(targets).zip(&names) {
        entry.digests = digests.by_ref().take(names.len()).collect();
        let recorded = known.map_or(&[][..], |known| &known.digests);
        for ((name, digest), recorded) in names.iter().zip(&entry.digests).zip(recorded) {
            if recorded != digest {
                let sha256 = |digest| format!("SHA-256 {}", hex(digest));
                let (expected, found) = (sha256(recorded), sha256(digest));
                clashes.push(Clash { target: name.clone(), expected, found });
            }
        }
    }
    fail_on(clashes)?;
    Ok(entries)
}

/// Dtype and shape of a target: as recorded, else as its first tensor has them. All its tensors must have the same.
fn entry(
    known: Option<&BaseTensor>,
    target: &Target,
    names: &[String],
    base: &dyn Checkpoint,
    clashes: &mut Vec<Clash>,
) -> BaseTensor {
    let infos = || names.iter().filter_map(|name| Some((name, base.tensors().get(name)?)));
    let first = infos().next().map(|(_, info)| info);
    let dtype = known.and_then(|known| known.dtype).or(first.map(|info| info.dtype));
    let shape = known.and_then(|known| known.shape.clone()).or(first.map(|info| info.shape.clone()));
    for (name, info) in
        infos().filter(|(_, info)| Some(info.dtype) != dtype || Some(&info.shape) != shape.as_ref())
    {
        let expected = match (dtype, &shape) {
            (Some(dtype), Some(shape)) => format!("{dtype} {shape}"),
            _ => "nothing".to_owned(),
        };
        clashes.push(Clash { target: name.clone(), expected, found: describe(info) });
    }
    let extra = known.map(|known| known.extra.clone()).unwrap_or_default();
    let (name, experts) = (target.name.clone(), target.experts);
    let unchanged = known.is_some_and(|known| known.unchanged);
    BaseTensor { unchanged, component: None, name, experts, dtype, shape, digests: Vec::new(), extra }
}

fn hash_all(names: &[&String], base: &dyn Checkpoint) -> Result<Vec<Digest>, Error> {
    each::map(names, |name| hash(name, base)).into_iter().collect()
}

fn hash(name: &str, base: &dyn Checkpoint) -> Result<Digest, Error> {
    base.read(name).map(|bytes| sha256(&bytes)).map_err(Error::Base)
}

pub(crate) fn describe(info: &TensorInfo) -> String {
    format!("{} {}", info.dtype, info.shape)
}

fn architecture(config: &Map<String, Value>) -> Option<String> {
    config.get("architectures")?.get(0)?.as_str().map(str::to_owned)
}

fn facts(config: &Map<String, Value>) -> Map<String, Value> {
    let scalar = |value: &&Value| value.is_boolean() || value.is_u64() || value.is_string();
    let find = |key: &str| {
        let nested = || config.get("text_config")?.get(key);
        config.get(key).filter(scalar).or_else(|| nested().filter(scalar)).cloned()
    };
    CONFIG_FACTS.iter().filter_map(|key| Some(((*key).to_owned(), find(key)?))).collect()
}

/// Names that the base lacks, the first few with the name that each most likely means.
pub(crate) fn unmapped(missing: Vec<String>, base: &dyn Checkpoint) -> Vec<Unmapped> {
    // Each search walks through all names of the base.
    const SEARCHED: usize = 16;
    let unmapped = |(index, expected): (usize, String)| {
        let nearest = if index < SEARCHED { nearest(&expected, base.tensors().keys()) } else { None };
        Unmapped { expected, nearest }
    };
    missing.into_iter().enumerate().map(unmapped).collect()
}

/// The base tensor that a name most likely means: most trailing parts in common (two at least), then most leading bytes.
fn nearest<'n>(wanted: &str, names: impl Iterator<Item = &'n String>) -> Option<String> {
    let tail = |name: &str| wanted.rsplit('.').zip(name.rsplit('.')).take_while(|(a, b)| a == b).count();
    let head = |name: &str| wanted.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
    let scored = names.map(|name| ((tail(name), head(name)), name)).filter(|((tail, _), _)| *tail >= 2);
    scored.max_by_key(|(score, name)| (*score, std::cmp::Reverse(name.len()))).map(|(_, name)| name.clone())
}
