//! Several low-rank updates of one tensor as one: `A` stacked, `B` side by side.

use super::scale::scaled_wider;
use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_math::round::{narrowed, widened};

/// One low-rank update `scale·up·down`, of `[out, r]` and `[r, in]`; of experts with their axis in front.
#[derive(Clone, Debug)]
pub(crate) struct Product<'a> {
    pub(crate) up: Tensor<'a>,
    pub(crate) down: Tensor<'a>,
    pub(crate) scale: f64,
}

impl Product<'_> {
    /// The axis that both factors share.
    pub(crate) fn rank(&self) -> u64 {
        self.up.dims().last().copied().unwrap_or(0)
    }
}

/// The sum of updates, with the scale of the first, and how many elements were rounded for that. Their ranks add up, but for parts of
/// one split update: those have one `down` and rows of their own, and are put together as they were. `None` when they do not fit.
pub(crate) fn sum<'a>(parts: &[Product<'a>]) -> Option<(Product<'a>, u64)> {
    let first = parts.first()?;
    if parts.len() == 1 {
        return Some((first.clone(), 0));
    }
    if let Some(joined) = joined(parts) {
        return Some((joined, 0));
    }
    let (mut ups, mut downs, mut rounded) = (Vec::new(), Vec::new(), 0);
    for part in parts {
        let (up, elements) = rescaled(&part.up, part.scale, first.scale)?;
        rounded += elements;
        ups.push(up);
        downs.push(part.down.clone());
    }
    let (ups, downs) = (alike(ups)?, alike(downs)?);
    Some((Product { up: beside(&ups)?, down: below(&downs)?, scale: first.scale }, rounded))
}

/// A factor that has one scale, for use with another; the dtype grows to F32 where that is more exact.
pub(crate) fn rescaled<'a>(up: &Tensor<'a>, from: f64, to: f64) -> Option<(Tensor<'a>, u64)> {
    if from == to {
        return Some((up.clone(), 0));
    }
    scaled_wider(up, from / to, Dtype::F32)
}

/// The update of which these are the rows: one `down`, one scale, and no row in two of them.
fn joined<'a>(parts: &[Product<'a>]) -> Option<Product<'a>> {
    let first = parts.first()?;
    let is_same = |part: &Product<'_>| {
        part.scale == first.scale
            && part.down.dtype() == first.down.dtype()
            && part.down.shape() == first.down.shape()
            && part.down.bytes() == first.down.bytes()
            && part.up.dtype() == first.up.dtype()
            && part.up.shape() == first.up.shape()
    };
    if !parts.iter().all(is_same) {
        return None;
    }
    let row = usize::try_from(first.rank()).ok()?.checked_mul(first.up.dtype().bytes()?)?;
    let mut bytes = first.up.bytes().to_vec();
    for part in parts.get(1..)? {
        for (to, from) in bytes.chunks_mut(row.max(1)).zip(part.up.bytes().chunks(row.max(1))) {
            let [is_empty, adds_nothing] = [&*to, from].map(|row| row.iter().all(|byte| *byte == 0));
            match (is_empty, adds_nothing) {
                (true, _) => to.copy_from_slice(from),
                (false, true) => {}
                (false, false) => return None,
            }
        }
    }
    let up = Tensor::owned(first.up.dtype(), first.up.shape().clone(), bytes).ok()?;
    Some(Product { up, down: first.down.clone(), scale: first.scale })
}

