//! Rows of trained tokens, and transposed copies.

use super::config::{Config, Tokens};
use super::selection::is_named;
use fitment_core::tensor::{Dtype, Shape, Tensor};

/// The indices of a module's rows, in the order of the rows.
pub(super) fn indices_of<'c>(config: &'c Config, module: &str) -> Option<&'c [u64]> {
    match config.tokens.as_ref()? {
        Tokens::Embedding(indices) => Some(indices),
        Tokens::Modules(modules) => {
            let ends = modules.iter().filter(|(name, _)| is_named(module, name) || module.ends_with(name));
            ends.max_by_key(|(name, _)| name.len()).map(|(_, indices)| &indices[..])
        }
    }
}

/// Rows in the order that a set by rows asks for: ascending, with their numbers.
///
/// `None` when rows and indices do not go together, which a rule reports.
pub(super) fn ascending(indices: &[u64], rows: &Tensor<'_>) -> Option<(Tensor<'static>, Tensor<'static>)> {
    let order = order_of(indices);
    let numbers: Vec<u8> = order
        .iter()
        .map(|&at| i64::try_from(indices[at]).ok())
        .collect::<Option<Vec<_>>>()?
        .iter()
        .flat_map(|n| n.to_le_bytes())
        .collect();
    let count = u64::try_from(indices.len()).ok()?;
    let numbers = Tensor::owned(Dtype::I64, Shape::new(&[count]).ok()?, numbers).ok()?;
    Some((permuted(rows, &order)?, numbers))
}

/// Rows back in the order of the config's indices.
pub(super) fn as_listed(indices: &[u64], rows: &Tensor<'_>) -> Option<Tensor<'static>> {
    let mut back = vec![0; indices.len()];
    for (place, at) in order_of(indices).into_iter().enumerate() {
        *back.get_mut(at)? = place;
    }
    permuted(rows, &back)
}

fn order_of(indices: &[u64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..indices.len()).collect();
    order.sort_by_key(|&at| indices[at]);
    order
}

/// Row `k` of the result is row `order[k]`.
fn permuted(rows: &Tensor<'_>, order: &[usize]) -> Option<Tensor<'static>> {
    let count = usize::try_from(*rows.dims().first()?).ok()?;
    if count != order.len() || count == 0 {
        return None;
    }
    let size = rows.bytes().len() / count;
    let mut bytes = Vec::with_capacity(rows.bytes().len());
    for &at in order {
        bytes.extend_from_slice(rows.bytes().get(at * size..(at + 1) * size)?);
    }
    Tensor::owned(rows.dtype(), rows.shape().clone(), bytes).ok()
}

/// Whether one matrix is the other's transpose, bit for bit.
pub(super) fn is_transpose(one: &Tensor<'_>, other: &Tensor<'_>) -> bool {
    one.dtype() == other.dtype()
        && other
            .transposed()
            .is_some_and(|turned| turned.shape() == one.shape() && turned.bytes() == one.bytes())
}

#[cfg(test)]
mod tests {
    use super::{Dtype, Shape, Tensor, as_listed, ascending};

    #[test]
    fn rows_are_sorted_and_come_back_as_listed() {
        let indices = [7, 3, 40];
        let rows =
            Tensor::owned(Dtype::F16, Shape::new(&[3, 2]).unwrap(), (0..12).collect::<Vec<u8>>()).unwrap();
        let (value, numbers) = ascending(&indices, &rows).unwrap();
        assert_eq!(numbers.bytes()[..16], [3, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(value.bytes(), [4, 5, 6, 7, 0, 1, 2, 3, 8, 9, 10, 11]);
        assert_eq!(as_listed(&indices, &value).unwrap().bytes(), rows.bytes());
    }
}
