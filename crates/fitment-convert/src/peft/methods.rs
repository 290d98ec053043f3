//! Every method of PEFT 0.21 by its `peft_type`, and why those other than LoRA are refused.

/// What another method is, as far as a refusal needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// Read here.
    Lora,
    /// Puts a closed change on weights, which this version does not read.
    Weights,
    /// Its change is computed from the base's own weights.
    BaseBound,
    /// Acts on prompts, caches, hidden states or routes: never a change of weights.
    NotWeights,
}

const METHODS: &[(&str, Method)] = &[
    ("LORA", Method::Lora),
    ("ADALORA", Method::Weights),
    ("ADAMSS", Method::BaseBound),
    ("ADAPTION_PROMPT", Method::NotWeights),
    ("BEFT", Method::Weights),
    ("BOFT", Method::Weights),
    ("BONE", Method::Weights),
    ("C3A", Method::Weights),
    ("CARTRIDGE", Method::NotWeights),
    ("CPT", Method::NotWeights),
    ("DEFT", Method::BaseBound),
    ("DELORA", Method::Weights),
    ("FOURIERFT", Method::Weights),
    ("FROD", Method::BaseBound),
    ("GLORA", Method::Weights),
    ("GRALORA", Method::Weights),
    ("HIRA", Method::Weights),
    ("HRA", Method::Weights),
    ("IA3", Method::Weights),
    ("LILY", Method::NotWeights),
    ("LN_TUNING", Method::Weights),
    ("LOHA", Method::Weights),
    ("LOKR", Method::Weights),
    ("MISS", Method::Weights),
    ("MULTITASK_PROMPT_TUNING", Method::NotWeights),
    ("OFT", Method::Weights),
    ("OSF", Method::BaseBound),
    ("PEANUT", Method::BaseBound),
    ("POLY", Method::NotWeights),
    ("PREFIX_TUNING", Method::NotWeights),
    ("PROMPT_TUNING", Method::NotWeights),
    ("PSOFT", Method::BaseBound),
    ("PVERA", Method::Weights),
    ("P_TUNING", Method::NotWeights),
    ("RANDLORA", Method::Weights),
    ("ROAD", Method::Weights),
    ("SHADOW", Method::NotWeights),
    ("SHIRA", Method::Weights),
    ("SUPERTUNING", Method::Weights),
    ("TINYLORA", Method::Weights),
    ("TRAINABLE_TOKENS", Method::Weights),
    ("UNILORA", Method::Weights),
    ("VBLORA", Method::Weights),
    ("VERA", Method::Weights),
    ("WAVEFT", Method::Weights),
    ("XLORA", Method::NotWeights),
];

impl Method {
    /// The method that a `peft_type` names, if there is one.
    pub(super) fn from_type(peft_type: &str) -> Option<Method> {
        METHODS.iter().find(|(name, _)| *name == peft_type).map(|(_, method)| *method)
    }

    /// Why a method other than LoRA is refused, and what to do.
    pub(super) fn refusal(self) -> (&'static str, &'static str) {
        match self {
            Method::Lora => ("LoRA is converted", "nothing to do"),
            Method::Weights => (
                "this method changes weights by another formula than LoRA's, which this version does not read yet",
                "merge it with PEFT (merge_and_unload), or convert it to LoRA with PEFT's convert_to_lora",
            ),
            Method::BaseBound => (
                "what it changes is computed from the weights of the base, which this version does not do yet",
                "merge it with PEFT (merge_and_unload)",
            ),
            Method::NotWeights => (
                "it acts on prompts, caches or routes, so there is no change of weights to convert",
                "serve it with PEFT",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{METHODS, Method};

    #[test]
    fn types_are_sorted_behind_lora_and_found_by_name() {
        assert!(METHODS[1..].is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(Method::from_type("IA3"), Some(Method::Weights));
        assert_eq!(Method::from_type("lora"), None);
    }
}
