//! Config and tensors of one adapter, with every breach.

use super::experts::{is_of_experts, spot, stacked_a, whole};
use super::rules;
use crate::error::Error;
use crate::files::Files;
use crate::tying::{is_head_module, is_vocabulary_module};
use crate::{several, weights};
use fitment_core::finding::Rule;
use fitment_core::limits::MAX_EXPERTS;
use fitment_core::tensor::{Dtype, Tensor};
use fitment_core::{Finding, Severity, json};
use fitment_math::not_finite;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

pub(super) const CONFIG: &str = "adapter_config.json";
pub(super) const WEIGHTS: &str = "adapters.safetensors";
/// What mlx-lm wrote until 2024.
const OLD_WEIGHTS: &str = "adapters.npz";

/// `fine_tune_type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    Lora,
    Dora,
    Full,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Lora => "lora",
            Kind::Dora => "dora",
            Kind::Full => "full",
        }
    }
}

/// What the config says that matters.
#[derive(Clone, Debug, Default)]
pub(super) struct Config {
    pub(super) kind: Kind,
    pub(super) scale: f64,
    pub(super) rank: Option<u64>,
    pub(super) model: Option<String>,
}

/// The tensors of one module.
#[derive(Clone, Debug, Default)]
pub(super) struct Unit<'a> {
    pub(super) a: Option<Tensor<'a>>,
    pub(super) b: Option<Tensor<'a>>,
    pub(super) m: Option<Tensor<'a>>,
}

/// One adapter.
#[derive(Debug, Default)]
pub(super) struct Folder<'a> {
    /// Empty for the root, else the sub-folder with a slash behind it.
    pub(super) prefix: String,
    /// The sub-folders of other adapters, empty for the root.
    pub(super) others: Vec<String>,
    pub(super) config: Config,
    pub(super) units: BTreeMap<String, Unit<'a>>,
    /// Of `full`.
    pub(super) whole: BTreeMap<String, Tensor<'a>>,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) findings: Vec<Finding>,
}

/// Whether there is anything of this tool among the files.
pub(super) fn is_there(files: &Files<'_>) -> bool {
    !adapters(files).is_empty()
}

/// Whether a module is an embedding, by its name.
pub(super) fn is_embedding(module: &str) -> bool {
    is_vocabulary_module(module) && !is_head_module(module)
}

/// The sub-folders (with slash; empty for the root) that hold an adapter.
fn adapters(files: &Files<'_>) -> BTreeSet<String> {
    let folder = |path: &str| path.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
    let is_adapter = |path: &str, bytes: &[u8]| match path.rsplit('/').next() {
        Some(CONFIG) => is_config(bytes),
        Some(WEIGHTS) => !fitment_core::is_fitment(bytes, bytes.len() as u64),
        Some(OLD_WEIGHTS) => true,
        _ => false,
    };
    files.iter().filter(|(path, bytes)| is_adapter(path, bytes)).map(|(path, _)| folder(path)).collect()
}

