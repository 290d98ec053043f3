//! Interventions into weights, where that is exact: a pass over models.
//!
//! An intervention that is linear, acts on every token of every pass, and at states that a linear layer alone makes or reads, is a change of that
//! layer: with `z = M h + c`, `M = I + s·U V`, it is `W' = M W`, `b' = M b + c` at an output, and `W' = W M`, `b' = b + W c` at an
//! input. That is a `lora` edit of rank `r`, and an `add` to the bias. A constant at the end of a layer goes into the
//! bias of what is added there last. All else is left, with its [`Obstacle`].
//!
//! ```
//! use fitment_convert::fold::{File, Into, fold};
//! use fitment_core::checkpoint::MemoryCheckpoint;
//! use fitment_core::container::write_container;
//! use fitment_core::model::*;
//! use fitment_core::tensor::{Dtype, Shape, Tensor};
//! use std::collections::BTreeMap;
//!
//! let floats = |dims: &[u64], numbers: &[f32]| {
//!     let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
//!     Tensor::owned(Dtype::F32, Shape::new(dims)?, bytes)
//! };
//! // One layer of a GPT-2 of width 2 and its last bias.
//! let tensors = [
//!     ("h.0.attn.c_attn.weight", floats(&[2, 6], &[0.0; 12])?),
//!     ("h.0.mlp.c_proj.weight", floats(&[2, 2], &[1.0, 0.0, 0.0, 1.0])?),
//!     ("h.0.mlp.c_proj.bias", floats(&[2], &[0.5, 0.5])?),
//! ];
//! let mut file = Vec::new();
//! write_container(&BTreeMap::new(), tensors.iter().map(|(name, tensor)| (name.to_string(), tensor)), &mut file)?;
//! let config = serde_json::from_str(r#"{"model_type": "gpt2", "n_head": 1}"#)?;
//! let base = MemoryCheckpoint::new(&file, Some(config))?;
//!
//! // A steering vector behind the layer: its bias takes it.
//! let site = Site::Layer { layer: 0, component: SiteComponent::BlockOutput };
//! let vector = Some(floats(&[2], &[3.0, -1.0])?);
//! let steer = Intervention { up_bias: vector, scale: 2.0, ..Intervention::at(site, Positions::EVERYWHERE) };
//! let adapter = Adapter { edits: vec![Edit::Intervention(steer)], ..Adapter::default() };
//! let folded = fold(&[File { adapter: &adapter, weight: 1.0 }], &base, Into::Checkpoint)?;
//! let [Edit::Add(add)] = &folded.edits[..] else { panic!() };
//! assert_eq!((add.target.label().as_str(), folded.kept.len()), ("h.0.mlp.c_proj.bias", 0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Interventions see the edited model: the fold reads the weights with the files' own `lora` and `add` edits, and leaves alone what
//! lies on a weight that is edited otherwise. Everything is computed in f64, in one order of additions.

mod affine;
mod judge;
mod linear;
mod obstacle;
mod place;
mod written;

pub use obstacle::Obstacle;
pub(crate) use place::Model;

use crate::error::Error;
use affine::{Affine, matrix};
use fitment_core::checkpoint::Checkpoint;
use fitment_core::model::{Adapter, Edit, Intervention, Overlap};
use fitment_math::round::widened;
use judge::{Candidate, comes_first, is_per_head};
use linear::Linear;
use place::Touch;
use std::collections::BTreeMap;

/// An adapter with its strength, which multiplies `s` of its interventions.
#[derive(Clone, Copy, Debug)]
pub struct File<'a> {
    /// The adapter.
    pub adapter: &'a Adapter<'a>,
    /// Its strength.
    pub weight: f64,
}

/// What the result is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Into {
    /// A checkpoint: exact factors, slices of fused weights, biases and config switches where they are missing.
    Checkpoint,
    /// An adapter of low-rank updates with biases (PEFT's `lora_bias`): F32 factors, whole weights.
    Lora,
}

/// What became of the interventions of some files.
#[derive(Clone, Debug, Default)]
pub struct Folded {
    /// Edits of weights and config, to be applied behind the files' own, with strength 1.
    pub edits: Vec<Edit<'static>>,
    /// How many interventions these stand for.
    pub folded: usize,
    /// The others.
    pub kept: Vec<Kept>,
}

/// An intervention that cannot be folded.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// Its file, by its place in the list.
    pub file: usize,
    /// Its place among the edits of that file.
    pub edit: usize,
    /// Its label.
    pub site: String,
    /// Why.
    pub obstacle: Obstacle,
}

