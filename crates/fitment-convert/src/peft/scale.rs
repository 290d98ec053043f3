//! Rank, alpha and the one multiplier of every module.

use super::config::{Config, Dating, PatternRule, Refusal, Version};
use super::contents::{Contents, Module};
use super::inspect::possible_rules;
use super::pattern::PatternFault;
use super::rules;
use super::selection::{Lookup, RankAlpha};
use fitment_core::Finding;
use std::collections::{BTreeMap, BTreeSet};

/// The multiplier of a module's product, and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scale {
    pub(super) rank: u64,
    pub(super) alpha: f64,
    /// `alpha/rank` or `alpha/√rank` in doubles; twice that for the output projection inside an attention module.
    pub(super) scale: f64,
    /// Whether it is `alpha/√rank`.
    pub(super) is_rslora: bool,
}

/// The scales of all modules.
#[derive(Debug, Default)]
pub(super) struct Scaled {
    pub(super) scales: BTreeMap<String, Scale>,
    pub(super) findings: Vec<Finding>,
    pub(super) assumed_rule: Option<PatternRule>,
    pub(super) refusal: Option<Refusal>,
}

/// Pattern keys times modules: beyond this a config is no honest one.
const MAX_LOOKUPS: usize = 100_000_000;

/// The last release whose attention modules are known to add the output projection twice.
const TWICE_UP_TO: Version = Version::new(0, 21);

