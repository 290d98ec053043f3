use super::experts::{self, is_of_experts, spot, stacked_a};
use super::folder::{self, CONFIG, Folder, Unit, WEIGHTS, is_embedding};
use super::rules;
use crate::bind::bind;
use crate::error::Error;
use crate::files::Files;
use crate::loss::Loss;
use crate::names::{Creates, Fit, Places, Want, placed};
use crate::pass::permute::turned;
use crate::pass::spots::{FORMS, Form, Spot};
use crate::read::{Converted, ReadOptions};
use crate::several;
use crate::tying::is_vocabulary_module;
use fitment_core::checkpoint::Checkpoint;
use fitment_core::model::{
    About, Base, BaseTensor, Edit, Lora, LoraForm, Magnitude, NormOf, Origin, Set, SetDtype, Source, Target,
    TensorName,
};
use fitment_core::tensor::{Shape, Tensor};
use fitment_core::{Adapter, Severity};
use serde_json::Map;
use std::collections::BTreeMap;

/// Reads an adapter: a `lora` for each module, or of `full` a `set` for each weight.
///
/// # Errors
/// [`Error::Malformed`]; [`Error::Unsupported`] for what has no edit here; those of a base that does not fit.
pub fn read<'a>(files: &Files<'a>, options: &ReadOptions<'_>) -> Result<Converted<'a>, Error> {
    let folder = folder::open(files, options.adapter_name)?;
    if let Some(other) = folder.findings.iter().find(|finding| finding.code == rules::X_UNSUPPORTED.code) {
        return Err(Error::Unsupported {
            what: other.place.clone(),
            reason: other.message.clone(),
            hint: rules::X_UNSUPPORTED.remedy.to_owned(),
        });
    }
    let (errors, findings): (Vec<_>, Vec<_>) =
        folder.findings.iter().cloned().partition(|finding| finding.severity == Severity::Error);
    if !errors.is_empty() {
        return Err(Error::Malformed { findings: errors });
    }
    let place = (&*folder.prefix, &*folder.others);
    let (kept, mut losses) = several::beside(files, place, WEIGHTS, &[CONFIG], options.keep_files);
    let (Places { names, tied, renamed }, form) = places(&folder, options.base)?;
    losses.extend(renamed);
    let (mut edits, mut tensors) = (Vec::new(), Vec::new());
    for (module, unit) in &folder.units {
        let (edit, dims) = match is_of_experts(unit) {
            true => of_experts(module, unit, &folder, (form, &names, options.base))?,
            false => {
                let name = format!("{module}.weight");
                let (edit, dims) = lora(module, unit, &folder, names.get(&name).unwrap_or(&name))?;
                (edit, dims.to_vec())
            }
        };
        tensors.push(expected(&edit.target, &dims));
        edits.push(Edit::Lora(edit));
    }
    for (name, value) in &folder.whole {
        let (edit, dims) = match experts::whole(name, value) {
            Some(spot) => of_all_experts(name, value, spot, (form, &names, options.base))?,
            None => {
                let target = Target::whole(TensorName::new(names.get(name).unwrap_or(name))?);
                (whole(target, name, value.clone()), value.dims().to_vec())
            }
        };
        tensors.push(expected(&edit.target, &dims));
        edits.push(Edit::Set(edit));
    }
    let mut adapter = Adapter {
        base: Base {
            name: options.base_name.map(str::to_owned).or(folder.config.model.clone()),
            tied,
            ..Base::default()
        },
        edits,
        source: Some(Source {
            format: "mlx".to_owned(),
            files: kept,
            metadata: folder.metadata.clone(),
            ..Source::default()
        }),
        about: About::default(),
        extra: Map::new(),
    };
    match options.base {
        Some(base) => bind(&mut adapter, base)?,
        None => {
            tensors.sort_by(|a: &BaseTensor, b| a.name.as_str().cmp(b.name.as_str()));
            losses.push(Loss::Unbound { targets: tensors.len() });
            adapter.base.tensors = tensors;
        }
    }
    Ok(Converted { adapter, losses, findings, id: None })
}

