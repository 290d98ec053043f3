//! From the bytes of a tensor, old and new, to the edit that makes the one of the other.

use super::encoding::Encoding;
use crate::error::Error;
use fitment_core::checkpoint::TensorInfo;
use fitment_core::identity::sha256;
use fitment_core::model::{Bits, Edit, Origin, Set, SetDtype, SparseSet, Target};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_math::round::Element;
use fitment_math::{bits, not_finite};

/// A tensor that changes.
pub(super) struct Changed<'c> {
    pub(super) target: Target,
    pub(super) info: &'c TensorInfo,
    pub(super) base: &'c [u8],
    pub(super) new: Vec<u8>,
}

impl Changed<'_> {
    /// The edit that keeps what the encoding says: which bits differ, or what stands where.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where a change of bits would have to be compressed and the compressor is not built in.
    pub(super) fn edit(self, encoding: Encoding) -> Result<Edit<'static>, Error> {
        match (encoding, Element::of(self.info.dtype)) {
            (Encoding::Overwrite, Some(element)) => self.elements(element),
            (Encoding::Xor | Encoding::Overwrite, _) => self.bits(),
        }
    }

    /// The elements that change, or the whole where that is no larger.
    fn elements(self, element: Element) -> Result<Edit<'static>, Error> {
        // Positions of bytes are of 32 bits, so those of elements are too.
        const POSITION: usize = 4;
        let size = element.size();
        let changes = || {
            let pairs = self.base.chunks_exact(size).zip(self.new.chunks_exact(size)).enumerate();
            pairs.filter(|(_, (base, new))| base != new).map(|(place, (_, new))| (place, new))
        };
        let count = changes().count();
        if count * (POSITION + size) >= self.new.len() {
            return if self.can_be_set() { self.set() } else { self.bits() };
        }
        let mut index = Vec::with_capacity(count * POSITION);
        let mut value = Vec::with_capacity(count * size);
        for (place, new) in changes() {
            index.extend((place as u32).to_le_bytes());
            value.extend(new);
        }
        if not_finite::first(self.info.dtype, &value).is_some() {
            return self.bits();
        }
        let index = self.tensor(Dtype::U32, &[count as u64], index)?;
        let value = self.tensor(self.info.dtype, &[count as u64], value)?;
        Ok(Edit::SparseSet(SparseSet { target: self.target, index, value, origin: Origin::default() }))
    }

    /// The change of bits, or the whole where nothing is won by it (spec appendix D).
    fn bits(self) -> Result<Edit<'static>, Error> {
        let payload = bits::encode(self.info.dtype, self.base, &self.new, bits::LEVEL);
        let payload = payload.map_err(|error| Error::Unsupported {
            what: format!("the change of {}", self.target.label()),
            reason: error.to_string(),
            hint: "build the program with the feature `zstd`, or publish with the encoding overwrite"
                .to_owned(),
        })?;
        let is_large = payload.bytes.len() as u64 * 100 > self.new.len() as u64 * 95;
        if is_large && self.can_be_set() {
            return self.set();
        }
        let z = self.tensor(Dtype::U8, &[payload.bytes.len() as u64], payload.bytes)?;
        Ok(Edit::Bits(Bits {
            base: sha256(self.base),
            result: sha256(&self.new),
            changed: payload.changed,
            z,
            target: self.target,
            origin: Origin::default(),
        }))
    }

    fn set(self) -> Result<Edit<'static>, Error> {
        let Self { target, info, new, .. } = self;
        let value = tensor(&target, info.dtype, info.shape.dims(), new)?;
        let (dtype, origin) = (SetDtype::Stored, Origin::default());
        Ok(Edit::Set(Set { target, dtype, create: false, reshape: false, value, rows: None, origin }))
    }

    /// A stored weight that is not finite is refused wherever it is read.
    fn can_be_set(&self) -> bool {
        not_finite::first(self.info.dtype, &self.new).is_none()
    }

    fn tensor(&self, dtype: Dtype, dims: &[u64], bytes: Vec<u8>) -> Result<Tensor<'static>, Error> {
        tensor(&self.target, dtype, dims, bytes)
    }
}

fn tensor(target: &Target, dtype: Dtype, dims: &[u64], bytes: Vec<u8>) -> Result<Tensor<'static>, Error> {
    let tensor = Shape::new(dims).and_then(|shape| Tensor::owned(dtype, shape, bytes));
    tensor.map_err(|source| fitment_core::Error::Shape { name: target.label(), source }.into())
}
