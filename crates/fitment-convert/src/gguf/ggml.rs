//! Types of elements in GGUF: the numbers and block sizes of `ggml.h` (ggml 0.25, gguf-py 0.19).

use fitment_core::tensor::Dtype;

/// A type of elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorType {
    /// Its number on disk.
    pub number: u32,
    /// ggml's name.
    pub name: &'static str,
    /// Elements in a block; 1 for plain numbers. The last axis is a multiple of it.
    pub block: u64,
    /// Bytes of a block.
    pub bytes: u64,
    /// The dtype of plain numbers.
    pub dtype: Option<Dtype>,
}

const fn plain(number: u32, name: &'static str, bytes: u64, dtype: Dtype) -> TensorType {
    TensorType { number, name, block: 1, bytes, dtype: Some(dtype) }
}

const fn blocks(number: u32, name: &'static str, block: u64, bytes: u64) -> TensorType {
    TensorType { number, name, block, bytes, dtype: None }
}

/// Every type that a base may have.
const TYPES: &[TensorType] = &[
    plain(0, "F32", 4, Dtype::F32),
    plain(1, "F16", 2, Dtype::F16),
    blocks(2, "Q4_0", 32, 18),
    blocks(3, "Q4_1", 32, 20),
    blocks(6, "Q5_0", 32, 22),
    blocks(7, "Q5_1", 32, 24),
    blocks(8, "Q8_0", 32, 34),
    blocks(9, "Q8_1", 32, 40),
    blocks(10, "Q2_K", 256, 84),
    blocks(11, "Q3_K", 256, 110),
    blocks(12, "Q4_K", 256, 144),
    blocks(13, "Q5_K", 256, 176),
    blocks(14, "Q6_K", 256, 210),
    blocks(15, "Q8_K", 256, 292),
    blocks(16, "IQ2_XXS", 256, 66),
    blocks(17, "IQ2_XS", 256, 74),
    blocks(18, "IQ3_XXS", 256, 98),
    blocks(19, "IQ1_S", 256, 50),
    blocks(20, "IQ4_NL", 32, 18),
    blocks(21, "IQ3_S", 256, 110),
    blocks(22, "IQ2_S", 256, 82),
    blocks(23, "IQ4_XS", 256, 136),
    plain(24, "I8", 1, Dtype::I8),
    plain(25, "I16", 2, Dtype::I16),
    plain(26, "I32", 4, Dtype::I32),
    plain(27, "I64", 8, Dtype::I64),
    plain(28, "F64", 8, Dtype::F64),
    blocks(29, "IQ1_M", 256, 56),
    plain(30, "BF16", 2, Dtype::BF16),
    blocks(34, "TQ1_0", 256, 54),
    blocks(35, "TQ2_0", 256, 66),
    blocks(39, "MXFP4", 32, 17),
    blocks(40, "NVFP4", 64, 36),
    blocks(41, "Q1_0", 128, 18),
];

impl TensorType {
    /// The type of a number.
    pub(super) fn of(number: u32) -> Option<Self> {
        TYPES.iter().find(|line| line.number == number).copied()
    }

    /// The type of plain numbers.
    pub(super) fn of_dtype(dtype: Dtype) -> Option<Self> {
        TYPES.iter().find(|line| line.dtype == Some(dtype)).copied()
    }

    /// The dtype, if it is a plain float, as those of adapters are.
    pub(super) fn float(self) -> Option<Dtype> {
        self.dtype.filter(|dtype| dtype.is_weight())
    }

    /// Bytes of a tensor with these axes, slowest first; `None` for too many, or for a last axis of no whole blocks.
    pub(super) fn byte_len(self, dims: &[u64]) -> Option<u64> {
        let (last, outer) = dims.split_last()?;
        let row = last.is_multiple_of(self.block).then_some(last / self.block)?;
        outer.iter().try_fold(row.checked_mul(self.bytes)?, |len, dim| len.checked_mul(*dim))
    }
}