/// A weight of `full`.
fn whole<'a>(target: Target, name: &str, value: Tensor<'a>) -> Set<'a> {
    let keys = BTreeMap::from([("value".to_owned(), name.to_owned())]);
    let origin = Origin { keys, ..Origin::default() };
    let dtype = if target.slice.is_empty() { SetDtype::Stored } else { SetDtype::Base };
    Set { target, dtype, create: false, reshape: false, value, rows: None, origin }
}

fn expected(target: &Target, dims: &[u64]) -> BaseTensor {
    BaseTensor {
        unchanged: false,
        component: None,
        name: target.name.clone(),
        experts: target.experts,
        dtype: None,
        shape: Shape::new(dims).ok(),
        digests: Vec::new(),
        extra: Map::new(),
    }
}

/// The names of the base for those of the adapter, where there is a base, and how it stores experts.
fn places(folder: &Folder<'_>, base: Option<&dyn Checkpoint>) -> Result<(Places, Option<Form>), Error> {
    let Some(base) = base else { return Ok((Places::default(), None)) };
    let of_unit = |(module, unit): (&String, &Unit<'_>)| Want {
        name: format!("{module}.weight"),
        // MLX has no Conv1D: what is stored transposed is of another tool's layout.
        fit: Fit::Exact(extents(module, unit).into()),
        creates: Creates::Nothing,
        is_vocabulary: is_vocabulary_module(module),
    };
    let of_whole = |(name, value): (&String, &Tensor<'_>)| Want {
        name: name.clone(),
        fit: Fit::Exact(value.dims().to_vec()),
        creates: Creates::Nothing,
        is_vocabulary: is_vocabulary_module(name.rsplit_once('.').map_or("", |(module, _)| module)),
    };
    let (stacks, plain): (Vec<_>, Vec<_>) = folder.units.iter().partition(|(_, unit)| is_of_experts(unit));
    let of_stack = |(module, unit): (&String, &Unit<'_>)| Some((spot(module)?, experts::extents(unit)?));
    let mut experts: Vec<(Spot, [u64; 3])> = stacks.into_iter().filter_map(of_stack).collect();
    let mut wants: Vec<Want> = plain.into_iter().map(of_unit).collect();
    for (name, value) in &folder.whole {
        match experts::whole(name, value) {
            Some(spot) => experts.push(spot),
            None => wants.push(of_whole((name, value))),
        }
    }
    if experts.is_empty() {
        return Ok((placed(&wants, base)?, None));
    }
    let mut first = None;
    for form in FORMS {
        let of_experts = experts.iter().map(|(spot, extents)| spot.want(*extents, form));
        let all: Vec<Want> = wants.iter().cloned().chain(of_experts).collect();
        match placed(&all, base) {
            Ok(places) => return Ok((places, Some(form))),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.unwrap_or_else(|| experts::unknown("")))
}

/// How a base has experts, by which of its tensors a name is, and the base.
type Experts<'e> = (Option<Form>, &'e BTreeMap<String, String>, Option<&'e dyn Checkpoint>);

/// The edit of a matrix of all experts, and the extents of its tensors.
fn of_all_experts<'a>(
    name: &str,
    value: &Tensor<'a>,
    (spot, extents): (Spot, [u64; 3]),
    (form, names, base): Experts<'_>,
) -> Result<(Set<'a>, Vec<u64>), Error> {
    let form = form.unwrap_or(spot.likely());
    let wanted = spot.name(form);
    let disk = names.get(&wanted).unwrap_or(&wanted);
    let (target, _, transposed) = spot.target(extents, form, (disk, base))?;
    let dtype = base.and_then(|base| base.tensors().get(disk)).map(|info| info.dtype);
    if !target.slice.is_empty() && dtype.is_some_and(|dtype| dtype != value.dtype()) {
        return Err(Error::Unsupported {
            what: name.to_owned(),
            reason: format!(
                "it is {}, and part of {disk}, whose elements are of another dtype",
                value.dtype()
            ),
            hint: "name the base that the adapter was made for with --base".to_owned(),
        });
    }
    let unfit = || experts::unknown(name);
    let value = if transposed { turned(value).ok_or_else(unfit)? } else { value.clone() };
    let [_, out, input] = extents;
    Ok((whole(target, name, value), vec![out, input]))
}

/// The edit of a module of experts, and the extents of its tensors.
fn of_experts<'a>(
    module: &str,
    unit: &Unit<'a>,
    folder: &Folder<'a>,
    (form, names, base): Experts<'_>,
) -> Result<(Lora<'a>, Vec<u64>), Error> {
    let spot = spot(module).ok_or_else(|| experts::unknown(module))?;
    let (a, b) = unit.a.as_ref().zip(unit.b.as_ref()).ok_or_else(|| experts::unknown(module))?;
    let (down, up) = (stacked_a(a, b).ok_or_else(|| experts::unknown(module))?, b.clone());
    let extents = experts::extents(unit).ok_or_else(|| experts::unknown(module))?;
    let form = form.unwrap_or(spot.likely());
    let name = spot.name(form);
    let disk = names.get(&name).unwrap_or(&name);
    let (target, form, transposed) = spot.target(extents, form, (disk, base))?;
    let keys = [("up", "lora_b"), ("down", "lora_a")];
    let keys = keys.into_iter().map(|(role, part)| (role.to_owned(), format!("{module}.{part}"))).collect();
    let edit = Lora {
        target,
        form,
        transposed,
        scale: folder.config.scale,
        up,
        down,
        mid: None,
        magnitude: None,
        origin: Origin { keys, ..Origin::default() },
    };
    let [_, out, input] = extents;
    Ok((edit, vec![out, input]))
}

