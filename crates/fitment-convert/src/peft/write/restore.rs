//! The files of an adapter that was read from PEFT, as they were.

use super::config::VERSION;
use super::singles::unloadable;
use crate::error::Error;
use crate::files::{Content, OutputFile};
use crate::loss::Loss;
use crate::pass::experts::below;
use crate::pass::permute::turned;
use crate::pass::stacks::count;
use crate::peft::config::{self, Config};
use crate::peft::contents::{self, Contents, Module};
use crate::peft::folder::{CONFIG, INDEX, PICKLE, TORCH, WEIGHTS};
use crate::peft::keys::{self, Part};
use crate::peft::parameters::{self, Columns, Today, reads_as_stored};
use crate::peft::{scale, tokens};
use crate::tying::is_bias_alias;
use crate::write::Written;
use fitment_core::Adapter;
use fitment_core::checkpoint::Checkpoint;
use fitment_core::json;
use fitment_core::model::{Add, Edit, Lora, NormOf, Set, Source};
use fitment_core::tensor::{Bytes, Tensor};
use fitment_torch::{Archive, Item};
use serde_json::Value;
use std::collections::BTreeMap;

/// What came of it.
pub(super) enum Restored<'a> {
    /// The source's own files.
    Same(Written<'a>),
    /// The adapter did not come from PEFT.
    NotPeft,
    /// It did, but is another since: why its config no longer holds.
    Changed(String),
}

/// Puts the source's files together again; factors of experts that were in another layout come in today's, with a config that says
/// so.
///
/// # Errors
/// [`Error::Ambiguous`] where only a base tells what today's layout of those is.
pub(super) fn restore<'a>(
    adapter: &Adapter<'a>,
    base: Option<&dyn Checkpoint>,
) -> Result<Restored<'a>, Error> {
    let Some(source) = adapter.source.as_ref().filter(|source| source.format == "peft") else {
        return Ok(Restored::NotPeft);
    };
    let today = Today::new(source, base.and_then(Checkpoint::config).or(Some(&adapter.base.config)));
    let change = today.change(adapter)?;
    Ok(match files(adapter, source, &today, (change.is_some(), base)) {
        Ok(files) => {
            let losses = change.map(|reason| Loss::ConfigRemade { reason }).into_iter().collect();
            Restored::Same(Written { files, losses })
        }
        Err(reason) => Restored::Changed(reason),
    })
}

fn files<'a>(
    adapter: &Adapter<'a>,
    source: &Source<'a>,
    today: &Today<'_, '_>,
    (is_changed, base): (bool, Option<&dyn Checkpoint>),
) -> Result<Vec<OutputFile<'a>>, String> {
    let is_config = |path: &str| path.rsplit('/').next() == Some(CONFIG);
    let file = source.files.iter().find(|file| is_config(&file.path)).ok_or("its config is not kept")?;
    let prefix = file.path.strip_suffix(CONFIG).unwrap_or_default();
    let config = config::parse(file.data.bytes()).config.ok_or("its kept config cannot be read")?;
    let tensors = tensors(adapter, source, today, Some(&config))?;
    check_scales(adapter, &config, &tensors)?;
    if !config.says_lora_bias && tensors.keys().any(|key| keys::parse(key).part == Part::LoraBias) {
        return Err("it does not say lora_bias, without which PEFT drops the biases of factors".to_owned());
    }
    check_experts(adapter, &config, base)?;
    let dated = is_changed.then(|| dated(file.data.bytes())).transpose()?;
    let content = |own: &Tensor<'a>, path: &str| match &dated {
        Some(text) if path == file.path => Content::Bytes(Bytes::Shared(text.clone().into_bytes().into())),
        _ => plain(own),
    };
    let mut files: Vec<OutputFile<'a>> = source
        .files
        .iter()
        .map(|file| OutputFile { path: file.path.clone(), content: content(&file.data, &file.path) })
        .collect();
    let index_path = format!("{prefix}{INDEX}");
    let index = source.files.iter().find(|file| file.path == index_path).map(|file| file.data.bytes());
    if source.weights.as_deref() == Some(TORCH) {
        let items: Vec<Item<'a>> = tensors.into_iter().map(|(key, tensor)| Item::new(key, tensor)).collect();
        let stem = PICKLE.trim_end_matches(".bin");
        let archive = Archive::new(stem, &items).map_err(|error| error.to_string())?;
        files.push(OutputFile { path: format!("{prefix}{PICKLE}"), content: Content::Torch(archive) });
        return Ok(files);
    }
    for (name, tensors) in shards(index, tensors)? {
        let content = Content::Container { metadata: source.metadata.clone(), tensors };
        files.push(OutputFile { path: format!("{prefix}{name}"), content });
    }
    Ok(files)
}

