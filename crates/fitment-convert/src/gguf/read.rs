use super::container::{self, Container};
use super::{control, layout, lora, rules};
use crate::error::Error;
use crate::files::{Files, carried, is_safe_path};
use crate::read::{Converted, ReadOptions};
use fitment_core::model::Source;
use fitment_core::{Finding, Severity};

/// A GGUF file among the files, with its path.
pub(super) fn file<'f, 'a>(files: &'f Files<'a>) -> Option<(&'f str, &'a [u8])> {
    let mut found = files.iter().filter(|(_, bytes)| container::is_gguf(bytes));
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

/// What a file is.
pub(super) enum Kind<'a> {
    Control(Container<'a>),
    Lora(Container<'a>, lora::Contents<'a>),
}

/// The adapter, as far as it could be read, and every breach.
pub(super) fn inspect<'a>(files: &Files<'a>) -> (Option<Kind<'a>>, Vec<Finding>) {
    let Some((path, bytes)) = file(files) else {
        return (None, vec![Finding::new(&rules::G_MAGIC, "", "there is not one GGUF file")]);
    };
    let container = match Container::parse(bytes) {
        Ok(container) => container,
        Err(finding) => return (None, vec![finding]),
    };
    if lora::is_lora(&container) {
        let (contents, findings) = lora::inspect(&container);
        return (contents.map(|contents| Kind::Lora(container, contents)), findings);
    }
    match control::architecture(&container) {
        Some(control::CONTROL_VECTOR) => {
            let findings = control::check(&container);
            (Some(Kind::Control(container)), findings)
        }
        other => {
            let said = other.map_or("missing".to_owned(), crate::error::one_line);
            let message =
                format!("{} of {path} is {said}: no LoRA and no control vector", control::ARCHITECTURE);
            (None, vec![Finding::new(&rules::G_ARCHITECTURE, control::ARCHITECTURE, message)])
        }
    }
}

/// Reads a LoRA or a control vector.
///
/// # Errors
/// [`Error::Malformed`] for a file that breaks a rule; [`Error::Unsupported`] for GGUF that holds something else;
/// [`Error::Ambiguous`] for rows whose order depends on a base that is not at hand; those of a base that does not fit.
pub fn read<'a>(files: &Files<'a>, options: &ReadOptions<'_>) -> Result<Converted<'a>, Error> {
    let (kind, findings) = inspect(files);
    if let Some(other) = findings.iter().find(|finding| finding.code == rules::G_ARCHITECTURE.code) {
        return Err(Error::Unsupported {
            what: "GGUF".to_owned(),
            reason: other.message.clone(),
            hint: rules::G_ARCHITECTURE.remedy.to_owned(),
        });
    }
    let (errors, findings): (Vec<_>, Vec<_>) =
        findings.into_iter().partition(|finding| finding.severity == Severity::Error);
    let Some(kind) = kind.filter(|_| errors.is_empty()) else {
        return Err(Error::Malformed { findings: errors });
    };
    let path = file(files).map_or("", |(path, _)| path);
    let (others, mut losses) = carried(files, &[path], options.keep_files);
    let (Kind::Control(container) | Kind::Lora(container, _)) = &kind;
    let name = if is_safe_path(path) { path } else { "adapter.gguf" };
    let mut kept = layout::kept(name, container.head, container.tail);
    kept.extend(others);
    let source = Source { format: "gguf".to_owned(), files: kept, ..Source::default() };
    let adapter = match &kind {
        Kind::Control(container) => control::read(container, source, options)?,
        Kind::Lora(_, contents) => {
            let (adapter, assumed) = lora::read(contents, source, options)?;
            losses.extend(assumed);
            adapter
        }
    };
    Ok(Converted { adapter, losses, findings, id: None })
}
