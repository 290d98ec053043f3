use super::form::{Form, STACKED};
use serde_json::Value;

/// Something that a PEFT folder may have and that servers differ on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// Another method than LoRA.
    OtherMethod,
    /// A field of the config that says something.
    Field(&'static str),
    /// `bias` other than `none`.
    Biases,
    /// Whole modules, other than these.
    SavedModules(&'static [&'static str]),
    /// `init_lora_weights` as a text other than these, in lower case.
    Init(&'static [&'static str]),
    /// `target_modules` as a pattern, other than `all-linear`.
    PatternTargets,
    /// `use_rslora` where it changes the scale: a rank other than 1.
    RsLora,
    /// Factors of an embedding.
    Embeddings,
    /// Factors of the output head.
    Head,
    /// Factors of all experts in one tensor, or of a parameter (`target_parameters`).
    StackedExperts,
    /// The same in another layout than PEFT has from 0.19.1 on.
    OtherExperts,
    /// Factors with more than two axes: convolutions.
    Convolutions,
    /// Tensors beside `lora_A` and `lora_B`, those of whole modules and of embeddings left aside.
    OtherTensors,
    /// A rank above this.
    RankAbove(u64),
    /// A rank above what the server takes by default, and the settings there are.
    RankSetting(u64, &'static [u64]),
    /// A module of another rank than the config's `r`.
    RanksDiffer,
}

impl Fact {
    /// The place in the folder and what stands there; `None` where the adapter has no such thing.
    pub(super) fn of(self, form: &Form) -> Option<(String, String)> {
        let config = |what: String| Some(("adapter_config.json".to_owned(), what));
        match self {
            Self::OtherMethod => {
                let method = form.said("peft_type").filter(|value| value.as_str() != Some("LORA"))?;
                config(format!("peft_type{}", brief(method)))
            }
            Self::Field(field) => {
                let value = form.said(field)?;
                config(format!("{field}{}", brief(value)))
            }
            Self::Biases => {
                let value = form.said("bias").filter(|value| value.as_str() != Some("none"))?;
                config(format!("bias{}", brief(value)))
            }
            Self::SavedModules(allowed) => {
                let names = form.said("modules_to_save")?.as_array()?;
                let other = |name: &&Value| name.as_str().is_none_or(|name| !allowed.contains(&name));
                let others: Vec<&str> = names.iter().filter(other).filter_map(Value::as_str).collect();
                let first = others.first()?;
                let key = format!(".{first}.");
                let place = form.tensors.iter().find(|(name, _)| name.contains(&key));
                let what = format!("whole modules ({})", others.join(", "));
                Some((place.map_or("adapter_config.json", |(name, _)| name).to_owned(), what))
            }
            Self::Init(allowed) => {
                let init = form.said("init_lora_weights")?.as_str()?;
                let is_other = !allowed.contains(&init.to_ascii_lowercase().as_str());
                is_other.then_some(())?;
                config(format!("init_lora_weights {init:?}"))
            }
            Self::PatternTargets => {
                let targets = form.said("target_modules")?.as_str()?;
                (targets != "all-linear").then_some(())?;
                config("target_modules as a pattern".to_owned())
            }
            Self::RsLora => {
                form.said("use_rslora")?;
                form.ranks().find(|(_, rank)| *rank != 1)?;
                config("use_rslora".to_owned())
            }
            Self::RankAbove(limit) => {
                let (key, rank) = largest(form).filter(|(_, rank)| *rank > limit)?;
                Some((key, format!("rank {rank}")))
            }
            Self::RankSetting(default, settings) => {
                let (key, rank) = largest(form).filter(|(_, rank)| *rank > default)?;
                let setting = settings.iter().find(|setting| **setting >= rank)?;
                Some((key, format!("rank {rank} (--max-lora-rank {setting})")))
            }
            Self::RanksDiffer => {
                let said = form.config.get("r").and_then(Value::as_u64)?;
                let (key, rank) = form.ranks().find(|(_, rank)| *rank != said)?;
                Some((key.to_owned(), format!("rank {rank} beside r {said}")))
            }
            Self::Embeddings => {
                at(form, "factors of an embedding", |key, _| key.ends_with(".lora_embedding_A"))
            }
            Self::Head => at(form, "factors of the head", |key, _| {
                module(key).is_some_and(|module| module.ends_with("lm_head") || module.ends_with("embed_out"))
            }),
            Self::StackedExperts => at(form, "factors of all experts in one tensor", is_stacked),
            Self::OtherExperts if !form.has_other_experts => None,
            Self::OtherExperts => at(form, "factors of experts in the layout of an older PEFT", is_stacked),
            Self::Convolutions => {
                at(form, "factors of a convolution", |key, dims| module(key).is_some() && dims.len() > 2)
            }
            Self::OtherTensors if Self::OtherMethod.of(form).is_some() => None,
            Self::OtherTensors => at(form, "a tensor beside the factors", |key, _| !is_expected(form, key)),
        }
    }
}

fn is_stacked(key: &str, _: &[u64]) -> bool {
    STACKED.iter().any(|end| key.ends_with(end))
}

/// The module of a factor's key, with PEFT's prefix; `None` for other tensors.
fn module(key: &str) -> Option<&str> {
    const ENDS: [&str; 4] = [".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B"];
    ENDS.iter().find_map(|end| key.strip_suffix(end))
}

/// Factors, and what the config says itself: there are rules of their own for that.
fn is_expected(form: &Form, key: &str) -> bool {
    let saved = form.said("modules_to_save").and_then(Value::as_array).into_iter().flatten();
    let mut saved = saved.filter_map(Value::as_str);
    let has_biases = form.said("lora_bias").is_some()
        || form.said("bias").is_some_and(|value| value.as_str() != Some("none"));
    // Copies of the base, which loaders pass over.
    let copies = [".embed_tokens.base_layer.weight", ".lm_head.base_layer.weight"];
    module(key).is_some()
        || copies.iter().any(|copy| key.ends_with(copy))
        || (key.ends_with(".bias") && has_biases)
        || (key.ends_with(".lora_magnitude_vector") && form.said("use_dora").is_some())
        || saved.any(|name| key.contains(&format!(".{name}.")))
}

fn at(form: &Form, what: &str, is: impl Fn(&str, &[u64]) -> bool) -> Option<(String, String)> {
    let mut found = form.tensors.iter().filter(|(key, dims)| is(key, dims)).map(|(key, _)| key);
    let first = found.next()?;
    let more = match found.count() {
        0 => String::new(),
        count => format!(" (and {count} more)"),
    };
    Some((first.clone(), format!("{what}{more}")))
}

fn largest(form: &Form) -> Option<(String, u64)> {
    // The first of several.
    let by_rank = |(_, a): &(&str, u64), (_, b): &(&str, u64)| a.cmp(b);
    let mut ranks: Vec<(&str, u64)> = form.ranks().collect();
    ranks.reverse();
    ranks.into_iter().max_by(by_rank).map(|(key, rank)| (key.to_owned(), rank))
}

/// A value behind its field's name: texts and numbers whole, longer ones by what they are.
fn brief(value: &Value) -> String {
    match value {
        Value::Bool(_) => String::new(),
        Value::Array(list) => format!(" of {} entries", list.len()),
        Value::Object(map) => format!(" of {} entries", map.len()),
        other => format!(" {other}"),
    }
}
