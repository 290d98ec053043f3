//! What may be typed: one definition from which parsing, help, completions and the man page come.

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use fitment_convert::FORMATS;
use fitment_merge::{DYNAMIC, Dynamic, METHODS};
use std::path::PathBuf;

/// Convert, validate, inspect, apply, merge and make neural-network adapters.
///
/// An adapter PATH is a Fitment file or any adapter that `fitment convert` reads (file or folder); a BASE is a
/// Hugging Face folder, sharded or not, or one safetensors file.
#[derive(Debug, Parser)]
#[command(name = "fitment", version, propagate_version = true, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

const EXIT_CODES: &str =
    "Exit codes: 0 done; 1 findings, mismatch or refused loss; 2 usage, or input that cannot be read or used;
3 nothing could be checked (validate: readable, but no adapter of a known format); 130 interrupted.

Examples:
  fitment convert my-lora -o my-lora.fitment.safetensors --base ./Llama-3.2-1B
  fitment validate my-lora.fitment.safetensors --base ./Llama-3.2-1B
  fitment apply ./Llama-3.2-1B my-lora.fitment.safetensors -o ./merged";

const EVERYWHERE: &str = "Options of every command";

/// Options of every verb.
#[derive(Args, Debug)]
pub(crate) struct Global {
    /// Print one JSON document on standard output instead of text, for an error too
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub(crate) json: bool,
    /// Print errors only
    #[arg(short, long, global = true, help_heading = EVERYWHERE)]
    pub(crate) quiet: bool,
    /// Print more: every assumption, every tensor
    #[arg(short, long, global = true, conflicts_with = "quiet", help_heading = EVERYWHERE)]
    pub(crate) verbose: bool,
}

/// The formats that can be read, for `--from`.
fn readable() -> PossibleValuesParser {
    FORMATS.iter().filter(|format| format.read.is_some()).map(|format| format.name).collect::<Vec<_>>().into()
}

/// The formats that can be written, for `--to`.
fn writable() -> PossibleValuesParser {
    FORMATS
        .iter()
        .filter(|format| format.write.is_some())
        .map(|format| format.name)
        .collect::<Vec<_>>()
        .into()
}

/// What the files of an adapter may not say.
#[derive(Args, Debug, Default)]
pub(crate) struct Said {
    /// Which tokens an intervention acts on, where its files do not say: f7+l7, f7|l7 (untied), f1, l1, all, prompt, decode
    #[arg(long, value_name = "POSITIONS")]
    pub(crate) positions: Option<String>,
    /// Activation of an intervention, where its files do not say: none, relu, gelu …
    #[arg(long, value_name = "NAME")]
    pub(crate) activation: Option<String>,
    /// Class of an intervention, where its files fit several: noreft, nodireft …
    #[arg(long, value_name = "CLASS")]
    pub(crate) formula: Option<String>,
    /// Alpha of LoRA factors that are saved without a config: 32 (scale alpha/r), rs:32 (rank-stabilised, alpha/√r)
    #[arg(long, value_name = "ALPHA", allow_hyphen_values = true)]
    pub(crate) alpha: Option<String>,
}

/// The methods of a merge, for `--method`.
fn methods() -> PossibleValuesParser {
    let value = |method: &&fitment_merge::Method| PossibleValue::new(method.name).help(method.what);
    METHODS.iter().map(value).collect::<Vec<_>>().into()
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Convert(Convert),
    Validate(Validate),
    Inspect(Inspect),
    Apply(Apply),
    Diff(Diff),
    Merge(Merge),
    Completions(Completions),
    Man(Man),
}

/// Convert an adapter to a Fitment file, or to another toolchain's format
///
/// Exactly, or with a list of what is lost. A loss that changes the function is refused without --allow-loss. With --base
/// the result is bound to that base: names and shapes are checked, and the digest of every touched tensor is recorded.
/// A Fitment file as SRC and --base binds it again; one that another tool re-saved is repaired.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  fitment convert my-lora -o my-lora.fitment.safetensors
  fitment convert my-lora -o my-lora.fitment.safetensors --base ./Llama-3.2-1B
  fitment convert my-lora.fitment.safetensors --to peft -o back-to-peft")]
pub(crate) struct Convert {
    /// Adapter to read: a Fitment file, or a foreign file or folder
    pub(crate) src: PathBuf,
    /// Where to write: a file for the Fitment format, what the tool expects otherwise
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: Option<PathBuf>,
    /// Format to write
    #[arg(long, value_name = "FORMAT", default_value = "fitment", value_parser = writable())]
    pub(crate) to: String,
    /// Format of SRC, when more than one fits
    #[arg(long, value_name = "FORMAT", value_parser = readable())]
    pub(crate) from: Option<String>,
    /// Base checkpoint to check against and to bind to
    #[arg(long, value_name = "BASE")]
    pub(crate) base: Option<PathBuf>,
    /// Name to record for the base, such as org/model
    #[arg(long, value_name = "NAME")]
    pub(crate) base_name: Option<String>,
    /// Which of several adapters in the folder
    #[arg(long, value_name = "NAME")]
    pub(crate) adapter: Option<String>,
    #[command(flatten)]
    pub(crate) said: Said,
    /// Write although something that changes the function is lost
    #[arg(long)]
    pub(crate) allow_loss: bool,
    /// Carry all other files of the folder along
    #[arg(long)]
    pub(crate) keep_files: bool,
    /// Replace an existing output
    #[arg(long)]
    pub(crate) force: bool,
}

