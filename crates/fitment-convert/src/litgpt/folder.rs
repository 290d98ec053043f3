//! Weights and configs of one folder, with every breach.

use super::names::{FUSED, Family, Part, layer};
use super::rules;
use crate::error::Error;
use crate::files::Files;
use crate::lora_keys::beyond_plain;
use crate::model_config::Heads;
use crate::pairs::{self, Pair, Role, Spelling};
use crate::{several, weights, yaml};
use fitment_core::Finding;
use fitment_core::finding::Rule;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

pub(super) const WEIGHTS: &str = "lit_model.pth.lora";
pub(super) const TRAINING: &str = "hyperparameters.yaml";
pub(super) const MODEL: &str = "model_config.yaml";

/// Keys of [`TRAINING`] about LoRA that are litgpt's own.
const OWN_KEYS: &[&str] = &[
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_query",
    "lora_key",
    "lora_value",
    "lora_projection",
    "lora_mlp",
    "lora_head",
];

/// How its keys are spelled.
pub(super) const SPELLING: Spelling = Spelling {
    parts: &[(".lora_A", Role::A), (".lora_B", Role::B)],
    key: &rules::I_KEY,
    unit: &rules::I_UNIT,
    value: &rules::I_VALUE,
};

/// What the configs say that matters.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) rank: u64,
    pub(super) alpha: f64,
    /// Which of queries, keys and values are trained, in this order.
    pub(super) parts: Vec<Part>,
    pub(super) family: Family,
    pub(super) heads: Heads,
    /// The checkpoint that it was trained on.
    pub(super) base_name: Option<String>,
}

/// One folder.
#[derive(Debug, Default)]
pub(super) struct Folder<'a> {
    /// Empty for the root, else the sub-folder with a slash behind it.
    pub(super) prefix: String,
    /// The sub-folders of others, empty for the root.
    pub(super) others: Vec<String>,
    pub(super) said: Option<Said>,
    /// By litgpt's path of the module.
    pub(super) pairs: BTreeMap<String, Pair<'a>>,
    pub(super) findings: Vec<Finding>,
}

/// Whether there is anything of this tool among the files.
pub(super) fn is_there(files: &Files<'_>) -> bool {
    !several::folders_with(files, WEIGHTS).is_empty()
}

/// Opens the folder that is meant.
///
/// # Errors
/// [`Error::Ambiguous`] when there are several and none is named, or not the one that is.
pub(super) fn open<'a>(files: &Files<'a>, adapter_name: Option<&str>) -> Result<Folder<'a>, Error> {
    let mut all = several::folders_with(files, WEIGHTS);
    let prefix = several::choose(&all, adapter_name)?;
    all.remove(&prefix);
    let mut folder = Folder { others: all.into_iter().collect(), prefix, ..Folder::default() };
    let file = |name: &str| files.get(&format!("{}{name}", folder.prefix));
    let (weights, training, model) = (file(WEIGHTS), file(TRAINING), file(MODEL));
    let training = folder.config(TRAINING, training);
    let model = folder.config(MODEL, model);
    if let (Some(training), Some(model)) = (training, model) {
        folder.said = folder.say(&training, &model);
    }
    match weights {
        Some(bytes) => folder.read_weights(bytes),
        None => folder.report(&rules::I_FILES, WEIGHTS, "is missing"),
    }
    Ok(folder)
}

impl<'a> Folder<'a> {
    fn report(&mut self, rule: &Rule, place: &str, message: impl Into<String>) {
        self.findings.push(Finding::new(rule, place, message));
    }

    fn config(&mut self, name: &str, bytes: Option<&[u8]>) -> Option<Map<String, Value>> {
        let Some(bytes) = bytes else {
            self.report(&rules::I_FILES, name, "is missing");
            return None;
        };
        match yaml::parse(bytes) {
            Ok(Value::Object(fields)) => return Some(fields),
            Ok(_) => self.report(&rules::I_CONFIG, name, "is no map"),
            Err(reason) => self.report(&rules::I_CONFIG, name, reason),
        }
        None
    }

