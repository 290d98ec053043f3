//! `fitment apply`.

use super::fold::Split;
use super::open::{self, How, of_io};
use crate::args::{Apply, OutputDtype};
use crate::console::{Console, Exit, Failure, Run};
use crate::device::Chosen;
use crate::interrupt::interruptible;
use crate::progress::Progress;
use crate::weighted::Weighted;
use anyhow::anyhow;
use fitment_apply::{Culprit, Note, Options, Outcome, Plan, Refusal};
use fitment_convert::Converted;
use fitment_core::Adapter;
use fitment_core::checkpoint::{Checkpoint, OutputTensor};
use fitment_core::model::Edit;
use fitment_core::tensor::Dtype;
use fitment_io::{AdapterFiles, CheckpointDir, CheckpointOutput, ConfigEdit, Finished, OutputOptions};
use serde_json::json;
use std::sync::atomic::AtomicBool;

pub(crate) fn run(args: &Apply, console: Console) -> Run {
    let cancel = interruptible()?;
    let device = Chosen::open(args)?;
    let weighted = args
        .adapters
        .iter()
        .map(|text| Weighted::parse(text, |path| path.exists()))
        .collect::<Result<Vec<_>, _>>()?;
    let base = open::base(&args.base)?;
    let files = weighted
        .iter()
        .map(|adapter| AdapterFiles::load(&adapter.path).map_err(of_io))
        .collect::<Result<Vec<_>, _>>()?;
    let converted = read(args, &weighted, &files, &base)?;
    for Converted { losses, findings, .. } in &converted {
        for finding in findings {
            console.say(finding);
        }
        open::say_losses(&open::without_carrying(losses), console);
    }
    let adapters: Vec<&Adapter<'_>> = converted.iter().map(|converted| &converted.adapter).collect();
    let split = Split::new(&adapters, &weighted, &base, args.rest.is_some())?;
    split.check(args, &weighted, console)?;
    let inputs = split.inputs(&adapters, &weighted);
    let options = Options {
        skip: args.skip.clone(),
        dtype: args.dtype.map(dtype),
        allow_base_mismatch: args.allow_base_mismatch,
    };
    let plan = Plan::new(&inputs, &base, &options).map_err(|refusal| refused(&refusal, args, console))?;
    device.check(&plan)?;
    say_notes(&plan, console);
    let (outcome, output) = write((args, &weighted, &device), &plan, &base, &cancel, console)?;
    let finished = split.finish(output, args)?;
    report((args, &split), &plan, (&outcome, &finished), console)?;
    Ok(Exit::Done)
}

/// All notes; of tensors that are created, by the hundred where a config switch asks for them, the first few.
fn say_notes(plan: &Plan<'_>, console: Console) {
    const SHOWN: usize = 3;
    let created = plan.notes.iter().filter(|note| matches!(note, Note::Created { .. })).count();
    let mut said = 0;
    for note in &plan.notes {
        let is_created = matches!(note, Note::Created { .. });
        said += usize::from(is_created);
        match (is_created, said > SHOWN && created > SHOWN + 1) {
            (true, true) => console.detail(format_args!("note: {note}")),
            (_, _) => console.say(format_args!("note: {note}")),
        }
    }
    if created > SHOWN + 1 {
        console.say(format_args!("note: … and {} more tensors are created", created - SHOWN));
    }
}

