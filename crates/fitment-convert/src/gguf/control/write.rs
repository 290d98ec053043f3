use super::super::layout::{laid_out, restored};
use super::super::value::Value;
use super::read::ROLE;
use super::{ARCHITECTURE, CONTROL_VECTOR, LAYER_COUNT, MODEL_HINT, name};
use crate::error::Error;
use crate::files::{Content, OutputFile};
use crate::loss::Loss;
use crate::pass::fold::constant_of;
use crate::write::Written;
use fitment_core::Adapter;
use fitment_core::model::{Edit, Intervention, Phase, Positions, Select, Site, SiteComponent};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use std::collections::BTreeMap;

/// Writes a control vector. What came from GGUF goes back byte for byte.
///
/// Interventions that add a constant to `block_output` at every token are held, also as a product (`U b`, LoBiReFT); of several at one layer, and of a
/// strength, the sum is written, computed in f64 and rounded once.
///
/// # Errors
/// [`Error::Unsupported`] when there is no such intervention.
pub(in crate::gguf) fn write<'a>(adapter: &Adapter<'a>) -> Result<Written<'a>, Error> {
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
            what: "a GGUF adapter".to_owned(),
            reason: format!(
                "it holds LoRA, or constants added to block_output at every token, and this adapter has neither ({reason})"
            ),
            hint: "write another format with --to".to_owned(),
        });
    };
    if let Some((layer, other)) = layers.iter().find(|(_, bytes)| bytes.len() != width) {
        return Err(Error::Unsupported {
            what: name(*layer),
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
    let content = lay_out(hint, layers).ok_or_else(|| Error::Unsupported {
        what: "a GGUF control vector".to_owned(),
        reason: "it has more layers than the format counts".to_owned(),
        hint: "write another format with --to".to_owned(),
    })?;
    let file = OutputFile { path: "control_vector.gguf".to_owned(), content };
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
    let of_edit = |edit: &Edit<'a>| {
        let (layer, intervention) = constant(edit).ok()?;
        Some((name(layer), direction(intervention)?.clone()))
    };
    restored(adapter, &adapter.edits.iter().map(of_edit).collect::<Option<Vec<_>>>()?)
}

/// What gguf-py 0.19 writes for these.
fn lay_out(hint: &str, layers: BTreeMap<u64, Vec<u8>>) -> Option<Content<'static>> {
    let text = |text: &str| Value::Text(text.to_owned());
    let metadata = [
        (ARCHITECTURE.to_owned(), text(CONTROL_VECTOR)),
        (MODEL_HINT.to_owned(), text(hint)),
        // llama.cpp asks for i32 where it reads the key.
        (LAYER_COUNT.to_owned(), Value::I32(i32::try_from(layers.len()).ok()?)),
    ];
    let tensor = |(layer, bytes): (u64, Vec<u8>)| {
        let shape = Shape::new(&[bytes.len() as u64 / 4]).ok()?;
        Some((name(layer), Tensor::owned(Dtype::F32, shape, bytes).ok()?))
    };
    laid_out(&metadata, &layers.into_iter().map(tensor).collect::<Option<Vec<_>>>()?)
}
