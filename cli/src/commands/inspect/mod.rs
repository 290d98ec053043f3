//! `fitment inspect`.

mod summary;
mod text;

use super::open::{self, How};
use crate::args::Inspect;
use crate::console::{Console, Exit, Run};
use fitment_convert::FormatId;
use fitment_core::checkpoint::Checkpoint;
use fitment_core::{Depth, check};
use summary::Summary;

pub(crate) fn run(args: &Inspect, console: Console) -> Run {
    let files = open::files(&args.path)?;
    let base = args.base.as_deref().map(|path| open::base(path)).transpose()?;
    let how = How {
        from: args.from.as_deref(),
        adapter: args.adapter.as_deref(),
        base: base.as_ref().map(|base| base as &dyn Checkpoint),
        ..How::default()
    };
    let (format, converted) = open::adapter(&args.path, &files, how)?;
    let id = recorded_id(format, files.single());
    let adapter = &converted.adapter;
    let mut summary = Summary::of(adapter, &args.path.display().to_string(), &format.to_string(), id);
    if let Some(base) = &base {
        summary.base.parameters = Some(base.tensors().values().map(|info| info.shape.elements()).sum());
    }
    if args.tensors {
        summary = summary.with_tensors(adapter);
    }
    if console.json {
        console.document(&serde_json::to_value(&summary)?);
        return Ok(Exit::Done);
    }
    for loss in &converted.losses {
        console.detail(loss);
    }
    console.data(&text::render(&summary));
    Ok(Exit::Done)
}

/// The content id as the header has it; `validate` recomputes it.
fn recorded_id(format: FormatId, bytes: Option<&[u8]>) -> Option<String> {
    let bytes = bytes.filter(|_| format == FormatId::Fitment)?;
    check(bytes, Depth::Structure).manifest.map(|manifest| manifest.id)
}
