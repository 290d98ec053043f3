//! Binding an adapter to the base at hand: every touched tensor is found, fits, and is recorded with its digest.

use crate::error::{Clash, Error, Unmapped};
use fitment_core::checkpoint::{Checkpoint, TensorInfo};
use fitment_core::identity::{hex, sha256};
use fitment_core::model::{Adapter, AxisSlice, BaseTensor, Digest, Edit, Lora, LoraForm, Target};
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
];

/// Records in an adapter what it touches of a base: dtype, shape and SHA-256 of every target, architecture, config facts.
///
/// # Errors
/// [`Error::Unmapped`] when targets are missing in the base; [`Error::Mismatch`] when some have another shape than the
/// edits ask, when a created tensor is there, or when the adapter is bound to a base of other content;
/// [`Error::Base`] when the base cannot be read.
pub fn bind(adapter: &mut Adapter<'_>, base: &dyn Checkpoint) -> Result<(), Error> {
    if let Some(component) = adapter.edits.iter().find_map(|edit| edit.target()?.component.as_ref()) {
        return Err(Error::Unsupported {
            what: format!("component {component}"),
            reason: "the adapter is for a pipeline of several models, the base is a single one".to_owned(),
            hint: "name the pipeline's folder with --base".to_owned(),
        });
    }
    let created = created(adapter);
    let mut targets: BTreeMap<Key, &Target> = BTreeMap::new();
    for target in adapter.edits.iter().filter_map(Edit::target) {
        targets.insert(key(target), target);
    }
    check_created(&created, base)?;
    targets.retain(|key, _| !created.contains(key));
    check_present(targets.values().copied(), base)?;
    check_states(adapter, base)?;
    let tensors = targets.values().map(|target| record(adapter, target, base)).collect::<Result<_, _>>()?;
    adapter.base.tensors = digested(tensors, adapter, base)?;
    if let Some(config) = base.config() {
        adapter.base.architecture = architecture(config).or(adapter.base.architecture.take());
        adapter.base.config.extend(facts(config));
    }
    Ok(())
}

type Key = (String, Option<(u64, u64)>);

fn key(target: &Target) -> Key {
    (target.name.to_string(), target.experts.map(|range| (range.start, range.end)))
}

fn created(adapter: &Adapter<'_>) -> BTreeSet<Key> {
    let creates = |edit: &Edit<'_>| match edit {
        Edit::Set(set) if set.create => Some(key(&set.target)),
        _ => None,
    };
    adapter.edits.iter().filter_map(creates).collect()
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
    let unmapped = |expected: String| {
        let nearest = nearest(&expected, base.tensors().keys());
        Unmapped { expected, nearest }
    };
    let culprits: Vec<Unmapped> = missing.map(unmapped).collect();
    if culprits.is_empty() { Ok(()) } else { Err(Error::Unmapped { culprits }) }
}

/// Every edit must fit the state that the edits of its target before it have made of the base tensor.
fn check_states(adapter: &Adapter<'_>, base: &dyn Checkpoint) -> Result<(), Error> {
    // Each use of a tied tensor has a state of its own; the tensor itself stands for all uses that no edit names.
    let mut uses: BTreeMap<Key, BTreeSet<String>> = BTreeMap::new();
    for target in adapter.edits.iter().filter_map(Edit::target) {
        let names = [&target.name].into_iter().chain(&target.uses).map(ToString::to_string);
        uses.entry(key(target)).or_default().extend(names);
    }
    let mut states: BTreeMap<(Key, String), Vec<u64>> = BTreeMap::new();
    let mut clashes = Vec::new();
    for edit in &adapter.edits {
        let Some(target) = edit.target() else { continue };
        let info = target.base_names().next().and_then(|name| base.tensors().get(&name));
        let (Some(info), Some(all)) = (info, uses.get(&key(target))) else { continue };
        let named =
            |name: &&String| target.uses.is_empty() || target.uses.iter().any(|u| u.as_str() == **name);
        let faults: BTreeSet<String> = all
            .iter()
            .filter(named)
            .filter_map(|name| {
                let state =
                    states.entry((key(target), name.clone())).or_insert_with(|| info.shape.dims().to_vec());
                advance(edit, state).err()
            })
            .collect();
        let found = || describe(info);
        clashes.extend(faults.into_iter().map(|expected| Clash {
            target: target.label(),
            expected,
            found: found(),
        }));
    }
    fail_on(clashes)
}

