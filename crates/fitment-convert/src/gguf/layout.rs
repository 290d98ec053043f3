//! A file laid out: head, tensors, padding. Tensors stay where they lie.

use super::container::{DEFAULT_ALIGNMENT, Head, aligned};
use super::ggml::TensorType;
use super::value::{Value, encode_text};
use crate::files::{Content, OutputFile};
use fitment_core::Adapter;
use fitment_core::model::SourceFile;
use fitment_core::tensor::{Bytes, Tensor};
use std::sync::Arc;

/// What the part of a file before its tensor data is kept as, behind the file's name.
const HEAD: &str = ".head";

/// The same for padding behind the last tensor.
const TAIL: &str = ".tail";

const ZEROS: &[u8] = &[0; 4096];

/// Padding that a kept head may ask for in all: a few thousand times what real files have.
const MAX_PADDING: u64 = 1 << 26;

/// The files of a source that keep what a file had around its tensors: `name` is the file's.
pub(super) fn kept<'a>(name: &str, head: &'a [u8], tail: &'a [u8]) -> Vec<SourceFile<'a>> {
    let parts = [(HEAD, head), (TAIL, tail)].into_iter().filter(|(_, part)| !part.is_empty());
    let part = |(end, part)| {
        Some(SourceFile { path: format!("{name}{end}"), data: crate::files::kept_bytes(part)? })
    };
    parts.filter_map(part).collect()
}

/// The kept head of an adapter that came from GGUF, with the file's name.
pub(super) fn kept_head<'e, 'a>(adapter: &'e Adapter<'a>) -> Option<(&'e str, &'e Tensor<'a>)> {
    let source = adapter.source.as_ref().filter(|source| source.format == "gguf")?;
    source.files.iter().find_map(|file| Some((file.path.strip_suffix(HEAD)?, &file.data)))
}

/// The file that an adapter came from, when these are its tensors: each of those of the head, and no other.
pub(super) fn restored<'a>(
    adapter: &Adapter<'a>,
    tensors: &[(String, Tensor<'a>)],
) -> Option<OutputFile<'a>> {
    let (path, kept) = kept_head(adapter)?;
    let head = Head::parse(kept.bytes()).ok()?;
    if head.lines.len() != tensors.len() {
        return None;
    }
    let mut pieces = vec![kept.data().clone()];
    let (mut at, mut padding) = (0u64, 0u64);
    for line in &head.lines {
        let (_, tensor) = tensors.iter().find(|(name, _)| *name == line.name)?;
        let is_it = line.kind.dtype == Some(tensor.dtype()) && has_dims(tensor, &line.dims);
        if !is_it || Some(line.offset) != aligned(at, head.alignment) {
            return None;
        }
        let zeros = line.offset.checked_sub(at)?;
        padding = padding.checked_add(zeros).filter(|padding| *padding <= MAX_PADDING)?;
        pad(&mut pieces, zeros);
        pieces.push(tensor.data().clone());
        at = line.offset.checked_add(line.len)?;
    }
    let source = adapter.source.as_ref()?;
    let tail = source.files.iter().find(|file| file.path.strip_suffix(TAIL) == Some(path));
    pieces.extend(tail.map(|tail| tail.data.data().clone()));
    Some(OutputFile { path: path.to_owned(), content: Content::Pieces(pieces) })
}

/// Whether a tensor has these axes; outer ones of extent 1 are nothing to ggml.
fn has_dims(tensor: &Tensor<'_>, dims: &[u64]) -> bool {
    let outer = dims.len().saturating_sub(tensor.dims().len());
    let (lead, own) = dims.split_at(outer);
    own == tensor.dims() && lead.iter().all(|dim| *dim == 1)
}

/// A version 3 file as gguf-py 0.19 writes it. `None` for a tensor of a type that GGUF does not have.
pub(super) fn laid_out<'a>(
    metadata: &[(String, Value)],
    tensors: &[(String, Tensor<'a>)],
) -> Option<Content<'a>> {
    let mut head = b"GGUF".to_vec();
    head.extend(3u32.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        encode_text(key, &mut head);
        value.encode(&mut head);
    }
    let padding = |len: usize| Some(aligned(len as u64, DEFAULT_ALIGNMENT)? - len as u64);
    let (mut offset, mut data) = (0u64, Vec::new());
    for (name, tensor) in tensors {
        encode_text(name, &mut head);
        head.extend(u32::try_from(tensor.dims().len()).ok()?.to_le_bytes());
        tensor.dims().iter().rev().for_each(|dim| head.extend(dim.to_le_bytes()));
        head.extend(TensorType::of_dtype(tensor.dtype())?.number.to_le_bytes());
        head.extend(offset.to_le_bytes());
        data.push(tensor.data().clone());
        pad(&mut data, padding(tensor.bytes().len())?);
        offset = aligned(offset.checked_add(tensor.bytes().len() as u64)?, DEFAULT_ALIGNMENT)?;
    }
    let end = head.len().checked_add(usize::try_from(padding(head.len())?).ok()?)?;
    head.resize(end, 0);
    Some(Content::Pieces([Bytes::Shared(Arc::from(head))].into_iter().chain(data).collect()))
}

fn pad(pieces: &mut Vec<Bytes<'_>>, mut zeros: u64) {
    while zeros > 0 {
        let step = zeros.min(ZEROS.len() as u64);
        pieces.push(Bytes::Borrowed(&ZEROS[..usize::try_from(step).unwrap_or(ZEROS.len())]));
        zeros -= step;
    }
}
