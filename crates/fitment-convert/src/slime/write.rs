use super::checksum::Checksum;
use super::encoding::{Encoding, REACH};
use super::folder::{BASE_VERSION, CHECKSUM, COMPRESSION, ENCODING, INDEX, VERSION, ZSTD};
use crate::bind::bind;
use crate::error::{Clash, Error};
use crate::files::{Content, OutputFile};
use crate::loss::Loss;
use crate::write::{WriteOptions, Written};
use fitment_core::Adapter;
use fitment_core::checkpoint::{Checkpoint, TensorInfo};
use fitment_core::identity::{hex, sha256};
use fitment_core::model::{Bits, Edit, SparseSet, Target};
use fitment_core::tensor::{Bytes, Dtype, Shape, Tensor};
use fitment_math::{bits, frame};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// slime's own zstd level.
const LEVEL: i32 = 1;

const FILE: &str = "model-00000-of-00001.safetensors";

/// Writes a version: the new bytes of every tensor that `bits`, `sparse_set` and whole `set` edits change, against the base.
///
/// Version, base version, encoding and checksum are those of the source, where the adapter came from slime; else 000001
/// on 000000, xor and xxh3-128.
///
/// # Errors
/// [`Error::Unsupported`] when there are edits and none of these kinds, or no compressor is built in; [`Error::Ambiguous`]
/// without a base; as [`bind`] when the base is not that of the adapter.
pub fn write<'a>(adapter: &Adapter<'a>, options: &WriteOptions<'_>) -> Result<Written<'a>, Error> {
    let is_other = |edit: &Edit<'_>| !matches!(edit, Edit::Bits(_) | Edit::SparseSet(_) | Edit::Set(_));
    if let Some(other) = adapter.edits.first().filter(|_| adapter.edits.iter().all(is_other)) {
        return Err(Error::Unsupported {
            what: "a slime delta".to_owned(),
            reason: format!("the adapter has no edit that it holds ({})", not_held(other)),
            hint: "apply it with `fitment apply`, take `fitment diff` of both checkpoints, and convert that"
                .to_owned(),
        });
    }
    let Some(base) = options.base else {
        return Err(Error::Ambiguous {
            what: "a slime delta".to_owned(),
            reason: "it holds the difference of bytes between a checkpoint and the next".to_owned(),
            hint: "name the checkpoint that the adapter changes with --base".to_owned(),
        });
    };
    let mut adapter = adapter.clone();
    bind(&mut adapter, base)?;
    let mut losses = Vec::new();
    let mut targets: BTreeMap<&str, Vec<&Edit<'_>>> = BTreeMap::new();
    for edit in &adapter.edits {
        match held(edit, base) {
            Some(target) => targets.entry(target.name.as_str()).or_default().push(edit),
            None => losses.push(not_held(edit)),
        }
    }
    let mut form = Form::of(&adapter);
    losses.extend(form.reach(targets.keys().copied(), base));
    let (mut checksums, mut tensors) = (BTreeMap::new(), Vec::new());
    for (name, edits) in targets {
        let Some(info) = base.tensors().get(name) else { continue };
        let old = base.read(name).map_err(Error::Base)?;
        let Some(new) = new_bytes((name, info), &old, &edits)? else { continue };
        checksums.insert(name.to_owned(), form.checksum.hex(&new));
        tensors.push((name.to_owned(), form.tensor(name, &old, &new)?));
    }
    let index = form.index(&tensors);
    let mut files = Vec::new();
    if !tensors.is_empty() {
        let content = Content::Container { metadata: checksums, tensors };
        files.push(OutputFile { path: FILE.to_owned(), content });
    }
    let content = Content::Bytes(Bytes::Shared(Arc::from(index.to_string().into_bytes())));
    files.push(OutputFile { path: INDEX.to_owned(), content });
    Ok(Written { files, losses })
}

fn not_held(edit: &Edit<'_>) -> Loss {
    Loss::not_held(
        edit,
        "a slime delta holds new bytes of whole tensors: apply the adapter and take `fitment diff`",
    )
}

/// The target of an edit that only puts bytes into a tensor of the base, dtype and shape staying.
fn held<'e>(edit: &'e Edit<'_>, base: &dyn Checkpoint) -> Option<&'e Target> {
    let target = edit.target()?;
    let info = base.tensors().get(target.name.as_str())?;
    let is_whole = *target == Target::whole(target.name.clone());
    let keeps = |tensor: &Tensor<'_>| tensor.dtype() == info.dtype;
    let fits = match edit {
        Edit::Bits(_) => true,
        Edit::SparseSet(edit) => keeps(&edit.value),
        Edit::Set(edit) => {
            !edit.create && edit.rows.is_none() && keeps(&edit.value) && *edit.value.shape() == info.shape
        }
        Edit::Lora(_)
        | Edit::Remove(_)
        | Edit::Add(_)
        | Edit::SparseAdd(_)
        | Edit::Config(_)
        | Edit::Intervention(_) => false,
    };
    (is_whole && fits).then_some(target)
}