fn fail_on(culprits: Vec<Clash>) -> Result<(), Error> {
    if culprits.is_empty() { Ok(()) } else { Err(Error::Mismatch { culprits }) }
}

/// Takes a target's shape through an edit; gives what the edit asks for when it does not fit.
fn advance(edit: &Edit<'_>, state: &mut Vec<u64>) -> Result<(), String> {
    let Some(target) = edit.target() else { return Ok(()) };
    let own = |dims: &[u64]| dims.get(usize::from(target.experts.is_some())..).unwrap_or_default().to_vec();
    let sliced = sliced(state, &target.slice);
    match edit {
        Edit::Lora(lora) => {
            let delta = delta(lora);
            let wanted = viewed(lora, &sliced);
            if delta == wanted {
                Ok(())
            } else {
                Err(format!("{delta:?}{}", if lora.transposed { " transposed" } else { "" }))
            }
        }
        Edit::Add(add) => {
            let dims = own(add.value.dims());
            if dims == sliced { Ok(()) } else { Err(format!("{dims:?}")) }
        }
        Edit::Set(set) => {
            let dims = own(set.value.dims());
            let fits = dims.len() == sliced.len() && dims.get(1..) == sliced.get(1..);
            let whole = target.slice.is_empty() && target.experts.is_none();
            if !fits || (!whole && dims != sliced) {
                return Err(format!("{dims:?}"));
            }
            if let (None, true) = (&set.rows, whole) {
                *state = dims;
            }
            Ok(())
        }
        Edit::Remove(_) | Edit::Config(_) => Ok(()),
    }
}

fn sliced(dims: &[u64], slice: &[AxisSlice]) -> Vec<u64> {
    let mut dims = dims.to_vec();
    for part in slice {
        if let Some(extent) = usize::try_from(part.axis).ok().and_then(|axis| dims.get_mut(axis)) {
            *extent = part.len();
        }
    }
    dims
}

/// The shape of a low-rank update, as its form reads `W`.
fn delta(lora: &Lora<'_>) -> Vec<u64> {
    let skip = usize::from(lora.target.experts.is_some());
    let up = lora.up.dims().get(skip..).unwrap_or_default();
    let down = lora.down.dims().get(skip..).unwrap_or_default();
    let kernel = lora.mid.as_ref().map_or(down, |mid| mid.dims());
    match (lora.form, up, down) {
        (LoraForm::Matrix, [out, _], [_, input]) => vec![*out, *input],
        (LoraForm::Stacked, [experts, out, _], [_, _, input]) => vec![*experts, *out, *input],
        (LoraForm::Conv, [out, ..], [_, input, ..]) => {
            [&[*out, *input], kernel.get(2..).unwrap_or_default()].concat()
        }
        _ => Vec::new(),
    }
}

/// The shape of `W`, as a low-rank edit reads the addressed slice.
fn viewed(lora: &Lora<'_>, dims: &[u64]) -> Vec<u64> {
    match (lora.form, dims) {
        (LoraForm::Matrix, [rows, rest @ ..]) => {
            let columns = rest.iter().fold(1u64, |product, dim| product.saturating_mul(*dim));
            if lora.transposed { vec![columns, *rows] } else { vec![*rows, columns] }
        }
        (LoraForm::Stacked, &[experts, rows, columns]) if lora.transposed => vec![experts, columns, rows],
        _ => dims.to_vec(),
    }
}