/// Tensors of one dtype: their own, or F32, which holds all of F16 and BF16.
pub(crate) fn alike(tensors: Vec<Tensor<'_>>) -> Option<Vec<Tensor<'_>>> {
    let dtype = tensors.first()?.dtype();
    if tensors.iter().all(|tensor| tensor.dtype() == dtype) {
        return Some(tensors);
    }
    let widest =
        if tensors.iter().any(|tensor| tensor.dtype() == Dtype::F64) { Dtype::F64 } else { Dtype::F32 };
    tensors.iter().map(|tensor| narrowed(widest, tensor.dims(), &widened(tensor)?)).collect()
}

/// Matrices of equally many rows, side by side.
fn beside(parts: &[Tensor<'_>]) -> Option<Tensor<'static>> {
    let first = parts.first()?;
    let rows = *first.dims().first()?;
    let mut columns = 0u64;
    for part in parts {
        let [same, more] = *part.dims() else { return None };
        columns = columns.checked_add(more).filter(|_| same == rows)?;
    }
    let shape = Shape::new(&[rows, columns]).ok()?;
    let mut bytes = Vec::with_capacity(usize::try_from(shape.byte_len(first.dtype()).ok()?).ok()?);
    for row in 0..usize::try_from(rows).ok()? {
        for part in parts {
            let width = part.bytes().len().checked_div(usize::try_from(rows).ok()?)?;
            bytes.extend_from_slice(part.bytes().get(row.checked_mul(width)?..)?.get(..width)?);
        }
    }
    Tensor::owned(first.dtype(), shape, bytes).ok()
}

/// Matrices of equally many columns, one below the other.
fn below(parts: &[Tensor<'_>]) -> Option<Tensor<'static>> {
    let first = parts.first()?;
    let columns = *first.dims().get(1)?;
    let mut rows = 0u64;
    for part in parts {
        let [more, same] = *part.dims() else { return None };
        rows = rows.checked_add(more).filter(|_| same == columns)?;
    }
    let bytes: Vec<u8> = parts.iter().flat_map(|part| part.bytes()).copied().collect();
    Tensor::owned(first.dtype(), Shape::new(&[rows, columns]).ok()?, bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::{Product, sum};
    use fitment_core::tensor::Dtype;
    use fitment_math::round::{narrowed, widened};

    fn part(up: &[f64], down: &[f64], scale: f64, dtype: Dtype) -> Product<'static> {
        let rank = down.len() as u64 / 2;
        Product {
            up: narrowed(dtype, &[up.len() as u64 / rank, rank], up).unwrap(),
            down: narrowed(dtype, &[rank, 2], down).unwrap(),
            scale,
        }
    }

    #[test]
    fn ranks_add_up_and_scales_go_into_up() {
        let parts = [
            part(&[1.0, 2.0], &[3.0, 4.0], 2.0, Dtype::BF16),
            part(&[5.0, 6.0], &[7.0, 8.0], 1.0, Dtype::F32),
        ];
        let (sum, rounded) = sum(&parts).unwrap();
        assert_eq!((sum.scale, rounded, sum.up.dtype()), (2.0, 0, Dtype::F32));
        assert_eq!(widened(&sum.up).unwrap(), [1.0, 2.5, 2.0, 3.0]);
        assert_eq!(widened(&sum.down).unwrap(), [3.0, 4.0, 7.0, 8.0]);
    }

    #[test]
    fn parts_of_a_split_update_are_put_together() {
        let parts = [
            part(&[1.0, 0.0, 0.0], &[3.0, 4.0], 2.0, Dtype::F16),
            part(&[0.0, 0.0, 6.0], &[3.0, 4.0], 2.0, Dtype::F16),
        ];
        let (sum, _) = sum(&parts).unwrap();
        assert_eq!((widened(&sum.up).unwrap(), sum.rank()), (vec![1.0, 0.0, 6.0], 1));
    }

    #[test]
    fn updates_of_the_same_row_keep_their_ranks() {
        let twice = [part(&[1.0], &[3.0, 4.0], 2.0, Dtype::F16), part(&[1.0], &[3.0, 4.0], 2.0, Dtype::F16)];
        assert_eq!(sum(&twice).unwrap().0.rank(), 2);
        let apart =
            [part(&[1.0], &[3.0, 4.0], 2.0, Dtype::F16), part(&[1.0, 2.0], &[3.0, 4.0], 1.0, Dtype::F16)];
        assert!(sum(&apart).is_none());
    }
}
