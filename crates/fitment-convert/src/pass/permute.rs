//! Axes of a tensor in another order.

use fitment_core::tensor::{Shape, Tensor};

/// The same elements under another shape of as many; nothing is copied.
pub(crate) fn reshaped<'a>(tensor: &Tensor<'a>, dims: &[u64]) -> Option<Tensor<'a>> {
    let shape = Shape::new(dims).ok()?;
    Tensor::new(tensor.dtype(), shape, tensor.data().clone()).ok()
}

/// A tensor read as one of three axes, its axis `order[i]` as axis `i`: with `[1, 2, 0]`, `[a, b, c]` becomes `[b, c, a]`.
///
/// `None` when it has another number of elements, or when those are no whole bytes.
pub(crate) fn permuted(tensor: &Tensor<'_>, dims: [u64; 3], order: [usize; 3]) -> Option<Tensor<'static>> {
    let size = tensor.dtype().bytes()?;
    reshaped(tensor, &dims)?;
    let mut counts = [0usize; 3];
    for (count, dim) in counts.iter_mut().zip(dims) {
        *count = usize::try_from(dim).ok()?;
    }
    let strides = [counts[1].checked_mul(counts[2])?, counts[2], 1];
    let [outer, middle, inner] = order.map(|axis| (counts[axis], strides[axis]));
    let mut bytes = Vec::with_capacity(tensor.bytes().len());
    for i in 0..outer.0 {
        for j in 0..middle.0 {
            for k in 0..inner.0 {
                let at = (i * outer.1 + j * middle.1 + k * inner.1) * size;
                bytes.extend_from_slice(tensor.bytes().get(at..at + size)?);
            }
        }
    }
    Tensor::owned(tensor.dtype(), Shape::new(&order.map(|axis| dims[axis])).ok()?, bytes).ok()
}

/// A stack of matrices, each transposed: `[e, a, b]` to `[e, b, a]`.
pub(crate) fn turned(stack: &Tensor<'_>) -> Option<Tensor<'static>> {
    let &[experts, rows, columns] = stack.dims() else { return None };
    permuted(stack, [experts, rows, columns], [0, 2, 1])
}

#[cfg(test)]
mod tests {
    use super::{permuted, reshaped, turned};
    use fitment_core::tensor::{Dtype, Shape, Tensor};

    fn counted(dims: &[u64]) -> Tensor<'static> {
        let shape = Shape::new(dims).unwrap();
        let bytes: Vec<u8> = (0..shape.elements()).map(|at| at as u8).collect();
        Tensor::owned(Dtype::U8, shape, bytes).unwrap()
    }

    #[test]
    fn axes_are_put_in_another_order_and_back() {
        // [out, r, E] of one output.
        let flat = counted(&[1, 6]);
        let stack = permuted(&flat, [1, 2, 3], [2, 0, 1]).unwrap();
        assert_eq!((stack.dims(), stack.bytes()), (&[3, 1, 2][..], &[0, 3, 1, 4, 2, 5][..]));
        let back = permuted(&stack, [3, 1, 2], [1, 2, 0]).unwrap();
        assert_eq!(reshaped(&back, &[1, 6]).unwrap().bytes(), flat.bytes());
        assert_eq!(turned(&counted(&[1, 2, 3])).unwrap().bytes(), [0, 3, 1, 4, 2, 5]);
    }

    #[test]
    fn other_counts_do_not_fit() {
        assert!(permuted(&counted(&[6]), [1, 2, 4], [0, 1, 2]).is_none());
        assert!(reshaped(&counted(&[6]), &[2, 2]).is_none() && turned(&counted(&[6])).is_none());
        assert!(permuted(&counted(&[6]), [u64::MAX, 2, 4], [0, 1, 2]).is_none());
    }
}