fn read<'f>(
    args: &Apply,
    weighted: &[Weighted],
    files: &'f [AdapterFiles],
    base: &CheckpointDir,
) -> Result<Vec<Converted<'f>>, Failure> {
    let from = args.from.as_deref().map(open::format).transpose()?;
    let formats: Vec<_> = files.iter().map(|files| from.or_else(|| open::detected(files))).collect();
    let told = open::Said::each(&args.said, &formats);
    let read = |((weighted, files), said): ((&Weighted, &'f AdapterFiles), open::Said<'_>)| {
        let foreign = open::foreign_base(files, base);
        let adapter = args.adapter.as_deref().filter(|_| foreign.is_some());
        let qkv_rows = args.qkv_rows.as_deref().filter(|_| foreign.is_some());
        let how = How {
            from: args.from.as_deref(),
            adapter,
            base: foreign,
            refit: true,
            qkv_rows,
            said,
            ..How::default()
        };
        let (_, converted) = open::adapter(&weighted.path, files, how)?;
        if foreign.is_some() || has_targets(base, &converted) {
            return Ok(converted);
        }
        let fitted = How { base: Some(base), refit: true, qkv_rows: args.qkv_rows.as_deref(), ..how };
        match open::adapter(&weighted.path, files, fitted) {
            Ok((_, fitted)) => Ok(fitted),
            // The plan says what is missing, where it is so in every form.
            Err(failure) if is_missing(&failure) => Ok(converted),
            Err(failure) => Err(failure),
        }
    };
    weighted.iter().zip(files).zip(told).map(read).collect()
}

fn is_missing(failure: &Failure) -> bool {
    matches!(failure.error.downcast_ref(), Some(fitment_convert::Error::Unmapped { .. }))
}

fn has_targets(base: &CheckpointDir, converted: &Converted<'_>) -> bool {
    let edits = converted.adapter.edits.iter().filter(|edit| !matches!(edit, Edit::Set(set) if set.create));
    let mut targets = edits.filter_map(Edit::target).filter(|target| target.component.is_none());
    targets.all(|target| target.base_names().all(|name| base.tensors().contains_key(&name)))
}

fn dtype(dtype: OutputDtype) -> Dtype {
    match dtype {
        OutputDtype::F64 => Dtype::F64,
        OutputDtype::F32 => Dtype::F32,
        OutputDtype::F16 => Dtype::F16,
        OutputDtype::Bf16 => Dtype::BF16,
    }
}

/// All culprits, a line each, before the error line that names the first.
fn refused(refusal: &Refusal, args: &Apply, console: Console) -> Failure {
    const SHOWN: usize = 50;
    let culprits: &[Culprit] = refusal.culprits();
    if culprits.len() > 1 {
        for culprit in culprits.iter().take(SHOWN) {
            console.say(culprit);
        }
        if culprits.len() > SHOWN {
            console.say(format_args!("… and {} more", culprits.len() - SHOWN));
        }
    }
    let exit = if culprits.iter().all(is_misfit) { Exit::Findings } else { Exit::Unusable };
    let failure = Failure::new(exit, anyhow!("{refusal}"));
    let rebound = culprits.iter().find_map(|culprit| match culprit {
        Culprit::AlreadyThere { file, rebinds: true, .. } => Some(file),
        _ => None,
    });
    let command = |file: &String| {
        let base = args.base.display();
        format!(
            "it was converted without a base: `fitment convert {file} --base {base} --force` binds it to this one"
        )
    };
    open::with_hint(failure, rebound.map(command).or(refusal.hint().map(str::to_owned)))
}

/// Adapter and base are sound, but not made for each other.
fn is_misfit(culprit: &Culprit) -> bool {
    matches!(
        culprit,
        Culprit::MissingTarget { .. }
            | Culprit::AlreadyThere { .. }
            | Culprit::WrongShape { .. }
            | Culprit::RecordedShape { .. }
            | Culprit::Resized { .. }
            | Culprit::RecordedDtype { .. }
            | Culprit::DifferentBases { .. }
            | Culprit::AlreadyApplied { .. }
    )
}

