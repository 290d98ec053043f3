//! Experts of a mixture: one stack of factors, or factors for each.

use super::pad::padded;
use super::sum::{Product, alike, rescaled, sum};
use crate::error::{Clash, Error};
use fitment_core::checkpoint::Checkpoint;
use fitment_core::model::Edit;
use fitment_core::tensor::{Shape, Tensor};

/// What of an expert a matrix is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// The gate of its MLP.
    Gate,
    /// What is gated.
    Up,
    /// The way back.
    Down,
}

impl Part {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Gate, Self::Up, Self::Down];
}

/// What the matrices of an expert are called in checkpoints that store each by itself.
#[derive(Debug)]
pub(crate) struct Words {
    gate: &'static str,
    up: &'static str,
    down: &'static str,
}

/// Qwen, DeepSeek and most others; Mixtral and its kin.
pub(crate) const WORDS: [Words; 2] = [
    Words { gate: "gate_proj", up: "up_proj", down: "down_proj" },
    Words { gate: "w1", up: "w3", down: "w2" },
];

impl Words {
    /// The part that a word is for.
    pub(crate) fn part(&self, word: &str) -> Option<Part> {
        Part::ALL.into_iter().find(|part| self.of(*part) == word)
    }

    /// The word for a part.
    pub(crate) fn of(&self, part: Part) -> &'static str {
        match part {
            Part::Gate => self.gate,
            Part::Up => self.up,
            Part::Down => self.down,
        }
    }
}

/// The parts that a stack of all experts holds, one below the other, by the last word of its name in transformers 5.
pub(crate) fn parts(word: &str) -> &'static [Part] {
    match word {
        "gate_up_proj" => &[Part::Gate, Part::Up],
        "gate_proj" => &[Part::Gate],
        "up_proj" => &[Part::Up],
        "down_proj" => &[Part::Down],
        _ => &[],
    }
}

/// Whether a name is of a stack of all experts of a layer.
pub(crate) fn is_stack(name: &str) -> bool {
    name.rsplit_once(".experts.").is_some_and(|(_, word)| !parts(word).is_empty())
}

/// Whether a name is of one expert's matrix, or of what is in it.
pub(crate) fn is_single(name: &str) -> bool {
    let number = name.rsplit_once(".experts.").and_then(|(_, rest)| rest.split_once('.'));
    number.is_some_and(|(number, _)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The bundle of all experts that a tensor of the first one belongs to.
pub(crate) fn bundle(first: &str) -> Option<String> {
    const FIRST: &str = ".experts.0.";
    let at = first.rfind(FIRST)?;
    Some(format!("{}.experts.{{e}}.{}", &first[..at], &first[at + FIRST.len()..]))
}

/// Whether a bundle of so many experts, the first ones, has every expert of the base.
///
/// # Errors
/// [`Error::Mismatch`] with both numbers, where the base has more.
pub(crate) fn all_of(bundle: &str, experts: u64, base: &dyn Checkpoint) -> Result<(), Error> {
    let is_there =
        |number: &u64| base.tensors().contains_key(&bundle.replacen("{e}", &number.to_string(), 1));
    if !bundle.contains("{e}") || !is_there(&experts) {
        return Ok(());
    }
    let more = (experts..).take_while(is_there).count() as u64;
    let (target, expected) = (bundle.to_owned(), format!("{experts} experts"));
    let found = experts.saturating_add(more).to_string();
    Err(Error::Mismatch { culprits: vec![Clash { target, expected, found }] })
}

/// One of the tensors along the first axis.
pub(crate) fn taken<'a>(stack: &Tensor<'a>, index: u64) -> Option<Tensor<'a>> {
    stack.at(index)
}

/// Stacks `[E, oᵢ, r]` of equally many experts and columns as one: of each expert the rows of all, one below the other.
pub(crate) fn below<'a>(stacks: &[&Tensor<'a>]) -> Option<Tensor<'a>> {
    let (first, rest) = stacks.split_first()?;
    if rest.is_empty() {
        return Some((*first).clone());
    }
    let &[experts, _, columns] = first.dims() else { return None };
    let mut rows = 0u64;
    for stack in stacks {
        let &[count, own, width] = stack.dims() else { return None };
        let fits = count == experts && width == columns && stack.dtype() == first.dtype();
        rows = rows.checked_add(own).filter(|_| fits)?;
    }
    let count = usize::try_from(experts).ok()?;
    let shape = Shape::new(&[experts, rows, columns]).ok()?;
    let mut bytes = Vec::with_capacity(usize::try_from(shape.byte_len(first.dtype()).ok()?).ok()?);
    for expert in 0..count {
        for stack in stacks {
            let len = stack.bytes().len().checked_div(count)?;
            bytes.extend_from_slice(stack.bytes().get(expert.checked_mul(len)?..)?.get(..len)?);
        }
    }
    Tensor::owned(first.dtype(), shape, bytes).ok()
}

/// Edits with a low-rank one of a bundle as one of each expert's tensor, for formats that know experts only as modules. Those with a
/// magnitude stay as they are.
pub(crate) fn apart<'a>(edits: &[Edit<'a>]) -> Vec<Edit<'a>> {
    let each = |edit: &Edit<'a>| match edit {
        Edit::Lora(lora) => match lora.of_each_expert() {
            Some(loras) => loras.into_iter().map(Edit::Lora).collect(),
            None => vec![edit.clone()],
        },
        _ => vec![edit.clone()],
    };
    edits.iter().flat_map(each).collect()
}

