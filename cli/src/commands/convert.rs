//! `fitment convert`.

use super::open::{self, How};
use crate::args::Convert;
use crate::console::{Console, Exit, Failure, Run};
use anyhow::anyhow;
use fitment_convert::{Converted, Files, FormatId, Loss, OutputFile, Preset, WriteOptions, Written};
use fitment_core::checkpoint::Checkpoint;
use fitment_core::{Adapter, Draft, Finding, Severity};
use fitment_io::{AdapterFiles, FolderFile};
use serde_json::json;
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::thread::ScopedJoinHandle;

pub(crate) fn run(args: &Convert, console: Console) -> Run {
    let to = open::format(&args.to)?;
    let files = open::files(&args.src)?;
    let base = args.base.as_deref().map(open::base).transpose()?;
    let base = base.as_ref().map(|base| base as &dyn Checkpoint);
    // Into another format, digests are checked while it is written, and decide before it appears.
    let is_fitment = args.from.is_none() && open::detected(&files) == Some(FormatId::Fitment);
    let unverified = is_fitment && base.is_none() && to != FormatId::Fitment;
    let how = How {
        unverified,
        from: args.from.as_deref(),
        adapter: args.adapter.as_deref(),
        base,
        base_name: args.base_name.as_deref(),
        keep_files: args.keep_files,
        to_look_at: false,
        refit: true,
        qkv_rows: args.qkv_rows.as_deref(),
        said: open::Said::all(&args.said),
    };
    let (from, Converted { adapter, mut losses, findings, .. }) = open::adapter(&args.src, &files, how)?;
    let preset = Preset::ALL.into_iter().find(|preset| args.preset.as_deref() == Some(preset.name()));
    let failed = |error| open::of_convert(error, &args.src);
    let form = match (to, preset) {
        (FormatId::Fitment, None) => {
            Form::Own(Box::new(Draft::of(&adapter).map_err(|error| failed(error.into()))?))
        }
        _ => {
            let written =
                fitment_convert::write(&adapter, to, &WriteOptions { base, preset }).map_err(failed)?;
            losses.extend(written.losses.iter().cloned());
            Form::Foreign(written)
        }
    };
    let output = output_path(args, to)?;
    if !console.json {
        for finding in &findings {
            console.say(finding);
        }
        open::say_losses(&losses, console);
    }
    open::refuse_loss(&losses, args.allow_loss)?;
    refuse_warnings(&findings, args.strict)?;
    verified(&files, unverified, args, &|check| save(&output, args, to, &form, check))?;
    let done = Done { from, to, output: &output, adapter: &adapter, losses: &losses, findings: &findings };
    report(args, &done, console)?;
    Ok(Exit::Done)
}

/// With `--strict`, what is only suspicious is an error.
fn refuse_warnings(findings: &[Finding], strict: bool) -> Result<(), Failure> {
    let mut warnings = findings.iter().filter(|finding| finding.severity >= Severity::Warning);
    let Some(first) = warnings.next().filter(|_| strict) else { return Ok(()) };
    let more = match warnings.count() {
        0 => String::new(),
        count => format!(" (and {count} more)"),
    };
    let error = anyhow!("{} {}: {}{more}", first.code, first.place, first.message);
    Err(Failure::new(Exit::Findings, error).hint("mend it, or convert without --strict"))
}