/// Check files against every rule of the spec, of their format and of the base
///
/// Prints all findings. Severities: error, warning, note. A finding at or above --fail-on makes the exit code 1; with
/// --quiet only those are printed. Without one the exit code is 3 when a PATH can be read but is no adapter of a known
/// format: nothing could be checked. A PATH that cannot be read ends the run with 2.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  fitment validate my-lora.fitment.safetensors
  fitment validate adapters/* --base ./Llama-3.2-1B --fail-on warning
  fitment validate my-lora --format sarif > fitment.sarif
  fitment validate my-reft --positions f7+l7 --activation none
  fitment validate --explain M014")]
pub(crate) struct Validate {
    /// Adapters to check
    #[arg(required_unless_present = "explain")]
    pub(crate) paths: Vec<PathBuf>,
    /// Base checkpoint that the adapters must fit
    #[arg(long, value_name = "BASE")]
    pub(crate) base: Option<PathBuf>,
    /// Least severity that makes the exit code 1
    #[arg(long, value_name = "SEVERITY", default_value = "error")]
    pub(crate) fail_on: FailOn,
    /// Leave out findings of a code
    #[arg(long, value_name = "CODE")]
    pub(crate) allow: Vec<String>,
    /// Make findings of a code errors
    #[arg(long, value_name = "CODE")]
    pub(crate) deny: Vec<String>,
    /// Form of the report
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<ReportFormat>,
    /// Format of the adapters, when more than one fits
    #[arg(long, value_name = "FORMAT", value_parser = readable())]
    pub(crate) from: Option<String>,
    /// Which of several adapters in a folder
    #[arg(long, value_name = "NAME")]
    pub(crate) adapter: Option<String>,
    #[command(flatten)]
    pub(crate) said: Said,
    /// Say what a code means and what to do, and stop
    #[arg(long, value_name = "CODE", conflicts_with = "paths")]
    pub(crate) explain: Option<String>,
}

impl Validate {
    /// Whether the report is asked for as JSON, in either way.
    pub(crate) fn is_json(&self) -> bool {
        self.format == Some(ReportFormat::Json)
    }
}

/// Severities that a run can fail on.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum FailOn {
    Error,
    Warning,
    Note,
}

/// Forms of a validation report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportFormat {
    /// For people
    Text,
    /// One document, a stable contract
    Json,
    /// GitHub workflow commands
    Github,
    /// SARIF 2.1.0
    Sarif,
}

/// Show what is in an adapter
///
/// Reads the header only: the size of the file does not matter.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  fitment inspect my-lora.fitment.safetensors
  fitment inspect my-lora --tensors
  fitment inspect my-lora --json | jq .ranks")]
pub(crate) struct Inspect {
    /// Adapter to show
    pub(crate) path: PathBuf,
    /// List every stored tensor
    #[arg(long)]
    pub(crate) tensors: bool,
    /// Base checkpoint, for names that need it and the share of its parameters
    #[arg(long, value_name = "BASE")]
    pub(crate) base: Option<PathBuf>,
    /// Format of PATH, when more than one fits
    #[arg(long, value_name = "FORMAT", value_parser = readable())]
    pub(crate) from: Option<String>,
    /// Which of several adapters in the folder
    #[arg(long, value_name = "NAME")]
    pub(crate) adapter: Option<String>,
    #[command(flatten)]
    pub(crate) said: Said,
}

/// Apply adapters to a base checkpoint: a new checkpoint, rounded once
///
/// Works tensor by tensor in bounded memory. Digests that an adapter records are checked in the same pass. The output
/// appears whole or not at all. Interventions on hidden states are folded into weights where that is exact: linear, at
/// every token, and at the output or input of linear layers.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  fitment apply ./Llama-3.2-1B my-lora.fitment.safetensors -o ./merged
  fitment apply ./Llama-3.2-1B style.fitment.safetensors:0.7 ./peft-lora:0.3 -o ./merged
  fitment apply ./Llama-3.2-1B my-lora -o ./merged --skip '*.mlp.*' --dtype bf16
  fitment apply ./Llama-3.2-1B my-reft -o ./merged --rest left.fitment.safetensors")]
pub(crate) struct Apply {
    /// Base checkpoint: a Hugging Face folder or one safetensors file
    pub(crate) base: PathBuf,
    /// Adapters, each with an optional weight: PATH or PATH:WEIGHT
    #[arg(required = true, value_name = "PATH[:WEIGHT]")]
    pub(crate) adapters: Vec<String>,
    /// Folder to write; a file when BASE is a file
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// Write what weights cannot hold to this Fitment file, bound to the result
    #[arg(long, value_name = "REST")]
    pub(crate) rest: Option<PathBuf>,
    /// Leave out targets whose name matches
    #[arg(long, value_name = "GLOB")]
    pub(crate) skip: Vec<String>,
    /// Take the tokenizer files from this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// Dtype of every floating-point tensor written
    #[arg(long, value_name = "DTYPE")]
    pub(crate) dtype: Option<OutputDtype>,
    /// Accept a base whose digests or dtypes differ from the recorded ones
    #[arg(long)]
    pub(crate) allow_base_mismatch: bool,
    /// Format of the adapters, when more than one fits
    #[arg(long, value_name = "FORMAT", value_parser = readable())]
    pub(crate) from: Option<String>,
    /// Which of several adapters, where PATH is a folder that holds more than one
    #[arg(long, value_name = "NAME")]
    pub(crate) adapter: Option<String>,
    #[command(flatten)]
    pub(crate) said: Said,
    /// Replace an existing output
    #[arg(long)]
    pub(crate) force: bool,
}

/// Make an adapter of the difference of two checkpoints
///
/// Applied to BASE, the adapter gives the tensors of TUNED bit for bit, unless --rank or --max-error asks for an
/// approximation. Tensors that are new, missing, or of another dtype
/// or number of rows are told by name; unchanged ones are listed with their digest. The adapter is bound to BASE.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  fitment diff ./Llama-3.2-1B ./my-finetune -o my-finetune.fitment.safetensors
  fitment apply ./Llama-3.2-1B my-finetune.fitment.safetensors -o ./restored
  fitment diff ./Llama-3.2-1B ./my-finetune -o delta.fitment.safetensors --as add
  fitment diff ./Llama-3.2-1B ./my-finetune -o lora.fitment.safetensors --rank 64")]
pub(crate) struct Diff {
    /// Checkpoint to begin with: a Hugging Face folder or one safetensors file
    pub(crate) base: PathBuf,
    /// Checkpoint to arrive at
    pub(crate) tuned: PathBuf,
    /// Fitment file to write
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// How a changed tensor is told
    #[arg(long = "as", value_name = "FORM", default_value = "bits")]
    pub(crate) form: DiffForm,
    /// Approximate matrices at this rank; vectors and the like are stored as they become, or told by --as add
    #[arg(long, value_name = "R", conflicts_with = "max_error", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rank: Option<u32>,
    /// Approximate matrices at the smallest rank with at most this relative error (Frobenius), such as 0.05; a matrix that
    /// would then take more room than it has is told exactly, by --as
    #[arg(long, value_name = "E", value_parser = relative)]
    pub(crate) max_error: Option<f64>,
    /// Level of compression, 1 (fast) to 19
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=19))]
    pub(crate) level: i32,
    /// Name to record for the base, such as org/model
    #[arg(long, value_name = "NAME")]
    pub(crate) base_name: Option<String>,
    /// Replace an existing output
    #[arg(long)]
    pub(crate) force: bool,
}

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
    /// Weights by module: TOML or JSON of rules, [[rule]] match = "*.mlp.*", weight = 0.5 or [0.2, 0.8] over the layers,
    /// and adapter, density, lambda; the first that matches decides
    #[arg(long, value_name = "FILE")]
    pub(crate) weights: Option<PathBuf>,
    /// Share of elements that a method keeps, above 0 up to 1
    #[arg(long, value_name = "SHARE")]
    pub(crate) density: Option<f64>,
    /// What a method multiplies its result by
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub(crate) lambda: Option<f64>,
    /// Half width of della's probabilities
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
    /// Say what a method does and where its formula is from, and stop
    #[arg(long, value_name = "METHOD", value_parser = methods(), conflicts_with = "adapters")]
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

fn relative(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
    let is_share = value > 0.0 && value < 1.0;
    is_share.then_some(value).ok_or_else(|| "a relative error lies between 0 and 1".to_owned())
}

/// Forms of a diff; each is exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DiffForm {
    /// Compressed change of bits: the smallest
    Bits,
    /// Dense difference with exceptions: readable anywhere
    Add,
    /// Positions and values of the elements that change
    Sparse,
}

/// Dtypes that a checkpoint can be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputDtype {
    F64,
    F32,
    F16,
    Bf16,
}

/// Print shell completions
#[derive(Args, Debug)]
pub(crate) struct Completions {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

/// Print the manual page
#[derive(Args, Debug)]
pub(crate) struct Man {}
