//! Tensors as torch has them: a window with strides on a storage.

use fitment_core::tensor::{Dtype, Shape};

/// A window on a storage. It lies inside it: the constructor has checked every element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    dtype: Dtype,
    shape: Shape,
    strides: Vec<u64>,
    storage: usize,
    offset: u64,
}

/// How the elements of a window lie in its storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The last axis is the fastest: the bytes can be used as they lie.
    RowMajor,
    /// Two axes, the first is the fastest.
    ColumnMajor,
    /// Anything else: expanded, cut or turned.
    Other,
}

impl View {
    /// A window on storage `(number, offset of the first element, bytes of the storage)`.
    pub(crate) fn new(
        dtype: Dtype,
        dims: &[u64],
        strides: Vec<u64>,
        (storage, offset, byte_len): (usize, u64, u64),
    ) -> Result<Self, String> {
        let shape = Shape::new(dims).map_err(|fault| fault.to_string())?;
        if strides.len() != dims.len() {
            return Err(format!("a tensor with {} extents and {} strides", dims.len(), strides.len()));
        }
        let size = dtype.bytes().ok_or_else(|| format!("a tensor of {dtype}"))? as u64;
        let last = dims.iter().zip(&strides).try_fold(offset, |last, (dim, stride)| {
            last.checked_add(dim.saturating_sub(1).checked_mul(*stride)?)
        });
        let end = last.and_then(|last| last.checked_add(1)?.checked_mul(size));
        if shape.elements() > 0 && end.is_none_or(|end| end > byte_len) {
            return Err(format!(
                "a tensor of {dtype} {shape} with strides {strides:?} from element {offset} on reaches beyond its \
                 storage of {byte_len} bytes"
            ));
        }
        Ok(Self { dtype, shape, strides, storage, offset })
    }

    /// Element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Extents.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Steps from one element to the next along each axis, in elements.
    pub fn strides(&self) -> &[u64] {
        &self.strides
    }

    /// First element, counted in elements of the tensor's dtype.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Number of the storage: equal for tensors that share one.
    pub fn storage(&self) -> usize {
        self.storage
    }

    /// Bytes of all its elements.
    pub fn byte_len(&self) -> u64 {
        // The constructor has made sure that its elements are whole bytes.
        self.shape.byte_len(self.dtype).unwrap_or(0)
    }

    /// How its elements lie.
    pub fn order(&self) -> Order {
        let dims = self.shape.dims();
        let is_dense = |axes: &[usize]| {
            let mut step = 1u64;
            axes.iter().all(|&axis| {
                let (dim, stride) = (dims[axis], self.strides[axis]);
                let fits = dim == 1 || stride == step;
                // Inside the storage, so it cannot overflow.
                step = step.saturating_mul(dim);
                fits
            })
        };
        let rows: Vec<usize> = (0..dims.len()).rev().collect();
        if self.shape.elements() == 0 || is_dense(&rows) {
            Order::RowMajor
        } else if dims.len() == 2 && is_dense(&[0, 1]) {
            Order::ColumnMajor
        } else {
            Order::Other
        }
    }

    /// The elements as they lie in the storage, when they lie in row-major order.
    pub(crate) fn borrow<'a>(&self, storage: &'a [u8]) -> Option<&'a [u8]> {
        if self.shape.elements() == 0 {
            return Some(&[]);
        }
        if self.order() != Order::RowMajor {
            return None;
        }
        let size = self.dtype.bytes()?;
        let start = usize::try_from(self.offset).ok()?.checked_mul(size)?;
        let len = usize::try_from(self.byte_len()).ok()?;
        storage.get(start..start.checked_add(len)?)
    }

    /// The elements in row-major order, copied one by one. `None` when the storage is shorter than it was said to be.
    pub(crate) fn gather(&self, storage: &[u8]) -> Option<Vec<u8>> {
        let size = self.dtype.bytes()?;
        let dims = self.shape.dims();
        let mut gathered = Vec::with_capacity(usize::try_from(self.byte_len()).ok()?);
        let mut index = vec![0u64; dims.len()];
        let mut at = self.offset;
        for _ in 0..self.shape.elements() {
            let start = usize::try_from(at).ok()?.checked_mul(size)?;
            gathered.extend_from_slice(storage.get(start..start.checked_add(size)?)?);
            // The next index, last axis first; `at` follows it. All sums stay inside the storage.
            for axis in (0..dims.len()).rev() {
                index[axis] += 1;
                if index[axis] < dims[axis] {
                    at += self.strides[axis];
                    break;
                }
                at -= (index[axis] - 1) * self.strides[axis];
                index[axis] = 0;
            }
        }
        Some(gathered)
    }
}

#[cfg(test)]
mod tests {
    use super::{Order, View};
    use fitment_core::tensor::Dtype;

    fn view(dims: &[u64], strides: &[u64], offset: u64, bytes: u64) -> Result<View, String> {
        View::new(Dtype::U8, dims, strides.to_vec(), (0, offset, bytes))
    }

    #[test]
    fn windows_end_inside_their_storage() {
        assert!(view(&[2, 3], &[3, 1], 0, 6).is_ok());
        assert!(view(&[2, 3], &[3, 1], 1, 6).is_err());
        assert!(view(&[2, 3], &[1, 2], 0, 6).is_ok());
        assert!(view(&[2, 3], &[1, 3], 0, 6).is_err());
        assert!(view(&[1 << 40], &[0], 0, 1).is_ok());
        assert!(view(&[2], &[u64::MAX], 1, 6).is_err());
        assert!(view(&[0, 5], &[9, 9], 99, 0).is_ok());
        assert!(view(&[], &[], 0, 0).is_err());
    }

    #[test]
    fn elements_come_in_row_major_order() {
        let storage: Vec<u8> = (0..12).collect();
        let turned = view(&[2, 3], &[1, 2], 1, 12).unwrap();
        assert_eq!(turned.order(), Order::ColumnMajor);
        assert_eq!(turned.gather(&storage).unwrap(), [1, 3, 5, 2, 4, 6]);
        let expanded = view(&[2, 2], &[0, 1], 3, 12).unwrap();
        assert_eq!(expanded.order(), Order::Other);
        assert_eq!(expanded.gather(&storage).unwrap(), [3, 4, 3, 4]);
        let dense = view(&[2, 1, 3], &[3, 77, 1], 2, 100).unwrap();
        assert_eq!(dense.order(), Order::RowMajor);
        assert_eq!(dense.borrow(&storage).unwrap(), &[2, 3, 4, 5, 6, 7]);
        assert_eq!(view(&[], &[], 5, 12).unwrap().gather(&storage).unwrap(), [5]);
    }
}
