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