fn record(adapter: &Adapter<'_>, target: &Target, base: &dyn Checkpoint) -> Result<BaseTensor, Error> {
    let names: Vec<String> = target.base_names().collect();
    let infos: Vec<&TensorInfo> = names.iter().filter_map(|name| base.tensors().get(name)).collect();
    let known = adapter.base.tensors.iter().find(|known| {
        known.component.is_none() && known.name == target.name && known.experts == target.experts
    });
    let first = infos.first().copied();
    let expected_shape = known.and_then(|known| known.shape.as_ref()).or(first.map(|info| &info.shape));
    let expected_dtype = known.and_then(|known| known.dtype).or(first.map(|info| info.dtype));
    let clash = |(name, info): (&String, &&TensorInfo)| {
        let fits = Some(&info.shape) == expected_shape && Some(info.dtype) == expected_dtype;
        let expected = || match (expected_dtype, expected_shape) {
            (Some(dtype), Some(shape)) => format!("{dtype} {shape}"),
            _ => "nothing".to_owned(),
        };
        (!fits).then(|| Clash { target: name.clone(), expected: expected(), found: describe(info) })
    };
    fail_on(names.iter().zip(&infos).filter_map(clash).collect())?;
    Ok(BaseTensor {
        component: None,
        name: target.name.clone(),
        experts: target.experts,
        dtype: expected_dtype,
        shape: expected_shape.cloned(),
        digests: Vec::new(),
        extra: known.map(|known| known.extra.clone()).unwrap_or_default(),
    })
}

/// Hashes every tensor of the entries; refuses digests that the adapter recorded otherwise.
fn digested(
    mut tensors: Vec<BaseTensor>,
    adapter: &Adapter<'_>,
    base: &dyn Checkpoint,
) -> Result<Vec<BaseTensor>, Error> {
    let target =
        |tensor: &BaseTensor| Target { experts: tensor.experts, ..Target::whole(tensor.name.clone()) };
    let names: Vec<Vec<String>> =
        tensors.iter().map(|tensor| target(tensor).base_names().collect()).collect();
    let flat: Vec<&String> = names.iter().flatten().collect();
    let mut digests = hash_all(&flat, base)?.into_iter();
    let mut clashes = Vec::new();
    for (tensor, names) in tensors.iter_mut().zip(&names) {
        tensor.digests = digests.by_ref().take(names.len()).collect();
        for (name, digest) in names.iter().zip(&tensor.digests) {
            let recorded = adapter.base.find(None, name).and_then(|(known, row)| known.digests.get(row));
            if let Some(recorded) = recorded.filter(|recorded| *recorded != digest) {
                let (expected, found) =
                    (format!("SHA-256 {}", hex(recorded)), format!("SHA-256 {}", hex(digest)));
                clashes.push(Clash { target: name.clone(), expected, found });
            }
        }
    }
    fail_on(clashes)?;
    Ok(tensors)
}

#[cfg(feature = "parallel")]
fn hash_all(names: &[&String], base: &dyn Checkpoint) -> Result<Vec<Digest>, Error> {
    use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
    names.par_iter().map(|name| hash(name, base)).collect()
}

#[cfg(not(feature = "parallel"))]
fn hash_all(names: &[&String], base: &dyn Checkpoint) -> Result<Vec<Digest>, Error> {
    names.iter().map(|name| hash(name, base)).collect()
}

fn hash(name: &str, base: &dyn Checkpoint) -> Result<Digest, Error> {
    base.read(name).map(|bytes| sha256(&bytes)).map_err(Error::Base)
}

fn describe(info: &TensorInfo) -> String {
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

/// The base tensor that a name most likely means: most trailing parts in common (two at least), then most leading bytes.
pub(crate) fn nearest<'n>(wanted: &str, names: impl Iterator<Item = &'n String>) -> Option<String> {
    let tail = |name: &str| wanted.rsplit('.').zip(name.rsplit('.')).take_while(|(a, b)| a == b).count();
    let head = |name: &str| wanted.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
    let scored = names.map(|name| ((tail(name), head(name)), name)).filter(|((tail, _), _)| *tail >= 2);
    scored.max_by_key(|(score, name)| (*score, std::cmp::Reverse(name.len()))).map(|(_, name)| name.clone())
}
