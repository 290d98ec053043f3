//! Adapters run beside the weights of a model, which stay as they are: switched, weighted and chosen row by row while it runs.
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use candle_nn::{Linear, Module};
//! use fitment_apply::Input;
//! use fitment_candle::unmerged::{Adapters, Mix};
//! # use fitment_core::checkpoint::MemoryCheckpoint;
//! # use fitment_core::container::write_container;
//! # use fitment_core::model::{Adapter, Edit, Lora, LoraForm, Origin, Target, TensorName};
//! # use fitment_core::tensor::{Dtype, Shape, Tensor as Stored};
//! # let floats = |dims: &[u64], values: &[f32]| {
//! #     let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
//! #     Stored::owned(Dtype::F32, Shape::new(dims)?, bytes)
//! # };
//! # let mut file = Vec::new();
//! # let weight = floats(&[2, 2], &[1.0, 0.0, 0.0, 1.0])?;
//! # write_container(&Default::default(), [("proj.weight".to_owned(), &weight)], &mut file)?;
//! # let base = MemoryCheckpoint::new(&file, None)?;
//! # let (up, down) = (floats(&[2, 1], &[1.0, 1.0])?, floats(&[1, 2], &[0.0, 10.0])?);
//! # let target = Target::whole(TensorName::new("proj.weight")?);
//! # let edit = Lora { target, form: LoraForm::Matrix, transposed: false, scale: 1.0, up, down, mid: None, magnitude: None, origin: Origin::default() };
//! # let adapter = Adapter { edits: vec![Edit::Lora(edit)], ..Adapter::default() };
//! // `base` is a checkpoint whose tensor proj.weight is [[1, 0], [0, 1]]; `adapter` adds [[0, 10], [0, 10]] to it.
//! let inputs = [Input { adapter: &adapter, weight: 1.0, name: "example".to_owned() }];
//! let mut adapters = Adapters::load(&inputs, &base, &Device::Cpu)?;
//! let plain = Linear::new(Tensor::new(&[[1_f32, 0.0], [0.0, 1.0]], &Device::Cpu)?, None);
//! let layer = adapters.linear("proj", plain)?;
//!
//! // Two rows of a batch: the first with half of the adapter, the second without any.
//! adapters.set(Mix::Rows(vec![Some((0, 0.5)), None]))?;
//! let x = Tensor::new(&[[[3_f32, 1.0]], [[3.0, 1.0]]], &Device::Cpu)?;
//! assert_eq!(layer.forward(&x)?.to_vec3::<f32>()?, [[[8.0, 6.0]], [[3.0, 1.0]]]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is computed
//! `y = W' x` with `W' = W + Σ wᵢ·(Fᵢ(W) − W)`, as `apply` has it, but never rounded to the weights' dtype: low-rank edits as two small
//! products, DoRA's magnitudes as factors of the outputs or inputs, and what is neither as a dense difference that is held beside the
//! weight. Arithmetic is in the dtype that [`Adapters::with_dtype`] says, f32 when nothing is said.

mod change;
mod collect;
mod conv;
mod embedding;
mod experts;
mod linear;
mod load;
mod mix;
mod row;
mod rows;
mod stack;
mod vector;

pub use conv::AdaptedConv2d;
pub use embedding::AdaptedEmbedding;
pub use experts::AdaptedExperts;
pub use linear::AdaptedLinear;
pub use load::{Adapters, Dequantised, Error};
pub use mix::Mix;
pub use vector::AdaptedVector;