/// The weight's extents by the shapes of its factors.
fn extents(module: &str, unit: &Unit<'_>) -> [u64; 2] {
    let side = |tensor: &Option<Tensor<'_>>, axis: usize| {
        tensor.as_ref().and_then(|tensor| tensor.dims().get(axis).copied()).unwrap_or_default()
    };
    let (first, last) = (side(&unit.a, 0), side(&unit.b, 1));
    if is_embedding(module) { [first, last] } else { [last, first] }
}

fn lora<'a>(
    module: &str,
    unit: &Unit<'a>,
    folder: &Folder<'a>,
    name: &str,
) -> Result<(Lora<'a>, [u64; 2]), Error> {
    let unfit = || Error::Unsupported {
        what: module.to_owned(),
        reason: "its factors are no matrices".to_owned(),
        hint: rules::X_SHAPE.remedy.to_owned(),
    };
    let (a, b) = unit.a.as_ref().zip(unit.b.as_ref()).ok_or_else(unfit)?;
    let (up, down) = match is_embedding(module) {
        true => (a.clone(), b.clone()),
        false => (b.transposed().ok_or_else(unfit)?, a.transposed().ok_or_else(unfit)?),
    };
    let parts = if is_embedding(module) { ["lora_a", "lora_b"] } else { ["lora_b", "lora_a"] };
    let mut keys = BTreeMap::from([("up", parts[0]), ("down", parts[1])]);
    keys.extend(unit.m.is_some().then_some(("magnitude", "m")));
    let keys = keys.into_iter().map(|(role, part)| (role.to_owned(), format!("{module}.{part}")));
    let magnitude = unit.m.clone();
    let edit = Lora {
        target: Target::whole(TensorName::new(name)?),
        form: LoraForm::Matrix,
        transposed: false,
        scale: folder.config.scale,
        up,
        down,
        mid: None,
        magnitude: magnitude.map(|value| Magnitude { value, axis: 0, norm_of: NormOf::Merged, eps: 0.0 }),
        origin: Origin { keys: keys.collect(), ..Origin::default() },
    };
    Ok((edit, extents(module, unit)))
}
