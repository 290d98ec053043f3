//! Weights and config of one adapter, with every breach.

use super::names::{Module, is_own, module};
use super::rules;
use crate::error::Error;
use crate::files::Files;
use crate::lora_keys::beyond_plain;
use crate::pairs::{self, Pair, Role, Spelling};
use crate::{several, weights};
use fitment_core::container::{Profile, read_header};
use fitment_core::finding::Rule;
use fitment_core::{Finding, json};
use serde_json::Value;
use std::collections::BTreeMap;

pub(super) const CONFIG: &str = "adapter_config.json";
pub(super) const WEIGHTS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";

/// How its keys are spelled, but for the prefix.
pub(super) const SPELLING: Spelling = Spelling {
    parts: &[(".lora_A.weight", Role::A), (".lora_B.weight", Role::B)],
    key: &rules::K_KEY,
    unit: &rules::K_UNIT,
    value: &rules::K_VALUE,
};

/// One adapter.
#[derive(Debug, Default)]
pub(super) struct Folder<'a> {
    /// Empty for the root, else the sub-folder with a slash behind it.
    pub(super) prefix: String,
    /// The sub-folders of other adapters, empty for the root.
    pub(super) others: Vec<String>,
    pub(super) rank: Option<u64>,
    pub(super) alpha: Option<f64>,
    pub(super) base_name: Option<String>,
    /// By Tinker's path of the module, without the prefix.
    pub(super) pairs: BTreeMap<String, Pair<'a>>,
    pub(super) findings: Vec<Finding>,
}

/// Whether there is an adapter with names of Tinker's own.
pub(super) fn is_there(files: &Files<'_>) -> bool {
    let has_own = |bytes: &[u8]| {
        read_header(bytes, bytes.len() as u64, Profile::Foreign)
            .is_ok_and(|(container, _)| container.entries().iter().any(|entry| is_own(&entry.name)))
    };
    several::folders_with(files, WEIGHTS)
        .iter()
        .any(|folder| files.get(&format!("{folder}{WEIGHTS}")).is_some_and(has_own))
}

/// Opens the adapter that is meant.
///
/// # Errors
/// [`Error::Ambiguous`] when there are several and none is named, or not the one that is.
pub(super) fn open<'a>(files: &Files<'a>, adapter_name: Option<&str>) -> Result<Folder<'a>, Error> {
    let mut all = several::folders_with(files, WEIGHTS);
    let prefix = several::choose(&all, adapter_name)?;
    all.remove(&prefix);
    let mut folder = Folder { others: all.into_iter().collect(), prefix, ..Folder::default() };
    let file = |name: &str| files.get(&format!("{}{name}", folder.prefix));
    let (config, weights) = (file(CONFIG), file(WEIGHTS));
    match config {
        Some(bytes) => folder.read_config(bytes),
        None => folder.report(&rules::K_FILES, CONFIG, "is missing"),
    }
    match weights {
        Some(bytes) => folder.read_weights(bytes),
        None => folder.report(&rules::K_FILES, WEIGHTS, "is missing"),
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
            Ok(_) => return self.report(&rules::K_CONFIG, CONFIG, "is no JSON object"),
            Err(fault) => return self.report(&rules::K_CONFIG, CONFIG, fault.to_string()),
        };
        self.base_name = fields.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_owned);
        self.alpha = fields.get("lora_alpha").and_then(Value::as_f64).filter(|alpha| alpha.is_finite());
        self.rank = fields.get("r").and_then(Value::as_u64).filter(|rank| *rank > 0);
        if self.alpha.is_none() {
            self.report(&rules::K_CONFIG, "lora_alpha", "is no number, or missing");
        }
        if self.alpha == Some(0.0) {
            self.report(&rules::K_ALPHA_ZERO, "lora_alpha", "is 0");
        }
        if self.rank.is_none() {
            self.report(&rules::K_CONFIG, "r", "is no whole number above 0, or missing");
        }
        self.findings.extend(beyond_plain(&fields, &[], [&rules::K_VARIANT, &rules::K_CONFIG_KEY]));
    }

    fn read_weights(&mut self, bytes: &'a [u8]) {
        let read = weights::safetensors(WEIGHTS, bytes, &rules::K_WEIGHTS_FILE);
        self.findings.extend(read.findings);
        let mut tensors = Vec::with_capacity(read.tensors.len());
        for (key, tensor) in read.tensors {
            match key.strip_prefix(PREFIX) {
                Some(inner) => tensors.push((inner.to_owned(), tensor)),
                None => self.report(&rules::K_KEY, &key, "is none of them"),
            }
        }
        let (mut pairs, found) = pairs::sort(tensors, &SPELLING);
        self.findings.extend(found);
        // What a model lacks of its experts stands there empty.
        let is_empty =
            |pair: &Pair<'_>| pair.factors().is_some_and(|(a, b)| a.elements() + b.elements() == 0);
        pairs.retain(|path, pair| !(is_empty(pair) && path.contains(".experts.")));
        let found: Vec<Finding> =
            pairs.iter().filter_map(|(path, pair)| fault(path, pair, self.rank)).collect();
        self.findings.extend(found);
        self.findings.extend(twice(&pairs));
        self.pairs = pairs;
    }
}

/// Modules that two paths name, each by its own keys.
fn twice(pairs: &BTreeMap<String, Pair<'_>>) -> Vec<Finding> {
    let mut known: BTreeMap<Module, &str> = BTreeMap::new();
    let mut findings = Vec::new();
    for path in pairs.keys() {
        let Some(first) = module(path).and_then(|place| known.insert(place, path)) else { continue };
        let [first, second] = [first, path].map(|path| format!("{PREFIX}{}", SPELLING.key_of(path, Role::A)));
        findings.push(Finding::new(&rules::K_TWICE, second, format!("is of the same module as {first}")));
    }
    findings
}

/// What is wrong with the tensors of a module.
fn fault(path: &str, pair: &Pair<'_>, rank: Option<u64>) -> Option<Finding> {
    let (a, b) = pair.factors()?;
    let Some(place) = module(path) else {
        return Some(Finding::new(&rules::K_UNSUPPORTED, path, "is none of them"));
    };
    let fits = |ranks: (u64, u64), extents: (u64, u64)| {
        ranks.0 == ranks.1 && rank.is_none_or(|rank| rank == ranks.0) && extents.0 > 0 && extents.1 > 0
    };
    let is_sound = match (place, a.dims(), b.dims()) {
        (Module::Experts(..), &[first, r, input], &[second, out, same]) => {
            let of_all = first.max(second);
            let shared = first == second || first == 1 || second == 1;
            shared && of_all > 1 && first.min(second) > 0 && fits((r, same), (input, out))
        }
        (Module::Linear(_) | Module::Split(..), &[r, input], &[out, same]) => fits((r, same), (input, out)),
        _ => false,
    };
    let r = rank.map_or("r".to_owned(), |rank| rank.to_string());
    (!is_sound).then(|| {
        let message = format!("lora_A is {}, lora_B {}: r is {r}", a.shape(), b.shape());
        Finding::new(&rules::K_SHAPE, path, message)
    })
}
