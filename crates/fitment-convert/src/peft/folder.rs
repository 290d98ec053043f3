//! Which adapter of a folder is meant, and its files: config, weights whole or in shards.

use super::rules;
use crate::error::Error;
use crate::files::Files;
use crate::several;
use crate::weights::{self, Weights};
use fitment_core::Finding;
use fitment_core::container::{Profile, read_header};
use fitment_core::json;
use fitment_core::limits::MAX_CONFIG_BYTES;
use fitment_core::tensor::Tensor;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

pub(super) const CONFIG: &str = "adapter_config.json";
pub(super) const WEIGHTS: &str = "adapter_model.safetensors";
pub(super) const INDEX: &str = "adapter_model.safetensors.index.json";
pub(super) const PICKLE: &str = "adapter_model.bin";
/// What a Fitment file calls the form of such weights.
pub(super) const TORCH: &str = "torch";

/// One adapter's files.
#[derive(Debug, Default)]
pub(super) struct Folder<'a> {
    /// Empty for the root, else the sub-folder with a slash behind it.
    pub(super) prefix: String,
    /// The sub-folders of other adapters beside it, empty for the root.
    pub(super) others: Vec<String>,
    pub(super) config: Option<&'a [u8]>,
    pub(super) index: Option<&'a [u8]>,
    /// `model_type` of the base, where its config lies beside.
    pub(super) model_type: Option<String>,
    pub(super) tensors: Vec<(String, Tensor<'a>)>,
    pub(super) metadata: BTreeMap<String, String>,
    /// Paths of the files that were read as weights.
    pub(super) weight_files: Vec<String>,
    /// They are torch files, not safetensors.
    pub(super) is_torch: bool,
    pub(super) findings: Vec<Finding>,
}

/// Whether there is anything of a PEFT adapter among the files.
pub(super) fn is_there(files: &Files<'_>) -> bool {
    !adapters(files).is_empty() || lone_weights(files).is_some_and(|(_, bytes)| has_lora_keys(bytes))
}

/// The sub-folders (with slash; empty for the root) that hold an adapter.
fn adapters(files: &Files<'_>) -> BTreeSet<String> {
    let folder = |path: &str| {
        let (folder, name) = path.rsplit_once('/').map_or(("", path), |(folder, name)| (folder, name));
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        (prefix, name.to_owned())
    };
    let is_adapter = |name: &str, bytes: &[u8]| match name {
        CONFIG => is_peft_config(bytes),
        WEIGHTS | INDEX | PICKLE => true,
        _ => false,
    };
    files
        .iter()
        .map(|(path, bytes)| (folder(path), bytes))
        .filter(|((_, name), b)| is_adapter(name, b))
        .map(|((f, _), _)| f)
        .collect()
}

/// AdapterHub's config has the same name and another schema.
fn is_peft_config(bytes: &[u8]) -> bool {
    match json::parse(bytes) {
        Ok(Value::Object(fields)) => {
            fields.contains_key("peft_type") || fields.contains_key("target_modules")
        }
        Ok(_) | Err(_) => false,
    }
}

/// A single safetensors file under whatever name.
fn lone_weights<'a>(files: &Files<'a>) -> Option<(String, &'a [u8])> {
    let (path, bytes) = files.iter().next().filter(|_| files.len() == 1)?;
    path.ends_with(".safetensors").then(|| (path.to_owned(), bytes))
}

fn has_lora_keys(bytes: &[u8]) -> bool {
    let lora = |name: &str| name.contains(".lora_A.") || name.contains(".lora_embedding_A");
    read_header(bytes, bytes.len() as u64, Profile::Foreign)
        .is_ok_and(|(container, _)| container.entries().iter().any(|entry| lora(&entry.name)))
}