/// What the edits make of a tensor, in their order; `None` where it stays as it is.
fn new_bytes(
    (name, info): (&str, &TensorInfo),
    old: &[u8],
    edits: &[&Edit<'_>],
) -> Result<Option<Vec<u8>>, Error> {
    let mut new = old.to_vec();
    for edit in edits {
        match edit {
            Edit::Bits(edit) => change_bits((name, info), edit, &mut new)?,
            Edit::SparseSet(edit) => set_elements((name, info), edit, &mut new)?,
            Edit::Set(edit) => new = edit.value.bytes().to_vec(),
            Edit::Lora(_)
            | Edit::Remove(_)
            | Edit::Add(_)
            | Edit::SparseAdd(_)
            | Edit::Config(_)
            | Edit::Intervention(_) => {}
        }
    }
    Ok((new != old).then_some(new))
}

fn change_bits((name, info): (&str, &TensorInfo), edit: &Bits<'_>, tensor: &mut [u8]) -> Result<(), Error> {
    let check = |wanted: &[u8; 32], bytes: &[u8]| {
        let found = sha256(bytes);
        let text = |digest: &[u8; 32]| format!("SHA-256 {}", hex(digest));
        if found == *wanted { Ok(()) } else { Err(clash(name, text(wanted), text(&found))) }
    };
    check(&edit.base, tensor)?;
    bits::decode(edit.z.bytes(), info.dtype, tensor).map_err(|error| invalid(name, error.to_string()))?;
    check(&edit.result, tensor)
}

fn set_elements(
    (name, info): (&str, &TensorInfo),
    edit: &SparseSet<'_>,
    tensor: &mut [u8],
) -> Result<(), Error> {
    let size =
        info.dtype.bytes().ok_or_else(|| invalid(name, format!("{} has no whole bytes", info.dtype)))?;
    let index = edit.index.bytes();
    let positions: Vec<u64> = match edit.index.dtype() {
        Dtype::U32 => index.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes).into()).collect(),
        _ => index.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect(),
    };
    for (position, value) in positions.into_iter().zip(edit.value.bytes().chunks_exact(size)) {
        let start = usize::try_from(position).ok().and_then(|position| position.checked_mul(size));
        let range = start.and_then(|start| Some(start..start.checked_add(size)?));
        let Some(element) = range.and_then(|range| tensor.get_mut(range)) else {
            let elements = format!("{} elements", info.shape.elements());
            return Err(clash(name, format!("an element at position {position}"), elements));
        };
        element.copy_from_slice(value);
    }
    Ok(())
}

fn clash(name: &str, expected: String, found: String) -> Error {
    Error::Mismatch { culprits: vec![Clash { target: name.to_owned(), expected, found }] }
}

fn invalid(name: &str, message: String) -> Error {
    fitment_core::Error::Invalid { place: name.to_owned(), message }.into()
}

/// What the index of a version says beside its map.
struct Form {
    encoding: Encoding,
    checksum: Checksum,
    /// `metadata` of the source's index.
    said: BTreeMap<String, String>,
}

impl Form {
    fn of(adapter: &Adapter<'_>) -> Self {
        let source = adapter.source.as_ref().filter(|source| source.format == "slime");
        let said = source.map(|source| source.metadata.clone()).unwrap_or_default();
        let word = |key: &str| said.get(key).map_or("", String::as_str);
        let encoding = Encoding::of_name(word(ENCODING)).unwrap_or_default();
        let checksum = Checksum::of_name(word(CHECKSUM)).unwrap_or(Checksum::Xxh3);
        Self { encoding, checksum, said }
    }

    /// Takes `xor` where positions of 32 bits do not reach the end of a tensor.
    fn reach<'n>(&mut self, mut names: impl Iterator<Item = &'n str>, base: &dyn Checkpoint) -> Option<Loss> {
        let beyond = |name: &&str| {
            let info = base.tensors().get(*name);
            info.is_some_and(|info| info.shape.byte_len(info.dtype).is_ok_and(|len| len > REACH))
        };
        let name = names.find(beyond).filter(|_| self.encoding == Encoding::Overwrite)?;
        self.encoding = Encoding::Xor;
        let reason = format!("its encoding is xor: positions of overwrite do not reach the end of {name}");
        Some(Loss::ConfigRemade { reason })
    }

    /// One frame.
    fn tensor(&self, name: &str, old: &[u8], new: &[u8]) -> Result<Tensor<'static>, Error> {
        let frame = frame::compress(&self.encoding.encode(old, new), LEVEL);
        let frame = frame.map_err(|error| Error::Unsupported {
            what: "a slime delta".to_owned(),
            reason: error.to_string(),
            hint: "build the program with the feature `zstd`".to_owned(),
        })?;
        let tensor =
            Shape::new(&[frame.len() as u64]).and_then(|shape| Tensor::owned(Dtype::U8, shape, frame));
        tensor.map_err(|source| fitment_core::Error::Shape { name: name.to_owned(), source }.into())
    }

    fn index(self, tensors: &[(String, Tensor<'_>)]) -> Value {
        let said = |key: &str, default: &'static str| self.said.get(key).map_or(default, String::as_str);
        let mut metadata = Map::new();
        for (key, text) in [
            (VERSION, said(VERSION, "000001")),
            (BASE_VERSION, said(BASE_VERSION, "000000")),
            (ENCODING, self.encoding.name()),
            (COMPRESSION, ZSTD),
            (CHECKSUM, self.checksum.name()),
        ] {
            metadata.insert(key.to_owned(), text.into());
        }
        for (key, text) in &self.said {
            metadata.entry(key.clone()).or_insert_with(|| text.clone().into());
        }
        let map: Map<String, Value> = tensors.iter().map(|(name, _)| (name.clone(), FILE.into())).collect();
        json!({ "metadata": metadata, "weight_map": map })
    }
}
