//! What may be typed: one definition from which parsing, help, completions and the man page come.

mod merge;

pub(crate) use merge::{AtOneSite, Merge};

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use fitment_convert::{FORMATS, Preset, QkvRows};
use std::path::PathBuf;

/// Convert, validate, inspect, apply, merge and make neural-network adapters.
///
/// An adapter PATH is a Fitment file or any adapter that `fitment convert` reads (file or folder); a BASE is a
/// Hugging Face folder, sharded or not, one safetensors file, or a GGUF file.
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

/// The servers whose rules are known, for `--for`.
fn servers() -> PossibleValuesParser {
    fitment_validate::servers::SERVERS.iter().map(|server| server.name).collect::<Vec<_>>().into()
}

/// The narrower forms that can be written, for `--preset`.
/// The values of `--qkv-rows`.
fn qkv_rows() -> PossibleValuesParser {
    QkvRows::ALL.map(QkvRows::name).to_vec().into()
}

fn presets() -> PossibleValuesParser {
    Preset::ALL.map(Preset::name).to_vec().into()
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
    /// PEFT that wrote LoRA on square expert tensors, where neither shapes nor its config tell: 0.17 (up to 0.18), 0.19.0, 0.19.1 (and later)
    #[arg(long, value_name = "RELEASE")]
    pub(crate) moe_layout: Option<String>,
    /// Columns of lora_B of expert tensors, which Unsloth had the other way: rank-major (PEFT), expert-major (Unsloth before September 2026)
    #[arg(long, value_name = "ORDER")]
    pub(crate) moe_b_layout: Option<String>,
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
    /// A narrower form of the format: servable, the PEFT folder that every server loads
    #[arg(long, value_name = "PRESET", value_parser = presets())]
    pub(crate) preset: Option<String>,
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
    /// Where BASE has query, key and value in one projection that the adapter has apart, or the other way: the order of rows
    #[arg(long, value_name = "ORDER", value_parser = qkv_rows(), requires = "base")]
    pub(crate) qkv_rows: Option<String>,
    #[command(flatten)]
    pub(crate) said: Said,
    /// Write although something that changes the function is lost
    #[arg(long)]
    pub(crate) allow_loss: bool,
    /// Refuse what would only be warned of, such as keys that the tool does not know
    #[arg(long)]
    pub(crate) strict: bool,
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
    /// Server that shall load the adapters: what it refuses, ignores or computes otherwise are findings
    #[arg(long = "for", value_name = "SERVER", value_parser = servers())]
    pub(crate) servers: Vec<String>,
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
/// Reads the header only: the size of the file does not matter. A report looks at every value.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  fitment inspect my-lora.fitment.safetensors
  fitment inspect my-lora --tensors
  fitment inspect my-lora --html report.html
  fitment inspect my-lora --json | jq .ranks")]
pub(crate) struct Inspect {
    /// Adapter to show
    pub(crate) path: PathBuf,
    /// List every stored tensor
    #[arg(long)]
    pub(crate) tensors: bool,
    /// Write a report to this file: verdict, heat maps, spectra, tensors, on one page without scripts
    #[arg(long, value_name = "OUT")]
    pub(crate) html: Option<PathBuf>,
    /// Write the report as Markdown to this file
    #[arg(long, value_name = "OUT")]
    pub(crate) markdown: Option<PathBuf>,
    /// Replace a report that is there
    #[arg(short, long)]
    pub(crate) force: bool,
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
  fitment apply ./Llama-3.2-1B my-reft -o ./merged --rest left.fitment.safetensors
  fitment apply ./Llama-3.2-1B my-lora -o ./merged --device cuda --device-memory 8G")]
pub(crate) struct Apply {
    /// Base checkpoint: a Hugging Face folder, one safetensors file, or a GGUF file that is not quantised
    pub(crate) base: PathBuf,
    /// Adapters, each with an optional weight: PATH or PATH:WEIGHT
    #[arg(required = true, value_name = "PATH[:WEIGHT]")]
    pub(crate) adapters: Vec<String>,
    /// Folder to write; a file when BASE is a file (of GGUF always, ending in .safetensors)
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
    /// Where BASE has query, key and value in one projection that the adapter has apart, or the other way: the order of rows
    #[arg(long, value_name = "ORDER", value_parser = qkv_rows())]
    pub(crate) qkv_rows: Option<String>,
    /// Where numbers are computed: cpu, or in a build with devices also cpu-candle, cuda and metal; cuda:1 is the second of its kind
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub(crate) device: String,
    /// Memory of the device to use, such as 512M or 8G
    #[arg(long, value_name = "SIZE", value_parser = size, requires = "device")]
    pub(crate) device_memory: Option<u64>,
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

fn relative(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
    let is_share = value > 0.0 && value < 1.0;
    is_share.then_some(value).ok_or_else(|| "a relative error is above 0 and below 1".to_owned())
}

/// Bytes: a number, alone or with K, M, G or T behind it.
fn size(text: &str) -> Result<u64, String> {
    let (digits, power) = match text.as_bytes().last().map(u8::to_ascii_uppercase) {
        Some(b'K') => (&text[..text.len() - 1], 1),
        Some(b'M') => (&text[..text.len() - 1], 2),
        Some(b'G') => (&text[..text.len() - 1], 3),
        Some(b'T') => (&text[..text.len() - 1], 4),
        _ => (text, 0),
    };
    let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1024_u64.pow(power)));
    number
        .ok_or_else(|| format!("{text:?} is no size: a number of bytes, or one with K, M, G or T behind it"))
}

/// Forms of a diff; each is exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DiffForm {
    /// Compressed change of bits: the smallest
    Bits,
    /// Dense difference with exceptions: readable anywhere
    Add,
    /// Positions and values of the elements that change; the whole tensor where that is no smaller
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
