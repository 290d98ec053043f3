//! LoRA: tensors under `….loras.NAME.`, as `lora` edits with the scale `alpha / r`.
//!
//! | module | `lora_A` | `lora_B` | becomes |
//! |---|---|---|---|
//! | one projection | `[r, in]` | `[out, r]` | one edit, `down` and `up`; GPT-2 stores `[in, out]`: transposed |
//! | q, k, v in one (`c_attn` of GPT-2, `in_proj` of DeBERTa) | `[n·r, in]` | `[n·out/3, r]` | `n` edits of thirds of the tensor |
//!
//! `attn_matrices` says which `n` of the three have a product, always in the order q, k, v (`methods/lora.py`).

use super::inspect::{Group, Inspected};
use super::methods::LoraForm;
use super::read::misfit as no_edits;
use super::rules;
use crate::error::Error;
use crate::loss::Loss;
use crate::names::{Creates, Fit, Want, resolve};
use crate::pass::gather::rows;
use fitment_core::Finding;
use fitment_core::checkpoint::Checkpoint;
use fitment_core::model::{
    AxisSlice, BaseTensor, Edit, IndexRange, Lora, LoraForm as Form, Origin, Target, TensorName,
};
use fitment_core::tensor::{Shape, Tensor};
use serde_json::Map;
use std::collections::BTreeMap;

const PARTS: [&str; 2] = ["lora_A", "lora_B"];

/// The product of one module.
#[derive(Clone, Debug)]
pub(super) struct Unit<'a> {
    module: String,
    /// Module path and `.loras.NAME.`.
    prefix: String,
    a: Tensor<'a>,
    b: Tensor<'a>,
    /// Which thirds of a fused projection; `None` for a projection of its own.
    thirds: Option<Vec<u64>>,
}

/// Sorts the tensors into units.
pub(super) fn units<'a>(tensors: &[(String, Tensor<'a>)], form: &LoraForm, seen: &mut Inspected<'a>) {
    let mut groups: BTreeMap<(String, String), Group<'a>> = BTreeMap::new();
    for (name, tensor) in tensors {
        let parsed = name.split_once(".loras.").and_then(|(module, rest)| {
            let (adapter, part) = rest.split_once('.')?;
            Some((module, adapter, PARTS.into_iter().find(|known| *known == part)?))
        });
        let Some((module, adapter, part)) = parsed else {
            seen.findings.push(Finding::new(&rules::H_KEY, &**name, "is no tensor of LoRA"));
            continue;
        };
        seen.note_tensor(name, adapter, tensor);
        let prefix = name.strip_suffix(part).unwrap_or_default().to_owned();
        groups.entry((module.to_owned(), prefix)).or_default().insert(part, tensor.clone());
    }
    for ((module, prefix), parts) in groups {
        let missing = |part: &&str| Finding::new(&rules::H_UNIT, format!("{prefix}{part}"), "is missing");
        seen.findings.extend(PARTS.iter().filter(|part| !parts.contains_key(**part)).map(missing));
        if let (Some(a), Some(b)) = (parts.get("lora_A").cloned(), parts.get("lora_B").cloned()) {
            let is_fused = form.fused_module.is_some() && module.rsplit('.').next() == form.fused_module;
            let unit = Unit { module, prefix, a, b, thirds: is_fused.then(|| form.fused.clone()) };
            seen.findings.extend(misfit(&unit, form));
            seen.loras.push(unit);
        }
    }
}

/// Shapes of a unit that do not fit.
fn misfit(unit: &Unit<'_>, form: &LoraForm) -> Option<Finding> {
    let count = unit.thirds.as_ref().map_or(1, |thirds| thirds.len() as u64);
    let wanted = form.r.checked_mul(count).unwrap_or_default();
    let fits = matches!((unit.a.dims(), unit.b.dims()), (&[rows, input], &[out, r])
        if rows == wanted && r == form.r && input > 0 && out > 0 && count > 0 && out.is_multiple_of(count));
    (!fits).then(|| {
        let message = format!(
            "is {:?} beside lora_B {:?}: r {}{} asks for [{wanted}, in] and [out, {}]",
            unit.a.dims(),
            unit.b.dims(),
            form.r,
            if unit.thirds.is_some() { format!(" with {count} of q, k, v fused") } else { String::new() },
            form.r,
        );
        Finding::new(&rules::H_SHAPE, format!("{}lora_A", unit.prefix), message)
    })
}

/// Edits, and of an adapter without a base the tensors that it expects.
#[derive(Debug, Default)]
pub(super) struct Placed<'a> {
    pub(super) edits: Vec<Edit<'a>>,
    pub(super) tensors: Vec<BaseTensor>,
    pub(super) losses: Vec<Loss>,
}