/// Finds the scale of every module.
pub(super) fn find(config: &Config, contents: &Contents<'_>) -> Result<Scaled, PatternFault> {
    let modules: Vec<(&String, &Module<'_>)> =
        contents.modules.iter().filter(|(_, module)| module.has_lora()).collect();
    let keys = config.rank_pattern.len() + config.alpha_pattern.len();
    if keys.saturating_mul(modules.len()) > MAX_LOOKUPS {
        let reason = format!("{keys} patterns for {} modules are too many", modules.len());
        return Err(PatternFault { pattern: "rank_pattern, alpha_pattern".to_owned(), reason });
    }
    let paths: Vec<&str> = modules.iter().map(|(path, module)| looked_up(path, module)).collect();
    let mut scaled = Scaled::default();
    let found = by_rule(config, &paths, &mut scaled)?;
    for ((path, module), found) in modules.iter().zip(&found) {
        scaled.add(config, (path, module), *found);
    }
    scaled.note_unused(config, &found);
    scaled.note_attention(config, contents);
    Ok(scaled)
}

/// PEFT gives the output projection inside an attention module the rank and alpha of the attention module.
fn looked_up<'p>(path: &'p str, module: &Module<'_>) -> &'p str {
    match path.strip_suffix(".out_proj") {
        Some(attention) if module.in_attention => attention,
        _ => path,
    }
}

/// Looks every path up by the rule of the version that wrote the config. Where that is not known, rules that agree need no
/// choice.
fn by_rule(config: &Config, paths: &[&str], scaled: &mut Scaled) -> Result<Vec<RankAlpha>, PatternFault> {
    let look_up = |rule: PatternRule| -> Result<Vec<RankAlpha>, PatternFault> {
        let lookup = Lookup::new(config, rule)?;
        paths.iter().map(|path| lookup.find(path)).collect()
    };
    let rules = possible_rules(config);
    let first = look_up(rules[0])?;
    let mut agree = true;
    for rule in &rules[1..] {
        let other = look_up(*rule)?;
        agree &= first.iter().zip(&other).all(|(a, b)| a.rank == b.rank && a.alpha == b.alpha);
    }
    match config.dating() {
        _ if agree => {}
        Dating::Stated(_) => {}
        Dating::ByKeys(rule) => scaled.assumed_rule = Some(rule),
        Dating::Unknown => {
            let message =
                "versions of PEFT read these patterns differently, and nothing says which one wrote them";
            scaled.findings.push(Finding::new(&rules::P_VERSION, "peft_version", message));
        }
    }
    Ok(first)
}

impl Scaled {
    fn add(&mut self, config: &Config, (path, module): (&String, &Module<'_>), found: RankAlpha) {
        let Some(rows) = rank_of(module) else { return };
        let is_of_experts = module.is_parameter && found.rank > 0 && rows.is_multiple_of(found.rank);
        let rank = if is_of_experts { found.rank } else { rows };
        if rank != found.rank {
            let key = module.entries().next().map_or(path.as_str(), |entry| entry.key.as_str());
            let message = match module.is_parameter {
                true => {
                    format!("has {rows} rows, no multiple of the rank {} that the config says", found.rank)
                }
                false => format!("the factors have rank {rank}, the config says {}", found.rank),
            };
            self.findings.push(Finding::new(&rules::P_RANK, key, message));
        }
        let Some(alpha) = found.alpha else { return };
        if alpha == 0.0 {
            self.findings.push(Finding::new(&rules::P_ALPHA_ZERO, path.as_str(), "alpha is 0"));
        }
        // Ranks are extents of tensors in memory: far below 2^53, so the division is the one that Python does.
        let divisor = if config.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
        let times = if module.in_attention { 2.0 } else { 1.0 };
        let scale = Scale { rank, alpha, scale: times * (alpha / divisor), is_rslora: config.use_rslora };
        self.scales.insert(path.clone(), scale);
    }

    fn note_unused(&mut self, config: &Config, found: &[RankAlpha]) {
        let used_ranks: BTreeSet<usize> = found.iter().filter_map(|found| found.rank_key).collect();
        let used_alphas: BTreeSet<usize> = found.iter().filter_map(|found| found.alpha_key).collect();
        let ranks = config.rank_pattern.iter().map(|(key, _)| ("rank_pattern", key)).enumerate();
        let alphas = config.alpha_pattern.iter().map(|(key, _)| ("alpha_pattern", key)).enumerate();
        let unused = ranks
            .filter(|(index, _)| !used_ranks.contains(index))
            .chain(alphas.filter(|(index, _)| !used_alphas.contains(index)));
        for (_, (map, key)) in unused {
            let message = format!("{key:?} decides for no module of the file");
            self.findings.push(Finding::new(&rules::P_PATTERN_UNUSED, map, message));
        }
    }

    /// Up to 0.21, PEFT adds the delta of the output projection twice, in training as in the merge.
    fn note_attention(&mut self, config: &Config, contents: &Contents<'_>) {
        let Some((path, _)) = contents.modules.iter().find(|(_, module)| module.in_attention) else { return };
        if config.version.is_some_and(|version| version > TWICE_UP_TO) {
            let reason = "PEFT up to 0.21 counts the output projection of nn.MultiheadAttention twice; what this version does is not known";
            let hint = "update fitment, or merge it with the PEFT that trained it";
            self.refusal = Some(Refusal::new(path.clone(), reason, hint));
            return;
        }
        let message = "PEFT counts this output projection twice, and so does the scale here";
        self.findings.push(Finding::new(&rules::P_MHA, path.as_str(), message));
    }
}

/// The rank by the factors; of those on parameters, times the number of experts.
pub(super) fn rank_of(module: &Module<'_>) -> Option<u64> {
    let (a, _) = module.factors().or(module.embedding_factors())?;
    a.tensor.dims().first().copied().filter(|rank| *rank > 0)
}

#[cfg(test)]
mod tests {
    use super::{Scaled, find};
    use crate::peft::config::{Config, PatternRule, parse};
    use crate::peft::contents::sort;
    use fitment_core::tensor::{Dtype, Shape, Tensor};
    use serde_json::{Value, json};

    fn config(fields: Value) -> Config {
        let mut all = json!({"peft_type": "LORA", "lora_alpha": 16, "r": 3});
        all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        parse(&serde_json::to_vec(&all).unwrap()).config.unwrap()
    }

    /// One module `a.k` of rank 3.
    fn scaled(fields: Value) -> Scaled {
        let tensor =
            |dims: &[u64]| Tensor::owned(Dtype::F16, Shape::new(dims).unwrap(), vec![1; 12]).unwrap();
        let tensors = [
            ("base_model.model.a.k.lora_A.weight".to_owned(), tensor(&[3, 2])),
            ("base_model.model.a.k.lora_B.weight".to_owned(), tensor(&[2, 3])),
        ];
        find(&config(fields), &sort(&tensors).contents).unwrap()
    }

    #[test]
    fn scales_are_pythons_quotients() {
        assert_eq!(scaled(json!({})).scales["a.k"].scale, 16.0 / 3.0);
        assert_eq!(scaled(json!({"use_rslora": true})).scales["a.k"].scale, 16.0 / 3f64.sqrt());
        assert_eq!(scaled(json!({"alpha_pattern": {"k": 0.1}})).scales["a.k"].scale, 0.1 / 3.0);
    }

    #[test]
    fn rules_that_agree_need_no_version() {
        let scaled = scaled(json!({"alpha_pattern": {"k": 5}}));
        assert_eq!((scaled.findings, scaled.assumed_rule), (vec![], None));
    }

    #[test]
    fn rules_that_differ_need_a_version() {
        let patterns = json!({"alpha_pattern": {"q|k": 5}});
        assert_eq!(scaled(patterns.clone()).findings[0].code.0, "P010");
        let with = |extra: Value| {
            let mut all = patterns.clone();
            all.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            scaled(all)
        };
        assert_eq!(with(json!({"peft_version": "0.14.0"})).scales["a.k"].alpha, 16.0);
        assert_eq!(with(json!({"peft_version": "0.21.2"})).scales["a.k"].alpha, 5.0);
        // A whole config of 0.15, which wrote no version yet.
        let keys = [
            "alpha_pattern",
            "auto_mapping",
            "base_model_name_or_path",
            "bias",
            "fan_in_fan_out",
            "inference_mode",
            "init_lora_weights",
            "layers_pattern",
            "layers_to_transform",
            "lora_dropout",
            "modules_to_save",
            "rank_pattern",
            "revision",
            "target_modules",
            "task_type",
            "trainable_token_indices",
        ];
        let nulls: serde_json::Map<String, Value> =
            keys.iter().map(|key| ((*key).to_owned(), Value::Null)).collect();
        let mut dated = Value::Object(nulls);
        dated.as_object_mut().unwrap().insert("alpha_pattern".to_owned(), json!({"q|k": 5}));
        let scaled = with(dated);
        assert_eq!((scaled.scales["a.k"].alpha, scaled.assumed_rule), (5.0, Some(PatternRule::Grouped)));
    }

    #[test]
    fn a_pattern_that_decides_nothing_is_told() {
        let scaled = scaled(json!({"alpha_pattern": {"v": 5}, "peft_version": "0.21.2"}));
        assert_eq!(scaled.findings[0].code.0, "P009");
    }
}
