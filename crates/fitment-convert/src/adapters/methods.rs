//! Configs of bottleneck adapters and of LoRA: what of them decides the function, and what has no edit here.

use super::bottleneck::{FAMILIES, Family, Place, Reads};
use super::config::Reader;
use crate::error::one_line;
use fitment_core::model::Activation;
use serde_json::Value;

/// Which of the library's methods.
#[derive(Clone, Debug, Default)]
pub(super) enum Method {
    #[default]
    Reft,
    Bottleneck(BottleneckForm),
    Lora(LoraForm),
}

#[derive(Clone, Debug)]
pub(super) struct BottleneckForm {
    pub(super) family: &'static Family,
    pub(super) reads: Reads,
    pub(super) activation: Option<Activation>,
    /// `None` when each adapter learned its own.
    pub(super) scale: Option<f64>,
    /// Where the config says that adapters are.
    pub(super) stated: [(Place, &'static str, bool); 2],
}

#[derive(Clone, Debug)]
pub(super) struct LoraForm {
    pub(super) r: u64,
    pub(super) alpha: f64,
    /// Which thirds of a fused projection have a product: q, k, v.
    pub(super) fused: Vec<u64>,
    /// The model stores `[in, out]`.
    pub(super) transposed: bool,
    /// The last part of the name of a fused projection.
    pub(super) fused_module: Option<&'static str>,
}

/// What the config of a bottleneck adapter says, or what has no edit here.
pub(super) fn bottleneck(read: &mut Reader<'_>, model_type: &str) -> Result<BottleneckForm, String> {
    let Some(family) = FAMILIES.iter().find(|family| family.model_types.contains(&model_type)) else {
        let known: Vec<&str> = FAMILIES.iter().flat_map(|family| family.model_types).copied().collect();
        return Err(format!(
            "a bottleneck adapter of model_type {}: where it acts is known of {}",
            one_line(model_type),
            known.join(", ")
        ));
    };
    for (key, why) in [
        ("phm_layer", "products of stored matrices (Compacter, PHM) are no intervention"),
        ("use_gating", "a gate is no intervention"),
        ("ln_before", "a layer norm of the adapter's own is no intervention"),
        ("ln_after", "a layer norm of the adapter's own is no intervention"),
        ("cross_adapter", "where it acts is not known of any model"),
    ] {
        if read.flag(key) == Some(true) {
            return Err(format!("a bottleneck adapter with {key}: {why}"));
        }
    }
    for key in ["inv_adapter", "invertible_adapter"] {
        if read.get(key).is_some() {
            return Err(format!("a bottleneck adapter with {key}: an invertible adapter is no intervention"));
        }
    }
    let stated = [(Place::Attention, "mh_adapter"), (Place::Output, "output_adapter")]
        .map(|(place, key)| (place, key, read.flag(key).unwrap_or_default()));
    let scale = match read.get("scaling") {
        None => Some(1.0),
        Some(Value::String(word)) if word == "learned" => None,
        Some(Value::String(word)) if word == "channel" => {
            return Err("a bottleneck adapter with scaling \"channel\": a scale for each element is no scale of an intervention".to_owned());
        }
        Some(value) => {
            value.as_f64().or_else(|| read.breach("scaling", value, "a number, \"learned\" or \"channel\""))
        }
    };
    if read.get("non_linearity").is_none() {
        read.breach::<()>("non_linearity", &Value::Null, "an activation function");
    }
    Ok(BottleneckForm { family, reads: reads(read, family)?, activation: read.activation(), scale, stated })
}

/// By the table in [`super::bottleneck`].
fn reads(read: &mut Reader<'_>, family: &Family) -> Result<Reads, String> {
    let is_parallel = read.flag("is_parallel").unwrap_or_default();
    let before = read.flag("original_ln_before").unwrap_or_default() && !is_parallel;
    let after = read.flag("original_ln_after").unwrap_or(true);
    let residual = match read.get("residual_before_ln") {
        Some(Value::String(_)) if !is_parallel => {
            return Err("a bottleneck adapter with residual_before_ln \"post_add\": its residual is not that of the states it changes".to_owned());
        }
        Some(Value::String(_)) | None => true,
        Some(_) => read.flag("residual_before_ln").unwrap_or_default(),
    };
    match (before, after) {
        (false, true) => Ok(if is_parallel { Reads::Residual } else { Reads::States }),
        (false, false) => Err(
            "a bottleneck adapter with original_ln_after false: the model's own residual connection is left out"
                .to_owned(),
        ),
        // Either way once, in or behind the residual.
        (true, _) if family.norm.is_none() && residual == after => Ok(Reads::Sum),
        (true, false) if family.norm.is_some() && !residual => Ok(Reads::Sum),
        (true, true) if family.norm.is_some() && residual => Err(
            "a bottleneck adapter with original_ln_before (pfeiffer) on a model with layer norms behind the sums: it reads what the layer norm makes of the states that it changes"
                .to_owned(),
        ),
        (true, _) => Err(format!(
            "a bottleneck adapter with original_ln_before, original_ln_after {after}, residual_before_ln {residual}: the model's residual connection is doubled or left out"
        )),
    }
}

/// What the config of a LoRA says, or what has no edit here.
pub(super) fn lora(read: &mut Reader<'_>, model_type: &str) -> Result<LoraForm, String> {
    for (key, why) in [
        ("use_gating", "a gate changes with the input, no weight does"),
        ("use_dora", "the library's forward pass scales the bias too, and leaves alpha / r out of the norm"),
    ] {
        if read.flag(key) == Some(true) {
            return Err(format!("LoRA with {key}: {why}"));
        }
    }
    if let Some(key) = ["vera_d", "vera_b"].into_iter().find(|key| read.get(key).is_some()) {
        return Err(format!("VeRA ({key}): its matrices are shared by all layers"));
    }
    // The library's own defaults.
    let r = read.count("r").unwrap_or(8);
    let alpha = match read.get("alpha") {
        None => 8.0,
        Some(value) => value.as_f64().or_else(|| read.breach("alpha", value, "a number")).unwrap_or_default(),
    };
    if r == 0 {
        read.breach::<()>("r", &Value::from(0), "a rank of 1 or more");
    }
    let default = Value::from(vec!["q", "v"]);
    let names = read.get("attn_matrices").unwrap_or(&default).as_array().cloned().unwrap_or_default();
    let fused = ["q", "k", "v"]
        .iter()
        .zip(0..)
        .filter(|(name, _)| names.iter().any(|have| have.as_str() == Some(name)));
    Ok(LoraForm {
        r,
        alpha,
        fused: fused.map(|(_, third)| third).collect(),
        transposed: model_type == "gpt2",
        fused_module: match model_type {
            "gpt2" => Some("c_attn"),
            "deberta" => Some("in_proj"),
            _ => None,
        },
    })
}
