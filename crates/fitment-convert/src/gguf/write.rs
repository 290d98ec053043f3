use super::container::{self, DEFAULT_ALIGNMENT};
use super::control::{self, ARCHITECTURE, CONTROL_VECTOR, LAYER_COUNT, MODEL_HINT};
use super::read::{HEAD, ROLE, TAIL};
use super::value::ValueType;
use super::{Container, Entry};
use crate::error::Error;
use crate::files::{Content, OutputFile};
use crate::loss::Loss;
use crate::pass::fold::constant_of;
use crate::write::{WriteOptions, Written};
use fitment_core::Adapter;
use fitment_core::model::{Edit, Intervention, Phase, Positions, Select, Site, SiteComponent};
use fitment_core::tensor::{Bytes, Dtype, Tensor};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Writes a control vector. What came from GGUF goes back byte for byte.
///
/// Interventions that add a constant to `block_output` at every token are held, also as a product (`U b`, LoBiReFT); of several at one layer, and of a
/// strength, the sum is written, computed in f64 and rounded once.
///
/// # Errors
/// [`Error::Unsupported`] when there is no such intervention.
pub fn write<'a>(adapter: &Adapter<'a>, _: &WriteOptions<'_>) -> Result<Written<'a>, Error> {
    if let Some(file) = restore(adapter) {
        return Ok(Written { files: vec![file], losses: Vec::new() });
    }
    let mut losses = Vec::new();
    let mut layers: BTreeMap<u64, Vec<&Intervention<'a>>> = BTreeMap::new();
    for edit in &adapter.edits {
        match constant(edit) {
            Ok((layer, intervention)) => layers.entry(layer).or_default().push(intervention),
            Err(reason) => losses.push(Loss::not_held(edit, reason)),
        }
    }
    let layers: BTreeMap<u64, Vec<u8>> =
        layers.into_iter().map(|(layer, edits)| (layer, sum(&edits))).collect();
    let Some(width) = layers.values().next().map(Vec::len) else {
        let reason = losses.first().map_or("it changes nothing".to_owned(), Loss::to_string);
        return Err(Error::Unsupported {
            what: "a GGUF control vector".to_owned(),
            reason: format!(
                "it holds constants added to block_output at every token, and this adapter has none ({reason})"
            ),
            hint: "write another format with --to".to_owned(),
        });
    };
    if let Some((layer, other)) = layers.iter().find(|(_, bytes)| bytes.len() != width) {
        return Err(Error::Unsupported {
            what: control::name(*layer),
            reason: format!("it has {} elements, another layer {}", other.len() / 4, width / 4),
            hint: "the layers are of different models: write them apart".to_owned(),
        });
    }
    let hint = adapter.base.architecture.as_deref().unwrap_or_default();
    if hint.is_empty() {
        losses.push(Loss::ConfigRemade {
            reason: format!("{MODEL_HINT} is empty, since the adapter does not say its architecture"),
        });
    }
    let file = OutputFile {
        path: "control_vector.gguf".to_owned(),
        content: Content::Bytes(Bytes::Shared(Arc::from(lay_out(hint, &layers)))),
    };
    Ok(Written { files: vec![file], losses })
}

/// The layer and the edit, if it is what a control vector holds; else why not.
fn constant<'e, 'a>(edit: &'e Edit<'a>) -> Result<(u64, &'e Intervention<'a>), &'static str> {
    let Edit::Intervention(intervention) = edit else {
        return Err("a control vector holds no weights");
    };
    let Site::Layer { layer, component: SiteComponent::BlockOutput } = intervention.site else {
        return Err("a control vector acts on block_output only");
    };
    if layer == 0 {
        return Err("llama.cpp cannot steer block 0");
    }
    let everywhere = Positions { phase: Phase::EveryForward, select: Select::All };
    if intervention.positions != everywhere {
        return Err("a control vector acts on every token");
    }
    if intervention.dims.is_some() || intervention.component.is_some() {
        return Err("a control vector acts on the whole state");
    }
    match constant_of(intervention) {
        Some(Some(_)) => {}
        Some(None) => return Err("a control vector adds a constant to the state"),
        None => return Err("a control vector is F32, F16 or BF16"),
    }
    Ok((layer, intervention))
}

