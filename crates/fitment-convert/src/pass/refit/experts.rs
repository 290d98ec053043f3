//! Edits of single experts' matrices as one of the stack that the base has.

use super::moved::{refused, renamed, slice};
use super::view::{Made, Part, View};
use crate::error::Error;
use crate::loss::Loss;
use crate::pass::experts::stacked;
use crate::pass::sum::Product;
use fitment_core::model::{Edit, Lora, LoraForm, Origin, Target};
use std::collections::BTreeMap;

/// The updates of one part of a stack, such as all gates: of each expert the one that it has.
struct Stack<'v, 'a> {
    part: &'v Part,
    target: Target,
    products: Vec<Option<Product<'a>>>,
    /// Where the first of them stands among the edits.
    at: usize,
}

/// Edits with those of experts as one of each part of their stacks; experts without one get zeros. What their common scale rounds is
/// listed.
///
/// # Errors
/// [`Error::Unsupported`] for what is no plain low-rank update, and for a second one of the same matrix.
pub(super) fn stacked_again<'a>(
    edits: Vec<Edit<'a>>,
    view: &View<'_>,
    losses: &mut Vec<Loss>,
) -> Result<Vec<Edit<'a>>, Error> {
    let mut stacks: BTreeMap<(String, u64, u64), Stack<'_, 'a>> = BTreeMap::new();
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
        let first = part.rows.first().map_or((0, 1), |range| (range.start, range.step));
        let stack = stacks.entry((part.name.clone(), first.0, first.1)).or_insert_with(start);
        let place = usize::try_from(expert).ok().and_then(|expert| stack.products.get_mut(expert));
        match place {
            Some(place @ None) => {
                *place = Some(Product { up: lora.up.clone(), down: lora.down.clone(), scale: lora.scale });
            }
            _ => return Err(refuse("it is the second one of that matrix")),
        }
    }
    for Stack { part, target, products, at } in stacks.into_values() {
        let unfit = || Error::Unsupported {
            what: part.name.clone(),
            reason: "the factors of its experts do not go together".to_owned(),
            hint: "name the base that the adapter was made for with --base".to_owned(),
        };
        let (Product { up, down, scale }, elements) = stacked(&products).ok_or_else(unfit)?;
        if elements > 0 {
            losses.push(Loss::Rounded { target: part.name.clone(), to: up.dtype(), elements });
        }
        let (form, transposed, origin) = (LoraForm::Stacked, part.transposed, Origin::default());
        let lora = Lora { target, form, transposed, scale, up, down, mid: None, magnitude: None, origin };
        kept.insert(at, Edit::Lora(lora));
    }
    Ok(kept.into_values().collect())
}

fn plain<'e, 'a>(edit: &'e Edit<'a>) -> Option<&'e Lora<'a>> {
    match edit {
        Edit::Lora(lora) if lora.form == LoraForm::Matrix && !lora.transposed && lora.magnitude.is_none() => {
            Some(lora)
        }
        _ => None,
    }
}
