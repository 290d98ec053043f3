//! Weights and config of one adapter, with every breach.

use super::names::Place;
use super::rules;
use crate::error::Error;
use crate::files::Files;
use crate::lora_keys::{beyond_plain, is_torchtunes};
use crate::pairs::{self, Pair, Role, Spelling};
use crate::{several, weights, yaml};
use fitment_core::finding::Rule;
use fitment_core::{Finding, json};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

pub(super) const CONFIG: &str = "adapter_config.json";
pub(super) const MODEL_CONFIG: &str = "config.json";
/// All that a training was told, which lies in its output folder: the adapter's own, or the one above.
pub(super) const TRAINING: &str = "torchtune_config.yaml";
const WEIGHTS: &str = "adapter_model.pt";
/// What PEFT reads where it is beside: the same adapter, in PEFT's form.
const OF_PEFT: &[&str] =
    &["adapter_model.safetensors", "adapter_model.bin", "adapter_model.safetensors.index.json"];

/// How its keys are spelled.
pub(super) const SPELLING: Spelling = Spelling {
    parts: &[(".lora_a.weight", Role::A), (".lora_b.weight", Role::B), (".magnitude", Role::Magnitude)],
    key: &rules::U_KEY,
    unit: &rules::U_UNIT,
    value: &rules::U_VALUE,
};

/// One module, by torchtune's path.
#[derive(Clone, Debug)]
pub(super) struct Unit<'a> {
    pub(super) module: String,
    pub(super) pair: Pair<'a>,
}

/// One adapter.
#[derive(Debug, Default)]
pub(super) struct Folder<'a> {
    /// Empty for the root, else the sub-folder with a slash behind it.
    pub(super) prefix: String,
    /// The sub-folders of other adapters, empty for the root.
    pub(super) others: Vec<String>,
    /// The weight file below the prefix.
    pub(super) weights: String,
    pub(super) alpha: Option<f64>,
    /// By the config.
    rank: Option<u64>,
    pub(super) base_name: Option<String>,
    /// The base's own config, as torchtune copies it.
    pub(super) model: Option<Map<String, Value>>,
    pub(super) units: BTreeMap<Place, Unit<'a>>,
    pub(super) findings: Vec<Finding>,
}

/// Whether there is an adapter in this form that is not in PEFT's beside it as torchtune writes that: of another PEFT's files nothing says
/// that they are the same adapter.
pub(super) fn is_there(files: &Files<'_>) -> bool {
    let of_peft =
        |prefix: &String| OF_PEFT.iter().any(|name| files.get(&format!("{prefix}{name}")).is_some());
    let is_own = |prefix: &String| {
        let config = files.get(&format!("{prefix}{CONFIG}")).map(json::parse);
        !matches!(config, Some(Ok(Value::Object(config))) if !is_torchtunes(&config))
    };
    adapters(files).iter().any(|prefix| !of_peft(prefix) || !is_own(prefix))
}

fn is_weights(name: &str) -> bool {
    let number = || name.strip_prefix("adapter_")?.strip_suffix(".pt");
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    name == WEIGHTS || number().is_some_and(is_number)
}

/// Folder, with a slash behind it, and name of a path.
fn split(path: &str) -> (&str, &str) {
    path.rfind('/').map_or(("", path), |at| path.split_at(at + 1))
}

/// The sub-folders (with slash; empty for the root) that hold an adapter.
fn adapters(files: &Files<'_>) -> BTreeSet<String> {
    let paths = files.iter().map(|(path, _)| split(path));
    paths.filter(|(_, name)| is_weights(name)).map(|(folder, _)| folder.to_owned()).collect()
}

/// Opens the adapter that is meant.
///
/// # Errors
/// [`Error::Ambiguous`] when there are several folders and none is named, or not the one that is.
pub(super) fn open<'a>(files: &Files<'a>, adapter_name: Option<&str>) -> Result<Folder<'a>, Error> {
    let mut folders = adapters(files);
    let prefix = several::choose(&folders, adapter_name)?;
    folders.remove(&prefix);
    let mut folder = Folder { others: folders.into_iter().collect(), prefix, ..Folder::default() };
    let lone = files.iter().next().filter(|_| files.len() == 1).map(|(path, _)| path);
    let of_folder = |path: &&str| split(path).0 == folder.prefix && is_weights(split(path).1);
    let found: Vec<&str> = files.iter().map(|(path, _)| path).filter(of_folder).collect();
    let found = if found.is_empty() { lone.into_iter().collect() } else { found };
    if let Some(bytes) = files.get(&format!("{}{CONFIG}", folder.prefix)) {
        folder.read_config(bytes);
    }
    let training = [format!("{}{TRAINING}", folder.prefix), TRAINING.to_owned()];
    if let Some((path, bytes)) = training.iter().find_map(|path| Some((path, files.get(path)?))) {
        folder.read_training(path, bytes);
    }
    let model = files.get(&format!("{}{MODEL_CONFIG}", folder.prefix)).map(json::parse);
    folder.model = model.and_then(|parsed| match parsed {
        Ok(Value::Object(fields)) => Some(fields),
        _ => None,
    });
    match found[..] {
        [path] => {
            folder.weights = path.strip_prefix(&*folder.prefix).unwrap_or(path).to_owned();
            folder.read_weights(path, files.get(path).unwrap_or_default());
        }
        [] => folder.report(&rules::U_WEIGHTS_MISSING, WEIGHTS, "there is none"),
        [first, second, ..] => {
            folder.report(&rules::U_WEIGHTS_MISSING, second, format!("is there beside {first}"));
        }
    }
    Ok(folder)
}

