use fitment_core::tensor::{Dtype, Tensor};

/// One stored tensor of an edit, or one expert's share of it: dtype, extents, bytes.
#[derive(Clone, Debug)]
pub struct Part<'a> {
    /// Element type.
    pub dtype: Dtype,
    /// Extents, without the expert axis of a bundle.
    pub dims: Vec<u64>,
    /// Row-major little-endian elements.
    pub bytes: &'a [u8],
}

impl<'a> Part<'a> {
    /// The whole tensor.
    pub(crate) fn whole(tensor: &'a Tensor<'_>) -> Self {
        Self { dtype: tensor.dtype(), dims: tensor.dims().to_vec(), bytes: tensor.bytes() }
    }

    /// Expert `index` of `count` in a bundle; `None` when the leading axis has another extent.
    pub(crate) fn of_expert(tensor: &'a Tensor<'_>, index: usize, count: u64) -> Option<Self> {
        let (first, rest) = tensor.dims().split_first()?;
        if *first != count {
            return None;
        }
        let len = tensor.bytes().len() / usize::try_from(count).ok()?.max(1);
        let start = index.checked_mul(len)?;
        let bytes = tensor.bytes().get(start..start.checked_add(len)?)?;
        Some(Self { dtype: tensor.dtype(), dims: rest.to_vec(), bytes })
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.bytes.len() * 8 / self.dtype.bits() as usize
    }

    /// The integers of an I64 or U32 tensor that are not negative; `None` when one is, or for another dtype.
    pub(crate) fn positions(&self) -> Option<Vec<u64>> {
        matches!(self.dtype, Dtype::I64 | Dtype::U32).then_some(())?;
        (0..self.elements()).map(|at| self.position_at(at)).collect()
    }

    /// Integer number `at`; `None` when it is negative, not there, or not an I64 or U32.
    pub(crate) fn position_at(&self, at: usize) -> Option<u64> {
        match self.dtype {
            Dtype::U32 => {
                self.bytes.as_chunks::<4>().0.get(at).map(|bytes| u32::from_le_bytes(*bytes).into())
            }
            Dtype::I64 => {
                let bytes = self.bytes.as_chunks::<8>().0.get(at)?;
                u64::try_from(i64::from_le_bytes(*bytes)).ok()
            }
            _ => None,
        }
    }

    /// The bytes of `len` elements from `first` on; empty where the tensor has none or elements are under a byte.
    pub(crate) fn bits_at(&self, first: usize, len: usize) -> &'a [u8] {
        let Some(size) = self.dtype.bytes() else { return self.bytes };
        self.bytes.get(first * size..(first + len) * size).unwrap_or_default()
    }
}
