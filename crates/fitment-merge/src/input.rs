use crate::methods::{Method, Param, Params};
use crate::weights::Weights;
use fitment_core::Adapter;
use fitment_core::checkpoint::Checkpoint;
use std::fmt;

/// An adapter and its part in the whole.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    /// The adapter.
    pub adapter: &'a Adapter<'a>,
    /// Its weight `wᵢ`: finite.
    pub weight: f64,
    /// What messages call it.
    pub name: String,
    /// Its content id, where reading it has computed that already; computed when absent.
    pub id: Option<String>,
}

/// How near the low-rank updates of a target must stay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// As near as this rank allows; at least 1.
    Rank(u64),
    /// The smallest rank with at most this relative Frobenius error.
    Error(f64),
    /// By the singular values, and at most some rank.
    Dynamic {
        /// The rule.
        rule: Dynamic,
        /// What it is told.
        value: f64,
        /// The largest rank.
        most: Option<u64>,
    },
}

/// How interventions of several adapters at one site go together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SiteRule {
    /// One after the other, in the order of the adapters: each sees what the one before made (spec section 10).
    #[default]
    Sequential,
    /// All see what was there before; their changes are added.
    Sum,
}

/// How many singular values `σ₁ ≥ σ₂ ≥ …` of an update stay.
///
/// Rules of kohya's `resize_lora.py` (sd-scripts); its own ones keep one value more than they say, of all but the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dynamic {
    /// Those above `σ₁ / value`.
    Ratio,
    /// The fewest whose sum is at least this share of the whole.
    Cumulative,
    /// The fewest whose Frobenius norm is at least this share of the whole.
    Frobenius,
    /// `sv_ratio` as kohya's script counts.
    KohyaRatio,
    /// `sv_cumulative` as kohya's script counts.
    KohyaCumulative,
    /// `sv_fro` as kohya's script counts.
    KohyaFrobenius,
}

/// Every rule, by its name on the command line.
pub const DYNAMIC: &[(&str, Dynamic)] = &[
    ("sv_ratio", Dynamic::Ratio),
    ("sv_cumulative", Dynamic::Cumulative),
    ("sv_fro", Dynamic::Frobenius),
    ("kohya:sv_ratio", Dynamic::KohyaRatio),
    ("kohya:sv_cumulative", Dynamic::KohyaCumulative),
    ("kohya:sv_fro", Dynamic::KohyaFrobenius),
];

impl Dynamic {
    /// The number of values that stay, of `values` in descending order; at least one.
    pub(crate) fn count(self, values: &[f64], value: f64) -> usize {
        let first = values.first().copied().unwrap_or(0.0);
        let share = |power: i32, wanted: f64| {
            let whole: f64 = values.iter().map(|value| value.powi(power)).sum();
            let mut sum = 0.0;
            let reached = values.iter().position(|value| {
                sum += value.powi(power);
                sum >= wanted * whole
            });
            reached.map_or(values.len(), |at| at + 1)
        };
        let exact = match self {
            Dynamic::Ratio | Dynamic::KohyaRatio => {
                values.iter().filter(|other| **other > first / value).count()
            }
            Dynamic::Cumulative | Dynamic::KohyaCumulative => share(1, value),
            Dynamic::Frobenius | Dynamic::KohyaFrobenius => share(2, value * value),
        };
        match self {
            Dynamic::Ratio | Dynamic::Cumulative | Dynamic::Frobenius => exact.max(1),
            _ if first <= 1e-6 => 1,
            // The script counts all min(out, in) values, most of which are rounding here.
            _ => exact.max(1) + 1,
        }
    }

    /// Why a value is of no use to the rule.
    pub(crate) fn fault(self, value: f64) -> Option<String> {
        let is_ratio = matches!(self, Dynamic::Ratio | Dynamic::KohyaRatio);
        let is_in = if is_ratio { value.is_finite() && value >= 1.0 } else { value > 0.0 && value <= 1.0 };
        let range = if is_ratio { "a number from 1" } else { "a share above 0 up to 1" };
        (!is_in).then(|| format!("the rule is told {value}: it takes {range}"))
    }
}

