//! Whether a loader of the base would find a PEFT adapter's tensors, which it looks for by name and passes over in silence.

use crate::base::common_end;
use crate::rules;
use fitment_convert::tying::is_head_module;
use fitment_core::checkpoint::Checkpoint;
use fitment_core::finding::Finding;
use fitment_core::model::{Adapter, Edit, Lora};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

const PREFIX: &str = "base_model.model.";

/// Tasks whose classes have a head, so that the names of the model behind it begin with a prefix.
const TASKS_WITH_HEAD: &[&str] = &["CAUSAL_LM", "SEQ_2_SEQ_LM", "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"];

/// Words by which multimodal classes call the language model inside them.
const INNER_MODELS: &[&str] = &["language_model", "text_model", "thinker"];

/// One finding for each reason for which keys are not found, with the first of them.
pub(crate) fn not_loaded(adapter: &Adapter<'_>, base: Option<&dyn Checkpoint>) -> Vec<Finding> {
    let config = config(adapter);
    let task = config.as_ref().and_then(|config| config.get("task_type")?.as_str());
    let mut found: BTreeMap<Reason, (&str, String, usize)> = BTreeMap::new();
    for edit in &adapter.edits {
        let Edit::Lora(lora) = edit else { continue };
        let Some(key) = lora.origin.keys.values().next() else { continue };
        if let Some((reason, message)) = reason(lora, key, task, base) {
            found.entry(reason).or_insert_with(|| (key, message, 0)).2 += 1;
        }
    }
    let finding = |(key, message, count): (&str, String, usize)| {
        let more = if count > 1 { format!(" (so are {} more modules)", count - 1) } else { String::new() };
        Finding::new(&rules::B_NAMES, key, message + &more)
    };
    found.into_values().map(finding).collect()
}

/// What keeps a key from being found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    NoPrefix,
    AdapterName(String),
    /// The prefixes of key and base, and why they differ.
    OtherClass(String, String, &'static str),
}

fn reason(
    lora: &Lora<'_>,
    key: &str,
    task: Option<&str>,
    base: Option<&dyn Checkpoint>,
) -> Option<(Reason, String)> {
    let Some(rest) = key.strip_prefix(PREFIX) else {
        let message = format!("without {PREFIX:?} before it the key is passed over by PEFT and by servers");
        return Some((Reason::NoPrefix, message));
    };
    let (module, part) = rest.split_once(".lora_")?;
    if let Some(name) = left_name(part).filter(|name| *name != "default") {
        let message =
            format!("with {name:?} in it the key is found only by a loader that gives the adapter this name");
        return Some((Reason::AdapterName(name.to_owned()), message));
    }
    // PEFT wraps the output projection of an attention module inside its wrapper.
    let module = module.replace(".base_layer", "");
    let target = lora.target.name.as_str();
    let disk =
        target.strip_suffix(".weight").or_else(|| target.strip_suffix(".in_proj_weight")).unwrap_or(target);
    let (ours, theirs, why) = other_class(&module, disk, task, base?)?;
    let reason = Reason::OtherClass(ours.to_owned(), theirs.to_owned(), why);
    Some((reason, format!("{why}: {module:?} is {disk:?} in the base, and passed over by its class")))
}

/// The adapter's name in `A.NAME.weight` or `embedding_A.NAME`.
fn left_name(part: &str) -> Option<&str> {
    let mut segments = part.split('.').skip(1).filter(|segment| !matches!(*segment, "weight" | "bias"));
    segments.next()
}

/// The two prefixes, and why the class that loads the base has no module of that name; `None` when it has, or may have.
fn other_class<'n>(
    module: &'n str,
    disk: &'n str,
    task: Option<&str>,
    base: &dyn Checkpoint,
) -> Option<(&'n str, &'n str, &'static str)> {
    let common = common_end(module, disk);
    let (ours, theirs) = (&module[..module.len() - common], &disk[..disk.len() - common]);
    let numbered = |prefix: &str| prefix.split('.').any(|part| part.parse::<u64>().is_ok());
    // Names that differ inside are those of another generation of the same class.
    if module == disk || numbered(ours) || numbered(theirs) {
        return None;
    }
    let is_inner = |prefix: &str| prefix.split('.').any(|part| INNER_MODELS.contains(&part));
    let why = match (is_inner(ours), is_inner(theirs)) {
        (true, false) if !is_multimodal(base) => {
            "the adapter was made on a multimodal class, the base is a language model alone"
        }
        // Multimodal classes have the head beside the inner model, as the language model alone has.
        (false, true) if is_head_module(module) => return None,
        (false, true) => "the adapter was made on the language model alone, the base is multimodal",
        (false, false) if ours.is_empty() && task.is_some_and(|task| TASKS_WITH_HEAD.contains(&task)) => {
            "the adapter was made on the bare model, its task_type is one of a class with a head"
        }
        _ => return None,
    };
    Some((ours, theirs, why))
}

fn is_multimodal(base: &dyn Checkpoint) -> bool {
    let in_config = |config: &Map<String, Value>| {
        ["vision_config", "audio_config", "video_config"].iter().any(|key| config.contains_key(*key))
    };
    let tower = |name: &String| {
        name.split('.')
            .any(|part| part == "visual" || part.starts_with("vision_") || part.starts_with("audio_"))
    };
    base.config().is_some_and(in_config) || base.tensors().keys().any(tower)
}

/// The carried config; strictly parsed when the adapter was read.
fn config(adapter: &Adapter<'_>) -> Option<Map<String, Value>> {
    let files = &adapter.source.as_ref()?.files;
    let name = |path: &str| path.rsplit('/').next() == Some("adapter_config.json");
    let file = files.iter().find(|file| name(&file.path))?;
    serde_json::from_slice(file.data.bytes()).ok()
}
