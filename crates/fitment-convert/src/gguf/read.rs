use super::container::{self, Container};
use super::{control, rules};
use crate::bind::bind;
use crate::error::Error;
use crate::files::{Files, carried, is_safe_path, kept_bytes};
use crate::read::{Converted, ReadOptions};
use fitment_core::model::{
    About, Base, Edit, Intervention, Origin, Overlap, Positions, Rounding, Site, SiteComponent, Source,
    SourceFile,
};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_core::{Adapter, Finding, Severity};
use std::collections::BTreeMap;

/// What the part of a file before its tensor data is kept as, behind the file's name.
pub(super) const HEAD: &str = ".head";

/// The same for padding behind the last tensor.
pub(super) const TAIL: &str = ".tail";

/// The role of a direction.
pub(super) const ROLE: &str = "up.bias";

/// A GGUF file among the files, with its path.
pub(super) fn file<'f, 'a>(files: &'f Files<'a>) -> Option<(&'f str, &'a [u8])> {
    let mut found = files.iter().filter(|(_, bytes)| container::is_gguf(bytes));
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

/// The container, its breaches, and whether it is something else than a control vector.
pub(super) fn inspect<'a>(files: &Files<'a>) -> (Option<Container<'a>>, Vec<Finding>) {
    let Some((path, bytes)) = file(files) else {
        return (None, vec![Finding::new(&rules::G_MAGIC, "", "there is not one GGUF file")]);
    };
    let container = match Container::parse(bytes) {
        Ok(container) => container,
        Err(finding) => return (None, vec![finding]),
    };
    match control::architecture(&container) {
        Some(control::CONTROL_VECTOR) => {
            let findings = control::check(&container);
            (Some(container), findings)
        }
        other => {
            let said = other.map_or("missing".to_owned(), crate::error::one_line);
            let message = format!("{} of {path} is {said}: no control vector", control::ARCHITECTURE);
            (None, vec![Finding::new(&rules::G_ARCHITECTURE, control::ARCHITECTURE, message)])
        }
    }
}

/// Reads a control vector: one intervention on `block_output` for each direction, everywhere, with strength 1.
///
/// # Errors
/// [`Error::Malformed`] for a file that breaks a rule; [`Error::Unsupported`] for GGUF that holds something else;
/// [`Error::Mismatch`] for a base of another size.
pub fn read<'a>(files: &Files<'a>, options: &ReadOptions<'_>) -> Result<Converted<'a>, Error> {
    let (container, findings) = inspect(files);
    if let Some(other) = findings.iter().find(|finding| finding.code == rules::G_ARCHITECTURE.code) {
        return Err(Error::Unsupported {
            what: "GGUF".to_owned(),
            reason: other.message.clone(),
            hint: rules::G_ARCHITECTURE.remedy.to_owned(),
        });
    }
    let (errors, findings): (Vec<_>, Vec<_>) =
        findings.into_iter().partition(|finding| finding.severity == Severity::Error);
    let Some(container) = container.filter(|_| errors.is_empty()) else {
        return Err(Error::Malformed { findings: errors });
    };
    let path = file(files).map_or("", |(path, _)| path);
    let (others, losses) = carried(files, &[path], options.keep_files);
    let name = if is_safe_path(path) { path } else { "control_vector.gguf" };
    let parts =
        [(HEAD, container.head), (TAIL, container.tail)].into_iter().filter(|(_, part)| !part.is_empty());
    let part = |(end, part)| Some(SourceFile { path: format!("{name}{end}"), data: kept_bytes(part)? });
    let kept = parts.filter_map(part).chain(others).collect();
    let hint = container.get(control::MODEL_HINT).and_then(|value| value.as_text());
    let mut adapter = Adapter {
        base: Base {
            architecture: hint.map(str::to_owned),
            name: options.base_name.map(str::to_owned),
            ..Base::default()
        },
        edits: edits(&container)?,
        source: Some(Source { format: "gguf".to_owned(), files: kept, ..Source::default() }),
        about: About::default(),
        extra: serde_json::Map::new(),
    };
    if let Some(base) = options.base {
        bind(&mut adapter, base)?;
    }
    Ok(Converted { adapter, losses, findings, id: None })
}

fn edits<'a>(container: &Container<'a>) -> Result<Vec<Edit<'a>>, Error> {
    container
        .tensors
        .iter()
        .filter_map(|entry| Some((control::layer(&entry.name)?, entry)))
        .map(|(layer, entry)| {
            let invalid = |source| fitment_core::Error::Shape { name: entry.name.clone(), source };
            let shape = Shape::new(&[entry.bytes.len() as u64 / 4]).map_err(invalid)?;
            let direction = Tensor::borrowed(Dtype::F32, shape, entry.bytes).map_err(invalid)?;
            let keys = BTreeMap::from([(ROLE.to_owned(), entry.name.clone())]);
            Ok(Edit::Intervention(steer(layer, direction, Origin { keys, ..Origin::default() })))
        })
        .collect()
}

fn steer<'a>(layer: u64, direction: Tensor<'a>, origin: Origin) -> Intervention<'a> {
    Intervention {
        component: None,
        site: Site::Layer { layer, component: SiteComponent::BlockOutput },
        input_site: None,
        dims: None,
        scale: 1.0,
        activation: None,
        subtract: false,
        orthonormal: false,
        up: None,
        up_bias: Some(direction),
        source_weight: None,
        source_bias: None,
        proj: None,
        proj_bias: None,
        positions: Positions::EVERYWHERE,
        // llama.cpp adds up what several files say of a block; with constants any order is the same.
        overlap: Overlap::Sequential,
        rounding: Rounding::F32,
        origin,
    }
}
