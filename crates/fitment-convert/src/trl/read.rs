use super::patch::{self, Patch};
use super::rules;
use crate::bind::bind;
use crate::error::Error;
use crate::files::{Files, carried};
use crate::loss::Loss;
use crate::read::{Converted, ReadOptions};
use fitment_core::checkpoint::Checkpoint;
use fitment_core::identity::hex;
use fitment_core::model::{
    About, Base, Edit, KeptTensor, Origin, Set, SetDtype, Source, SparseSet, Target, TensorName,
};
use fitment_core::tensor::Dtype;
use fitment_core::{Adapter, Finding, Severity};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// What the metadata call the base.
pub(super) const BASE: &str = "base_model_id";

/// SHA-256 of all parameters after the patch, in order of their names, as BF16.
pub(super) const CHECKSUM: &str = "checksum_sha256";

/// The role of a whole parameter in `origin.keys`.
const VALUE: &str = "value";

/// Reads a patch: a `sparse_set` for each parameter of it, a `set` for each of an anchor.
///
/// # Errors
/// [`Error::Malformed`] for a file that breaks a rule, also when the base with the patch applied has not the recorded
/// checksum; [`Error::Unsupported`] for compressed positions; those of [`bind()`](crate::bind()).
pub fn read<'a>(files: &Files<'a>, options: &ReadOptions<'_>) -> Result<Converted<'a>, Error> {
    let Patch { path, metadata, sparse, idle, whole, findings } = patch::inspect(files);
    if let Some(other) = findings.iter().find(|finding| finding.code == rules::L_ENCODING.code) {
        return Err(Error::Unsupported {
            what: path,
            reason: other.message.clone(),
            hint: rules::L_ENCODING.remedy.to_owned(),
        });
    }
    let (errors, findings): (Vec<_>, Vec<_>) =
        findings.into_iter().partition(|finding| finding.severity == Severity::Error);
    if !errors.is_empty() {
        return Err(Error::Malformed { findings: errors });
    }
    let (files, mut losses) = carried(files, &[&path], options.keep_files);
    let kept = idle.into_iter().map(|(key, value)| KeptTensor { key, value }).collect();
    let mut edits = Vec::new();
    for patch::Sparse { name, keys: [of_index, of_value], index, value } in sparse {
        let target = Target::whole(TensorName::new(name)?);
        let keys = BTreeMap::from([("index".to_owned(), of_index), (VALUE.to_owned(), of_value)]);
        edits.push(Edit::SparseSet(SparseSet {
            target,
            index,
            value,
            origin: Origin { keys, ..Origin::default() },
        }));
    }
    for (name, value) in whole {
        let keys = BTreeMap::from([(VALUE.to_owned(), name.clone())]);
        let (target, origin) = (Target::whole(TensorName::new(name)?), Origin { keys, ..Origin::default() });
        // vLLM copies the values into the parameter, in the parameter's dtype.
        edits.push(Edit::Set(Set {
            target,
            dtype: SetDtype::Base,
            create: false,
            reshape: false,
            value,
            rows: None,
            origin,
        }));
    }
    let said = metadata.get(BASE).filter(|name| !name.is_empty());
    let mut adapter = Adapter {
        base: Base {
            name: options.base_name.or(said.map(String::as_str)).map(str::to_owned),
            ..Base::default()
        },
        edits,
        source: Some(Source { format: "trl".to_owned(), files, kept, metadata, ..Source::default() }),
        about: About::default(),
        extra: serde_json::Map::new(),
    };
    match options.base {
        Some(base) => {
            bind(&mut adapter, base)?;
            check_sum(&adapter, base)?;
        }
        None => losses.push(Loss::Unbound { targets: adapter.edits.len() }),
    }
    Ok(Converted { adapter, losses, findings, id: None })
}

/// Holds the recorded checksum against the base with the patch applied, where both are of the same parameters.
fn check_sum(adapter: &Adapter<'_>, base: &dyn Checkpoint) -> Result<(), Error> {
    let metadata = adapter.source.as_ref().map(|source| &source.metadata);
    let said = |key: &str| metadata?.get(key).filter(|text| !text.is_empty());
    let (Some(checksum), Some(elements)) = (said(CHECKSUM), said("total_elements")) else { return Ok(()) };
    let counted = base.tensors().values().map(|info| info.shape.elements()).sum::<u64>().to_string();
    if counted != *elements {
        return Ok(());
    }
    let Some(found) = sum(adapter, base)? else { return Ok(()) };
    if found == *checksum {
        return Ok(());
    }
    let message = format!("it is {checksum}, the base with the patch applied has {found}");
    Err(Error::Malformed { findings: vec![Finding::new(&rules::L_CHECKSUM, CHECKSUM, message)] })
}

/// The checksum of a base with a patch applied; `None` where a tensor is not BF16.
pub(super) fn sum(adapter: &Adapter<'_>, base: &dyn Checkpoint) -> Result<Option<String>, Error> {
    let mut patches: BTreeMap<&str, &SparseSet<'_>> = BTreeMap::new();
    for edit in &adapter.edits {
        match edit {
            Edit::SparseSet(sparse) => patches.insert(sparse.target.name.as_str(), sparse),
            _ => return Ok(None),
        };
    }
    if base.tensors().values().any(|info| info.dtype != Dtype::BF16) {
        return Ok(None);
    }
    let mut hasher = Sha256::new();
    for name in base.tensors().keys() {
        let bytes = base.read(name).map_err(Error::Base)?;
        match patches.get(name.as_str()) {
            None => hasher.update(&*bytes),
            Some(sparse) => hasher.update(patched(bytes.into_owned(), sparse)),
        }
    }
    Ok(Some(hex(&hasher.finalize())))
}

/// A tensor of two bytes an element with the new elements in it; positions beyond it were refused before.
fn patched(mut bytes: Vec<u8>, sparse: &SparseSet<'_>) -> Vec<u8> {
    let index = sparse.index.bytes();
    let positions: Vec<u64> = match sparse.index.dtype() {
        Dtype::U32 => {
            index.as_chunks::<4>().0.iter().map(|chunk| u32::from_le_bytes(*chunk).into()).collect()
        }
        _ => index.as_chunks::<8>().0.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect(),
    };
    for (position, value) in positions.into_iter().zip(sparse.value.bytes().as_chunks::<2>().0) {
        let at = usize::try_from(position).ok().and_then(|at| at.checked_mul(2));
        if let Some(slot) = at.and_then(|at| bytes.get_mut(at..at + 2)) {
            slot.copy_from_slice(value);
        }
    }
    bytes
}
