//! The arguments of `fitment merge`.

use super::{readable, relative};
use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Args, ValueEnum};
use fitment_merge::{DYNAMIC, Dynamic, METHODS};
use std::path::PathBuf;

/// Merge adapters into one: exactly, or as near as a rank allows
///
/// The result does what applying the list does: factors stand side by side, replacements become their weighted mean, the
/// rest is listed. With --rank or --max-error the low-rank updates of each target become the nearest product of a smaller
/// rank, whose distance is printed and recorded; with one adapter this resizes it. What cannot be merged exactly is refused
/// by name; --base lets magnitudes (DoRA), bit-exact changes and replacements of any weights in.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  fitment merge style.fitment.safetensors:0.7 ./peft-lora:0.3 -o both.fitment.safetensors
  fitment merge a.fitment.safetensors b.fitment.safetensors:-1 -o difference.fitment.safetensors
  fitment merge a:0.5 b:0.5 -o both.fitment.safetensors --rank 16
  fitment merge big-lora -o small.fitment.safetensors --max-error 0.05
  fitment merge dora-a:0.5 dora-b:0.5 -o both.fitment.safetensors --base ./Llama-3.2-1B")]
pub(crate) struct Merge {
    /// Adapters, each with an optional weight: PATH or PATH:WEIGHT
    #[arg(required_unless_present = "explain_method", value_name = "PATH[:WEIGHT]")]
    pub(crate) adapters: Vec<String>,
    /// Fitment file to write
    #[arg(short, long, value_name = "OUT", required_unless_present = "explain_method")]
    pub(crate) output: Option<PathBuf>,
    /// Method, where not the exact sum is wanted; --explain-method says what each does
    #[arg(long, value_name = "METHOD", value_parser = methods())]
    pub(crate) method: Option<String>,
    /// Weights by module: TOML or JSON with a list "rule" of match = "*.mlp.*", weight = 0.5 or [0.2, 0.8] over the layers,
    /// and adapter, density, lambda; the first that matches decides
    #[arg(long, value_name = "FILE")]
    pub(crate) weights: Option<PathBuf>,
    /// Share of elements that a method keeps, above 0 up to 1
    #[arg(long, value_name = "SHARE")]
    pub(crate) density: Option<f64>,
    /// What a method multiplies its result by
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub(crate) lambda: Option<f64>,
    /// Half width of della's probabilities; what ram takes for no change
    #[arg(long, value_name = "NUMBER")]
    pub(crate) epsilon: Option<f64>,
    /// Share of the largest elements that breadcrumbs takes away
    #[arg(long, value_name = "SHARE")]
    pub(crate) gamma: Option<f64>,
    /// Where between two adapters: 0 for the first, 1 for the second
    #[arg(long, value_name = "SHARE")]
    pub(crate) t: Option<f64>,
    /// How much of the adapters' own lengths ctm keeps when it looks for bases: 0 for all alike, 1 for all of them
    #[arg(long, value_name = "SHARE")]
    pub(crate) beta: Option<f64>,
    /// How much of the second adapter np-lora takes away where the first acts: 0 for nothing, 1 for all of it
    #[arg(long, value_name = "SHARE")]
    pub(crate) eta: Option<f64>,
    /// Seed of what a method draws at random: with it, the same files give the same result
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Say what a method of --method does and where its formula is from, and stop
    #[arg(long, value_name = "METHOD", value_parser = methods(), hide_possible_values = true, conflicts_with = "adapters")]
    pub(crate) explain_method: Option<String>,
    /// Cut low-rank updates to this rank
    #[arg(long, value_name = "R", conflicts_with = "max_error", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rank: Option<u32>,
    /// Cut low-rank updates to the smallest rank with at most this relative error (Frobenius), such as 0.05
    #[arg(long, value_name = "E", value_parser = relative)]
    pub(crate) max_error: Option<f64>,
    /// Cut low-rank updates by their singular values, to --rank at most: sv_ratio=20, sv_cumulative=0.9, sv_fro=0.95, or with
    /// kohya: before it as kohya's resize_lora.py counts
    #[arg(long, value_name = "RULE=VALUE", value_parser = dynamic, conflicts_with = "max_error")]
    pub(crate) dynamic: Option<(Dynamic, f64)>,
    /// Base checkpoint: for what only it makes exact; checks and binds the result
    #[arg(long, value_name = "BASE")]
    pub(crate) base: Option<PathBuf>,
    /// Format of the adapters, when more than one fits
    #[arg(long, value_name = "FORMAT", value_parser = readable())]
    pub(crate) from: Option<String>,
    /// How interventions of several adapters at one site go together
    #[arg(long, value_name = "RULE", default_value = "sequential")]
    pub(crate) at_one_site: AtOneSite,
    /// Keep only these directions of every intervention, from 0: 0-3, or 0,2,5
    #[arg(long, value_name = "DIRECTIONS", value_parser = directions)]
    pub(crate) subspace: Option<Directions>,
    /// Merge adapters that were made for bases of other content or dtype; recorded in the result
    #[arg(long)]
    pub(crate) allow_base_mismatch: bool,
    /// Replace an existing output
    #[arg(long)]
    pub(crate) force: bool,
}

fn dynamic(text: &str) -> Result<(Dynamic, f64), String> {
    let known = || DYNAMIC.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let (name, value) =
        text.split_once('=').ok_or_else(|| format!("RULE=VALUE is asked for, RULE one of {}", known()))?;
    let rule = DYNAMIC.iter().find(|(known, _)| *known == name);
    let (_, rule) = rule.ok_or_else(|| format!("no rule {name:?}; there are {}", known()))?;
    let value = value.parse().map_err(|_| format!("{value:?} is not a number"))?;
    Ok((*rule, value))
}

/// How interventions at one site go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AtOneSite {
    /// One after the other: each sees what the one before made
    Sequential,
    /// All see what was there before; their changes are added
    Sum,
}

/// Directions of an intervention, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Directions(pub(crate) Vec<u64>);

fn directions(text: &str) -> Result<Directions, String> {
    const MOST: u64 = 1 << 20;
    let mut all = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| {
            text.trim().parse::<u64>().map_err(|_| format!("{text:?} is no number of a direction"))
        };
        let (first, last) = (number(first)?, number(last)?);
        if last < first || last >= MOST {
            return Err(format!("{part:?} is no range of directions"));
        }
        all.extend(first..=last);
    }
    match all.windows(2).all(|pair| pair[0] < pair[1]) {
        true => Ok(Directions(all)),
        false => Err("directions ascend, each named once".to_owned()),
    }
}

/// The methods of a merge, for `--method`.
fn methods() -> PossibleValuesParser {
    let value = |method: &&fitment_merge::Method| PossibleValue::new(method.name).help(method.what);
    METHODS.iter().map(value).collect::<Vec<_>>().into()
}
