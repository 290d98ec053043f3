//! The six classes of pyreft 0.1.0 by the tensors of their files, and what each computes in the words of the model.

use super::rules;
use crate::error::one_line;
use crate::orthogonal;
use fitment_core::Finding;
use fitment_core::model::{Intervention, Rounding};
use fitment_core::tensor::Tensor;
use std::collections::BTreeMap;

pub(super) type Tensors<'a> = BTreeMap<String, Tensor<'a>>;
/// Tensors without effect, by their keys.
pub(super) type Kept<'a> = Vec<(String, Tensor<'a>)>;

/// What the classes save and do not use; the last two are of pyreft's PR 179, to train on.
const UNUSED: &[&str] =
    &["embed_dim", "interchange_dim", "proj_layer.bias", "rotate_layer_original", "rotate_layer_base"];

/// A class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Loreft,
    Noreft,
    Consreft,
    Lobireft,
    Direft,
    Nodireft,
}

impl Class {
    pub(super) const ALL: &[Class] =
        &[Class::Loreft, Class::Noreft, Class::Consreft, Class::Lobireft, Class::Direft, Class::Nodireft];

    pub(super) fn name(self) -> &'static str {
        match self {
            Class::Loreft => "loreft",
            Class::Noreft => "noreft",
            Class::Consreft => "consreft",
            Class::Lobireft => "lobireft",
            Class::Direft => "direft",
            Class::Nodireft => "nodireft",
        }
    }

    /// The class of `<class 'pyreft.interventions.LoreftIntervention'>`.
    pub(super) fn of_type(text: &str) -> Option<Class> {
        let name = text.rsplit(['.', '\'']).find(|part| part.ends_with("Intervention"))?.to_lowercase();
        Class::ALL.iter().copied().find(|class| name == format!("{}intervention", class.name()))
    }

    /// The classes that tensors may be of: one, or two that no key tells apart.
    pub(super) fn of_tensors(tensors: &Tensors<'_>) -> &'static [Class] {
        let has = |key: &str| tensors.contains_key(key);
        let rotates = has("rotate_layer.parametrizations.weight.original");
        if has("rotate_layer") && has("weight") && has("bias") {
            &[Class::Loreft]
        } else if rotates && has("learned_source.weight") {
            &[Class::Direft]
        } else if rotates && has("learned_source") {
            &[Class::Consreft, Class::Lobireft]
        } else if has("proj_layer.weight") && has("learned_source.weight") {
            &[Class::Noreft, Class::Nodireft]
        } else {
            &[]
        }
    }

    /// Whether its constructor takes `act_fn`.
    pub(super) fn has_activation(self) -> bool {
        !matches!(self, Class::Consreft | Class::Lobireft)
    }

    /// Fills in what the class computes; `kept` gets what it stores and does not use.
    pub(super) fn fill<'a>(
        self,
        edit: &mut Intervention<'a>,
        tensors: &Tensors<'a>,
        (file, findings): (&str, &mut Vec<Finding>),
    ) -> Result<Kept<'a>, Finding> {
        let wrong = |message: String| Finding::new(&rules::R_SHAPES, file, message);
        let get = |key: &str| {
            let missing = || Finding::new(&rules::R_KEYS, file, format!("there is no tensor {key:?}"));
            tensors.get(key).cloned().ok_or_else(missing)
        };
        let mut keys: Vec<(&str, &str)> = Vec::new();
        match self {
            Class::Loreft => {
                edit.up = Some(get("rotate_layer")?);
                edit.source_weight = Some(get("weight")?);
                edit.source_bias = Some(get("bias")?);
                edit.rounding = Rounding::Loreft;
                keys.extend([("up", "rotate_layer"), ("source.weight", "weight"), ("source.bias", "bias")]);
            }
            Class::Noreft | Class::Nodireft => {
                let proj = get("proj_layer.weight")?;
                edit.up = Some(
                    proj.transposed().ok_or_else(|| wrong("proj_layer.weight is no matrix".to_owned()))?,
                );
                edit.source_weight = Some(get("learned_source.weight")?);
                edit.source_bias = Some(get("learned_source.bias")?);
                if self == Class::Noreft {
                    edit.proj_bias = tensors.get("proj_layer.bias").cloned();
                }
                edit.rounding = Rounding::Noreft;
            }
            Class::Consreft | Class::Lobireft => {
                edit.up = Some(rotated(tensors, file)?);
                edit.source_bias = Some(get("learned_source")?);
            }
            Class::Direft => {
                edit.up = Some(rotated(tensors, file)?);
                edit.source_weight = Some(get("learned_source.weight")?);
                edit.source_bias = Some(get("learned_source.bias")?);
                edit.rounding = Rounding::Direft;
            }
        }
        edit.subtract = matches!(self, Class::Loreft | Class::Noreft | Class::Consreft);
        check_shapes(edit).map_err(wrong)?;
        if !matches!(self, Class::Noreft | Class::Nodireft) {
            let far = edit.up.as_ref().and_then(orthogonal::departure);
            edit.orthonormal = far.is_some_and(|far| far <= orthogonal::TOLERANCE);
            if let Some(far) = far.filter(|_| !edit.orthonormal) {
                let message = format!("its columns depart from orthonormal ones by {far:.1e}");
                findings.push(Finding::new(&rules::R_ORTHONORMAL, file, message));
            }
        }
        let rank = edit.rank();
        let origin = keys.iter().map(|(role, key)| ((*role).to_owned(), format!("{file}/{key}")));
        edit.origin.keys.extend(origin);
        edit.origin.rank = rank;
        let others = tensors.iter().filter(|(key, _)| !self.uses(key));
        let unused: Kept<'a> = others.map(|(key, tensor)| (key.clone(), tensor.clone())).collect();
        let strange = unused.iter().map(|(key, _)| key.as_str()).filter(|key| !UNUSED.contains(key));
        let strange: Vec<String> = strange.map(one_line).collect();
        if !strange.is_empty() {
            let message = format!("it has tensors that {} does not: {}", self.name(), strange.join(", "));
            findings.push(Finding::new(&rules::R_UNKNOWN, file, message));
        }
        Ok(unused)
    }

    /// Whether what the class computes takes a tensor of that name.
    pub(super) fn uses(self, key: &str) -> bool {
        let rotation =
            ["rotate_layer.parametrizations.weight.original", "rotate_layer.parametrizations.weight.0.base"];
        let source = ["learned_source.weight", "learned_source.bias"];
        match self {
            Class::Loreft => ["rotate_layer", "weight", "bias"].contains(&key),
            Class::Noreft => ["proj_layer.weight", "proj_layer.bias"].contains(&key) || source.contains(&key),
            Class::Nodireft => key == "proj_layer.weight" || source.contains(&key),
            Class::Consreft | Class::Lobireft => key == "learned_source" || rotation.contains(&key),
            Class::Direft => rotation.contains(&key) || source.contains(&key),
        }
    }
}

