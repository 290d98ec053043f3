//! The keys of a weight file: module path, and what of the module the tensor is.

/// What stands before the path of a module.
pub(super) const PREFIX: &str = "base_model.model.";

/// What PEFT's wrappers call the module inside them.
pub(super) const INNER: &str = "base_layer";

/// A key, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// Path of the module in the model's class, without PEFT's wrappers.
    pub(super) module: String,
    /// What the tensor is to the module.
    pub(super) part: Part,
    /// Whether the key begins with [`PREFIX`].
    pub(super) has_prefix: bool,
    /// An adapter's name that was left in the key.
    pub(super) adapter_name: Option<String>,
    /// The module is the output projection that PEFT wraps inside an attention module.
    pub(super) in_attention: bool,
    /// A wrapper of the training that was left in the key.
    pub(super) wrapper: Option<&'static str>,
}

/// What a tensor is to its module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    LoraA,
    LoraB,
    LoraBias,
    EmbeddingA,
    EmbeddingB,
    Magnitude,
    TokenRows,
    /// A whole parameter of the model; the name of the parameter, with the path inside the module.
    Whole(Whole, String),
    /// Of the value head that TRL puts beside the model.
    ValueHead,
    /// A tensor of a variant or method that is refused, by the part of the key that shows it.
    Foreign(String),
    /// Nothing that PEFT would load.
    Unknown,
}

/// Under which wrapper a whole parameter was saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Whole {
    /// None: the model's own parameter.
    Plain,
    /// `base_layer`: the parameter of a module that has a LoRA.
    BaseLayer,
    /// `token_adapter.base_layer`: that of a module with token rows.
    TokenBase,
    /// `modules_to_save`: that of a saved module, a second time.
    Saved,
    /// `original_module`: what a saved module replaces; PEFT never computes with it.
    Original,
}

/// Beginnings of parts that other variants and methods add.
const FOREIGN: &[&str] = &[
    "lora_E",
    "lora_diag",
    "lora_velora",
    "lora_monteclora",
    "lora_arrow",
    "ranknum",
    "hada_",
    "lokr_",
    "vera_",
    "pvera_",
    "vblora_",
    "unilora_",
    "randlora_",
    "fourierft_",
    "waveft_",
    "shira_",
    "supertuning_",
    "c3a_",
    "gralora_",
    "delora_",
    "miss_",
    "bone_",
    "beft_",
    "tinylora_",
    "ia3_",
    "oft_",
    "boft_",
    "hra_",
    "road_",
    "hira_",
    "glora_",
    "ln_tuning_",
    "osf_",
    "psoft_",
    "deft_",
    "peanut_",
    "frod_",
    "adamss_",
    "adaption_",
    "internal_xlora_",
];

