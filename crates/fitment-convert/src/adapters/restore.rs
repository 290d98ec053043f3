//! The files of an adapter that was read from this library, as they were.

use super::edits::{self, Formula};
use super::folder::{CONFIG, Folder, PICKLE, TORCH, WEIGHTS};
use super::inspect::{Inspected, inspect};
use super::methods::Method;
use super::{bottleneck, keys, lora};
use crate::files::{Content, OutputFile};
use fitment_core::model::{Edit, Intervention, Lora, Source, SourceFile, Target};
use fitment_core::tensor::Tensor;
use fitment_core::{Adapter, Severity};
use fitment_torch::{Archive, Item};
use std::collections::BTreeMap;

/// The source's files, when the edits are still what they say.
pub(super) fn restore<'a>(adapter: &Adapter<'a>, source: &Source<'a>) -> Option<Vec<OutputFile<'a>>> {
    let mut tensors: BTreeMap<String, Tensor<'a>> = parts(adapter)?;
    tensors.extend(source.kept.iter().map(|kept| (kept.key.clone(), kept.value.clone())));
    let config = source.files.iter().find(|file| file.path == CONFIG)?;
    let bytes = config.data.bytes();
    // Put together again, they must read back as what is meant.
    let folder = Folder {
        config: Some(bytes),
        tensors: tensors.iter().map(|(key, tensor)| (key.clone(), tensor.clone())).collect(),
        weights: Some(WEIGHTS.to_owned()),
        ..Folder::default()
    };
    let seen = inspect(&folder);
    if seen.findings.iter().any(|finding| finding.severity == Severity::Error) {
        return None;
    }
    let back = again(&seen, adapter)?;
    let same = |(edit, back): (&Edit<'_>, &Edit<'_>)| match (edit, back) {
        (Edit::Intervention(edit), Edit::Intervention(back)) => is_same(edit, back),
        (Edit::Lora(edit), Edit::Lora(back)) => is_same_lora(edit, back),
        _ => false,
    };
    if back.len() != adapter.edits.len() || !adapter.edits.iter().zip(&back).all(same) {
        return None;
    }
    let plain = |file: &SourceFile<'a>| OutputFile {
        path: file.path.clone(),
        content: Content::Bytes(file.data.data().clone()),
    };
    let mut files: Vec<OutputFile<'a>> = source.files.iter().map(plain).collect();
    files.push(if source.weights.as_deref() == Some(TORCH) {
        let items: Vec<Item<'a>> = tensors.into_iter().map(|(key, tensor)| Item::new(key, tensor)).collect();
        let archive = Archive::new(PICKLE.trim_end_matches(".bin"), &items).ok()?;
        OutputFile { path: PICKLE.to_owned(), content: Content::Torch(archive) }
    } else {
        let content =
            Content::Container { metadata: source.metadata.clone(), tensors: tensors.into_iter().collect() };
        OutputFile { path: WEIGHTS.to_owned(), content }
    });
    Some(files)
}

/// The tensors of the weight file that stand in the edits, by their keys.
fn parts<'a>(adapter: &Adapter<'a>) -> Option<BTreeMap<String, Tensor<'a>>> {
    let mut parts: BTreeMap<String, Vec<Tensor<'a>>> = BTreeMap::new();
    for edit in &adapter.edits {
        let (keys, tensors) = match edit {
            Edit::Intervention(edit) => (&edit.origin.keys, edit.tensors()),
            Edit::Lora(edit) => (&edit.origin.keys, vec![("up", &edit.up), ("down", &edit.down)]),
            _ => return None,
        };
        for (role, tensor) in tensors {
            // An orthogonal projection has no key: what it is computed of is kept.
            let Some(key) = keys.get(role) else { continue };
            let is_reft = role == "up" && keys::parse(key).is_some();
            let tensor = if is_reft { tensor.transposed()? } else { tensor.clone() };
            parts.entry(key.clone()).or_default().push(tensor);
        }
    }
    parts.into_iter().map(|(key, parts)| Some((key, lora::stacked(&parts)?))).collect()
}

/// The edits that the tensors are read as.
fn again<'a>(seen: &Inspected<'a>, adapter: &Adapter<'_>) -> Option<Vec<Edit<'a>>> {
    let interventions = match &seen.config.method {
        Method::Lora(form) => return Some(lora::place(&seen.loras, form, None).ok()?.edits),
        Method::Bottleneck(form) => bottleneck::interventions(&seen.bottlenecks, form)?,
        Method::Reft => {
            let is_direct =
                adapter.edits.iter().any(|edit| matches!(edit, Edit::Intervention(edit) if !edit.subtract));
            let formula = if is_direct { Formula::Direct } else { Formula::Subtracted };
            edits::interventions(&seen.units, &seen.config, formula)?
        }
    };
    Some(interventions.into_iter().map(Edit::Intervention).collect())
}

/// Names may lack or have the prefix that the base's names have.
fn is_same_lora(left: &Lora<'_>, right: &Lora<'_>) -> bool {
    let (a, b) = (left.target.name.as_str(), right.target.name.as_str());
    let ends = |long: &str, short: &str| long.strip_suffix(short).is_some_and(|head| head.ends_with('.'));
    let unnamed = |edit: &Lora<'_>| Target { name: right.target.name.clone(), ..edit.target.clone() };
    (a == b || ends(a, b) || ends(b, a))
        && unnamed(left) == unnamed(right)
        && (left.form, left.transposed, left.scale) == (right.form, right.transposed, right.scale)
        && left.mid.is_none()
        && left.magnitude.is_none()
        && is_equal(&left.up, &right.up)
        && is_equal(&left.down, &right.down)
}

fn is_same(left: &Intervention<'_>, right: &Intervention<'_>) -> bool {
    let tensors = |edit: &Intervention<'_>| edit.tensors().len();
    let plain = |edit: &Intervention<'_>| {
        (
            edit.site.clone(),
            edit.subtract,
            edit.activation,
            edit.overlap,
            edit.positions.clone(),
            edit.dims,
            edit.input_site.clone(),
        )
    };
    left.scale == right.scale
        && left.component == right.component
        && plain(left) == plain(right)
        && tensors(left) == tensors(right)
        && left.tensors().iter().zip(right.tensors()).all(|((a, x), (b, y))| *a == b && is_equal(x, y))
}

fn is_equal(left: &Tensor<'_>, right: &Tensor<'_>) -> bool {
    left.dtype() == right.dtype() && left.shape() == right.shape() && left.bytes() == right.bytes()
}