/// The orthonormal matrix of torch's parametrisation.
fn rotated<'a>(tensors: &Tensors<'a>, file: &str) -> Result<Tensor<'a>, Finding> {
    let original = tensors.get("rotate_layer.parametrizations.weight.original");
    let base = tensors.get("rotate_layer.parametrizations.weight.0.base");
    let shape = |tensor: Option<&Tensor<'_>>| {
        tensor.map_or("none".to_owned(), |tensor| format!("{} {}", tensor.dtype(), tensor.shape()))
    };
    let rotation = original.and_then(|original| orthogonal::weight(original, base));
    rotation.ok_or_else(|| {
        let message = format!(
            "its rotation cannot be rebuilt of `original` {} and `base` {}: a base is square, and a square rotation has at most {} rows",
            shape(original),
            shape(base),
            orthogonal::MAX_SQUARE
        );
        Finding::new(&rules::R_SHAPES, file, message)
    })
}

fn check_shapes(edit: &Intervention<'_>) -> Result<(), String> {
    let dims = |tensor: &Option<Tensor<'_>>| tensor.as_ref().map(|tensor| tensor.dims().to_vec());
    let Some([width, rank]) = dims(&edit.up).and_then(|dims| <[u64; 2]>::try_from(dims).ok()) else {
        return Err("its rotation or projection is no matrix".to_owned());
    };
    let wanted = [
        ("source.weight", dims(&edit.source_weight), vec![rank, width]),
        ("source.bias", dims(&edit.source_bias), vec![rank]),
        ("proj.bias", dims(&edit.proj_bias), vec![rank]),
    ];
    match wanted.into_iter().find(|(_, found, wanted)| found.as_ref().is_some_and(|found| found != wanted)) {
        Some((role, found, wanted)) => Err(format!(
            "{role} has the shape {:?}, width {width} and rank {rank} ask for {wanted:?}",
            found.unwrap_or_default()
        )),
        None if rank == 0 || width == 0 => Err(format!("width {width}, rank {rank}")),
        None => Ok(()),
    }
}
