//! The report of `fitment inspect --html` and `--markdown`.

use crate::args::Inspect;
use crate::commands::open;
use crate::console::{Console, Failure};
use fitment_convert::{Files, Loss, ReadOptions, each};
use fitment_core::checkpoint::Checkpoint;
use fitment_core::model::Adapter;
use fitment_core::{container, is_fitment};
use fitment_io::AdapterFiles;
use fitment_report::{Report, Summary, analyse};
use std::path::Path;

/// What the command was given.
pub(super) struct Input<'i> {
    pub(super) args: &'i Inspect,
    pub(super) files: &'i AdapterFiles,
    pub(super) base: Option<&'i dyn Checkpoint>,
}

/// Writes the reports that were asked for, each whole or not at all.
pub(super) fn write(
    input: &Input<'_>,
    adapter: &Adapter<'_>,
    summary: Summary,
    losses: &[Loss],
    console: Console,
) -> Result<(), Failure> {
    let mut report = Report::new(adapter, summary, each::map(&adapter.edits, analyse));
    // What stays behind in a conversion is of no account here: nothing is converted.
    let assumed = losses.iter().filter(|loss| !matches!(loss, Loss::FileLeft { .. }));
    report.losses = assumed.map(ToString::to_string).collect();
    report.manifest = manifest(input.files);
    let args = input.args;
    let files: Files<'_> = input.files.iter().collect();
    let name = args.path.display().to_string();
    let options = ReadOptions {
        from: args.from.as_deref().map(open::format).transpose()?,
        adapter_name: args.adapter.as_deref(),
        ..open::Said::all(&args.said).options()
    };
    let validated = fitment_validate::Input { name: &name, files: &files, options };
    report.outcome = Some(open::validated(&validated, input.base, &fitment_validate::Options::default())?);
    let wanted = [(&args.html, Report::html as fn(&Report) -> String), (&args.markdown, Report::markdown)];
    for (path, draw) in wanted {
        if let Some(path) = path {
            write_text(path, &draw(&report), (args.force, &[&args.path]))?;
            console.say(format_args!("wrote {}", path.display()));
        }
    }
    Ok(())
}

fn write_text(path: &Path, text: &str, placing: (bool, &[&Path])) -> Result<(), Failure> {
    let write = |out: &mut dyn std::io::Write| Ok(out.write_all(text.as_bytes())?);
    fitment_io::write_file_atomic(path, text.len() as u64, placing, &write).map_err(open::of_io)
}

/// The manifest of a Fitment file, with line breaks.
fn manifest(files: &AdapterFiles) -> Option<String> {
    let bytes = files.single().filter(|bytes| is_fitment(bytes, bytes.len() as u64))?;
    let container = container::read_foreign(bytes).ok()?;
    let value: serde_json::Value = serde_json::from_str(container.metadata_text("fitment")?).ok()?;
    serde_json::to_string_pretty(&value).ok()
}