/// The edits, by the names of the base where it is there.
///
/// # Errors
/// [`Error::Unmapped`], [`Error::Mismatch`], [`Error::Ambiguous`] where the base has other tensors.
pub(super) fn place<'a>(
    units: &[Unit<'a>],
    form: &LoraForm,
    base: Option<&dyn Checkpoint>,
) -> Result<Placed<'a>, Error> {
    let mut placed = Placed::default();
    let mut names: BTreeMap<String, &Unit<'a>> = BTreeMap::new();
    if let Some(base) = base {
        let want = |unit: &Unit<'_>| {
            let (out, input) = unit.extents();
            Want {
                name: unit.weight(),
                fit: Fit::Linear { out, input },
                creates: Creates::Nothing,
                is_vocabulary: false,
            }
        };
        let found = resolve(&units.iter().map(want).collect::<Vec<_>>(), base)?;
        for unit in units {
            let name = unit.weight();
            names.insert(found.on_disk(&name).unwrap_or(&name).to_owned(), unit);
        }
        let moved = |(disk, unit): &(&String, &&Unit<'_>)| **disk != unit.weight();
        if let Some((to, unit)) = names.iter().find(moved) {
            let targets = names.iter().filter(moved).count();
            placed.losses.push(Loss::Renamed { from: unit.weight(), to: to.clone(), targets });
        }
    } else {
        names.extend(units.iter().map(|unit| (unit.weight(), unit)));
        placed.losses.push(Loss::Unbound { targets: names.len() });
        for (name, unit) in &names {
            let (out, input) = unit.extents();
            let dims = if form.transposed { [input, out] } else { [out, input] };
            placed.tensors.push(BaseTensor {
                unchanged: false,
                component: None,
                name: TensorName::new(name)?,
                experts: None,
                dtype: None,
                shape: Shape::new(&dims).ok(),
                digests: Vec::new(),
                extra: Map::new(),
            });
        }
    }
    for (name, unit) in names {
        let target = Target::whole(TensorName::new(&name)?);
        placed.edits.extend(unit.edits(form, &target).ok_or_else(no_edits)?.into_iter().map(Edit::Lora));
    }
    Ok(placed)
}

impl<'a> Unit<'a> {
    fn weight(&self) -> String {
        format!("{}.weight", self.module)
    }

    /// Numbers in the module's path, of which one is its layer.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.module.split('.').filter_map(|part| part.parse().ok())
    }

    fn out(&self) -> u64 {
        self.b.dims().first().copied().unwrap_or_default()
    }

    /// `out` and `in` of the whole weight.
    fn extents(&self) -> (u64, u64) {
        let input = self.a.dims().last().copied().unwrap_or_default();
        let third = |thirds: &Vec<u64>| self.out() / thirds.len().max(1) as u64;
        (self.thirds.as_ref().map_or(self.out(), |thirds| third(thirds).saturating_mul(3)), input)
    }

    /// `None` when the shapes do not fit, which was looked at before.
    fn edits(&self, form: &LoraForm, target: &Target) -> Option<Vec<Lora<'a>>> {
        let keys = [("down", PARTS[0]), ("up", PARTS[1])]
            .map(|(role, part)| (role.to_owned(), format!("{}{part}", self.prefix)));
        let edit = |target: Target, up: Tensor<'a>, down: Tensor<'a>| Lora {
            target,
            form: Form::Matrix,
            transposed: form.transposed,
            scale: form.alpha / form.r as f64,
            up,
            down,
            mid: None,
            magnitude: None,
            // Thirds have the key of the tensor that their rows are of.
            origin: Origin {
                alpha: Some(form.alpha),
                rank: Some(form.r),
                keys: keys.clone().into(),
                ..Origin::default()
            },
        };
        let Some(thirds) = &self.thirds else {
            return Some(vec![edit(target.clone(), self.b.clone(), self.a.clone())]);
        };
        let extent = self.out().checked_div(thirds.len() as u64)?;
        let part = |(number, third): (u64, &u64)| {
            let up = rows(&self.b, number * extent, extent)?;
            let down = rows(&self.a, number * form.r, form.r)?;
            let range = IndexRange { start: third * extent, end: (third + 1) * extent, step: 1 };
            let slice = vec![AxisSlice { axis: u64::from(form.transposed), ranges: vec![range] }];
            Some(edit(Target { slice, ..target.clone() }, up, down))
        };
        (0..).zip(thirds).map(part).collect()
    }
}

/// Matrices of one width, one above the other.
pub(super) fn stacked<'a>(parts: &[Tensor<'a>]) -> Option<Tensor<'a>> {
    let (first, others) = parts.split_first()?;
    if others.is_empty() {
        return Some(first.clone());
    }
    let &[_, columns] = first.dims() else { return None };
    let mut all = 0_u64;
    let mut bytes = Vec::new();
    for part in parts {
        let &[rows, width] = part.dims() else { return None };
        if width != columns || part.dtype() != first.dtype() {
            return None;
        }
        all = all.checked_add(rows)?;
        bytes.extend_from_slice(part.bytes());
    }
    Tensor::owned(first.dtype(), Shape::new(&[all, columns]).ok()?, bytes).ok()
}
