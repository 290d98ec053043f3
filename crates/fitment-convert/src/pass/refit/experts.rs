//! Edits of single experts' matrices as one of the stack that the base has: low-rank updates, and values.

use super::moved::{joined, refused, renamed, slice};
use super::view::{Made, Part, View};
use crate::error::Error;
use crate::loss::Loss;
use crate::pass::experts::{stack, stacked};
use crate::pass::sum::{Product, alike};
use fitment_core::model::{AxisSlice, Edit, IndexRange, Lora, LoraForm, Origin, Set, SetDtype, Target};
use fitment_core::tensor::Tensor;
use std::collections::BTreeMap;

/// The updates of one part of a stack, such as all gates: of each expert the one that it has.
struct Stack<'v, 'a> {
    part: &'v Part,
    target: Target,
    products: Vec<Option<Product<'a>>>,
    /// Where the first of them stands among the edits.
    at: usize,
}

/// The values of one part of a stack, each with the expert that gets it.
struct Values<'v, 'a> {
    part: &'v Part,
    set: Set<'a>,
    values: BTreeMap<u64, Tensor<'a>>,
    at: usize,
}

/// Edits with those of experts as one of each part of their stacks; experts without an update get zeros, those without a value stay as they
/// are. What a common scale rounds is listed.
///
/// # Errors
/// [`Error::Unsupported`] for what is neither a plain low-rank update nor a value, and for a second one of the same matrix.
pub(super) fn stacked_again<'a>(
    edits: Vec<Edit<'a>>,
    view: &View<'_>,
    losses: &mut Vec<Loss>,
) -> Result<Vec<Edit<'a>>, Error> {
    let mut stacks: BTreeMap<(String, u64, u64), Stack<'_, 'a>> = BTreeMap::new();
    let mut values: BTreeMap<(String, u64, u64), Values<'_, 'a>> = BTreeMap::new();
    let mut kept: BTreeMap<usize, Edit<'a>> = BTreeMap::new();
    for (at, edit) in edits.into_iter().enumerate() {
        let part = edit.target().and_then(|target| match view.made(target.name.as_str())? {
            Made::Part(part) => Some((part, part.expert?)),
            Made::Whole(_) => None,
        });
        let Some((part, expert)) = part else {
            kept.insert(at, edit);
            continue;
        };
        let refuse = |reason| refused(&edit, &part.name, reason);
        let first = part.rows.first().map_or((0, 1), |range| (range.start, range.step));
        let place = (part.name.clone(), first.0, first.1);
        if let Edit::Set(set) = &edit {
            let value = value(set, part, view).map_err(refuse)?;
            let start = || Values { part, set: set.clone(), values: BTreeMap::new(), at };
            if values.entry(place).or_insert_with(start).values.insert(expert, value).is_some() {
                return Err(refuse(SECOND));
            }
            continue;
        }
        let lora = plain(&edit)
            .ok_or_else(|| refuse("it is no plain low-rank update of the matrix of an expert"))?;
        let dims = view.info(&part.name).map(|info| info.shape.dims()).unwrap_or_default();
        let target =
            renamed(&lora.target, &part.name).ok_or_else(|| refuse("it is of part of the matrix"))?;
        let start = || Stack {
            part,
            target: Target { slice: slice(part, dims), ..target },
            products: vec![None; dims.first().and_then(|count| usize::try_from(*count).ok()).unwrap_or(0)],
            at,
        };
        let stack = stacks.entry(place).or_insert_with(start);
        let place = usize::try_from(expert).ok().and_then(|expert| stack.products.get_mut(expert));
        match place {
            Some(place @ None) => {
                *place = Some(Product { up: lora.up.clone(), down: lora.down.clone(), scale: lora.scale });
            }
            _ => return Err(refuse(SECOND)),
        }
    }
    for Stack { part, target, products, at } in stacks.into_values() {
        let (Product { up, down, scale }, elements) = stacked(&products).ok_or_else(|| unfit(part))?;
        if elements > 0 {
            losses.push(Loss::Rounded { target: part.name.clone(), to: up.dtype(), elements });
        }
        let (form, transposed, origin) = (LoraForm::Stacked, part.transposed, Origin::default());
        let lora = Lora { target, form, transposed, scale, up, down, mid: None, magnitude: None, origin };
        kept.insert(at, Edit::Lora(lora));
    }
    for values in values.into_values() {
        let (at, part) = (values.at, values.part);
        kept.insert(at, Edit::Set(one(values, view).ok_or_else(|| unfit(part))?));
    }
    Ok(kept.into_values().collect())
}

const SECOND: &str = "it is the second one of that matrix";

fn unfit(part: &Part) -> Error {
    Error::Unsupported {
        what: part.name.clone(),
        reason: "the tensors of its experts do not go together".to_owned(),
        hint: "name the base that the adapter was made for with --base".to_owned(),
    }
}

/// The value of one expert's matrix as the stack has it, or why it has none.
fn value<'a>(set: &Set<'a>, part: &Part, view: &View<'_>) -> Result<Tensor<'a>, &'static str> {
    let is_whole = set.rows.is_none() && !set.create && !set.reshape && set.target.slice.is_empty();
    if !is_whole || set.value.dims().len() != 2 {
        return Err("it replaces no whole matrix of an expert");
    }
    let is_of_dtype = view.info(&part.name).is_some_and(|info| info.dtype == set.value.dtype());
    if set.dtype == SetDtype::Stored && !is_of_dtype {
        return Err("it replaces part of a tensor in another dtype");
    }
    let turned = || set.value.transposed().ok_or("its value is no matrix of numbers");
    if part.transposed { turned() } else { Ok(set.value.clone()) }
}

/// The values of a part's experts as one.
fn one<'a>(values: Values<'_, 'a>, view: &View<'_>) -> Option<Set<'a>> {
    let Values { part, set, values, .. } = values;
    let dims = view.info(&part.name)?.shape.dims();
    let mut target = renamed(&set.target, &part.name)?;
    if *dims.first()? != values.len() as u64 {
        let one = |expert: &u64| IndexRange { start: *expert, end: expert.saturating_add(1), step: 1 };
        target.slice.push(AxisSlice { axis: 0, ranges: joined(values.keys().map(one)) });
    }
    target.slice.extend(slice(part, dims));
    let dtype = if target.slice.is_empty() { set.dtype } else { SetDtype::Base };
    let value = stack(alike(values.into_values().collect())?)?;
    Some(Set { target, value, dtype, origin: Origin::default(), ..set })
}

fn plain<'e, 'a>(edit: &'e Edit<'a>) -> Option<&'e Lora<'a>> {
    match edit {
        Edit::Lora(lora) if lora.form == LoraForm::Matrix && !lora.transposed && lora.magnitude.is_none() => {
            Some(lora)
        }
        _ => None,
    }
}