/// Writes all tensors, to a place from which the output is still to be put in its own.
fn write<'b>(
    (args, weighted, device): (&Apply, &[Weighted], &Chosen),
    plan: &Plan<'_>,
    base: &'b CheckpointDir,
    cancel: &AtomicBool,
    console: Console,
) -> Result<(Outcome, CheckpointOutput<'b>), Failure> {
    let tensors: Vec<&OutputTensor> = plan.tensors().collect();
    let config: Vec<ConfigEdit> =
        plan.config.iter().map(|change| (change.path.clone(), change.to.clone())).collect();
    let inputs = weighted.iter().map(|adapter| adapter.path.clone()).collect();
    let options = OutputOptions { force: args.force, tokenizer: args.tokenizer.clone(), inputs };
    let output =
        CheckpointOutput::create(base, &args.output, (&tensors, &config), &options).map_err(of_io)?;
    let progress = Progress::bytes(console, plan.bytes(), "applying");
    let outcome = device.execute(plan, (base, &output), &|bytes| progress.advance(bytes), cancel);
    progress.clear();
    Ok((outcome.map_err(stopped)?, output))
}

fn stopped(error: fitment_apply::Error) -> Failure {
    let hint = error.hint().map(str::to_owned);
    let exit = match &error {
        fitment_apply::Error::Cancelled => Exit::Interrupted,
        fitment_apply::Error::BaseMismatch { .. } | fitment_apply::Error::AlreadyApplied { .. } => {
            Exit::Findings
        }
        _ => Exit::Unusable,
    };
    open::with_hint(Failure::new(exit, error), hint)
}

fn mismatch(mismatch: &fitment_apply::Mismatch) -> String {
    format!("{}: not the tensor that {} was made for (allowed)", mismatch.target, mismatch.file)
}

fn report(
    (args, split): (&Apply, &Split<'_>),
    plan: &Plan<'_>,
    (outcome, finished): (&Outcome, &Finished),
    console: Console,
) -> Result<(), Failure> {
    let mismatches: Vec<String> = outcome.mismatches.iter().map(mismatch).collect();
    if console.json {
        let config: Vec<_> = plan
            .config
            .iter()
            .map(|change| json!({"key": change.path.join("."), "from": change.from, "to": change.to}))
            .collect();
        return console.document(&json!({
            "fitment_apply": 1,
            "base": args.base.display().to_string(),
            "adapters": args.adapters,
            "output": args.output.display().to_string(),
            "device": args.device,
            "tensors": outcome.tensors,
            "changed": outcome.changed,
            "bytes": outcome.bytes,
            "digests_checked": outcome.checked,
            "folded": split.count,
            "rest": args.rest.as_ref().filter(|_| split.has_rest()).map(|rest| rest.display().to_string()),
            "kept": split.kept.iter().map(|kept| json!({"site": kept.site, "reason": kept.obstacle.to_string()})).collect::<Vec<_>>(),
            "mismatches": mismatches,
            "config": config,
            "notes": plan.notes.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "shards": finished.shards,
            "carried": finished.carried,
            "left_out": finished.left_out,
        }));
    }
    for mismatch in &mismatches {
        console.warn(mismatch);
    }
    for change in &plan.config {
        console.say(format_args!("config: {} = {}", change.path.join("."), change.to));
    }
    if split.count > 0 {
        console.say(format_args!("folded {} interventions into weights", split.count));
    }
    match args.rest.as_ref().map(|rest| (rest.display(), split.rest_len())) {
        None => {}
        Some((rest, 0)) => console.say(format_args!("{rest}: not written, as nothing is left")),
        Some((rest, left)) => {
            console.say(format_args!("wrote {rest} (fitment, {left} edits, for {})", args.output.display()));
        }
    }
    for name in &finished.left_out {
        console.detail(format_args!("left out: {name}"));
    }
    let digests = match outcome.checked {
        0 => "no digests to check".to_owned(),
        count => format!("{count} digests checked"),
    };
    console.say(format_args!(
        "wrote {} ({} tensors, {} changed, {:.1} MB, {digests})",
        args.output.display(),
        outcome.tensors,
        outcome.changed,
        outcome.bytes as f64 / 1e6
    ));
    Ok(())
}
