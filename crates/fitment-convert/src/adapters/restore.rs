//! The files of an adapter that was read from this library, as they were.

use super::edits::{self, Formula};
use super::folder::{CONFIG, Folder, PICKLE, TORCH, WEIGHTS};
use super::inspect::inspect;
use crate::files::{Content, OutputFile};
use fitment_core::model::{Edit, Intervention, Source, SourceFile};
use fitment_core::tensor::Tensor;
use fitment_core::{Adapter, Severity};
use fitment_torch::{Archive, Item};
use std::collections::BTreeMap;

/// The source's files, when the edits are still what they say.
pub(super) fn restore<'a>(adapter: &Adapter<'a>, source: &Source<'a>) -> Option<Vec<OutputFile<'a>>> {
    let mut tensors: BTreeMap<String, Tensor<'a>> = BTreeMap::new();
    for edit in &adapter.edits {
        let Edit::Intervention(edit) = edit else { return None };
        let keys = &edit.origin.keys;
        tensors.insert(keys.get("source.weight")?.clone(), edit.source_weight.clone()?);
        tensors.insert(keys.get("source.bias")?.clone(), edit.source_bias.clone()?);
        if let Some(key) = keys.get("up") {
            tensors.insert(key.clone(), edit.up.as_ref()?.transposed()?);
        }
    }
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
    let is_direct =
        adapter.edits.iter().any(|edit| matches!(edit, Edit::Intervention(edit) if !edit.subtract));
    let formula = if is_direct { Formula::Direct } else { Formula::Subtracted };
    let back = edits::interventions(&seen.units, &seen.config, formula)?;
    let same = |(edit, back): (&Edit<'_>, &Intervention<'_>)| matches!(edit, Edit::Intervention(edit) if is_same(edit, back));
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