/// The updates of all experts as one of stacked factors, `[E, out, r]` and `[E, r, in]`: the largest rank and the scale of the
/// first that there is. An expert without one gets zeros. Gives also how many elements were rounded for the scale.
///
/// `None` when there is none at all, or when they do not fit each other.
pub(crate) fn stacked(experts: &[Option<Product<'_>>]) -> Option<(Product<'static>, u64)> {
    let first = experts.iter().flatten().next()?;
    let rank = experts.iter().flatten().map(Product::rank).max()?;
    let zeros = |tensor: &Tensor<'_>| {
        let bytes = vec![0; tensor.bytes().len()];
        Tensor::owned(tensor.dtype(), tensor.shape().clone(), bytes).ok()
    };
    let (mut ups, mut downs, mut rounded) = (Vec::new(), Vec::new(), 0);
    for expert in experts {
        let (up, down) = match expert {
            Some(product) => {
                let (up, elements) = rescaled(&product.up, product.scale, first.scale)?;
                rounded += elements;
                padded(&up, &product.down, rank)?
            }
            None => {
                let (up, down) = padded(&first.up, &first.down, rank)?;
                (zeros(&up)?, zeros(&down)?)
            }
        };
        ups.push(up.into_owned());
        downs.push(down.into_owned());
    }
    Some((Product { up: stack(alike(ups)?)?, down: stack(alike(downs)?)?, scale: first.scale }, rounded))
}

/// Updates of single experts, and of ranges of them from the first one named on, as one of all of them; an expert without one gets zeros.
/// Gives also how many elements were rounded.
pub(crate) fn spread<'a>(pieces: &[(u64, &Product<'a>)], count: u64) -> Option<(Product<'static>, u64)> {
    let mut each: Vec<Vec<Product<'a>>> = vec![Vec::new(); usize::try_from(count).ok()?];
    for (first, product) in pieces {
        let Product { up, down, scale } = product;
        let &[own, _, _] = up.dims() else {
            each.get_mut(usize::try_from(*first).ok()?)?.push((*product).clone());
            continue;
        };
        for index in 0..own {
            let product = Product { up: taken(up, index)?, down: taken(down, index)?, scale: *scale };
            each.get_mut(usize::try_from(first.checked_add(index)?).ok()?)?.push(product);
        }
    }
    let (mut rounded, mut summed) = (0u64, Vec::with_capacity(each.len()));
    for products in &each {
        let one = if products.is_empty() { None } else { Some(sum(products)?) };
        rounded = rounded.checked_add(one.as_ref().map_or(0, |(_, elements)| *elements))?;
        summed.push(one.map(|(product, _)| product));
    }
    let (stack, elements) = stacked(&summed)?;
    Some((stack, rounded.checked_add(elements)?))
}

/// The sum of updates of whole stacks, or of matrices; each expert's by itself. Gives also how many elements were rounded.
pub(crate) fn each_summed<'a>(parts: &[Product<'a>]) -> Option<(Product<'a>, u64)> {
    let first = parts.first()?;
    let &[count, _, _] = first.up.dims() else { return sum(parts) };
    if let [one] = parts {
        return Some((one.clone(), 0));
    }
    let pieces: Vec<(u64, &Product<'a>)> = parts.iter().map(|part| (0, part)).collect();
    spread(&pieces, count)
}

/// Equal tensors along a new first axis.
pub(crate) fn stack(tensors: Vec<Tensor<'_>>) -> Option<Tensor<'static>> {
    let first = tensors.first()?;
    if tensors.iter().any(|tensor| tensor.shape() != first.shape()) {
        return None;
    }
    let dims = [&[tensors.len() as u64], first.dims()].concat();
    let bytes: Vec<u8> = tensors.iter().flat_map(|tensor| tensor.bytes()).copied().collect();
    Tensor::owned(first.dtype(), Shape::new(&dims).ok()?, bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::{stacked, taken};
    use crate::pass::sum::Product;
    use fitment_core::tensor::Dtype;
    use fitment_math::round::{narrowed, widened};

    #[test]
    fn missing_experts_are_zero_and_ranks_are_padded() {
        let product = |rank: u64, scale| Product {
            up: narrowed(Dtype::F32, &[1, rank], &vec![3.0; rank as usize]).unwrap(),
            down: narrowed(Dtype::F32, &[rank, 2], &vec![5.0; 2 * rank as usize]).unwrap(),
            scale,
        };
        let (stack, rounded) = stacked(&[None, Some(product(1, 2.0)), Some(product(2, 4.0))]).unwrap();
        assert_eq!((stack.scale, rounded), (2.0, 0));
        assert_eq!(stack.up.dims(), [3, 1, 2]);
        assert_eq!(widened(&stack.up).unwrap(), [0.0, 0.0, 3.0, 0.0, 6.0, 6.0]);
        let last = taken(&stack.down, 2).unwrap();
        assert_eq!((last.dims(), widened(&last).unwrap()), (&[2, 2][..], vec![5.0; 4]));
        assert!(taken(&stack.down, 3).is_none() && stacked(&[None]).is_none());
    }
}
