//! `fitment diff`.

use super::open::{self, of_io};
use crate::args::{Diff, DiffForm};
use crate::console::{Console, Exit, Failure, Run};
use crate::interrupt::interruptible;
use crate::progress::Progress;
use anyhow::anyhow;
use fitment_core::Draft;
use fitment_core::checkpoint::{Checkpoint, TensorInfo};
use fitment_diff::{Approximated, Error, Form, LowRank, Options, Summary};
use fitment_io::{CheckpointDir, Spool};
use serde_json::json;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) fn run(args: &Diff, console: Console) -> Run {
    let cancel = interruptible()?;
    let (base, tuned) = (open::base(&args.base)?, open::base(&args.tuned)?);
    if args.output.exists() && !args.force {
        let error = anyhow!("{} exists already", args.output.display());
        return Err(Failure::new(Exit::Unusable, error).hint("--force replaces it"));
    }
    let spool = Spool::beside(&args.output).map_err(of_io)?;
    let kept = Kept(spool);
    let diff = compare(args, (&base, &tuned), &kept, (&cancel, console))?;
    let spooled = kept.0.finish().map_err(of_io)?;
    let mut adapter = diff.adapter(&tuned, spooled.bytes()).map_err(stopped)?;
    if let Some(config) = base.config() {
        fitment_convert::record_config(&mut adapter, config);
    }
    adapter.base.name.clone_from(&args.base_name);
    let draft = Draft::of(&adapter).map_err(|error| open::of_convert(error.into(), &args.tuned))?;
    let inputs = [args.base.as_path(), args.tuned.as_path()];
    let len = open::save(&draft, &args.output, (args.force, &inputs))?;
    report(args, &diff, len, console)?;
    Ok(Exit::Done)
}

/// The spool on disk as the engine asks for it.
struct Kept(Spool);

impl fitment_diff::Spool for Kept {
    fn reserve(&self, len: u64) -> std::io::Result<Range<u64>> {
        Ok(self.0.reserve(len))
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write_at(at, bytes)
    }
}

fn compare(
    args: &Diff,
    (base, tuned): (&CheckpointDir, &CheckpointDir),
    kept: &Kept,
    (cancel, console): (&AtomicBool, Console),
) -> Result<fitment_diff::Diff, Failure> {
    let form = match args.form {
        DiffForm::Bits => Form::Bits,
        DiffForm::Add => Form::Add,
        DiffForm::Sparse => Form::Sparse,
    };
    let rank = args.rank.map(|rank| LowRank::Rank(rank as usize));
    let low_rank = rank.or(args.max_error.map(LowRank::Error));
    let options = Options { form, level: args.level, low_rank };
    let len = |checkpoint: &CheckpointDir| -> u64 {
        let infos = checkpoint.tensors().values();
        infos.map(|info| info.shape.byte_len(info.dtype).unwrap_or(0)).sum()
    };
    let bar = Progress::bytes(console, len(base) + len(tuned), "comparing");
    let advance = |bytes| {
        bar.advance(bytes);
        !cancel.load(Ordering::Relaxed)
    };
    let diff = fitment_diff::diff(base, tuned, &options, kept, &advance);
    bar.clear();
    diff.map_err(|error| match error {
        // As an error about the output's folder: it says what to do about a full disk.
        Error::Spool { source, .. } => {
            let action = "put changed tensors aside for";
            of_io(fitment_io::Error::Io { path: args.output.clone(), action, source })
        }
        error => stopped(error),
    })
}

fn stopped(error: Error) -> Failure {
    let exit = match &error {
        Error::Cancelled => Exit::Interrupted,
        Error::Reshaped { .. } | Error::NothingInCommon { .. } => Exit::Findings,
        _ => Exit::Unusable,
    };
    let hint = match &error {
        Error::Reshaped { .. } | Error::NothingInCommon { .. } => {
            Some("the two are of different models: compare checkpoints of one architecture")
        }
        Error::NotFinite { .. } => Some("mend the tensor, or take it out of the tuned checkpoint"),
        Error::NoTensors { .. } => Some("name the folder or file that holds the model's weights"),
        _ => None,
    };
    open::with_hint(Failure::new(exit, anyhow::Error::from(error)), hint.map(str::to_owned))
}