/// Whether PEFT on transformers 5 loads the modules of single experts as the config has them.
fn check_experts(
    adapter: &Adapter<'_>,
    config: &Config,
    base: Option<&dyn Checkpoint>,
) -> Result<(), String> {
    let module = |edit: &Edit<'_>| {
        let Edit::Lora(lora) = edit else { return None };
        let key = lora.origin.keys.get("up")?;
        Some((keys::parse(key).module.to_string(), (lora.rank(), lora.scale)))
    };
    // PEFT takes 8 where there is no alpha.
    let said = (config.rank, config.alpha.unwrap_or(8.0) / config.rank as f64);
    let modules = adapter.edits.iter().filter_map(module).collect();
    let experts = |bundle: &str| count(bundle, base, &adapter.base.config);
    let reason = if config.use_dora { None } else { unloadable(&modules, said, experts) };
    reason.map_or(Ok(()), |reason| Err(reason.to_owned()))
}

/// A config with today's version.
fn dated(config: &[u8]) -> Result<String, String> {
    let mut config = json::parse(config).map_err(|fault| format!("its kept config: {fault}"))?;
    let fields = config.as_object_mut().ok_or("its kept config is no object")?;
    if fields.get("peft_version").and_then(Value::as_str) != Some(VERSION) {
        fields.insert("peft_version".to_owned(), VERSION.into());
    }
    serde_json::to_string_pretty(&config).map_err(|error| error.to_string())
}

/// The tensors under the keys that they had, if the config that is made of them gives the scales of the edits.
pub(in crate::peft) fn state_tensors<'a>(
    adapter: &Adapter<'a>,
    source: &Source<'a>,
    config_of: impl Fn(&[(String, Tensor<'a>)]) -> Option<Config>,
) -> Result<Vec<(String, Tensor<'a>)>, String> {
    let today = Today::new(source, Some(&adapter.base.config));
    let tensors = tensors(adapter, source, &today, None)?;
    let listed: Vec<(String, Tensor<'a>)> =
        tensors.iter().map(|(key, tensor)| (key.clone(), tensor.clone())).collect();
    let config = config_of(&listed).ok_or("no config fits its tensors")?;
    check_scales(adapter, &config, &tensors)?;
    Ok(listed)
}

fn plain<'a>(data: &Tensor<'a>) -> Content<'a> {
    Content::Bytes(data.data().clone())
}

type Tensors<'a> = BTreeMap<String, Tensor<'a>>;

/// Every tensor under its key in the source, in the source's orientation and order of rows, but for factors of experts.
fn tensors<'a>(
    adapter: &Adapter<'a>,
    source: &Source<'a>,
    today: &Today<'_, '_>,
    config: Option<&Config>,
) -> Result<Tensors<'a>, String> {
    let mut tensors = Tensors::new();
    let mut put = |key: &str, tensor: Tensor<'a>| match tensors.insert(key.to_owned(), tensor.clone()) {
        Some(other) if other.bytes() != tensor.bytes() || other.shape() != tensor.shape() => {
            Err(format!("two edits differ in what stood under {key}"))
        }
        Some(_) | None => Ok(()),
    };
    for (keys, factors) in on_parameters(adapter, today)? {
        keys.into_iter().zip(factors).try_for_each(|(key, tensor)| put(&key, tensor))?;
    }
    for edit in adapter.edits.iter().filter(|edit| !is_bias_of_base(edit)) {
        unchanged_kind(edit)?;
        if is_of_experts(edit) {
            continue;
        }
        for (role, tensor) in edit.tensors().into_iter().filter(|(role, _)| *role != "rows") {
            let label = edit.target().map(|target| target.label()).unwrap_or_default();
            let no_key = || match edit.origin().keys.is_empty() {
                true => format!("{label} is not from its files"),
                false => format!("{label} has no key for {role}"),
            };
            let key = edit.origin().keys.get(role).ok_or_else(no_key)?;
            put(
                key,
                as_stored(edit, key, tensor, config)
                    .ok_or_else(|| format!("{label} no longer fits {key}"))?,
            )?;
        }
    }
    for kept in &source.kept {
        put(&kept.key, kept.value.clone())?;
    }
    Ok(tensors)
}

