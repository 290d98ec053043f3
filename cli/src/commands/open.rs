//! From a path to an adapter in memory, whatever its format.

use crate::args;
use crate::console::{Console, Exit, Failure};
use fitment_convert::each::each;
use fitment_convert::{Ask, Converted, Files, FormatId, Loss, ReadOptions};
use fitment_core::Draft;
use fitment_core::checkpoint::Checkpoint;
use fitment_io::{Access, AdapterFiles, CheckpointDir, PieceSink};
use std::path::Path;

/// How an adapter argument is to be read.
#[derive(Clone, Copy, Default)]
pub(crate) struct How<'h> {
    pub(crate) from: Option<&'h str>,
    pub(crate) adapter: Option<&'h str>,
    pub(crate) base: Option<&'h dyn Checkpoint>,
    pub(crate) base_name: Option<&'h str>,
    pub(crate) keep_files: bool,
    /// Of a Fitment file, leave the values for later.
    pub(crate) unverified: bool,
    /// It is shown, not written: what only a base could tell is taken for the usual.
    pub(crate) to_look_at: bool,
    /// Fit what the base has fused, or apart, to it; with the order of rows where that is said.
    pub(crate) refit: bool,
    pub(crate) qkv_rows: Option<&'h str>,
    pub(crate) said: Said<'h>,
}

/// What an adapter is told that its files may not say.
#[derive(Clone, Copy, Default)]
pub(crate) struct Said<'h> {
    pub(crate) positions: Option<&'h str>,
    pub(crate) activation: Option<&'h str>,
    pub(crate) formula: Option<&'h str>,
    pub(crate) alpha: Option<&'h str>,
    pub(crate) moe_layout: Option<&'h str>,
    pub(crate) moe_b_layout: Option<&'h str>,
}

impl<'h> Said<'h> {
    /// All that was typed.
    pub(crate) fn all(args: &'h args::Said) -> Self {
        Self {
            positions: args.positions.as_deref(),
            activation: args.activation.as_deref(),
            formula: args.formula.as_deref(),
            alpha: args.alpha.as_deref(),
            moe_layout: args.moe_layout.as_deref(),
            moe_b_layout: args.moe_b_layout.as_deref(),
        }
    }

    /// The same for a reader.
    pub(crate) fn options(self) -> ReadOptions<'h> {
        let Self { positions, activation, formula, alpha, moe_layout, moe_b_layout } = self;
        ReadOptions {
            positions,
            activation,
            formula,
            alpha,
            moe_layout,
            moe_b_layout,
            ..ReadOptions::default()
        }
    }

    /// What each of several adapters is told: what its format asks for. What none asks for is told to all, and refused.
    pub(crate) fn each(args: &'h args::Said, formats: &[Option<FormatId>]) -> Vec<Self> {
        let asks = |format: &Option<FormatId>, ask: Ask| {
            format.is_some_and(|format| format.format().asks.contains(&ask))
        };
        let told = |format: &Option<FormatId>| {
            let all = Self::all(args);
            let of_use = |ask: Ask| asks(format, ask) || !formats.iter().any(|format| asks(format, ask));
            Self {
                positions: all.positions.filter(|_| of_use(Ask::Positions)),
                activation: all.activation.filter(|_| of_use(Ask::Activation)),
                formula: all.formula.filter(|_| of_use(Ask::Formula)),
                alpha: all.alpha.filter(|_| of_use(Ask::Alpha)),
                moe_layout: all.moe_layout.filter(|_| of_use(Ask::MoeLayout)),
                moe_b_layout: all.moe_b_layout.filter(|_| of_use(Ask::MoeBLayout)),
            }
        };
        formats.iter().map(told).collect()
    }
}

/// The value of `--from` or `--to`.
pub(crate) fn format(name: &str) -> Result<FormatId, Failure> {
    name.parse().map_err(|error| Failure::new(Exit::Unusable, anyhow::Error::from(error)))
}

/// The format that files are of, where there is one.
pub(crate) fn detected(files: &AdapterFiles) -> Option<FormatId> {
    fitment_convert::detect(&files.iter().collect()).ok()
}

/// Opens the files of an adapter.
pub(crate) fn files(path: &Path) -> Result<AdapterFiles, Failure> {
    AdapterFiles::load(path).map_err(of_io)
}

/// Opens a base checkpoint.
pub(crate) fn base(path: &Path) -> Result<CheckpointDir, Failure> {
    CheckpointDir::open(path, Access::Map).map_err(of_io)
}

/// Reads an adapter of any format. `None` as base leaves names as the files have them.
pub(crate) fn adapter<'a>(
    path: &Path,
    files: &'a AdapterFiles,
    how: How<'_>,
) -> Result<(FormatId, Converted<'a>), Failure> {
    let blobs: Files<'a> = files.iter().collect();
    let at_path = |error: fitment_convert::Error| of_convert(error, path);
    let id = match how.from {
        Some(name) => format(name)?,
        None => fitment_convert::detect(&blobs).map_err(|error| undetected(error, path, files))?,
    };
    let options = ReadOptions {
        from: Some(id),
        base: how.base,
        base_name: how.base_name,
        keep_files: how.keep_files,
        adapter_name: how.adapter,
        unverified: how.unverified,
        refit: how.refit,
        to_look_at: how.to_look_at,
        qkv_rows: how.qkv_rows.and_then(|name| name.parse().ok()),
        ..how.said.options()
    };
    let converted = fitment_convert::read(&blobs, &options).map_err(at_path)?;
    Ok((id, converted))
}

