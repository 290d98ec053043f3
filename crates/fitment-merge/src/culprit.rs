use std::fmt;

/// One thing that keeps adapters from being merged.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Culprit {
    /// A weight is no finite number.
    Weight {
        /// The adapter.
        name: String,
        /// Its weight.
        weight: f64,
    },
    /// A pattern of the weights matches no target.
    Unmatched {
        /// The pattern.
        pattern: String,
    },
    /// Two adapters were made for bases that differ.
    OtherBase {
        /// What differs: a tensor, or the architecture.
        what: String,
        /// One adapter, and what its base has.
        first: (String, String),
        /// Another, and what its base has.
        second: (String, String),
        /// Only the content differs, not the shape.
        can_be_allowed: bool,
    },
    /// The base at hand is not the one that the adapters were made for, or lacks a tensor.
    BaseAtHand {
        /// The tensor.
        target: String,
        /// What the adapter asks for.
        expected: String,
        /// What the base has.
        found: String,
    },
    /// What the adapters do to a target is no edit without the base.
    NeedsBase {
        /// The target.
        target: String,
        /// The adapters that do it.
        names: Vec<String>,
        /// Why.
        reason: String,
    },
    /// The method has no result for what the adapters do to a target.
    Undefined {
        /// The target.
        target: String,
        /// The adapters that do it.
        names: Vec<String>,
        /// Why.
        reason: String,
    },
    /// A magnitude (DoRA) is told to a method: what it adds depends on the base.
    Magnitude {
        /// The target.
        target: String,
        /// The adapters that change it.
        names: Vec<String>,
    },
    /// What the adapters do at a site, or to a key of the config, does not go together, or overflows.
    Apart {
        /// The site, key or target.
        target: String,
        /// The adapters that act there.
        names: Vec<String>,
        /// Why.
        reason: String,
        /// The way out, where there is one.
        hint: Option<&'static str>,
    },
    /// What the adapters do to a target is no edit at all.
    NotExact {
        /// The target.
        target: String,
        /// The adapters that do it.
        names: Vec<String>,
        /// Why.
        reason: String,
    },
}

impl Culprit {
    /// The adapters are for other models: what else keeps them apart follows from that.
    pub(crate) fn is_other_model(&self) -> bool {
        matches!(self, Culprit::OtherBase { can_be_allowed: false, .. })
    }

    /// The way out.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Culprit::Weight { .. } => None,
            Culprit::Apart { hint, .. } => *hint,
            Culprit::Unmatched { .. } => {
                Some("`fitment inspect` lists the targets; * is any run of characters")
            }
            Culprit::OtherBase { can_be_allowed: true, .. } => {
                Some("--allow-base-mismatch merges adapters for bases of other content")
            }
            Culprit::OtherBase { .. } => {
                Some("only adapters for models of one architecture and size can be merged")
            }
            Culprit::BaseAtHand { .. } => Some("the adapters were made for another base: check --base"),
            Culprit::NeedsBase { .. } => Some("name the base with --base"),
            Culprit::Undefined { .. } => Some("merge it by another method, or exactly, without --method"),
            Culprit::Magnitude { .. } => Some(
                "magnitudes merge exactly, without --method and with --base; for a method make a LoRA of each: `fitment apply`, then `fitment diff --rank`",
            ),
            Culprit::NotExact { .. } => {
                Some("`fitment apply` the adapters, and take `fitment diff BASE RESULT` of what comes out")
            }
        }
    }
}

impl fmt::Display for Culprit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Culprit::Weight { name, weight } => write!(f, "{name}: the weight {weight} is no finite number"),
            Culprit::Unmatched { pattern } => write!(f, "{pattern:?} matches no target"),
            Culprit::OtherBase { what, first, second, .. } => write!(
                f,
                "{what}: the base of {} has {}, that of {} has {}",
                first.0, first.1, second.0, second.1
            ),
            Culprit::BaseAtHand { target, expected, found } => {
                write!(f, "{target}: the adapters ask for {expected}, the base has {found}")
            }
            Culprit::Magnitude { target, names } => {
                write!(f, "{target} ({}): a magnitude (DoRA) is no update by itself", names.join(", "))
            }
            Culprit::NeedsBase { target, names, reason }
            | Culprit::Undefined { target, names, reason }
            | Culprit::Apart { target, names, reason, .. }
            | Culprit::NotExact { target, names, reason } => {
                write!(f, "{target} ({}): {reason}", names.join(", "))
            }
        }
    }
}
