//! Edits of what a base has in another form, as edits of what it has.

use super::view::{Made, Part, View};
use super::{experts, loss};
use crate::error::Error;
use crate::loss::Loss;
use crate::pass::gather::gathered;
use crate::pass::permute::reshaped;
use crate::pass::values::of_each_expert;
use fitment_core::Adapter;
use fitment_core::model::{
    Add, AxisSlice, BaseTensor, Edit, IndexRange, Lora, LoraForm, Magnitude, Origin, Set, SetDtype, Target,
    TensorName,
};
use fitment_core::tensor::Tensor;
use std::collections::{BTreeMap, BTreeSet};

/// Moves every edit of an adapter that was read on a view to the base behind it, and says which.
///
/// # Errors
/// [`Error::Unsupported`] for edits that are of a whole tensor by their nature.
pub(super) fn moved(adapter: &mut Adapter<'_>, view: &View<'_>) -> Result<Vec<Loss>, Error> {
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut edits = Vec::with_capacity(adapter.edits.len());
    let given = std::mem::take(&mut adapter.edits).into_iter();
    for edit in given.flat_map(|edit| of_each(edit, view)) {
        let name = edit.target().map(|target| target.name.to_string());
        let Some(made) = name.as_deref().and_then(|name| view.made(name)) else {
            edits.push(edit);
            continue;
        };
        let new = match made {
            Made::Part(Part { expert: Some(_), .. }) => vec![edit.clone()],
            Made::Part(part) => vec![onto_slice(&edit, part, view)?],
            Made::Whole(parts) => into_parts(&edit, parts)?,
        };
        let to = match made {
            // A stack is a parameter of its module, without a further word.
            Made::Part(Part { name, expert: Some(_), .. }) => {
                name.rsplit('.').next().unwrap_or(name).to_owned()
            }
            Made::Part(part) => word(&part.name).to_owned(),
            Made::Whole(parts) => parts.iter().map(|part| word(&part.name)).collect::<Vec<_>>().join(", "),
        };
        *counts.entry((word(name.as_deref().unwrap_or_default()).to_owned(), to)).or_default() += 1;
        edits.extend(new);
    }
    let mut losses = losses(counts);
    adapter.edits = experts::stacked_again(edits, view, &mut losses)?;
    let is_made = |tensor: &BaseTensor| {
        let first = Target { experts: tensor.experts, ..Target::whole(tensor.name.clone()) };
        first.base_names().next().is_some_and(|name| view.made(&name).is_some())
    };
    adapter.base.tensors.retain(|tensor| !is_made(tensor));
    Ok(losses)
}

/// An edit of a bundle that the base has in another form as one of each expert's matrix.
fn of_each<'a>(edit: Edit<'a>, view: &View<'_>) -> Vec<Edit<'a>> {
    let first = edit.target().filter(|target| target.experts.is_some());
    let first = first.and_then(|target| target.base_names().next());
    let edits = first.and_then(|first| view.made(&first)).and_then(|_| match &edit {
        Edit::Lora(lora) => Some(lora.of_each_expert()?.into_iter().map(Edit::Lora).collect()),
        Edit::Set(set) => Some(of_each_expert(set)?.into_iter().map(Edit::Set).collect()),
        _ => None,
    });
    edits.unwrap_or_else(|| vec![edit])
}

/// One line for each form: `q_proj, k_proj, v_proj` of `qkv_proj`.
fn losses(counts: BTreeMap<(String, String), usize>) -> Vec<Loss> {
    let mut by_base: BTreeMap<String, (BTreeSet<String>, usize)> = BTreeMap::new();
    for ((from, to), count) in counts {
        let (words, targets) = by_base.entry(to).or_default();
        words.insert(from);
        *targets += count;
    }
    let line = |(to, (words, targets)): (String, (BTreeSet<String>, usize))| {
        loss(&words.into_iter().collect::<Vec<_>>().join(", "), &to, targets)
    };
    by_base.into_iter().map(line).collect()
}

/// The last word of a module's path.
fn word(name: &str) -> &str {
    let module = name.rsplit_once('.').map_or(name, |(module, _)| module);
    module.rsplit('.').next().unwrap_or(module)
}

pub(super) fn refused(edit: &Edit<'_>, to: &str, reason: &str) -> Error {
    Error::Unsupported {
        what: format!("{} of {}", edit.kind(), edit.label().unwrap_or_default()),
        reason: format!("{reason}, and the base has {to} instead"),
        hint: "name the base that the adapter was made for with --base".to_owned(),
    }
}

const WHOLE_ONLY: &str = "such a change is of a whole tensor";

pub(super) fn renamed(target: &Target, name: &str) -> Option<Target> {
    let is_plain = target.slice.is_empty() && target.experts.is_none();
    let name = TensorName::new(name).ok()?;
    is_plain.then(|| Target { name, ..target.clone() })
}