/// PEFT's and AdapterHub's configs have the same name and other schemas.
fn is_config(bytes: &[u8]) -> bool {
    let Ok(Value::Object(fields)) = json::parse(bytes) else { return false };
    !fields.contains_key("peft_type")
        && (fields.contains_key("fine_tune_type") || fields.contains_key("lora_parameters"))
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
    let path = |name: &str| format!("{}{name}", folder.prefix);
    let (config, weights, old) = (path(CONFIG), path(WEIGHTS), path(OLD_WEIGHTS));
    match files.get(&config) {
        Some(bytes) => folder.read_config(bytes),
        None => folder.report(&rules::X_CONFIG_MISSING, &config, "there is no adapter_config.json"),
    }
    match files.get(&weights) {
        Some(bytes) => folder.read_weights(&weights, bytes),
        None if files.get(&old).is_some() => {
            folder.report(&rules::X_UNSUPPORTED, &old, "is of an mlx-lm of 2024 or before");
        }
        None => folder.report(&rules::X_WEIGHTS_MISSING, &weights, "there is no adapters.safetensors"),
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
            Ok(_) => return self.report(&rules::X_CONFIG, CONFIG, "is no JSON object"),
            Err(fault) => return self.report(&rules::X_CONFIG, CONFIG, fault.to_string()),
        };
        self.config.model = fields.get("model").and_then(Value::as_str).map(str::to_owned);
        self.config.kind = match fields.get("fine_tune_type").map(|kind| (kind, kind.as_str())) {
            None | Some((_, Some("lora"))) => Kind::Lora,
            Some((_, Some("dora"))) => Kind::Dora,
            Some((_, Some("full"))) => Kind::Full,
            Some((other, _)) => {
                return self.report(&rules::X_CONFIG, "fine_tune_type", format!("it is {other}"));
            }
        };
        if self.config.kind == Kind::Full {
            return;
        }
        let Some(Value::Object(parameters)) = fields.get("lora_parameters") else {
            return self.report(&rules::X_CONFIG, "lora_parameters", "there are none");
        };
        self.read_parameters(parameters);
    }

    fn read_parameters(&mut self, parameters: &Map<String, Value>) {
        if parameters.contains_key("alpha") {
            let message =
                "alpha beside scale: mlx-lm of 2024 multiplied by alpha / rank as well, newer ones do not";
            self.report(&rules::X_UNSUPPORTED, "lora_parameters.alpha", message);
        }
        match parameters.get("scale").and_then(Value::as_f64).filter(|scale| scale.is_finite()) {
            Some(scale) => {
                self.config.scale = scale;
                if scale == 0.0 {
                    self.report(&rules::X_SCALE_ZERO, "lora_parameters.scale", "is 0");
                }
            }
            None => self.report(&rules::X_CONFIG, "lora_parameters.scale", "is no number, or missing"),
        }
        match parameters.get("rank").map(Value::as_u64) {
            Some(Some(0)) => self.report(&rules::X_CONFIG, "lora_parameters.rank", "is 0"),
            Some(Some(rank)) => self.config.rank = Some(rank),
            Some(None) => self.report(&rules::X_CONFIG, "lora_parameters.rank", "is no whole number above 0"),
            None => {}
        }
    }

    fn read_weights(&mut self, path: &str, bytes: &'a [u8]) {
        let read = weights::safetensors(path, bytes, &rules::X_WEIGHTS_FILE);
        self.findings.extend(read.findings);
        self.metadata = read.metadata;
        if self.findings.iter().any(|finding| finding.severity == Severity::Error) {
            return;
        }
        for (key, tensor) in read.tensors {
            self.check_values(&key, &tensor);
            self.sort(key, tensor);
        }
        self.check_units();
    }

    fn sort(&mut self, key: String, tensor: Tensor<'a>) {
        if self.config.kind == Kind::Full {
            if key.ends_with(".lora_a") || key.ends_with(".lora_b") {
                let message = "is a factor of LoRA, and `fine_tune_type` says that these are whole weights";
                return self.report(&rules::X_KEY, &key, message);
            }
            if whole(&key, &tensor)
                .is_some_and(|(_, [experts, ..])| experts > MAX_EXPERTS || tensor.elements() == 0)
            {
                let message = format!("it is {}: 1 to {MAX_EXPERTS} experts are asked for", tensor.shape());
                return self.report(&rules::X_SHAPE, &key, message);
            }
            self.whole.insert(key, tensor);
            return;
        }
        let Some((module, part)) = key.rsplit_once('.') else {
            return self.report(&rules::X_KEY, &key, "is of no module");
        };
        let is_known = matches!(part, "lora_a" | "lora_b") || (part == "m" && self.config.kind == Kind::Dora);
        if !is_known {
            let kind = self.config.kind.name();
            return self.report(&rules::X_KEY, &key, format!("is no tensor of {kind}"));
        }
        let unit = self.units.entry(module.to_owned()).or_default();
        match part {
            "lora_a" => unit.a = Some(tensor),
            "lora_b" => unit.b = Some(tensor),
            _ => unit.m = Some(tensor),
        }
    }

    fn check_values(&mut self, key: &str, tensor: &Tensor<'_>) {
        if !matches!(tensor.dtype(), Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            self.report(&rules::X_VALUE, key, format!("its elements are {}", tensor.dtype()));
        } else if let Some(at) = not_finite::first(tensor.dtype(), tensor.bytes()) {
            self.report(&rules::X_VALUE, key, format!("element {at} is NaN or infinite"));
        }
    }

    fn check_units(&mut self) {
        let mut found = Vec::new();
        for (module, unit) in &self.units {
            found.extend(unit_faults(module, unit, &self.config));
        }
        if self.units.is_empty() && self.whole.is_empty() {
            found.push(Finding::new(&rules::X_UNIT, "", "the file holds nothing"));
        }
        self.findings.extend(found);
    }
}