/// Reading took the base's bias along for a head that comes untied; in PEFT it never leaves its place.
fn is_bias_of_base(edit: &Edit<'_>) -> bool {
    let Edit::Set(set) = edit else { return false };
    set.create && set.origin.keys.is_empty() && is_bias_alias(set.target.name.as_str())
}

fn is_of_experts(edit: &Edit<'_>) -> bool {
    matches!(edit, Edit::Lora(lora) if lora.has_expert_axis())
}

/// Keys and tensors of `lora_A` and `lora_B`.
type Pair<'a> = ([String; 2], [Tensor<'a>; 2]);

/// The factors on parameters, each from the edits that it was taken apart into, in today's layout.
fn on_parameters<'a>(adapter: &Adapter<'a>, today: &Today<'_, '_>) -> Result<Vec<Pair<'a>>, String> {
    let mut pieces = BTreeMap::<[String; 2], Vec<&Lora<'a>>>::new();
    for edit in &adapter.edits {
        let Edit::Lora(lora) = edit else { continue };
        if !lora.has_expert_axis() {
            continue;
        }
        let key = |part: &Part| lora.origin.keys.values().find(|key| keys::parse(key).part == *part).cloned();
        let pair = key(&Part::LoraA).zip(key(&Part::LoraB));
        let (a, b) = pair.ok_or_else(|| format!("{} has no keys of PEFT", lora.target.label()))?;
        pieces.entry([a, b]).or_default().push(lora);
    }
    let pair = |(keys, pieces): ([String; 2], Vec<&Lora<'a>>)| {
        let factors = together(&pieces, today);
        let factors = factors.ok_or_else(|| format!("its experts no longer fit {}", keys[0]))?;
        Ok((keys, factors))
    };
    pieces.into_iter().map(pair).collect()
}

/// `lora_A` and `lora_B` of the pieces of one parameter.
fn together<'a>(pieces: &[&Lora<'a>], today: &Today<'_, '_>) -> Option<[Tensor<'a>; 2]> {
    let first = pieces.first()?;
    let same = |lora: &&Lora<'a>| {
        let (own, down) = (&lora.down, &first.down);
        let is_same =
            own.shape() == down.shape() && own.dtype() == down.dtype() && own.bytes() == down.bytes();
        is_same && reads_as_stored(lora) == reads_as_stored(first)
    };
    let ups: Vec<&Tensor<'a>> = pieces.iter().map(|lora| &lora.up).collect();
    let up = below(&ups).filter(|_| pieces.iter().all(same))?;
    let (a, b) = match today.reads_inputs(first)? {
        true => (first.down.clone(), up),
        false => (turned(&up)?, turned(&first.down)?),
    };
    let (a, b) = parameters::flat(&a, &b, Columns::RankMajor)?;
    Some([a, b])
}

/// PEFT computes with the norm of the merged weight, and knows no removals or exceptions.
fn unchanged_kind(edit: &Edit<'_>) -> Result<(), String> {
    let foreign = match edit {
        Edit::Lora(Lora { mid, magnitude, .. }) => {
            let other_norm =
                |m: &fitment_core::model::Magnitude<'_>| m.norm_of != NormOf::Merged || m.eps != 0.0;
            mid.is_some() || magnitude.as_ref().is_some_and(other_norm)
        }
        Edit::Add(Add { exceptions, .. }) => exceptions.is_some(),
        Edit::Remove(_) | Edit::Intervention(_) | Edit::SparseSet(_) | Edit::SparseAdd(_) | Edit::Bits(_) => {
            true
        }
        Edit::Set(_) | Edit::Config(_) => false,
    };
    let when = edit.target().is_some_and(|target| target.when.is_some());
    if foreign || when { Err(format!("it holds a {} that PEFT does not make", edit.kind())) } else { Ok(()) }
}