/// The same edit of a slice of the whole that the base has.
fn onto_slice<'a>(edit: &Edit<'a>, part: &Part, view: &View<'_>) -> Result<Edit<'a>, Error> {
    let refuse = |reason| refused(edit, &part.name, reason);
    let target = edit.target().and_then(|target| renamed(target, &part.name));
    let mut target = target.ok_or_else(|| refuse(WHOLE_ONLY))?;
    let whole = view.info(&part.name).ok_or_else(|| refuse(WHOLE_ONLY))?;
    target.slice = slice(part, whole.shape.dims());
    let value = |value: &Tensor<'a>| match part.transposed && value.dims().len() == 2 {
        true => value.transposed(),
        false => Some(value.clone()),
    };
    let unfit = || refuse("its value is no matrix of numbers");
    Ok(match edit {
        Edit::Lora(lora) if lora.form == LoraForm::Matrix => {
            let transposed = lora.transposed != part.transposed;
            Edit::Lora(Lora { target, transposed, origin: Origin::default(), ..lora.clone() })
        }
        Edit::Add(add) if add.exceptions.is_none() => {
            let value = value(&add.value).ok_or_else(unfit)?;
            Edit::Add(Add { target, value, origin: Origin::default(), ..add.clone() })
        }
        Edit::Set(set) if set.rows.is_none() && !set.create && !set.reshape => {
            let is_slice = !target.slice.is_empty();
            if is_slice && set.dtype == SetDtype::Stored && set.value.dtype() != whole.dtype {
                return Err(refuse("it replaces part of a tensor in another dtype"));
            }
            let dtype = if is_slice { SetDtype::Base } else { set.dtype };
            let value = value(&set.value).ok_or_else(unfit)?;
            Edit::Set(Set { target, value, dtype, origin: Origin::default(), ..set.clone() })
        }
        _ => return Err(refuse(WHOLE_ONLY)),
    })
}

/// The slice of the whole that a part is; none where it is all rows.
pub(super) fn slice(part: &Part, dims: &[u64]) -> Vec<AxisSlice> {
    let count: u64 = part.rows.iter().map(IndexRange::len).sum();
    match dims.get(part.axis()) == Some(&count) {
        true => Vec::new(),
        false => vec![AxisSlice { axis: part.axis() as u64, ranges: joined(part.rows.iter().copied()) }],
    }
}

/// Ranges that follow each other as one.
pub(super) fn joined(ranges: impl Iterator<Item = IndexRange>) -> Vec<IndexRange> {
    let mut all: Vec<IndexRange> = Vec::new();
    for range in ranges {
        match all.last_mut() {
            Some(last) if last.end == range.start && (last.step, range.step) == (1, 1) => {
                last.end = range.end
            }
            _ => all.push(range),
        }
    }
    all
}

/// What of an edit is of one part: which rows of its tensors, and which slice of the part they are.
struct Share {
    rows: Vec<Option<usize>>,
    target: Target,
}

/// The share of a part in an edit of the whole, or of rows of it; `None` when it has none. The outer `None` is for other slices.
fn share(target: &Target, part: &Part) -> Option<Option<Share>> {
    let places: BTreeMap<u64, usize> =
        part.rows.iter().flat_map(IndexRange::indices).enumerate().map(|(own, row)| (row, own)).collect();
    let given: Vec<u64> = match &target.slice[..] {
        [] => part.rows.iter().flat_map(IndexRange::indices).collect(),
        [slice] if slice.axis == 0 => slice.ranges.iter().flat_map(IndexRange::indices).collect(),
        _ => return None,
    };
    let is_whole = target.slice.is_empty();
    let mut found: Vec<(usize, usize)> = Vec::new();
    for (at, row) in given.iter().enumerate() {
        if let Some(own) = places.get(row) {
            found.push((*own, if is_whole { usize::try_from(*row).ok()? } else { at }));
        }
    }
    found.sort_unstable();
    if found.is_empty() {
        return Some(None);
    }
    let mut own = renamed(&Target { slice: Vec::new(), ..target.clone() }, &part.name)?;
    if found.len() < places.len() {
        let one =
            |(own, _): &(usize, usize)| IndexRange { start: *own as u64, end: *own as u64 + 1, step: 1 };
        own.slice = vec![AxisSlice { axis: 0, ranges: joined(found.iter().map(one)) }];
    }
    Some(Some(Share { rows: found.into_iter().map(|(_, row)| Some(row)).collect(), target: own }))
}