    fn say(&mut self, training: &Map<String, Value>, model: &Map<String, Value>) -> Option<Said> {
        let mut asked = Asked { findings: Vec::new() };
        let rank = asked.count(training, "lora_r");
        let alpha = asked.number(training, "lora_alpha");
        self.check_training(training);
        let flags = ["lora_query", "lora_key", "lora_value"].map(|flag| asked.flag(training, flag));
        let name = asked.text(model, "name");
        let mlp_class = asked.text(model, "mlp_class_name");
        let (queries, width) = (asked.count(model, "n_head"), asked.count(model, "n_embd"));
        // As litgpt fills in what a config leaves open.
        let count = |key: &str| model.get(key).and_then(Value::as_u64);
        let keys = count("n_query_groups").or(queries);
        let width = count("head_size").or_else(|| width?.checked_div(queries?));
        let heads =
            queries.zip(keys).zip(width).map(|((queries, keys), width)| Heads { queries, keys, width });
        if heads.is_some_and(|heads| heads.keys == 0 || !heads.queries.is_multiple_of(heads.keys)) {
            let message = "n_head is no multiple of it";
            asked.findings.push(Finding::new(&rules::I_CONFIG, "n_query_groups", message));
        }
        if model.get("latent_attention").is_some_and(|latent| !latent.is_null()) {
            let message = "the model has latent attention";
            asked.findings.push(Finding::new(&rules::I_UNSUPPORTED, "latent_attention", message));
        }
        let family = name.as_ref().zip(mlp_class.as_ref()).and_then(|(name, class)| {
            let family = Family::of(name, class);
            if family.is_none() {
                let message = format!("it is {}", crate::error::one_line(class));
                asked.findings.push(Finding::new(&rules::I_UNSUPPORTED, "mlp_class_name", message));
            }
            family
        });
        let is_sound = asked.findings.is_empty();
        self.findings.extend(asked.findings);
        let trained = Part::ALL.into_iter().zip(flags).filter(|(_, flag)| *flag == Some(true));
        let parts = trained.map(|(part, _)| part).collect();
        let base_name = training.get("checkpoint_dir").and_then(Value::as_str).map(str::to_owned);
        let said = Said { rank: rank?, alpha: alpha?, parts, family: family?, heads: heads?, base_name };
        is_sound.then_some(said)
    }

    /// Alpha 0, and what is not litgpt's own: of other keys than these of LoRA the file has many.
    fn check_training(&mut self, training: &Map<String, Value>) {
        if training.get("lora_alpha").and_then(Value::as_f64) == Some(0.0) {
            self.report(&rules::I_ALPHA_ZERO, "lora_alpha", "is 0");
        }
        let is_of_lora = |key: &str| {
            key.starts_with("lora_")
                || key.starts_with("use_")
                || matches!(key, "rank_pattern" | "alpha_pattern")
        };
        let of_lora = training.iter().filter(|(key, _)| is_of_lora(key));
        let of_lora: Map<String, Value> = of_lora.map(|(key, value)| (key.clone(), value.clone())).collect();
        self.findings.extend(beyond_plain(&of_lora, OWN_KEYS, [&rules::I_VARIANT, &rules::I_CONFIG_KEY]));
    }

    fn read_weights(&mut self, bytes: &'a [u8]) {
        let read = weights::torch_under(WEIGHTS, bytes, "model", &rules::I_WEIGHTS_FILE);
        self.findings.extend(read.findings);
        let (pairs, found) = pairs::sort(read.tensors, &SPELLING);
        self.findings.extend(found);
        let mut found = Vec::new();
        if let Some(said) = &self.said {
            found.extend(pairs.iter().flat_map(|(path, pair)| faults(path, pair, said)));
        }
        self.findings.extend(found);
        self.pairs = pairs;
    }
}

/// What is asked of a config's keys.
struct Asked {
    findings: Vec<Finding>,
}

impl Asked {
    fn value<T>(
        &mut self,
        fields: &Map<String, Value>,
        key: &str,
        (what, read): (&str, impl Fn(&Value) -> Option<T>),
    ) -> Option<T> {
        let value = fields.get(key).and_then(read);
        if value.is_none() {
            let message = format!("is no {what}, or missing");
            self.findings.push(Finding::new(&rules::I_CONFIG, key, message));
        }
        value
    }