impl<'a> Folder<'a> {
    fn report(&mut self, rule: &Rule, place: &str, message: impl Into<String>) {
        self.findings.push(Finding::new(rule, place, message));
    }

    fn read_config(&mut self, bytes: &[u8]) {
        let fields = match json::parse(bytes) {
            Ok(Value::Object(fields)) => fields,
            Ok(_) => return self.report(&rules::U_CONFIG, CONFIG, "is no JSON object"),
            Err(fault) => return self.report(&rules::U_CONFIG, CONFIG, fault.to_string()),
        };
        self.base_name = fields.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_owned);
        match fields.get("lora_alpha").and_then(Value::as_f64).filter(|alpha| alpha.is_finite()) {
            Some(alpha) => self.alpha = Some(alpha),
            None => self.report(&rules::U_CONFIG, "lora_alpha", "is no number, or missing"),
        }
        match fields.get("r").and_then(Value::as_u64) {
            Some(rank) => self.rank = Some(rank),
            None => self.report(&rules::U_CONFIG, "r", "is no whole number, or missing"),
        }
        self.findings.extend(self.alpha.and_then(zero));
        self.findings.extend(beyond_plain(&fields, &[], [&rules::U_VARIANT, &rules::U_CONFIG_KEY]));
    }

    /// The config of the training says the same under the model's arguments, and says it where torchtune writes no PEFT config.
    fn read_training(&mut self, path: &str, bytes: &[u8]) {
        let fields = match yaml::parse(bytes) {
            Ok(fields) => fields,
            Err(_) if self.alpha.is_some() => return,
            Err(reason) => return self.report(&rules::U_CONFIG, path, reason),
        };
        let said = |key: &str| fields.get("model")?.get(key);
        let alpha = said("lora_alpha").and_then(Value::as_f64).filter(|alpha| alpha.is_finite());
        match (self.alpha, alpha) {
            (None, Some(alpha)) => {
                self.alpha = Some(alpha);
                self.findings.extend(zero(alpha));
            }
            (Some(own), Some(alpha)) if own.to_bits() != alpha.to_bits() => {
                let message = format!("is {own} in {CONFIG}, {alpha} in {path}");
                self.report(&rules::U_CONFIG, "lora_alpha", message);
            }
            _ => {}
        }
        self.rank = self.rank.or(said("lora_rank").and_then(Value::as_u64));
    }

    fn read_weights(&mut self, path: &str, bytes: &'a [u8]) {
        let read = weights::torch(path, bytes, &rules::U_WEIGHTS_FILE);
        self.findings.extend(read.findings);
        let (pairs, found) = pairs::sort(read.tensors, &SPELLING);
        self.findings.extend(found);
        for (module, pair) in pairs {
            match Place::of(&module) {
                Some(place) => drop(self.units.insert(place, Unit { module, pair })),
                None => self.report(&rules::U_UNSUPPORTED, &module, "is none of them"),
            }
        }
        let mut found = Vec::new();
        let first = self.units.values().find_map(|unit| unit.pair.factors()?.1.dims().get(1).copied());
        for unit in self.units.values() {
            found.extend(faults(unit, first.unwrap_or_default()));
        }
        if let (Some(told), Some(rank)) = (self.rank, first.filter(|rank| self.rank != Some(*rank))) {
            found.push(Finding::new(
                &rules::U_CONFIG,
                "r",
                format!("the config says {told}, the tensors have {rank}"),
            ));
        }
        self.findings.extend(found);
        // The magnitudes say DoRA, and torchtune's own config does not.
        if self.units.values().any(|unit| unit.pair.magnitude.is_some()) {
            let says_dora =
                |finding: &Finding| finding.code == rules::U_VARIANT.code && finding.place == "use_dora";
            self.findings.retain(|finding| !says_dora(finding));
        }
    }
}

/// What is to be said of alpha.
pub(super) fn zero(alpha: f64) -> Option<Finding> {
    (alpha == 0.0).then(|| Finding::new(&rules::U_ALPHA_ZERO, "lora_alpha", "is 0"))
}

/// What is wrong with the tensors of a module.
fn faults(unit: &Unit<'_>, rank: u64) -> Vec<Finding> {
    let module = &unit.module;
    let Some((a, b)) = unit.pair.factors() else { return Vec::new() };
    let out = match (a.dims(), b.dims()) {
        (&[rows, input], &[out, columns]) if rows == rank && columns == rank && rank > 0 && input > 0 => out,
        _ => 0,
    };
    let mut findings = Vec::new();
    if out == 0 {
        let message = format!(
            "lora_a is {}, lora_b {}: [{rank}, in] and [out, {rank}] are asked for",
            a.shape(),
            b.shape()
        );
        findings.push(Finding::new(&rules::U_SHAPE, module, message));
    }
    if let Some(magnitude) = unit.pair.magnitude.as_ref().filter(|magnitude| magnitude.dims() != [out]) {
        let message = format!("magnitude is {}, lora_b {}: [out] is asked for", magnitude.shape(), b.shape());
        findings.push(Finding::new(&rules::U_SHAPE, module, message));
    }
    findings
}
