//! Small pieces of which vectors are made. Contents are ramps, so that every element can be told from its neighbours.

use fitment_core::model::{Lora, LoraForm, Origin, Target, TensorName};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_core::{Adapter, to_bytes};

use super::file::Stored;

/// `first, first + 0.25, …` in F32, as many as the shape has elements.
pub(super) fn ramp(dims: &[u64], first: f32) -> Tensor<'static> {
    tensor(Dtype::F32, dims, floats(dims, first).flat_map(f32::to_le_bytes).collect())
}

/// The same in BF16, which holds the first few quarters exactly.
pub(super) fn ramp16(dims: &[u64], first: f32) -> Tensor<'static> {
    tensor(Dtype::BF16, dims, floats(dims, first).flat_map(bf16).collect())
}

pub(super) fn bf16(value: f32) -> [u8; 2] {
    let [_, _, low, high] = value.to_le_bytes();
    [low, high]
}

fn floats(dims: &[u64], first: f32) -> impl Iterator<Item = f32> {
    (0u8..).take(count(dims)).map(move |index| first + f32::from(index) / 4.0)
}

fn count(dims: &[u64]) -> usize {
    usize::try_from(dims.iter().product::<u64>()).expect("vectors are small")
}

pub(super) fn integers(numbers: &[i64]) -> Tensor<'static> {
    let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    tensor(Dtype::I64, &[numbers.len() as u64], bytes)
}

pub(super) fn raw(bytes: &[u8]) -> Tensor<'static> {
    tensor(Dtype::U8, &[bytes.len() as u64], bytes.to_vec())
}

pub(super) fn tensor(dtype: Dtype, dims: &[u64], bytes: Vec<u8>) -> Tensor<'static> {
    Tensor::owned(dtype, shape(dims), bytes).expect("as many bytes as the shape asks for")
}

pub(super) fn shape(dims: &[u64]) -> Shape {
    Shape::new(dims).expect("vectors have small shapes")
}

/// Bytes 0, 1, 2, … of any dtype.
pub(super) fn counted(dtype: Dtype, dims: &[u64]) -> Tensor<'static> {
    let len = shape(dims).byte_len(dtype).expect("whole bytes");
    tensor(dtype, dims, (0u8..=255).cycle().take(usize::try_from(len).expect("small")).collect())
}

pub(super) fn name(text: &str) -> TensorName {
    TensorName::new(text).expect("a proper name")
}

pub(super) fn whole(text: &str) -> Target {
    Target::whole(name(text))
}

/// A matrix edit with factors in F32 and scale 2.
pub(super) fn lora(target: Target, [out, rank, input]: [u64; 3]) -> Lora<'static> {
    Lora {
        target,
        form: LoraForm::Matrix,
        transposed: false,
        scale: 2.0,
        up: ramp(&[out, rank], -0.5),
        down: ramp(&[rank, input], 1.0),
        mid: None,
        magnitude: None,
        origin: Origin::default(),
    }
}

pub(super) fn written(adapter: &Adapter<'_>) -> Vec<u8> {
    to_bytes(adapter).unwrap_or_else(|error| panic!("core refuses a valid vector: {error}"))
}

/// A tensor as a stored one.
pub(super) fn stored(tensor: &Tensor<'_>) -> Stored {
    Stored { dtype: tensor.dtype(), dims: tensor.dims().to_vec(), bytes: tensor.bytes().to_vec() }
}
