//! Which modules a config selects, and with which rank and alpha (PEFT `check_target_module_exists`, `get_pattern_key`).

use super::config::{Config, Modules, PatternRule};
use super::pattern::{Pattern, PatternFault};

/// The config's choice of modules, compiled.
#[derive(Debug)]
pub(super) struct Selection<'c> {
    config: &'c Config,
    target: Option<Pattern>,
    exclude: Option<Pattern>,
    saved: Vec<Pattern>,
    layers: Vec<Pattern>,
}

/// What the config does with a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// It gets a LoRA.
    Selected,
    /// `exclude_modules` or `modules_to_save` take it out.
    Excluded,
    /// Nothing names it, or its layer is not among `layers_to_transform`.
    Unnamed,
}

impl<'c> Selection<'c> {
    pub(super) fn new(config: &'c Config) -> Result<Self, PatternFault> {
        let whole = |modules: &Modules| match modules {
            Modules::Pattern(text) => Pattern::whole(text).map(Some),
            Modules::Unset | Modules::AllLinear | Modules::Names(_) => Ok(None),
        };
        let layers = match (&config.layers, &config.layers_pattern[..]) {
            (None, _) => Vec::new(),
            (Some(_), []) => vec![Pattern::first_number()],
            (Some(_), texts) => texts.iter().map(|text| Pattern::numbered(text)).collect::<Result<_, _>>()?,
        };
        Ok(Self {
            config,
            target: whole(&config.target_modules)?,
            exclude: whole(&config.exclude_modules)?,
            saved: config
                .modules_to_save
                .iter()
                .map(|name| Pattern::segments(name))
                .collect::<Result<_, _>>()?,
            layers,
        })
    }

    /// What PEFT does with the module of that path.
    pub(super) fn choice(&self, path: &str) -> Result<Choice, PatternFault> {
        let excluded = match (&self.exclude, &self.config.exclude_modules) {
            (Some(pattern), _) => pattern.matches(path)?,
            (None, Modules::Names(names)) => names.iter().any(|name| is_named(path, name)),
            (None, _) => false,
        };
        if excluded {
            return Ok(Choice::Excluded);
        }
        for saved in &self.saved {
            if saved.matches(path)? {
                return Ok(Choice::Excluded);
            }
        }
        let selected = match &self.config.target_modules {
            // PEFT then takes a table by model type, or all linear layers of a model that only it can see.
            Modules::Unset | Modules::AllLinear => true,
            Modules::Pattern(_) => match &self.target {
                Some(target) => target.matches(path)?,
                None => false,
            },
            Modules::Names(names) if names.iter().any(|name| name == path) => true,
            Modules::Names(names) => {
                names.iter().any(|name| is_named(path, name)) && self.layer_is_chosen(path)?
            }
        };
        Ok(if selected { Choice::Selected } else { Choice::Unnamed })
    }

    fn layer_is_chosen(&self, path: &str) -> Result<bool, PatternFault> {
        let Some(chosen) = &self.config.layers else { return Ok(true) };
        for pattern in &self.layers {
            if let Some(layer) = pattern.number(path)? {
                return Ok(chosen.contains(&layer));
            }
        }
        Ok(false)
    }
}

/// Whether a path is a name or ends in it behind a dot.
pub(super) fn is_named(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// `rank_pattern` and `alpha_pattern`, compiled for one rule.
#[derive(Debug)]
pub(super) struct Lookup<'c> {
    config: &'c Config,
    rule: PatternRule,
    ranks: Vec<Pattern>,
    alphas: Vec<Pattern>,
}

/// Rank and alpha of a module, and which keys of the patterns gave them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RankAlpha {
    pub(super) rank: u64,
    pub(super) alpha: Option<f64>,
    pub(super) rank_key: Option<usize>,
    pub(super) alpha_key: Option<usize>,
}

impl<'c> Lookup<'c> {
    pub(super) fn new(config: &'c Config, rule: PatternRule) -> Result<Self, PatternFault> {
        let compile = |text: &str| match rule {
            PatternRule::Joint | PatternRule::Dotted => Pattern::end_behind_dot(text),
            PatternRule::Grouped => Pattern::end(text),
        };
        Ok(Self {
            config,
            rule,
            ranks: config.rank_pattern.iter().map(|(text, _)| compile(text)).collect::<Result<_, _>>()?,
            alphas: config.alpha_pattern.iter().map(|(text, _)| compile(text)).collect::<Result<_, _>>()?,
        })
    }

    /// What the patterns say about a module.
    pub(super) fn find(&self, path: &str) -> Result<RankAlpha, PatternFault> {
        let (ranks, alphas) = (&self.config.rank_pattern, &self.config.alpha_pattern);
        let mut rank_key = first_match(&self.ranks, path)?;
        let mut alpha_key = first_match(&self.alphas, path)?;
        if self.rule == PatternRule::Joint {
            // One key for both maps: the first that matches among the rank keys, then among the alpha keys.
            let key = match (rank_key, alpha_key) {
                (Some(index), _) => Some(ranks[index].0.as_str()),
                (None, Some(index)) => Some(alphas[index].0.as_str()),
                (None, None) => None,
            };
            rank_key = key.and_then(|key| position(ranks, key));
            alpha_key = key.and_then(|key| position(alphas, key));
        }
        if rank_key.is_none() && alpha_key.is_none() || self.rule != PatternRule::Joint {
            // A key that no regex hit is looked up as the plain path.
            rank_key = rank_key.or_else(|| position(ranks, path));
            alpha_key = alpha_key.or_else(|| position(alphas, path));
        }
        Ok(RankAlpha {
            rank: rank_key.map_or(self.config.rank, |index| ranks[index].1),
            alpha: alpha_key.map(|index| alphas[index].1).or(self.config.alpha),
            rank_key,
            alpha_key,
        })
    }
}