    fn count(&mut self, fields: &Map<String, Value>, key: &str) -> Option<u64> {
        self.value(fields, key, ("whole number above 0", |value| value.as_u64().filter(|count| *count > 0)))
    }

    fn number(&mut self, fields: &Map<String, Value>, key: &str) -> Option<f64> {
        self.value(fields, key, ("number", |value| value.as_f64().filter(|number| number.is_finite())))
    }

    fn flag(&mut self, fields: &Map<String, Value>, key: &str) -> Option<bool> {
        self.value(fields, key, ("true or false", Value::as_bool))
    }

    fn text(&mut self, fields: &Map<String, Value>, key: &str) -> Option<String> {
        self.value(fields, key, ("text", |value| value.as_str().map(str::to_owned)))
    }
}

/// What is wrong with the tensors of a module.
fn faults(path: &str, pair: &Pair<'_>, said: &Said) -> Option<Finding> {
    let (a, b) = pair.factors()?;
    let is_fused = layer(path).is_some_and(|(_, rest)| rest == FUSED);
    if !is_fused && said.family.place(path, 1).is_none() {
        return Some(Finding::new(&rules::I_UNSUPPORTED, path, "is none of them"));
    }
    let (times, rows) = match is_fused {
        true => {
            let rows = said.parts.iter().map(|part| part.len(&said.heads));
            (said.parts.len() as u64, Some(rows.fold(0, u64::saturating_add)))
        }
        false => (1, None),
    };
    let wanted = said.rank.saturating_mul(times);
    let fits = matches!((a.dims(), b.dims()), (&[first, input], &[out, last])
        if first == wanted && last == said.rank && input > 0 && out > 0 && rows.is_none_or(|rows| rows == out));
    let rows = rows.map_or("out".to_owned(), |rows| rows.to_string());
    (!fits).then(|| {
        let message = format!(
            "lora_A is {}, lora_B {}: [{wanted}, in] and [{rows}, {}] are asked for",
            a.shape(),
            b.shape(),
            said.rank
        );
        Finding::new(&rules::I_SHAPE, path, message)
    })
}

#[cfg(test)]
mod tests {
    use super::{SPELLING, Said, faults, pairs, rules};
    use crate::litgpt::names::{Family, Part};
    use crate::model_config::Heads;
    use fitment_core::tensor::{Dtype, Tensor};
    use fitment_math::round::narrowed;

    fn zeros(dims: &[u64]) -> Tensor<'static> {
        narrowed(Dtype::F32, dims, &vec![0.0; dims.iter().product::<u64>() as usize]).unwrap()
    }

    #[test]
    fn the_fused_module_of_older_files_and_other_adapters_are_none() {
        let tensors = [
            ("transformer.h.0.attn.attn.lora_A", zeros(&[6, 4])),
            ("transformer.h.0.attn.attn.lora_B", zeros(&[12, 2])),
            ("transformer.h.0.attn.gating_factor", zeros(&[1])),
            ("transformer.h.1.attn.proj.lora_A", zeros(&[2, 4])),
        ];
        let tensors = tensors.into_iter().map(|(key, tensor)| (key.to_owned(), tensor)).collect();
        let (pairs, found) = pairs::sort(tensors, &SPELLING);
        let found: Vec<_> = found.iter().map(|finding| (finding.code, &*finding.place)).collect();
        assert_eq!(
            found,
            [
                (rules::I_KEY.code, "transformer.h.0.attn.gating_factor"),
                (rules::I_UNIT.code, "transformer.h.1.attn.proj.lora_B")
            ]
        );
        let said = Said {
            rank: 2,
            alpha: 1.0,
            parts: Part::ALL.to_vec(),
            family: Family::Llama,
            heads: Heads { queries: 2, keys: 2, width: 2 },
            base_name: None,
        };
        let (path, pair) = pairs.first_key_value().unwrap();
        assert_eq!(faults(path, pair, &said).unwrap().code, rules::I_UNSUPPORTED.code);
        assert_eq!(faults("transformer.h.0.attn.qkv", pair, &said), None);
    }
}
