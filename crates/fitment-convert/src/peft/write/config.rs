//! The `adapter_config.json` of an adapter that did not come from PEFT.

use super::draft::{Draft, Kind};
use crate::peft::pattern::escaped;
use crate::write::{Preset, WriteOptions};
use fitment_core::Adapter;
use fitment_core::checkpoint::Checkpoint;
use fitment_core::model::Edit;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The version whose rules the config follows.
pub(super) const VERSION: &str = "0.21.2";

/// What PEFT takes for a target of an adapter without any.
const NO_TARGETS: &str = "dummy-target-modules";

/// The config as PEFT writes it: sorted keys, two spaces.
pub(super) fn text(adapter: &Adapter<'_>, draft: &Draft<'_>, options: &WriteOptions<'_>) -> String {
    let fields = fields(adapter, draft, options);
    let sorted: Map<String, Value> = fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    serde_json::to_string_pretty(&sorted).expect("plain JSON values serialise")
}

fn fields(
    adapter: &Adapter<'_>,
    draft: &Draft<'_>,
    options: &WriteOptions<'_>,
) -> BTreeMap<&'static str, Value> {
    // PEFT on transformers 5 stacks single experts by these two, whatever the patterns say.
    let of_experts = draft.experts.map(|adapted| (adapted.rank, adapted.alpha));
    let rank = most_common(draft.adapted().map(|(_, adapted)| adapted.rank)).unwrap_or(8);
    let alpha =
        most_common(draft.adapted().map(|(_, adapted)| adapted.alpha.to_bits())).map_or(8.0, f64::from_bits);
    let (rank, alpha) = of_experts.unwrap_or((rank, alpha));
    let exact = |module: &String| format!("^{}", escaped(module));
    let patterns = |of: &dyn Fn(&super::draft::Adapted) -> Option<Value>| -> Value {
        let entry = |(module, adapted)| Some((exact(module), of(adapted)?));
        Value::Object(draft.adapted().filter_map(entry).collect())
    };
    let linear = |kind: Kind| matches!(kind, Kind::Linear | Kind::Conv1d);
    let mut kinds =
        draft.modules.values().map(|adapted| adapted.kind).filter(|kind| linear(*kind)).peekable();
    let conv1d =
        kinds.peek().is_some() && draft.parameters.is_empty() && kinds.all(|kind| kind == Kind::Conv1d);
    BTreeMap::from([
        ("alpha_pattern", patterns(&|adapted| (adapted.alpha != alpha).then(|| number(adapted.alpha)))),
        ("base_model_name_or_path", json!(adapter.base.name)),
        ("bias", json!(bias(draft))),
        ("fan_in_fan_out", json!(conv1d)),
        ("inference_mode", json!(true)),
        ("init_lora_weights", json!(true)),
        ("lora_alpha", number(alpha)),
        ("lora_bias", json!(!draft.biased.is_empty())),
        ("lora_dropout", json!(0.0)),
        ("modules_to_save", if draft.saved.is_empty() { Value::Null } else { json!(draft.saved) }),
        ("peft_type", json!("LORA")),
        ("peft_version", json!(VERSION)),
        ("r", json!(rank)),
        ("rank_pattern", patterns(&|adapted| (adapted.rank != rank).then(|| json!(adapted.rank)))),
        ("revision", json!(adapter.base.revision)),
        (
            "target_modules",
            match options.preset {
                Some(Preset::Servable) => listed(draft, options.base),
                None => targets(draft, options.base),
            },
        ),
        (
            "target_parameters",
            match draft.parameters.is_empty() {
                true => Value::Null,
                false => json!(draft.parameters.keys().collect::<Vec<_>>()),
            },
        ),
        ("task_type", json!(task_type(adapter))),
        ("trainable_token_indices", if draft.tokens.is_empty() { Value::Null } else { json!(draft.tokens) }),
        ("use_dora", json!(draft.tensors.keys().any(|key| key.ends_with(".lora_magnitude_vector")))),
        ("use_rslora", json!(false)),
    ])
}

/// Full paths; as one pattern where a path is also the end of another module's.
fn targets(draft: &Draft<'_>, base: Option<&dyn Checkpoint>) -> Value {
    if draft.modules.is_empty() {
        // An empty list keeps PEFT from targets of its own choice.
        return if draft.parameters.is_empty() { json!(NO_TARGETS) } else { json!([]) };
    }
    let is_tail = |name: &String| {
        let module = name.rsplit_once('.').map_or(name.as_str(), |(module, _)| module);
        let tails = module.match_indices('.').map(|(at, _)| &module[at + 1..]);
        !draft.modules.contains_key(module) && tails.into_iter().any(|tail| draft.modules.contains_key(tail))
    };
    if base.is_some_and(|base| base.tensors().keys().any(is_tail)) {
        let paths: Vec<String> = draft.modules.keys().map(|module| escaped(module)).collect();
        return json!(paths.join("|"));
    }
    json!(draft.modules.keys().collect::<Vec<_>>())
}

/// A list, which all servers take: the last parts of the paths, or the paths where those would name other modules too.
fn listed(draft: &Draft<'_>, base: Option<&dyn Checkpoint>) -> Value {
    let last = |module: &str| module.rsplit('.').next().unwrap_or_default().to_owned();
    let mut counts = BTreeMap::<String, usize>::new();
    for module in draft.modules.keys() {
        *counts.entry(last(module)).or_default() += 1;
    }
    let name_no_other = match base {
        Some(base) => {
            let modules = base.tensors().keys().filter_map(|name| name.strip_suffix(".weight"));
            let mut named = modules.filter(|module| counts.contains_key(&last(module)));
            named.all(|module| draft.modules.contains_key(module))
        }
        // As many of each kind: those of all layers.
        None => counts.values().all(|count| Some(count) == counts.values().next()),
    };
    if name_no_other {
        json!(counts.keys().collect::<Vec<_>>())
    } else {
        json!(draft.modules.keys().collect::<Vec<_>>())
    }
}

fn bias(draft: &Draft<'_>) -> &'static str {
    if draft.bias_only.is_empty() {
        "none"
    } else if draft.bias_only.iter().all(|module| draft.modules.contains_key(module)) {
        "lora_only"
    } else {
        "all"
    }
}

/// The task of the base's class; none where the adapter brings a head that this class lacks.
fn task_type(adapter: &Adapter<'_>) -> Option<&'static str> {
    const TASKS: &[(&str, &str)] = &[
        ("ForCausalLM", "CAUSAL_LM"),
        ("LMHeadModel", "CAUSAL_LM"),
        ("ForSequenceClassification", "SEQ_CLS"),
        ("ForTokenClassification", "TOKEN_CLS"),
        ("ForQuestionAnswering", "QUESTION_ANS"),
    ];
    let creates = adapter.edits.iter().any(|edit| matches!(edit, Edit::Set(set) if set.create));
    let architecture = adapter.base.architecture.as_deref().filter(|_| !creates)?;
    TASKS.iter().find(|(end, _)| architecture.ends_with(end)).map(|(_, task)| *task)
}

/// Whole numbers without a point, as PEFT's users write alpha.
fn number(value: f64) -> Value {
    let whole = value as i64;
    if whole as f64 == value && whole.unsigned_abs() < 1 << 53 { json!(whole) } else { json!(value) }
}

fn most_common<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut counts = BTreeMap::new();
    for value in values {
        *counts.entry(value).or_insert(0usize) += 1;
    }
    counts
        .into_iter()
        .max_by_key(|(value, count)| (*count, std::cmp::Reverse(*value)))
        .map(|(value, _)| value)
}