/// What a caller chooses.
#[derive(Clone, Copy)]
pub struct Options<'o> {
    /// The method; the exact sum when absent.
    pub method: Option<&'static Method>,
    /// What the method is told.
    pub params: Params,
    /// Cuts the rank of low-rank updates; exact when absent.
    pub limit: Option<Limit>,
    /// The base, for what only it makes exact.
    pub base: Option<&'o dyn Checkpoint>,
    /// Weights, densities and lambdas by module.
    pub weights: &'o Weights,
    /// How interventions of several adapters at one site go together.
    pub site_rule: SiteRule,
    /// Only these directions of every intervention, from 0, ascending.
    pub subspace: Option<&'o [u64]>,
    /// Adapters for bases of other content are merged all the same; recorded.
    pub allow_base_mismatch: bool,
}

impl Default for Options<'_> {
    fn default() -> Self {
        const NONE: &Weights = &Weights { rules: Vec::new() };
        Self {
            method: None,
            params: Params::default(),
            limit: None,
            base: None,
            weights: NONE,
            site_rule: SiteRule::default(),
            subspace: None,
            allow_base_mismatch: false,
        }
    }
}

impl Options<'_> {
    /// What is said of interventions.
    pub(crate) fn of_interventions(&self) -> Option<&'static str> {
        let is_summed = self.site_rule == SiteRule::Sum;
        is_summed.then_some("at-one-site sum").or(self.subspace.map(|_| "subspace"))
    }

    /// What is told to a method, of the command or of a rule, where there is none.
    pub(crate) fn unheard(&self) -> Option<&'static str> {
        let rules = &self.weights.rules;
        let of_rules = if rules.iter().any(|rule| rule.density.is_some()) {
            Some("density")
        } else {
            rules.iter().any(|rule| rule.lambda.is_some()).then_some("lambda")
        };
        self.params.first_said().map(Param::name).or(of_rules)
    }
}

impl fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("method", &self.method)
            .field("params", &self.params)
            .field("limit", &self.limit)
            .field("base", &self.base.map(|base| base.tensors().len()))
            .field("weights", &self.weights)
            .field("site_rule", &self.site_rule)
            .field("subspace", &self.subspace)
            .field("allow_base_mismatch", &self.allow_base_mismatch)
            .finish()
    }
}

/// The adapter that does what all of them do together.
#[derive(Clone, Debug)]
pub struct Merged<'a> {
    /// The adapter.
    pub adapter: Adapter<'a>,
    /// Worth knowing.
    pub notes: Vec<Note>,
    /// What was cut of each target, in order of their names.
    pub truncated: Vec<Truncated>,
}

/// What became of the low-rank updates of a target under a [`Limit`].
#[derive(Clone, Debug, PartialEq)]
pub struct Truncated {
    /// The target's label.
    pub target: String,
    /// The rank of all updates side by side.
    pub from: u64,
    /// The rank that is left.
    pub to: u64,
    /// `‖Δ − Δ'‖ / ‖Δ‖`, Frobenius.
    pub relative_error: f64,
}