/// What will be written.
enum Form<'a> {
    /// A Fitment file, whose tensors are digested while it is written.
    Own(Box<Draft<'a>>),
    /// The files of another format.
    Foreign(Written<'a>),
}

/// `-o`, or for a Fitment file the source's name with the format's ending.
fn output_path(args: &Convert, to: FormatId) -> Result<PathBuf, Failure> {
    if let Some(output) = &args.output {
        return Ok(output.clone());
    }
    let name = args.src.file_name().and_then(|name| name.to_str());
    match name.filter(|_| to == FormatId::Fitment) {
        Some(name) => {
            let stem = name.strip_suffix(".safetensors").unwrap_or(name);
            let stem = stem.strip_suffix(".fitment").unwrap_or(stem);
            Ok(args.src.with_file_name(format!("{stem}.fitment.safetensors")))
        }
        None => Err(Failure::new(Exit::Unusable, anyhow!("no output named")).hint("name one with -o OUT")),
    }
}

/// What the last piece of an output waits for before it counts as written.
type Check<'c> = &'c (dyn Fn() -> Result<(), Box<dyn std::error::Error + Send + Sync>> + 'c);

/// Writes, and beside it looks at the values of a Fitment file that was read without.
fn verified(
    files: &AdapterFiles,
    unverified: bool,
    args: &Convert,
    write: &dyn Fn(Check<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    if !unverified {
        return write(&|| Ok(()));
    }
    let blobs: Files<'_> = files.iter().collect();
    let damage = Cell::new(None);
    let written = std::thread::scope(|scope| {
        let verdict = Cell::new(Some(scope.spawn(|| fitment_convert::verify(&blobs))));
        write(&|| match verdict.take().map(ScopedJoinHandle::join) {
            Some(Ok(Err(error))) => {
                damage.set(Some(error));
                Err("the source is damaged".into())
            }
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            Some(Ok(Ok(()))) | None => Ok(()),
        })
    });
    match damage.take() {
        Some(error) => Err(open::of_convert(error, &args.src)),
        None => written,
    }
}

fn save(
    output: &Path,
    args: &Convert,
    to: FormatId,
    form: &Form<'_>,
    check: Check<'_>,
) -> Result<(), Failure> {
    // Binding or repairing a Fitment file in its own place loses nothing: the one input that may be replaced.
    let in_place = args.src.is_file() && output.canonicalize().ok() == args.src.canonicalize().ok();
    let inputs: &[&Path] = if in_place { &[] } else { &[&args.src] };
    let placing = (args.force, inputs);
    let written = match form {
        Form::Own(draft) => return open::save(draft, output, placing).map(|_| ()),
        Form::Foreign(written) => written,
    };
    if to.format().is_one_file {
        let [file] = &written.files[..] else {
            return Err(Failure::from(anyhow!("the {to} writer gave {} files", written.files.len())));
        };
        return fitment_io::write_file_atomic(output, file.byte_len(), placing, &|out| {
            file.write_to(out)?;
            check()
        })
        .map_err(open::of_io);
    }
    let mut files: Vec<FolderFile<'_>> = written.files.iter().map(folder_file).collect();
    if let (Some(last), Some(file)) = (files.last_mut(), written.files.last()) {
        last.write = Box::new(move |out| {
            file.write_to(out)?;
            check()
        });
    }
    fitment_io::write_folder_atomic(output, &files, placing).map_err(open::of_io)
}

fn folder_file<'w>(file: &'w OutputFile<'w>) -> FolderFile<'w> {
    FolderFile {
        path: file.path.clone(),
        len: file.byte_len(),
        write: Box::new(move |out| Ok(file.write_to(out)?)),
    }
}

/// What was converted, for the report.
struct Done<'d> {
    from: FormatId,
    to: FormatId,
    output: &'d Path,
    adapter: &'d Adapter<'d>,
    losses: &'d [Loss],
    findings: &'d [Finding],
}

fn report(args: &Convert, done: &Done<'_>, console: Console) -> Result<(), Failure> {
    let Done { from, to, output, adapter, losses, findings } = *done;
    let bound = adapter.base.is_bound();
    if console.json {
        let losses: Vec<_> = losses
            .iter()
            .map(|loss| json!({"id": loss.id(), "changes_function": loss.changes_function(), "message": loss.to_string()}))
            .collect();
        return console.document(&json!({
            "fitment_convert": 1,
            "source": args.src.display().to_string(),
            "from": from.to_string(),
            "output": output.display().to_string(),
            "to": to.to_string(),
            "edits": adapter.edits.len(),
            "bound": bound,
            "losses": losses,
            "findings": findings,
        }));
    }
    let binding = match (to, bound) {
        (FormatId::Fitment, true) => ", bound to the base",
        // Interventions alone touch no tensor of which a digest could be recorded.
        (FormatId::Fitment, false) if args.base.is_some() => ", fits the base, of which it touches no tensor",
        (FormatId::Fitment, false) => ", not bound to a base",
        _ => "",
    };
    console.say(format_args!("wrote {} ({to}, {} edits{binding})", output.display(), adapter.edits.len()));
    Ok(())
}