/// What FSDP and activation checkpointing put around modules. PEFT does not look through them.
const WRAPPERS: &[&str] = &["_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// Takes a key apart. Every key has a reading; [`Part::Unknown`] is one of them.
pub(super) fn parse(key: &str) -> Key {
    let wrapper = WRAPPERS.iter().copied().find(|wrapper| key.split('.').any(|segment| segment == *wrapper));
    if wrapper.is_none() {
        return unwrapped(key);
    }
    let inner: Vec<&str> = key.split('.').filter(|segment| !WRAPPERS.contains(segment)).collect();
    Key { wrapper, ..unwrapped(&inner.join(".")) }
}

fn unwrapped(key: &str) -> Key {
    let (has_prefix, rest) = match key.strip_prefix(PREFIX) {
        Some(rest) => (true, rest),
        None => (false, key),
    };
    // torch.compile wraps the model in this; PEFT looks through it.
    let segments: Vec<&str> = rest.split('.').filter(|segment| *segment != "_orig_mod").collect();
    if segments.first() == Some(&"v_head") {
        return key_of(&segments, Part::ValueHead, has_prefix, None);
    }
    let foreign = segments.iter().find(|segment| FOREIGN.iter().any(|start| segment.starts_with(start)));
    if let Some(foreign) = foreign {
        return key_of(&segments, Part::Foreign((*foreign).to_owned()), has_prefix, None);
    }
    if segments.iter().any(|segment| segment.starts_with("lora_") && !MARKERS.contains(segment)) {
        return key_of(&segments, Part::Unknown, has_prefix, None);
    }
    let marker = segments.iter().rposition(|segment| MARKERS.contains(segment));
    let Some(at) = marker else {
        let (param, module) = segments.split_last().unwrap_or((&"", &[]));
        let part = match *param {
            "" => Part::Unknown,
            param => Part::Whole(Whole::Plain, param.to_owned()),
        };
        return key_of(module, part, has_prefix, None);
    };
    let (module, tail) = (&segments[..at], &segments[at + 1..]);
    let (part, name) = marked(segments[at], module.last().copied(), tail);
    let module = match part {
        Part::Whole(Whole::TokenBase, _) => &module[..module.len().saturating_sub(1)],
        _ => module,
    };
    key_of(module, part, has_prefix, name)
}

const MARKERS: &[&str] = &[
    "lora_A",
    "lora_B",
    "lora_embedding_A",
    "lora_embedding_B",
    "lora_magnitude_vector",
    "token_adapter",
    "base_layer",
    "modules_to_save",
    "original_module",
];

fn marked(marker: &str, parent: Option<&str>, tail: &[&str]) -> (Part, Option<String>) {
    let whole = |whole: Whole, path: &[&str]| match path {
        [] => Part::Unknown,
        path => Part::Whole(whole, path.join(".")),
    };
    match (marker, tail) {
        ("lora_A", ["weight"]) => (Part::LoraA, None),
        ("lora_A", [name, "weight"]) => (Part::LoraA, Some((*name).to_owned())),
        ("lora_B", ["weight"]) => (Part::LoraB, None),
        ("lora_B", ["bias"]) => (Part::LoraBias, None),
        ("lora_B", [name, "weight"]) => (Part::LoraB, Some((*name).to_owned())),
        ("lora_B", [name, "bias"]) => (Part::LoraBias, Some((*name).to_owned())),
        ("lora_embedding_A", []) => (Part::EmbeddingA, None),
        ("lora_embedding_A", [name]) => (Part::EmbeddingA, Some((*name).to_owned())),
        ("lora_embedding_B", []) => (Part::EmbeddingB, None),
        ("lora_embedding_B", [name]) => (Part::EmbeddingB, Some((*name).to_owned())),
        ("lora_magnitude_vector", [] | ["weight"]) => (Part::Magnitude, None),
        ("lora_magnitude_vector", [name] | [name, "weight"]) => (Part::Magnitude, Some((*name).to_owned())),
        ("token_adapter", ["trainable_tokens_delta"]) => (Part::TokenRows, None),
        ("token_adapter", ["trainable_tokens_delta", name]) => (Part::TokenRows, Some((*name).to_owned())),
        ("base_layer", path) if parent == Some("token_adapter") => (whole(Whole::TokenBase, path), None),
        ("base_layer", path) => (whole(Whole::BaseLayer, path), None),
        ("modules_to_save", ["default", path @ ..]) => {
            (whole(Whole::Saved, path), Some("default".to_owned()))
        }
        ("modules_to_save", path) => (whole(Whole::Saved, path), None),
        ("original_module", path) => (whole(Whole::Original, path), None),
        _ => (Part::Unknown, None),
    }
}

fn key_of(segments: &[&str], part: Part, has_prefix: bool, adapter_name: Option<String>) -> Key {
    let in_attention = segments.len() >= 2 && segments[segments.len() - 2..] == ["base_layer", "out_proj"];
    // A LoRA directly under `base_layer` is the inner one of several on parameters of one module: those keep their place.
    let inner = match part {
        Part::LoraA | Part::LoraB => segments.iter().rev().take_while(|segment| **segment == INNER).count(),
        _ => 0,
    };
    let (outer, inner) = segments.split_at(segments.len() - inner);
    let path: Vec<&str> = outer.iter().filter(|segment| **segment != INNER).chain(inner).copied().collect();
    Key { module: path.join("."), part, has_prefix, adapter_name, in_attention, wrapper: None }
}

#[cfg(test)]
mod tests {
    use super::{Part, Whole, parse};

    fn read(key: &str) -> (String, Part, Option<String>) {
        let key = parse(key);
        (key.module, key.part, key.adapter_name)
    }

    #[test]
    fn keys_of_every_module_kind_are_taken_apart() {
        let plain = |key: &str| read(&format!("base_model.model.{key}"));
        assert_eq!(plain("a.q_proj.lora_A.weight"), ("a.q_proj".into(), Part::LoraA, None));
        assert_eq!(plain("a.lora_B.bias"), ("a".into(), Part::LoraBias, None));
        assert_eq!(plain("a.lora_A.default.weight"), ("a".into(), Part::LoraA, Some("default".into())));
        assert_eq!(plain("e.lora_embedding_A"), ("e".into(), Part::EmbeddingA, None));
        assert_eq!(plain("a.lora_magnitude_vector"), ("a".into(), Part::Magnitude, None));
        assert_eq!(plain("e.token_adapter.trainable_tokens_delta"), ("e".into(), Part::TokenRows, None));
        assert_eq!(
            plain("e.token_adapter.base_layer.weight"),
            ("e".into(), Part::Whole(Whole::TokenBase, "weight".into()), None)
        );
        assert_eq!(
            plain("e.base_layer.bias"),
            ("e".into(), Part::Whole(Whole::BaseLayer, "bias".into()), None)
        );
        assert_eq!(plain("n.weight"), ("n".into(), Part::Whole(Whole::Plain, "weight".into()), None));
        assert_eq!(
            plain("c.modules_to_save.default.dense.weight"),
            ("c".into(), Part::Whole(Whole::Saved, "dense.weight".into()), Some("default".into()))
        );
        assert_eq!(plain("a.lora_C.weight").1, Part::Unknown);
        assert_eq!(plain("a.lora_A.x.y.weight").1, Part::Unknown);
        assert_eq!(plain("a.hada_w1_a").1, Part::Foreign("hada_w1_a".into()));
    }

    #[test]
    fn wrappers_are_not_part_of_the_path() {
        let key = parse("base_model.model.attn.base_layer.out_proj.lora_A.weight");
        assert_eq!((key.module.as_str(), key.in_attention), ("attn.out_proj", true));
        let bias = parse("base_model.model.attn.base_layer.out_proj.base_layer.bias");
        assert_eq!((bias.module.as_str(), bias.in_attention), ("attn.out_proj", true));
        let inner = parse("base_model.model.mlp.experts.base_layer.base_layer.lora_A.weight");
        assert_eq!((inner.module.as_str(), inner.part), ("mlp.experts.base_layer.base_layer", Part::LoraA));
        assert_eq!(parse("base_model.model.experts.base_layer.bias").module, "experts");
        assert_eq!(parse("base_model.model._orig_mod.a.lora_A.weight").module, "a");
    }

    #[test]
    fn any_text_has_a_reading() {
        for key in [
            "",
            ".",
            "base_model.model.",
            "lora_A",
            "base_layer",
            "base_layer.base_layer",
            "token_adapter.base_layer",
        ] {
            let _ = parse(key);
        }
        assert!(!parse("q.lora_A.weight").has_prefix);
    }
}
