//! Models of which only the shape matters.

use super::Result;
use crate::make::Noise;
use crate::model::{ALPHA, LINEAR, RANK};
use fitment_core::checkpoint::{Checkpoint, CheckpointError, CheckpointSink, TensorInfo};
use fitment_core::model::{Adapter, Edit, Lora, LoraForm, Origin, Target, TensorName};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The linear modules of a layer, and how many layers there are.
pub(super) struct Model {
    pub(super) name: &'static str,
    pub(super) layers: usize,
    pub(super) linear: &'static [(&'static str, u64, u64)],
}

pub(super) const SMALL: Model = Model { name: "1.1 B", layers: crate::model::LAYERS, linear: LINEAR };

/// Llama 3's.
pub(super) const LARGE: Model = Model {
    name: "8 B",
    layers: 32,
    linear: &[
        ("self_attn.q_proj", 4096, 4096),
        ("self_attn.k_proj", 1024, 4096),
        ("self_attn.v_proj", 1024, 4096),
        ("self_attn.o_proj", 4096, 4096),
        ("mlp.gate_proj", 14336, 4096),
        ("mlp.up_proj", 14336, 4096),
        ("mlp.down_proj", 4096, 14336),
    ],
};

impl Model {
    /// Every linear module of `layers` layers: path, rows, columns.
    pub(super) fn modules(&self, layers: usize) -> impl Iterator<Item = (String, u64, u64)> {
        let layer = |layer| {
            let named = move |(module, rows, columns): &(&str, u64, u64)| {
                (format!("model.layers.{layer}.{module}"), *rows, *columns)
            };
            self.linear.iter().map(named)
        };
        (0..layers).flat_map(layer)
    }
}

/// A base all of whose bf16 tensors are the beginning of the same noise: as large as wanted, and never held.
pub(super) struct Synthetic {
    tensors: BTreeMap<String, TensorInfo>,
    noise: Vec<u8>,
}

impl Synthetic {
    pub(super) fn new(modules: impl Iterator<Item = (String, u64, u64)>) -> Result<Self> {
        let (mut tensors, mut most) = (BTreeMap::new(), 0);
        for (path, rows, columns) in modules {
            let shape = Shape::new(&[rows, columns])?;
            most = most.max(shape.elements());
            tensors.insert(format!("{path}.weight"), TensorInfo { dtype: Dtype::BF16, shape });
        }
        let mut noise = Noise::new(7);
        let mut number = || half::bf16::from_f32(noise.normal(0.02)).to_le_bytes();
        Ok(Self { tensors, noise: (0..most).flat_map(|_| number()).collect() })
    }
}

impl Checkpoint for Synthetic {
    fn config(&self) -> Option<&Map<String, Value>> {
        None
    }

    fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    fn read(&self, name: &str) -> std::result::Result<Cow<'_, [u8]>, CheckpointError> {
        let info = self.tensors.get(name).ok_or_else(|| CheckpointError::missing(name))?;
        Ok(Cow::Borrowed(&self.noise[..2 * info.shape.elements() as usize]))
    }
}

/// Where results go that nobody wants.
pub(super) struct Nowhere;

impl CheckpointSink for Nowhere {
    fn write(&self, _: &str, _: u64, _: &[u8]) -> std::result::Result<(), CheckpointError> {
        Ok(())
    }

    fn copy(&self, _: &str, _: &str) -> std::result::Result<(), CheckpointError> {
        Ok(())
    }
}

/// Factors of the benchmark's rank for matrices of any extents: the beginnings of the same noise.
pub(super) struct Factors(Vec<u8>);

impl Factors {
    pub(super) fn new(seed: u64) -> Self {
        let mut noise = Noise::new(seed);
        let most = RANK as usize * 16384;
        Self((0..most).flat_map(|_| noise.normal(0.02).to_le_bytes()).collect())
    }

    /// A LoRA of these modules.
    pub(super) fn adapter(&self, modules: impl Iterator<Item = (String, u64, u64)>) -> Result<Adapter<'_>> {
        let factor = |dims: [u64; 2]| -> Result<Tensor<'_>> {
            let shape = Shape::new(&dims)?;
            let len = 4 * shape.elements() as usize;
            Ok(Tensor::borrowed(
                Dtype::F32,
                shape,
                self.0.get(..len).ok_or("a larger matrix than expected")?,
            )?)
        };
        let mut adapter = Adapter::default();
        for (path, rows, columns) in modules {
            adapter.edits.push(Edit::Lora(Lora {
                target: Target::whole(TensorName::new(format!("{path}.weight"))?),
                form: LoraForm::Matrix,
                transposed: false,
                scale: ALPHA / RANK as f64,
                up: factor([rows, RANK])?,
                down: factor([RANK, columns])?,
                mid: None,
                magnitude: None,
                origin: Origin::default(),
            }));
        }
        Ok(adapter)
    }
}