fn as_stored<'a>(
    edit: &Edit<'a>,
    key: &str,
    tensor: &Tensor<'a>,
    config: Option<&Config>,
) -> Option<Tensor<'a>> {
    let parsed = keys::parse(key);
    match (&parsed.part, edit) {
        (Part::EmbeddingA | Part::EmbeddingB, _) => tensor.transposed(),
        (Part::TokenRows, Edit::Set(Set { rows: Some(rows), .. })) => {
            let indices = tokens::indices_of(config?, &parsed.module)?;
            let (_, numbers) = tokens::ascending(indices, tensor)?;
            (numbers.bytes() == rows.bytes()).then(|| tokens::as_listed(indices, tensor))?
        }
        (Part::TokenRows, _) => None,
        _ => Some(tensor.clone()),
    }
}

/// The scales that PEFT will compute from config and shapes must be those of the edits.
fn check_scales(adapter: &Adapter<'_>, config: &Config, tensors: &Tensors<'_>) -> Result<(), String> {
    let listed: Vec<(String, Tensor<'_>)> = tensors.iter().map(|(key, t)| (key.clone(), t.clone())).collect();
    let mut contents: Contents<'_> = contents::sort(&listed).contents;
    parameters::assign(&mut contents, config).map_err(|fault| fault.to_string())?;
    let scaled = scale::find(config, &contents).map_err(|fault| fault.to_string())?;
    let of_module = |(path, module): (&String, &Module<'_>)| {
        let scale = scaled.scales.get(path).map(|scale| scale.scale);
        module.entries().map(|entry| (entry.key.clone(), scale)).collect::<Vec<_>>()
    };
    let scales: BTreeMap<String, Option<f64>> = contents.modules.iter().flat_map(of_module).collect();
    for edit in &adapter.edits {
        let (role, found) = match edit {
            Edit::Lora(lora) => ("up", lora.scale),
            Edit::Add(add) => ("value", add.scale),
            Edit::Set(_)
            | Edit::Remove(_)
            | Edit::Config(_)
            | Edit::Intervention(_)
            | Edit::SparseSet(_)
            | Edit::SparseAdd(_)
            | Edit::Bits(_) => continue,
        };
        let key = edit.origin().keys.get(role).map(String::as_str).unwrap_or_default();
        let module = keys::parse(key).module;
        let expected = scales.get(key).copied().flatten();
        if expected.map(f64::to_bits) != Some(found.to_bits()) {
            return Err(format!(
                "the scale of {module} is {found}, its config says {}",
                expected.unwrap_or(f64::NAN)
            ));
        }
        let has_magnitude = matches!(edit, Edit::Lora(lora) if lora.magnitude.is_some());
        if matches!(edit, Edit::Lora(_)) && has_magnitude != config.use_dora {
            return Err(format!("{module} and its config disagree about a magnitude"));
        }
    }
    Ok(())
}

/// Tensors by the file that they stand in.
type Shards<'a> = BTreeMap<String, Vec<(String, Tensor<'a>)>>;

/// The weight files: one, or those that a kept index names.
fn shards<'a>(index: Option<&[u8]>, tensors: Tensors<'a>) -> Result<Shards<'a>, String> {
    let Some(index) = index else {
        return Ok(Shards::from([(WEIGHTS.to_owned(), tensors.into_iter().collect())]));
    };
    let index = json::parse(index).map_err(|fault| format!("its kept index: {fault}"))?;
    let mut shards = Shards::new();
    for (key, tensor) in tensors {
        let place = index.get("weight_map").and_then(|map| map.get(&key)?.as_str());
        let place = place.filter(|path| crate::files::is_safe_path(path));
        let place = place.ok_or_else(|| format!("its kept index has no file for {key}"))?;
        shards.entry(place.to_owned()).or_default().push((key, tensor));
    }
    Ok(shards)
}