/// Worth knowing about a merge.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// Multipliers went into `up` with one rounding to F32.
    Rounded {
        /// How many targets.
        targets: usize,
    },
    /// Adapters name their bases differently.
    OtherName {
        /// The first adapter's.
        first: String,
        /// Another's.
        second: String,
    },
    /// Adapters were made for bases of other content, which was allowed.
    OtherBase {
        /// The tensors.
        tensors: Vec<String>,
        /// The result is for the base at hand.
        is_at_hand: bool,
    },
    /// Magnitudes, convolutions with a core, and interventions that are not linear keep their rank.
    NotCut {
        /// How many targets.
        targets: usize,
    },
    /// Magnitudes (DoRA) with elements that are not above 0, as the weights make them.
    Magnitudes {
        /// The targets, at least one.
        targets: Vec<String>,
    },
    /// Two adapters have no target in common, and nothing is recorded that tells whether their bases are one.
    NothingShared {
        /// The first adapter.
        first: String,
        /// Another.
        second: String,
    },
    /// Some adapters are not bound to a base: nor is the result.
    Unbound,
    /// The method says nothing of what is no update of its kind, such as interventions: that is merged exactly.
    Summed {
        /// The targets, at least one.
        targets: Vec<String>,
    },
    /// The results are dense.
    Dense {
        /// How many targets.
        targets: usize,
    },
    /// An adapter of weight 0 does nothing.
    Weightless {
        /// Its name.
        name: String,
    },
}

/// The first of them, and how many more.
fn named(f: &mut fmt::Formatter<'_>, tensors: &[String]) -> fmt::Result {
    f.write_str(tensors.first().map_or("", String::as_str))?;
    match tensors.len().saturating_sub(1) {
        0 => Ok(()),
        more => write!(f, " and {more} more tensors"),
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::Rounded { targets } => write!(
                f,
                "the multipliers of {targets} targets went into their factors, rounded once to F32 (relative 6e-8)"
            ),
            Note::OtherName { first, second } => {
                write!(f, "the adapters name their bases differently: {first:?} and {second:?}")
            }
            Note::OtherBase { tensors, is_at_hand } => {
                f.write_str("made for bases of other content, as allowed: ")?;
                named(f, tensors)?;
                f.write_str(match is_at_hand {
                    true => "; the result is for the base at hand",
                    false => "; the result is bound to the first that names them",
                })
            }
            Note::NotCut { targets } => write!(
                f,
                "{targets} targets keep their rank: magnitudes, convolutions with a core, and interventions that are not linear are not cut (--method task-arithmetic makes plain factors of a core)"
            ),
            Note::Magnitudes { targets } => {
                f.write_str(
                    "magnitudes are not all above 0, where weights turn rows around (E015 of validate): ",
                )?;
                named(f, targets)
            }
            Note::NothingShared { first, second } => write!(
                f,
                "{first} and {second} have no target in common, and not both say what their base is: nothing tells whether they are for one model"
            ),
            Note::Unbound => f.write_str("not all adapters are bound to a base, so the result is not either"),
            Note::Summed { targets } => {
                write!(f, "merged exactly, as the method says nothing of what changes them: ")?;
                named(f, targets)
            }
            Note::Dense { targets } => {
                write!(f, "the results of {targets} targets are dense: --rank makes low-rank updates of them")
            }
            Note::Weightless { name } => write!(f, "{name} has weight 0 and is left out"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Dynamic;

    #[test]
    fn ranks_are_those_of_the_rules() {
        // σ of the reference matrices: sums 20.97, 34.36, 40.97, 43.46; squares 439.8, 619.1, 662.8, 669.0.
        let values = [20.970920, 13.391196, 6.612400, 2.484464];
        for (rule, value, expected) in [
            (Dynamic::Ratio, 2.0, 2),
            (Dynamic::Ratio, 100.0, 4),
            (Dynamic::Cumulative, 0.79, 2),
            (Dynamic::Cumulative, 0.80, 3),
            (Dynamic::Frobenius, 0.96, 2),
            (Dynamic::Frobenius, 0.97, 3),
            (Dynamic::KohyaRatio, 2.0, 3),
            (Dynamic::KohyaCumulative, 0.79, 3),
            (Dynamic::KohyaFrobenius, 0.96, 3),
        ] {
            assert_eq!(rule.count(&values, value), expected, "{rule:?} {value}");
        }
        assert!(Dynamic::Ratio.fault(0.5).is_some() && Dynamic::Cumulative.fault(1.5).is_some());
    }
}