fn report(args: &Diff, diff: &fitment_diff::Diff, len: u64, console: Console) -> Result<(), Failure> {
    let summary = &diff.summary;
    let approximated: Vec<(&str, Approximated)> = diff.approximated().collect();
    let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    let (changed, size) =
        (share(summary.changed_elements, summary.elements), share(len, summary.tuned_bytes));
    if console.json {
        return console.document(&json!({
            "fitment_diff": 1,
            "base": args.base.display().to_string(),
            "tuned": args.tuned.display().to_string(),
            "output": args.output.display().to_string(),
            "unchanged": summary.unchanged,
            "changed": summary.changed,
            "created": summary.created,
            "removed": summary.removed,
            "others": summary.others.iter().map(|(name, base, tuned)| json!({
                "name": name,
                "base": base.as_ref().map(form),
                "tuned": tuned.as_ref().map(form),
            })).collect::<Vec<_>>(),
            "changed_elements": summary.changed_elements,
            "elements": summary.elements,
            "tuned_bytes": summary.tuned_bytes,
            "bytes": len,
            "other_config": summary.other_config,
            "approximated": approximated.iter().map(|(name, found)| json!({
                "name": name,
                "rank": found.rank,
                "relative_error": found.relative_error,
                "largest_error": found.largest_error,
            })).collect::<Vec<_>>(),
        }));
    }
    if !summary.other_config.is_empty() {
        let keys = summary.other_config.join(", ");
        console.warn(format_args!("config keys that differ and that a Fitment file does not set: {keys}"));
    }
    others(&summary.others, console);
    console.say(format_args!(
        "{} tensors changed, {} unchanged, {} new, {} missing; {:.3} % of the elements changed",
        summary.changed,
        summary.unchanged,
        summary.created,
        summary.removed,
        100.0 * changed
    ));
    if args.rank.is_some() || args.max_error.is_some() {
        approximations(&approximated, summary, console);
    }
    let size = format!("{len} bytes, {:.2} % of the tuned tensors", 100.0 * size);
    console.say(format_args!("wrote {} ({size})", args.output.display()));
    Ok(())
}

fn form(info: &TensorInfo) -> serde_json::Value {
    json!({"dtype": info.dtype.name(), "shape": info.shape.dims()})
}

/// Tensors that are not of one form in both, by name; of many, the first.
fn others(found: &[(String, Option<TensorInfo>, Option<TensorInfo>)], console: Console) {
    /// What is still read.
    const SHOWN: usize = 20;
    for (name, base, tuned) in found.iter().take(SHOWN) {
        let [base, tuned] =
            [base, tuned].map(|info| info.as_ref().map(|info| format!("{} {}", info.dtype, info.shape)));
        match (base, tuned) {
            (Some(base), Some(tuned)) => console.say(format_args!("{name}: {base} becomes {tuned}")),
            (None, Some(tuned)) => console.say(format_args!("{name}: new, {tuned}")),
            (base, None) => console.say(format_args!("{name}: missing, {}", base.unwrap_or_default())),
        }
    }
    if found.len() > SHOWN {
        console.say(format_args!("… and {} more (--json names all)", found.len() - SHOWN));
    }
}

/// Each approximated matrix, and the worst of them.
fn approximations(found: &[(&str, Approximated)], summary: &Summary, console: Console) {
    let width = found.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, at) in found {
        let (relative, largest) = (at.relative_error, at.largest_error);
        console.say(format_args!(
            "{name:<width$}  rank {:<4}  relative error {relative:.4}  largest {largest:.1e}",
            at.rank
        ));
    }
    let worst = found.iter().max_by(|(_, a), (_, b)| a.relative_error.total_cmp(&b.relative_error));
    let worst = worst.map(|(name, at)| format!("; relative error at most {:.4} ({name})", at.relative_error));
    console.say(format_args!(
        "{} of {} changed tensors approximated{}, the others are exact",
        found.len(),
        summary.changed,
        worst.unwrap_or_default()
    ));
}