/// The tensor of an intervention that is a control vector's direction as it stands.
fn direction<'e, 'a>(edit: &'e Intervention<'a>) -> Option<&'e Tensor<'a>> {
    let is_alone = edit.tensors().iter().all(|(role, _)| *role == ROLE);
    edit.up_bias.as_ref().filter(|tensor| is_alone && edit.scale == 1.0 && tensor.dtype() == Dtype::F32)
}

#[allow(clippy::cast_possible_truncation, reason = "the one rounding to the format's dtype")]
fn sum(edits: &[&Intervention<'_>]) -> Vec<u8> {
    if let [one] = edits
        && let Some(tensor) = direction(one)
    {
        return tensor.bytes().to_vec();
    }
    let mut total: Vec<f64> = Vec::new();
    for edit in edits {
        let values = constant_of(edit).flatten().unwrap_or_default();
        total.resize(total.len().max(values.len()), 0.0);
        total.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    }
    total.iter().flat_map(|value| (*value as f32).to_le_bytes()).collect()
}

/// The file that the adapter was read from, when its directions are still those.
fn restore<'a>(adapter: &Adapter<'a>) -> Option<OutputFile<'a>> {
    let source = adapter.source.as_ref().filter(|source| source.format == "gguf")?;
    let kept = source.files.iter().find(|file| file.path.ends_with(HEAD))?;
    let path = kept.path.strip_suffix(HEAD)?.to_owned();
    let (mut directions, mut edit_order) = (BTreeMap::new(), Vec::new());
    for edit in &adapter.edits {
        let (layer, intervention) = constant(edit).ok()?;
        let tensor = direction(intervention)?;
        edit_order.push(tensor.bytes());
        if directions.insert(layer, tensor.bytes()).is_some() {
            return None;
        }
    }
    let alignment = usize::try_from(container::alignment_of(kept.data.bytes())?).ok()?;
    let head = kept.data.bytes();
    let mut data: Vec<u8> = Vec::new();
    for direction in edit_order {
        data.resize(data.len().checked_next_multiple_of(alignment)?, 0);
        data.extend_from_slice(direction);
    }
    let tail = format!("{path}{TAIL}");
    let tail = source.files.iter().find(|file| file.path == tail).map_or(&[][..], |file| file.data.bytes());
    let bytes = [head, &data, tail].concat();
    // Put together again, it must read back as what is meant.
    let back = Container::parse(&bytes).ok()?;
    let same = |entry: &Entry<'_>| {
        control::layer(&entry.name)
            .and_then(|layer| directions.get(&layer))
            .is_some_and(|bytes| *bytes == entry.bytes)
    };
    let whole = back.tensors.len() == directions.len() && back.tensors.iter().all(same);
    whole.then(|| OutputFile { path, content: Content::Bytes(Bytes::Shared(Arc::from(bytes))) })
}

/// A version 3 file as gguf-py 0.19 writes it.
fn lay_out(hint: &str, layers: &BTreeMap<u64, Vec<u8>>) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((layers.len() as u64).to_le_bytes());
    out.extend(3u64.to_le_bytes());
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    for (key, value) in [(ARCHITECTURE, CONTROL_VECTOR), (MODEL_HINT, hint)] {
        text(&mut out, key);
        out.extend(ValueType::TEXT.0.to_le_bytes());
        text(&mut out, value);
    }
    text(&mut out, LAYER_COUNT);
    // llama.cpp asks for i32 where it reads the key; both widths are the same bytes.
    out.extend(ValueType::I32.0.to_le_bytes());
    out.extend((layers.len() as u32).to_le_bytes());
    let mut offset = 0u64;
    for (layer, bytes) in layers {
        text(&mut out, &control::name(*layer));
        out.extend(1u32.to_le_bytes());
        out.extend((bytes.len() as u64 / 4).to_le_bytes());
        out.extend(0u32.to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset += (bytes.len() as u64).next_multiple_of(DEFAULT_ALIGNMENT);
    }
    let pad = |out: &mut Vec<u8>| out.resize(out.len().next_multiple_of(DEFAULT_ALIGNMENT as usize), 0);
    pad(&mut out);
    for bytes in layers.values() {
        out.extend(bytes);
        pad(&mut out);
    }
    out
}