fn first_match(patterns: &[Pattern], path: &str) -> Result<Option<usize>, PatternFault> {
    for (index, pattern) in patterns.iter().enumerate() {
        if pattern.matches(path)? {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

fn position<T>(map: &[(String, T)], key: &str) -> Option<usize> {
    map.iter().position(|(known, _)| known == key)
}

#[cfg(test)]
mod tests {
    use super::{Choice, Lookup, Selection};
    use crate::peft::config::{Config, PatternRule, parse};
    use serde_json::{Value, json};

    fn config(fields: Value) -> Config {
        let mut all = json!({"peft_type": "LORA", "lora_alpha": 16, "r": 8});
        all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        parse(&serde_json::to_vec(&all).unwrap()).config.unwrap()
    }

    fn choice(fields: Value, path: &str) -> Choice {
        let config = config(fields);
        Selection::new(&config).unwrap().choice(path).unwrap()
    }

    #[test]
    fn names_select_whole_paths_or_their_ends() {
        let names = json!({"target_modules": ["q_proj", "model.layers.0.mlp.up_proj"]});
        assert_eq!(choice(names.clone(), "model.layers.1.self_attn.q_proj"), Choice::Selected);
        assert_eq!(choice(names.clone(), "model.layers.1.self_attn.xq_proj"), Choice::Unnamed);
        assert_eq!(choice(names.clone(), "model.layers.0.mlp.up_proj"), Choice::Selected);
        assert_eq!(choice(names, "model.layers.1.mlp.up_proj"), Choice::Unnamed);
    }

    #[test]
    fn layers_and_exclusions_narrow_the_names_but_not_a_whole_path() {
        let layers = json!({"target_modules": ["q", "a.layers.0.q"], "layers_to_transform": [1]});
        assert_eq!(choice(layers.clone(), "a.layers.1.q"), Choice::Selected);
        assert_eq!(choice(layers.clone(), "a.layers.2.q"), Choice::Unnamed);
        assert_eq!(choice(layers, "a.layers.0.q"), Choice::Selected);
        let after =
            json!({"target_modules": ["q"], "layers_to_transform": 3, "layers_pattern": ["h", "blocks"]});
        assert_eq!(choice(after.clone(), "blocks.3.q"), Choice::Selected);
        assert_eq!(choice(after, "layers.3.q"), Choice::Unnamed);
        let excluded =
            json!({"target_modules": ["q"], "exclude_modules": "a\\..*", "modules_to_save": ["b"]});
        assert_eq!(choice(excluded.clone(), "a.q"), Choice::Excluded);
        assert_eq!(choice(excluded.clone(), "x.b.q"), Choice::Excluded);
        assert_eq!(choice(excluded, "x.q"), Choice::Selected);
    }

    fn found(fields: Value, rule: PatternRule, path: &str) -> (u64, f64) {
        let config = config(fields);
        let found = Lookup::new(&config, rule).unwrap().find(path).unwrap();
        (found.rank, found.alpha.unwrap())
    }

    #[test]
    fn the_first_key_in_the_file_wins() {
        let patterns = json!({"rank_pattern": {"layers.0.*": 2, "q": 3}, "alpha_pattern": {"q": 4}});
        assert_eq!(found(patterns.clone(), PatternRule::Grouped, "a.layers.0.q"), (2, 4.0));
        assert_eq!(found(patterns.clone(), PatternRule::Grouped, "a.layers.1.q"), (3, 4.0));
        assert_eq!(found(patterns, PatternRule::Grouped, "a.layers.1.k"), (8, 16.0));
    }

    #[test]
    fn up_to_0_13_one_key_serves_both_maps() {
        let patterns = json!({"rank_pattern": {".*q": 2}, "alpha_pattern": {"q": 4, "k": 5}});
        assert_eq!(found(patterns.clone(), PatternRule::Joint, "a.q"), (2, 16.0));
        assert_eq!(found(patterns.clone(), PatternRule::Dotted, "a.q"), (2, 4.0));
        assert_eq!(found(patterns, PatternRule::Joint, "a.k"), (8, 5.0));
    }

    #[test]
    fn up_to_0_14_a_key_needs_a_dot_before_it_or_is_the_path_itself() {
        let patterns = json!({"rank_pattern": {"lm_head": 2}, "alpha_pattern": {"head": 4}});
        assert_eq!(found(patterns.clone(), PatternRule::Dotted, "lm_head"), (2, 16.0));
        assert_eq!(found(patterns.clone(), PatternRule::Joint, "lm_head"), (2, 16.0));
        assert_eq!(found(patterns.clone(), PatternRule::Grouped, "lm_head"), (2, 16.0));
        let path = json!({"rank_pattern": {"q|k": 2}});
        assert_eq!(found(path.clone(), PatternRule::Dotted, "a.k"), (8, 16.0));
        assert_eq!(found(path, PatternRule::Grouped, "a.k"), (2, 16.0));
    }
}