/// A lone safetensors file that no format claims is told what is wrong with it, rather than what it is not.
fn undetected(error: fitment_convert::Error, path: &Path, files: &AdapterFiles) -> Failure {
    let is_container = path.extension().is_some_and(|ending| ending == "safetensors");
    let bytes = files.single().filter(|_| is_container);
    let error = match (error, bytes.map(fitment_core::read)) {
        (fitment_convert::Error::NotDetected { .. }, Some(Err(breach))) => breach.into(),
        (error, _) => error,
    };
    let is_foreign = matches!(error, fitment_convert::Error::Core(fitment_core::Error::NotFitment));
    let failure = of_convert(error, path);
    if is_foreign {
        failure.hint("weights alone do not say how they apply: name the adapter's folder")
    } else {
        failure
    }
}

/// The base with which to read an adapter that is about to be applied: foreign formats need it to know what they mean; a
/// Fitment file says so itself, and its binding is checked by the plan.
pub(crate) fn foreign_base<'b>(files: &AdapterFiles, base: &'b CheckpointDir) -> Option<&'b dyn Checkpoint> {
    let is_fitment = files.single().is_some_and(|bytes| fitment_core::is_fitment(bytes, bytes.len() as u64));
    (!is_fitment).then_some(base as &dyn Checkpoint)
}

/// Every finding about an adapter.
pub(crate) fn validated(
    input: &fitment_validate::Input<'_, '_>,
    base: Option<&dyn Checkpoint>,
    options: &fitment_validate::Options,
) -> Result<fitment_validate::Outcome, Failure> {
    fitment_validate::validate(input, base, options).map_err(|error| {
        let hint = match &error {
            fitment_validate::Error::Input(error) => error.hint(),
            _ => None,
        };
        let error = anyhow::Error::from(error).context(input.name.to_owned());
        with_hint(Failure::new(Exit::Unusable, error), hint)
    })
}

/// The line and hint of an error about files.
pub(crate) fn of_io(error: fitment_io::Error) -> Failure {
    let hint = match &error {
        fitment_io::Error::Model { source, .. } => source.hint(),
        _ => error.hint().map(str::to_owned),
    };
    with_hint(Failure::new(Exit::Unusable, anyhow::Error::from(error)), hint)
}

/// The line and hint of an error about an adapter's content.
pub(crate) fn of_convert(error: fitment_convert::Error, path: &Path) -> Failure {
    let hint = error.hint();
    let exit = match &error {
        fitment_convert::Error::Mismatch { .. }
        | fitment_convert::Error::Unmapped { .. }
        | fitment_convert::Error::WrongBase { .. } => Exit::Findings,
        _ => Exit::Unusable,
    };
    let error = anyhow::Error::from(error).context(path.display().to_string());
    with_hint(Failure::new(exit, error), hint)
}

pub(crate) fn with_hint(failure: Failure, hint: Option<String>) -> Failure {
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// Says what a conversion dropped or assumed: what changes the function as a warning, the rest as a line.
pub(crate) fn say_losses(losses: &[Loss], console: Console) {
    for loss in losses {
        match loss.changes_function() {
            true => console.warn(format_args!("lost: {loss}")),
            false => console.say(format_args!("note: {loss}")),
        }
    }
}

/// Refuses a loss that changes the function, unless the user allowed it.
pub(crate) fn refuse_loss(losses: &[Loss], allowed: bool) -> Result<(), Failure> {
    let serious: Vec<String> =
        losses.iter().filter(|loss| loss.changes_function()).map(ToString::to_string).collect();
    match &serious[..] {
        [] => Ok(()),
        _ if allowed => Ok(()),
        [first, rest @ ..] => {
            let more = match rest.len() {
                0 => String::new(),
                count => format!(" (and {count} more)"),
            };
            let error = anyhow::anyhow!("the result would compute something else: {first}{more}");
            Err(Failure::new(Exit::Findings, error).hint("--allow-loss writes it all the same"))
        }
    }
}

/// Files that a conversion would have carried along are of no interest here.
pub(crate) fn without_carrying(losses: &[Loss]) -> Vec<Loss> {
    let carried = |loss: &&Loss| !matches!(loss, Loss::FileLeft { .. });
    losses.iter().filter(carried).cloned().collect()
}

/// Writes a Fitment file, whole or not at all, each tensor digested on its way; gives its length in bytes.
pub(crate) fn save(draft: &Draft<'_>, output: &Path, placing: (bool, &[&Path])) -> Result<u64, Failure> {
    let len = draft.byte_len();
    let write = |sink: &PieceSink<'_>| Ok(draft.write(&each, sink)?);
    fitment_io::write_pieces_atomic(output, len, placing, &write).map_err(of_io)?;
    Ok(len)
}