/// The edits of the parts that the base has.
fn into_parts<'a>(edit: &Edit<'a>, parts: &[Part]) -> Result<Vec<Edit<'a>>, Error> {
    let names = || parts.iter().map(|part| word(&part.name)).collect::<Vec<_>>().join(", ");
    let refuse = |reason| refused(edit, &names(), reason);
    let target = edit.target().ok_or_else(|| refuse(WHOLE_ONLY))?;
    let mut shares = Vec::with_capacity(parts.len());
    for part in parts {
        shares.extend(share(target, part).ok_or_else(|| refuse(WHOLE_ONLY))?);
    }
    let mut edits = Vec::with_capacity(shares.len());
    let blocks = match edit {
        Edit::Lora(lora) if lora.form == LoraForm::Matrix && !lora.transposed => {
            blocks(lora, &shares).ok_or_else(|| refuse("its factors are no matrices of numbers"))?
        }
        Edit::Lora(_) => return Err(refuse("it is no low-rank update of rows")),
        _ => Vec::new(),
    };
    for (at, Share { rows, target }) in shares.into_iter().enumerate() {
        let taken = |tensor: &Tensor<'a>| gathered(tensor, 0, &rows);
        let unfit = || refuse("its rows are not those of the parts");
        let origin = Origin::default();
        match edit {
            Edit::Lora(lora) => {
                let Some((up, down)) = &blocks[at] else { continue };
                let magnitude = lora.magnitude.as_ref().map(|magnitude| {
                    let value = (magnitude.axis == 0)
                        .then(|| taken(&reshaped(&magnitude.value, &[magnitude.value.elements()])?))
                        .flatten();
                    Some(Magnitude { value: value?, ..magnitude.clone() })
                });
                let magnitude = match magnitude {
                    Some(magnitude) => Some(magnitude.ok_or_else(unfit)?),
                    None => None,
                };
                let (up, down) = (up.clone(), down.clone());
                edits.push(Edit::Lora(Lora { target, up, down, magnitude, origin, ..lora.clone() }));
            }
            Edit::Add(add) if add.exceptions.is_none() => {
                let value = taken(&add.value).ok_or_else(unfit)?;
                edits.push(Edit::Add(Add { target, value, origin, ..add.clone() }));
            }
            Edit::Set(set) if set.rows.is_none() && !set.create && !set.reshape => {
                let value = taken(&set.value).ok_or_else(unfit)?;
                edits.push(Edit::Set(Set { target, value, origin, ..set.clone() }));
            }
            _ => return Err(refuse(WHOLE_ONLY)),
        }
    }
    Ok(edits)
}

/// The factors of one part, or that it has none.
type Block<'a> = Option<(Tensor<'a>, Tensor<'a>)>;

/// The factors of each part: its rows of `up`, without the columns that are zero there and not in another part. So a fused layer whose
/// parts were adapted apart (`up` is a block diagonal) comes back as it was, and a part that was not adapted gets nothing.
fn blocks<'a>(lora: &Lora<'a>, shares: &[Share]) -> Option<Vec<Block<'a>>> {
    let rank = usize::try_from(lora.rank()).ok()?;
    let ups = shares.iter().map(|share| gathered(&lora.up, 0, &share.rows)).collect::<Option<Vec<_>>>()?;
    let used: Vec<Vec<bool>> = ups.iter().map(|up| used_columns(up, rank)).collect::<Option<_>>()?;
    let is_used_at_all = |column: usize| used.iter().any(|part| part[column]);
    let mut blocks = Vec::with_capacity(shares.len());
    for (up, used) in ups.into_iter().zip(&used) {
        let kept: Vec<Option<usize>> =
            (0..rank).filter(|column| used[*column] || !is_used_at_all(*column)).map(Some).collect();
        blocks.push(if kept.len() == rank {
            Some((up, lora.down.clone()))
        } else if !kept.is_empty() {
            Some((gathered(&up, 1, &kept)?, gathered(&lora.down, 0, &kept)?))
        } else if lora.magnitude.is_some() {
            // It is scaled all the same: one column of zeros.
            Some((gathered(&up, 1, &[Some(0)])?, gathered(&lora.down, 0, &[Some(0)])?))
        } else {
            None
        });
    }
    Some(blocks)
}

/// Which columns of a matrix have an element that is not zero.
fn used_columns(up: &Tensor<'_>, rank: usize) -> Option<Vec<bool>> {
    let width = up.dtype().bytes()?;
    let mut used = vec![false; rank];
    for row in up.bytes().chunks_exact(rank.checked_mul(width)?.max(1)) {
        for (used, element) in used.iter_mut().zip(row.chunks_exact(width)) {
            // The sign of a zero is no number.
            *used |= element
                .split_last()
                .is_some_and(|(last, rest)| last & 0x7f != 0 || rest.iter().any(|byte| *byte != 0));
        }
    }
    Some(used)
}
