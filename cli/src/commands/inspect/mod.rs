//! `fitment inspect`.

mod report;
mod text;

use super::open::{self, How};
use crate::args::Inspect;
use crate::console::{Console, Exit, Failure, Run};
use fitment_convert::{FormatId, Loss};
use fitment_core::checkpoint::Checkpoint;
use fitment_core::{Adapter, Depth, check, is_fitment, read_checked};
use fitment_io::AdapterFiles;
use fitment_report::{Effect, Summary};

pub(crate) fn run(args: &Inspect, console: Console) -> Run {
    let files = open::files(&args.path)?;
    let base = args.base.as_deref().map(open::base).transpose()?;
    let how = How {
        from: args.from.as_deref(),
        adapter: args.adapter.as_deref(),
        base: base.as_ref().map(|base| base as &dyn Checkpoint),
        said: open::Said::all(&args.said),
        to_look_at: true,
        ..How::default()
    };
    let wants_report = args.html.is_some() || args.markdown.is_some();
    if args.force && !wants_report {
        let error = anyhow::anyhow!("--force replaces a report, and none is to be written");
        return Err(Failure::from(error).hint("leave it out, or name a report with --html or --markdown"));
    }
    let Opened { format, adapter, losses, id } = open(args, &files, how)?;
    let adapter = &adapter;
    let mut summary = Summary::of(adapter, &args.path.display().to_string(), &format.to_string(), id);
    if let Some(base) = &base {
        let tensors = || base.tensors().values();
        summary.base.parameters = Some(tensors().map(|info| info.shape.elements()).sum());
        summary.base.bytes = Some(tensors().map(|info| info.shape.byte_len(info.dtype).unwrap_or(0)).sum());
        summary.effect = Effect::of(adapter, Some(base));
    }
    if args.tensors {
        summary = summary.with_tensors(adapter);
    }
    if wants_report {
        let own =
            Summary::of(adapter, &args.path.display().to_string(), &format.to_string(), summary.id.clone());
        let input =
            report::Input { args, files: &files, base: base.as_ref().map(|base| base as &dyn Checkpoint) };
        report::write(&input, adapter, own.with_tensors(adapter), &losses, console)?;
        if !console.json {
            return Ok(Exit::Done);
        }
    }
    if console.json {
        console.document(&serde_json::to_value(&summary)?)?;
        return Ok(Exit::Done);
    }
    for loss in &losses {
        match loss {
            Loss::AssumedToShow { .. } => console.warn(loss),
            _ => console.detail(loss),
        }
    }
    console.data(&text::render(&summary))?;
    Ok(Exit::Done)
}

struct Opened<'a> {
    format: FormatId,
    adapter: Adapter<'a>,
    losses: Vec<Loss>,
    /// The content id as the header of a Fitment file has it; `validate` recomputes it.
    id: Option<String>,
}

/// Reads the adapter. A Fitment file is checked once, for its model and its id.
fn open<'a>(args: &Inspect, files: &'a AdapterFiles, how: How<'_>) -> Result<Opened<'a>, Failure> {
    let fitment = files.single().filter(|bytes| is_fitment(bytes, bytes.len() as u64));
    let says_nothing = fitment_convert::check_options(FormatId::Fitment, &how.said.options()).is_ok();
    match fitment.filter(|_| how.base.is_none() && how.from.is_none() && says_nothing) {
        Some(bytes) => {
            let report = check(bytes, Depth::Structure);
            let id = report.manifest.as_ref().map(|manifest| manifest.id.clone());
            let adapter =
                read_checked(bytes, report).map_err(|error| open::of_convert(error.into(), &args.path))?;
            Ok(Opened { format: FormatId::Fitment, adapter, losses: Vec::new(), id })
        }
        None => {
            let (format, converted) = open::adapter(&args.path, files, how)?;
            Ok(Opened { format, adapter: converted.adapter, losses: converted.losses, id: None })
        }
    }
}
