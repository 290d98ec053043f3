//! Tensors: a dtype, a checked shape and bytes that are borrowed until someone must own them.

mod dtype;
mod shape;

pub use dtype::Dtype;
pub use shape::{Shape, ShapeFault};

use std::sync::Arc;

/// Little-endian, row-major tensor data: borrowed from the file it lies in, or shared.
///
/// Cloning never copies the bytes.
#[derive(Clone, Debug)]
pub enum Bytes<'a> {
    /// Lies in a buffer or map that the caller keeps alive.
    Borrowed(&'a [u8]),
    /// Made by a conversion; shared between the edits that use it.
    Shared(Arc<[u8]>),
}

impl Bytes<'_> {
    /// The bytes themselves.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Borrowed(bytes) => bytes,
            Bytes::Shared(bytes) => bytes,
        }
    }
}

/// A dense tensor: `bytes.len()` always equals what dtype and shape ask for.
#[derive(Clone, Debug)]
pub struct Tensor<'a> {
    dtype: Dtype,
    shape: Shape,
    bytes: Bytes<'a>,
    is_unread: bool,
}

impl<'a> Tensor<'a> {
    /// Joins dtype, shape and bytes.
    ///
    /// # Errors
    /// [`ShapeFault::Bytes`] when the byte count is not `shape × dtype`; [`ShapeFault::Overflow`] when that product
    /// does not fit in 64 bits.
    pub fn new(dtype: Dtype, shape: Shape, bytes: Bytes<'a>) -> Result<Self, ShapeFault> {
        let needed = shape.byte_len(dtype)?;
        let found = bytes.as_slice().len() as u64;
        if needed != found {
            return Err(ShapeFault::Bytes { dtype, shape, needed, found });
        }
        Ok(Self { dtype, shape, bytes, is_unread: false })
    }

    /// A tensor over bytes that the caller keeps alive.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    pub fn borrowed(dtype: Dtype, shape: Shape, bytes: &'a [u8]) -> Result<Self, ShapeFault> {
        Self::new(dtype, shape, Bytes::Borrowed(bytes))
    }

    /// A tensor that owns its bytes; clones share them.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    pub fn owned(dtype: Dtype, shape: Shape, bytes: impl Into<Arc<[u8]>>) -> Result<Self, ShapeFault> {
        Self::new(dtype, shape, Bytes::Shared(bytes.into()))
    }

    /// The same, of which nobody has read the values: zeros stand in their place, and checks of values pass them over.
    #[must_use]
    pub fn unread(self) -> Self {
        Self { is_unread: true, ..self }
    }

    /// Whether nobody has read the values.
    pub fn is_unread(&self) -> bool {
        self.is_unread
    }

    /// Element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Extents, outermost axis first.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The extents as a slice.
    pub fn dims(&self) -> &[u64] {
        self.shape.dims()
    }

    /// Row-major little-endian elements.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// The bytes with what keeps them alive: cloning them copies nothing.
    pub fn data(&self) -> &Bytes<'a> {
        &self.bytes
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.elements()
    }

    /// Whether both are the same stored tensor: same place in memory, dtype and shape (not merely equal content).
    pub fn is_same(&self, other: &Tensor<'_>) -> bool {
        let (a, b) = (self.bytes(), other.bytes());
        a.len() == b.len()
            && std::ptr::eq(a.as_ptr(), b.as_ptr())
            && self.dtype == other.dtype
            && self.shape == other.shape
    }

    /// A tensor of the same bytes that no longer borrows.
    pub fn into_owned(self) -> Tensor<'static> {
        let bytes = match self.bytes {
            Bytes::Borrowed(bytes) => Arc::from(bytes),
            Bytes::Shared(bytes) => bytes,
        };
        Tensor {
            dtype: self.dtype,
            shape: self.shape,
            bytes: Bytes::Shared(bytes),
            is_unread: self.is_unread,
        }
    }

    /// One of the tensors along the first axis, without a copy where the bytes are borrowed; `None` where there is no such.
    pub fn at(&self, index: u64) -> Option<Tensor<'a>> {
        let (count, dims) = self.dims().split_first()?;
        let shape = Shape::new(dims).ok()?;
        let len = usize::try_from(shape.byte_len(self.dtype()).ok()?).ok()?;
        let start = usize::try_from(index).ok().filter(|_| index < *count)?.checked_mul(len)?;
        let range = start..start.checked_add(len)?;
        let bytes = match self.data() {
            Bytes::Borrowed(bytes) => Bytes::Borrowed(bytes.get(range)?),
            Bytes::Shared(bytes) => Bytes::Shared(bytes.get(range)?.into()),
        };
        Tensor::new(self.dtype(), shape, bytes).ok()
    }

    /// The 2-D tensor's transpose as a new tensor: `[a, b]` to `[b, a]`, bits untouched.
    /// `None` unless the tensor has two axes and whole-byte elements.
    pub fn transposed(&self) -> Option<Tensor<'static>> {
        let [rows, cols] = *self.dims() else { return None };
        let size = self.dtype.bytes()?;
        let (rows, cols) = (usize::try_from(rows).ok()?, usize::try_from(cols).ok()?);
        let from = self.bytes();
        let mut to = vec![0u8; from.len()];
        for row in 0..rows {
            for col in 0..cols {
                let (source, target) = ((row * cols + col) * size, (col * rows + row) * size);
                to[target..target + size].copy_from_slice(&from[source..source + size]);
            }
        }
        let shape = Shape::new(&[cols as u64, rows as u64]).ok()?;
        Tensor::owned(self.dtype, shape, to).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::{Dtype, Shape, ShapeFault, Tensor};

    #[test]
    fn byte_count_must_match() {
        let shape = Shape::new(&[2, 3]).unwrap();
        let fault = Tensor::borrowed(Dtype::F32, shape, &[0; 23]).unwrap_err();
        assert!(matches!(fault, ShapeFault::Bytes { needed: 24, found: 23, .. }));
    }

    #[test]
    fn transposing_twice_gives_the_same_bytes() {
        let bytes: Vec<u8> = (0..24).collect();
        let tensor = Tensor::borrowed(Dtype::F16, Shape::new(&[3, 4]).unwrap(), &bytes).unwrap();
        let once = tensor.transposed().unwrap();
        assert_eq!(once.dims(), &[4, 3]);
        assert_eq!(&once.bytes()[..6], &[0, 1, 8, 9, 16, 17]);
        assert_eq!(once.transposed().unwrap().bytes(), &bytes[..]);
    }
}