/// Opens the adapter that is meant.
///
/// # Errors
/// [`Error::Ambiguous`] when the folder holds several and none is named, or not the one that is.
pub(super) fn open<'a>(files: &Files<'a>, adapter_name: Option<&str>) -> Result<Folder<'a>, Error> {
    let mut folders = adapters(files);
    let prefix = several::choose(&folders, adapter_name)?;
    folders.remove(&prefix);
    let mut folder = Folder { others: folders.into_iter().collect(), prefix, ..Folder::default() };
    let file = |name: &str| files.get(&format!("{}{name}", folder.prefix));
    (folder.config, folder.index) = (file(CONFIG), file(INDEX));
    let model = file("config.json").filter(|bytes| bytes.len() <= MAX_CONFIG_BYTES).map(json::parse);
    folder.model_type = model.and_then(|model| Some(model.ok()?.get("model_type")?.as_str()?.to_owned()));
    let whole = file(WEIGHTS).map(|bytes| (format!("{}{WEIGHTS}", folder.prefix), bytes));
    let pickle = file(PICKLE).map(|bytes| (format!("{}{PICKLE}", folder.prefix), bytes));
    if folder.config.is_none() {
        let message = "no adapter_config.json beside the weights";
        folder.findings.push(Finding::new(
            &rules::P_CONFIG_MISSING,
            format!("{}{CONFIG}", folder.prefix),
            message,
        ));
    }
    match (whole.or_else(|| lone_weights(files)), folder.index, pickle) {
        (Some((path, bytes)), ..) => {
            folder.index = None;
            read_file(&mut folder, &path, bytes);
        }
        (None, Some(index), _) => read_shards(&mut folder, files, index),
        (None, None, Some((path, bytes))) => read_torch(&mut folder, &path, bytes),
        (None, None, None) => {
            let message = "no adapter_model.safetensors beside the config";
            folder.findings.push(Finding::new(&rules::P_WEIGHTS_MISSING, folder.prefix.clone(), message));
        }
    }
    let tensors = folder.tensors.into_iter();
    folder.tensors = tensors.map(|(key, tensor)| (key, files.marked(tensor))).collect();
    Ok(folder)
}

fn read_shards<'a>(folder: &mut Folder<'a>, files: &Files<'a>, index: &'a [u8]) {
    let fault = |place: &str, message: String| Finding::new(&rules::P_WEIGHTS_FILE, place, message);
    let parsed = json::parse(index);
    let weight_map = parsed.as_ref().ok().and_then(|index| index.get("weight_map")?.as_object());
    let Some(weight_map) = weight_map else {
        let message = "the index has no map `weight_map` from keys to files".to_owned();
        folder.findings.push(fault(INDEX, message));
        return;
    };
    let shard = |(key, file): (&String, &Value)| Some((key.clone(), file.as_str()?.to_owned()));
    let Some(places) = weight_map.iter().map(shard).collect::<Option<BTreeMap<_, _>>>() else {
        folder.findings.push(fault(INDEX, "a file of `weight_map` is not a string".to_owned()));
        return;
    };
    for shard in places.values().collect::<BTreeSet<_>>() {
        let path = format!("{}{shard}", folder.prefix);
        match files.get(&path) {
            Some(bytes) => read_file(folder, &path, bytes),
            None => {
                folder.findings.push(fault(&path, "the index names this shard, it is not there".to_owned()))
            }
        }
    }
    let read: BTreeSet<&String> = folder.tensors.iter().map(|(key, _)| key).collect();
    let listed: BTreeSet<&String> = places.keys().collect();
    let differences: Vec<Finding> = read
        .symmetric_difference(&listed)
        .map(|key| fault(key, "the index and the shards disagree about this tensor".to_owned()))
        .collect();
    folder.findings.extend(differences);
}

/// Reads a torch file: as data, nothing in it is run.
fn read_torch<'a>(folder: &mut Folder<'a>, path: &str, bytes: &'a [u8]) {
    folder.weight_files.push(path.to_owned());
    folder.is_torch = true;
    let Weights { tensors, findings, .. } = weights::torch(path, bytes, &rules::P_WEIGHTS_FILE);
    folder.findings.extend(findings);
    folder.tensors.extend(tensors);
}

fn read_file<'a>(folder: &mut Folder<'a>, path: &str, bytes: &'a [u8]) {
    folder.weight_files.push(path.to_owned());
    let Weights { tensors, metadata, findings } = weights::safetensors(path, bytes, &rules::P_WEIGHTS_FILE);
    folder.findings.extend(findings);
    folder.metadata.extend(metadata);
    let known: BTreeSet<String> = folder.tensors.iter().map(|(key, _)| key.clone()).collect();
    for (key, tensor) in tensors {
        if known.contains(&key) {
            let message = format!("stands in {path} and in a file before it");
            folder.findings.push(Finding::new(&rules::P_WEIGHTS_FILE, &key, message));
            continue;
        }
        folder.tensors.push((key, tensor));
    }
}