/// Folds the interventions of files into the weights of a base, as far as that is exact.
///
/// # Errors
/// [`Error::Base`] when a tensor cannot be read.
pub fn fold(files: &[File<'_>], base: &dyn Checkpoint, into: Into) -> Result<Folded, Error> {
    let model = Model::of(base);
    let candidates = judge::judge(files, &model, into == Into::Lora);
    let mut folded = Folded::default();
    for candidate in &candidates {
        match &candidate.obstacle {
            None => folded.folded += 1,
            Some(obstacle) => folded.kept.push(Kept {
                file: candidate.file,
                edit: candidate.edit_index,
                site: candidate.edit.label(),
                obstacle: obstacle.clone(),
            }),
        }
    }
    if let Ok(model) = &model {
        folded.edits = edits(files, &candidates, model, into)?;
    }
    Ok(folded)
}

/// Why each intervention of an adapter cannot be folded into a base; what is not listed can.
pub fn obstacles(adapter: &Adapter<'_>, base: &dyn Checkpoint) -> Vec<Kept> {
    let candidates = judge::judge(&[File { adapter, weight: 1.0 }], &Model::of(base), false);
    let kept = candidates.into_iter().filter_map(|candidate| {
        let (file, edit, site) = (candidate.file, candidate.edit_index, candidate.edit.label());
        candidate.obstacle.map(|obstacle| Kept { file, edit, site, obstacle })
    });
    kept.collect()
}

/// What keeps an intervention from being folded into whatever base; `None` where that depends on the base.
pub fn obstacle_in_any_base(edit: &Intervention<'_>) -> Option<Obstacle> {
    judge::in_any_base(edit)
}

/// The constant that an intervention adds, with its strength, where it adds nothing else: `s·(U b + c)`. The outer `None` is of
/// tensors without arithmetic.
pub(crate) fn constant_of(edit: &Intervention<'_>) -> Option<Option<Vec<f64>>> {
    let reads = edit.source_weight.is_some() || edit.proj.is_some() || edit.subtract;
    if reads
        || edit.activation.is_some()
        || edit.input_site.is_some()
        || edit.up.is_none() && edit.source_bias.is_some()
    {
        return Some(None);
    }
    // Without `U` there is nothing to multiply, and the identity of that width would be large.
    if edit.up.is_none() {
        let values = edit.up_bias.as_ref().map_or(Some(Vec::new()), widened)?;
        return Some(Some(values.into_iter().map(|value| edit.scale * value).collect()));
    }
    let affine = Affine::of(edit, 1.0, usize::try_from(edit.width()?).ok()?)?;
    Some(affine.is_constant().then(|| affine.shift.to_vec()))
}

/// Layer by layer of the linear kind, everything that is folded into it.
fn edits(
    files: &[File<'_>],
    candidates: &[Candidate<'_>],
    model: &Model<'_>,
    into: Into,
) -> Result<Vec<Edit<'static>>, Error> {
    let mut by_module: BTreeMap<&str, Vec<(usize, &Touch)>> = BTreeMap::new();
    for (at, candidate) in candidates.iter().enumerate().filter(|(_, candidate)| candidate.obstacle.is_none())
    {
        for touch in candidate.place.iter().flat_map(|place| &place.touches) {
            by_module.entry(&touch.module).or_default().push((at, touch));
        }
    }
    let mut written = written::Written::new(model, into);
    for (module, mut touches) in by_module {
        touches.sort_by(|(a_at, a), (b_at, b)| {
            let first = comes_first((a, *a_at), (b, *b_at));
            a.side.cmp(&b.side).then(if first {
                std::cmp::Ordering::Less
            } else {
                std::cmp::Ordering::Greater
            })
        });
        let norm = model
            .base
            .tensors()
            .get(&format!("{module}.weight"))
            .is_some_and(|info| info.shape.dims().len() == 1);
        let extents = if norm { Ok((touches[0].1.width, 0)) } else { model.extents(module) };
        let Ok(extents) = extents else { continue };
        let mut linear = Linear::read(model.base, module, extents, model.architecture.conv1d && !norm)?;
        edit_first(&mut linear, files, module);
        let mut done = Vec::new();
        for (at, touch) in touches {
            if done.contains(&at) {
                continue;
            }
            let (affine, members) = at_site(candidates, at, touch);
            done.extend(members);
            if let Some(affine) = affine {
                linear.fold(&affine, touch);
            }
        }
        written.add(module, linear);
    }
    Ok(written.finish())
}

/// The edits of the files that come before all interventions.
fn edit_first(linear: &mut Linear<'_>, files: &[File<'_>], module: &str) {
    for File { adapter, weight } in files {
        for edit in &adapter.edits {
            let name = edit.target().map(|target| target.name.as_str().to_owned()).unwrap_or_default();
            let part = name.strip_prefix(module);
            // Shapes that do not fit are for the executor to name; nothing is then written.
            let _ = match (edit, part) {
                (Edit::Lora(lora), Some(".weight")) => linear.add_lora(lora, *weight),
                (Edit::Add(add), Some(".weight")) => {
                    matrix(&add.value).and_then(|delta| linear.add_dense(delta, add.scale * weight))
                }
                (Edit::Add(add), Some(".bias")) => {
                    widened(&add.value).and_then(|delta| linear.add_bias(&delta, add.scale * weight))
                }
                _ => None,
            };
        }
    }
}

/// What happens at a candidate's site, in one map, and the candidates that it stands for: itself, or all of its file there where they do not act in order.
fn at_site(candidates: &[Candidate<'_>], at: usize, touch: &Touch) -> (Option<Affine>, Vec<usize>) {
    let this = &candidates[at];
    let members: Vec<usize> = match this.edit.overlap {
        Overlap::Sequential => vec![at],
        Overlap::Sum | Overlap::LastWins => (0..candidates.len())
            .filter(|other| {
                candidates[*other].file == this.file && candidates[*other].edit.site == this.edit.site
            })
            .collect(),
    };
    let mut maps = members.iter().filter_map(|member| on_states(&candidates[*member], touch));
    let affine = match this.edit.overlap {
        Overlap::LastWins => maps.next_back(),
        Overlap::Sequential | Overlap::Sum => maps.reduce(Affine::plus),
    };
    (affine, members)
}

/// A candidate's map on the whole states of a place.
fn on_states(candidate: &Candidate<'_>, touch: &Touch) -> Option<Affine> {
    let affine = candidate.affine.clone()?;
    let width = usize::try_from(touch.width).ok()?;
    let start = candidate.edit.dims.map_or(Some(0), |[start, _]| usize::try_from(start).ok())?;
    let own = affine.shift.len();
    if is_per_head(candidate.edit) {
        return Some(affine.on_heads(width / own.max(1)));
    }
    Some(if own == width { affine } else { affine.inside(start, width) })
}
