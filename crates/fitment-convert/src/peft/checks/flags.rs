//! The config's switches against what the file holds.

use super::exported;
use crate::peft::config::{Bias, Config, Tokens, Version};
use crate::peft::contents::{Contents, Module};
use crate::peft::{rules, tokens};
use crate::tying::is_vocabulary_module;
use fitment_core::Finding;
use std::collections::BTreeSet;

/// Checks `use_dora`, `lora_bias`, `bias`, `trainable_token_indices` and `ensure_weight_tying`.
pub(in crate::peft) fn check_flags(config: &Config, contents: &Contents<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, module) in contents.modules.iter().filter(|(_, module)| module.has_lora()) {
        findings.extend(dora(config, path, module));
        findings.extend(lora_bias(config, path, module));
    }
    findings.extend(bias(config, contents));
    findings.extend(token_rows(config, contents));
    if config.ensure_weight_tying {
        findings.extend(tied_copies(contents));
    }
    findings
}

fn dora(config: &Config, path: &str, module: &Module<'_>) -> Option<Finding> {
    match &module.magnitude {
        Some(_) if exported::is_misordered(config, path, module) => None,
        Some(magnitude) if !config.use_dora => {
            Some(Finding::new(&rules::P_DORA, &magnitude.key, "a magnitude, but use_dora is not true"))
        }
        None if config.use_dora => Some(Finding::new(
            &rules::P_DORA,
            path,
            "use_dora is true, but there is no lora_magnitude_vector",
        )),
        Some(_) | None => None,
    }
}

fn lora_bias(config: &Config, path: &str, module: &Module<'_>) -> Option<Finding> {
    match &module.bias {
        Some(bias) if !config.says_lora_bias => Some(Finding::new(
            &rules::P_BIAS_UNSAID,
            &bias.key,
            "a bias of lora_B, and the config does not know lora_bias",
        )),
        Some(bias) if !config.lora_bias => {
            Some(Finding::new(&rules::P_LORA_BIAS, &bias.key, "a bias of lora_B, but lora_bias is not true"))
        }
        None if config.lora_bias => {
            Some(Finding::new(&rules::P_LORA_BIAS, path, "lora_bias is true, but there is no lora_B.bias"))
        }
        Some(_) | None => None,
    }
}

fn bias(config: &Config, contents: &Contents<'_>) -> Option<Finding> {
    let lost = config.bias == Bias::LoraOnly
        && config.version.is_none_or(|version| version < Version::new(0, 21))
        && !contents.whole.keys().any(|(_, param)| param == "bias" || param.ends_with(".bias"));
    lost.then(|| Finding::new(&rules::P_BIAS, "bias", "is lora_only, but the file holds no bias"))
}

fn token_rows(config: &Config, contents: &Contents<'_>) -> Vec<Finding> {
    let fault = |place: &str, message: String| Finding::new(&rules::P_TOKENS, place, message);
    let mut findings = Vec::new();
    let with_rows =
        contents.modules.iter().filter_map(|(path, module)| Some((path, module.tokens.as_ref()?)));
    let mut count = 0;
    for (path, entry) in with_rows {
        count += 1;
        let Some(indices) = tokens::indices_of(config, path) else {
            findings.push(fault(&entry.key, "trainable_token_indices does not name this module".to_owned()));
            continue;
        };
        let rows = entry.tensor.dims().first().copied().unwrap_or(0);
        if entry.tensor.dims().len() != 2 || rows != indices.len() as u64 {
            let message =
                format!("has the shape {}, the config {} indices", entry.tensor.shape(), indices.len());
            findings.push(fault(&entry.key, message));
        }
        if let Some(index) = indices.iter().find(|index| i64::try_from(**index).is_err()) {
            findings.push(fault(&entry.key, format!("its row {index} is beyond any vocabulary")));
        }
        if indices.iter().collect::<BTreeSet<_>>().len() != indices.len() {
            findings.push(fault(&entry.key, "an index of its rows comes twice".to_owned()));
        }
    }
    let asked = match &config.tokens {
        None => false,
        Some(Tokens::Embedding(indices)) => !indices.is_empty(),
        Some(Tokens::Modules(modules)) => !modules.is_empty(),
    };
    if asked && count == 0 {
        findings
            .push(fault("trainable_token_indices", "is set, but the file holds no token rows".to_owned()));
    }
    findings
}

/// The embedding's factors stand a second time, transposed, for the tied head.
fn tied_copies(contents: &Contents<'_>) -> Vec<Finding> {
    let Some((a, b)) = contents.modules.values().find_map(Module::embedding_factors) else {
        return Vec::new();
    };
    let heads = contents.modules.iter().filter(|(path, _)| is_vocabulary_module(path));
    let pairs = heads.filter_map(|(_, module)| module.factors());
    let differs = |(of, other)| tokens::is_transpose(of, other).then_some(()).is_none();
    pairs
        .flat_map(|(head_a, head_b)| [(head_a, b), (head_b, a)])
        .filter(|(head, embedding)| differs((&head.tensor, &embedding.tensor)))
        .map(|(head, embedding)| {
            Finding::new(
                &rules::P_TIED_COPIES,
                &head.key,
                format!("is not the transpose of {}", embedding.key),
            )
        })
        .collect()
}
