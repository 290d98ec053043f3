//! Which version of PEFT wrote a config, and by which rule its patterns are read.

use super::Config;
use serde_json::{Map, Value};
use std::fmt;

/// Major and minor number of a PEFT release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::peft) struct Version {
    major: u64,
    minor: u64,
}

impl Version {
    pub(in crate::peft) const fn new(major: u64, minor: u64) -> Self {
        Self { major, minor }
    }

    /// Reads `0.21.2`, `0.18.0.dev0@hash`; only the first two numbers count.
    pub(in crate::peft) fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('.');
        Some(Self { major: numbers.next()?.parse().ok()?, minor: numbers.next()?.parse().ok()? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// How `rank_pattern` and `alpha_pattern` are looked up (PEFT `get_pattern_key`, by its history).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::peft) enum PatternRule {
    /// Up to 0.13: `.*\.KEY$`, one search over the keys of both maps, ranks first; its hit is looked up in both.
    Joint,
    /// 0.14: `.*\.KEY$`, each map by itself.
    Dotted,
    /// From 0.15: `(.*\.)?(KEY)$`, each map by itself.
    Grouped,
}

impl PatternRule {
    pub(in crate::peft) const ALL: [PatternRule; 3] =
        [PatternRule::Joint, PatternRule::Dotted, PatternRule::Grouped];

    pub(in crate::peft) fn of(version: Version) -> Self {
        if version >= Version::new(0, 15) {
            PatternRule::Grouped
        } else if version >= Version::new(0, 14) {
            PatternRule::Dotted
        } else {
            PatternRule::Joint
        }
    }
}

impl fmt::Display for PatternRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PatternRule::Joint => "PEFT up to 0.13",
            PatternRule::Dotted => "PEFT 0.14",
            PatternRule::Grouped => "PEFT from 0.15",
        })
    }
}

/// Keys that every PEFT since 0.6 writes: a config without one of them was made by something else, and its keys say
/// nothing about a version.
const ALWAYS_WRITTEN: &[&str] = &[
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "modules_to_save",
    "peft_type",
    "r",
    "rank_pattern",
    "revision",
    "target_modules",
    "task_type",
];

/// The first version that writes a key; later ones write `peft_version` as well.
const FIRST_WRITTEN: &[(&str, Version)] = &[
    ("alora_invocation_tokens", Version::new(0, 18)),
    ("ensure_weight_tying", Version::new(0, 18)),
    ("target_parameters", Version::new(0, 17)),
    ("use_qalora", Version::new(0, 16)),
    ("trainable_token_indices", Version::new(0, 15)),
    ("corda_config", Version::new(0, 15)),
    ("lora_bias", Version::new(0, 14)),
    ("exclude_modules", Version::new(0, 14)),
    ("layer_replication", Version::new(0, 10)),
    ("use_dora", Version::new(0, 9)),
    ("use_rslora", Version::new(0, 8)),
];

/// The version that a config's keys date it to; `None` when PEFT did not write it.
pub(super) fn dated(fields: &Map<String, Value>) -> Option<Version> {
    if !ALWAYS_WRITTEN.iter().all(|key| fields.contains_key(*key)) {
        return None;
    }
    let newest = FIRST_WRITTEN.iter().find(|(key, _)| fields.contains_key(*key));
    Some(newest.map_or(Version::new(0, 6), |(_, version)| *version))
}

/// By which rule a config's patterns are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::peft) enum Dating {
    /// The config names its version.
    Stated(PatternRule),
    /// The keys of the config date it.
    ByKeys(PatternRule),
    /// Nothing tells.
    Unknown,
}

impl Config {
    /// The version whose keys the config has; later ones name themselves. `None` when PEFT did not write it.
    pub(in crate::peft) fn dated(&self) -> Option<Version> {
        self.dated
    }

    /// By which rule the patterns are read, and how that is known.
    pub(in crate::peft) fn dating(&self) -> Dating {
        match (self.version, self.dated) {
            (Some(version), _) => Dating::Stated(PatternRule::of(version)),
            (None, Some(version)) => Dating::ByKeys(PatternRule::of(version)),
            (None, None) => Dating::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{PatternRule, Version};

    #[test]
    fn versions_are_read_with_any_tail() {
        assert_eq!(Version::parse("0.21.2"), Some(Version::new(0, 21)));
        assert_eq!(Version::parse("0.18.0.dev0@4f21d3"), Some(Version::new(0, 18)));
        assert_eq!(Version::parse("1"), None);
        assert_eq!(Version::parse("x.y"), None);
    }

    #[test]
    fn rules_change_at_0_14_and_0_15() {
        assert_eq!(PatternRule::of(Version::new(0, 13)), PatternRule::Joint);
        assert_eq!(PatternRule::of(Version::new(0, 14)), PatternRule::Dotted);
        assert_eq!(PatternRule::of(Version::new(0, 15)), PatternRule::Grouped);
        assert_eq!(PatternRule::of(Version::new(1, 0)), PatternRule::Grouped);
    }
}