/// What is wrong with the tensors of a module.
fn unit_faults(module: &str, unit: &Unit<'_>, config: &Config) -> Vec<Finding> {
    let is_dora = config.kind == Kind::Dora;
    let missing = |part: &str| Finding::new(&rules::X_UNIT, format!("{module}.{part}"), "is missing");
    let (Some(a), Some(b)) = (&unit.a, &unit.b) else {
        return vec![missing(if unit.a.is_none() { "lora_a" } else { "lora_b" })];
    };
    let unsupported = |message: &str| vec![Finding::new(&rules::X_UNSUPPORTED, module, message)];
    if is_of_experts(unit) {
        return expert_faults(module, unit, (a, b), config);
    }
    if is_dora && is_embedding(module) {
        return unsupported("is DoRA on an embedding, with a magnitude for each token");
    }
    let (&[_, rank], &[same, out]) = (a.dims(), b.dims()) else {
        let message = format!("lora_a is {}, lora_b {}: two axes each are asked for", a.shape(), b.shape());
        return vec![Finding::new(&rules::X_SHAPE, module, message)];
    };
    if rank != same || a.elements() == 0 || b.elements() == 0 {
        let message = format!("lora_a is {}, lora_b {}: their ranks differ, or are 0", a.shape(), b.shape());
        return vec![Finding::new(&rules::X_SHAPE, module, message)];
    }
    let mut findings = Vec::new();
    match &unit.m {
        None if is_dora => findings.push(missing("m")),
        Some(m) if m.dims() != [out] => {
            let message = format!("m is {}, lora_b {}: [out] is asked for", m.shape(), b.shape());
            findings.push(Finding::new(&rules::X_SHAPE, module, message));
        }
        _ => {}
    }
    findings.extend(other_rank(module, rank, config));
    findings
}

fn other_rank(module: &str, rank: u64, config: &Config) -> Option<Finding> {
    let told = config.rank.filter(|told| *told != rank)?;
    let message = format!("the config says {told}, {module} has {rank}");
    Some(Finding::new(&rules::X_RANK, "lora_parameters.rank", message))
}

/// The same of a module of experts.
fn expert_faults(
    module: &str,
    unit: &Unit<'_>,
    (a, b): (&Tensor<'_>, &Tensor<'_>),
    config: &Config,
) -> Vec<Finding> {
    let report = |rule: &Rule, message: String| vec![Finding::new(rule, module, message)];
    if spot(module).is_none() {
        return report(
            &rules::X_UNSUPPORTED,
            "is LoRA on stacked experts that are not called switch_mlp".to_owned(),
        );
    }
    if config.kind == Kind::Dora || unit.m.is_some() {
        return report(&rules::X_UNSUPPORTED, "is DoRA on stacked experts, which mlx-lm has not".to_owned());
    }
    let (Some(stack), false) = (stacked_a(a, b), a.elements() == 0 || b.elements() == 0) else {
        let message = format!(
            "lora_a is {}, lora_b {}: [E, r, in] and [E, out, r] are asked for",
            a.shape(),
            b.shape()
        );
        return report(&rules::X_SHAPE, message);
    };
    if stack.dims().first().is_some_and(|experts| *experts > MAX_EXPERTS) {
        return report(&rules::X_SHAPE, format!("it is of more than {MAX_EXPERTS} experts"));
    }
    let mut findings = Vec::new();
    if a.dims().len() == 2 {
        let message = format!("lora_a is {}, as mlx-lm stored it before October 2025", a.shape());
        findings.push(Finding::new(&rules::X_OLD_EXPERTS, format!("{module}.lora_a"), message));
    }
    findings.extend(other_rank(module, stack.dims().get(1).copied().unwrap_or(0), config));
    findings
}
