//! Checkpoints in memory and tensors from numbers.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

pub mod generated;
pub mod oracle;

use fitment_apply::{Input, Options, Outcome, Plan, execute};
use fitment_core::checkpoint::{
    Checkpoint, CheckpointError, CheckpointSink, MemoryCheckpoint, OutputTensor, TensorInfo,
};
use fitment_core::container::write_container;
use fitment_core::model::{
    Adapter, Add, ConfigEdit, ConfigValue, Edit, Lora, LoraForm, Origin, Remove, Set, SetDtype, Target,
    TensorName,
};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

/// The tensor that generated adapters change.
pub const NAME: &str = "m.weight";

/// Numbers as they are stored.
pub fn bytes_of(dtype: Dtype, values: &[f64]) -> Vec<u8> {
    let one = |value: &f64| match dtype {
        Dtype::F64 => value.to_le_bytes().to_vec(),
        Dtype::F32 => (*value as f32).to_le_bytes().to_vec(),
        Dtype::F16 => half::f16::from_f64(*value).to_le_bytes().to_vec(),
        Dtype::BF16 => half::bf16::from_f64(*value).to_le_bytes().to_vec(),
        Dtype::I64 => (*value as i64).to_le_bytes().to_vec(),
        Dtype::U32 => (*value as u32).to_le_bytes().to_vec(),
        Dtype::U8 | Dtype::F8_E4M3 => vec![*value as u8],
        other => panic!("{other} is not used in tests"),
    };
    values.iter().flat_map(one).collect()
}

/// Stored numbers as they are.
pub fn values_of(dtype: Dtype, bytes: &[u8]) -> Vec<f64> {
    let size = dtype.bytes().unwrap();
    let one = |bytes: &[u8]| match dtype {
        Dtype::F64 => f64::from_le_bytes(bytes.try_into().unwrap()),
        Dtype::F32 => f64::from(f32::from_le_bytes(bytes.try_into().unwrap())),
        Dtype::F16 => half::f16::from_le_bytes(bytes.try_into().unwrap()).to_f64(),
        Dtype::BF16 => half::bf16::from_le_bytes(bytes.try_into().unwrap()).to_f64(),
        Dtype::I64 => i64::from_le_bytes(bytes.try_into().unwrap()) as f64,
        Dtype::U32 => f64::from(u32::from_le_bytes(bytes.try_into().unwrap())),
        Dtype::U8 | Dtype::F8_E4M3 => f64::from(bytes[0]),
        other => panic!("{other} is not used in tests"),
    };
    bytes.chunks_exact(size).map(one).collect()
}

pub fn tensor(dtype: Dtype, dims: &[u64], values: &[f64]) -> Tensor<'static> {
    Tensor::owned(dtype, Shape::new(dims).unwrap(), bytes_of(dtype, values)).unwrap()
}

/// A tensor of reproducible numbers in (-1, 1).
pub fn noise(dtype: Dtype, dims: &[u64], seed: u64) -> Tensor<'static> {
    let count = dims.iter().product::<u64>() as usize;
    tensor(dtype, dims, &numbers(count, seed))
}

/// SplitMix64.
pub fn numbers(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// A base as a safetensors buffer.
pub fn base_bytes(tensors: &[(&str, Tensor<'static>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let items = tensors.iter().map(|(name, tensor)| ((*name).to_owned(), tensor));
    write_container(&BTreeMap::new(), items, &mut bytes).unwrap();
    bytes
}

pub fn config(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

pub fn checkpoint(bytes: &[u8]) -> MemoryCheckpoint<'_> {
    MemoryCheckpoint::new(bytes, None).unwrap()
}

type Room = BTreeMap<String, (Vec<u8>, Vec<bool>)>;

/// A new checkpoint in memory. Every byte must be written exactly once.
pub struct MemorySink<'b> {
    base: &'b dyn Checkpoint,
    infos: BTreeMap<String, TensorInfo>,
    /// Bytes of each tensor, and which of them were written.
    tensors: Mutex<Room>,
}

impl<'b> MemorySink<'b> {
    pub fn new<'t>(base: &'b dyn Checkpoint, tensors: impl Iterator<Item = &'t OutputTensor>) -> Self {
        let mut infos = BTreeMap::new();
        let mut room = BTreeMap::new();
        for tensor in tensors {
            let len = tensor.info.shape.byte_len(tensor.info.dtype).unwrap() as usize;
            infos.insert(tensor.name.clone(), tensor.info.clone());
            room.insert(tensor.name.clone(), (vec![0; len], vec![false; len]));
        }
        Self { base, infos, tensors: Mutex::new(room) }
    }

    pub fn finish(self) -> BTreeMap<String, Written> {
        let tensors = self.tensors.into_inner().unwrap();
        let each = tensors.into_iter().map(|(name, (bytes, written))| {
            assert!(written.iter().all(|written| *written), "{name} has a hole");
            let info = self.infos[&name].clone();
            (name, Written { info, bytes })
        });
        each.collect()
    }
}

/// A tensor of a result.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    pub info: TensorInfo,
    pub bytes: Vec<u8>,
}

impl Written {
    pub fn values(&self) -> Vec<f64> {
        values_of(self.info.dtype, &self.bytes)
    }

    pub fn dims(&self) -> &[u64] {
        self.info.shape.dims()
    }
}

impl CheckpointSink for MemorySink<'_> {
    fn write(&self, name: &str, at: u64, bytes: &[u8]) -> Result<(), CheckpointError> {
        let mut tensors = self.tensors.lock().unwrap();
        let (room, written) = tensors.get_mut(name).ok_or_else(|| CheckpointError::missing(name))?;
        let range = at as usize..at as usize + bytes.len();
        assert!(written[range.clone()].iter().all(|written| !written), "{name} is written twice");
        written[range.clone()].fill(true);
        room[range].copy_from_slice(bytes);
        Ok(())
    }

    fn copy(&self, name: &str, from: &str) -> Result<(), CheckpointError> {
        self.write(name, 0, &self.base.read(from)?)
    }
}

pub fn input<'a>(adapter: &'a Adapter<'a>, weight: f64) -> Input<'a> {
    Input { adapter, weight, name: "adapter".to_owned() }
}

/// Plans and executes.
pub fn apply(
    inputs: &[Input<'_>],
    base: &dyn Checkpoint,
    options: &Options,
) -> (BTreeMap<String, Written>, Outcome) {
    let plan = Plan::new(inputs, base, options).unwrap();
    run(&plan, base)
}

pub fn run(plan: &Plan<'_>, base: &dyn Checkpoint) -> (BTreeMap<String, Written>, Outcome) {
    let sink = MemorySink::new(base, plan.tensors());
    let outcome = execute(plan, base, &sink, &|_| {}, &AtomicBool::new(false)).unwrap();
    (sink.finish(), outcome)
}

/// One adapter at weight 1.
pub fn apply_one(adapter: &Adapter<'_>, base: &dyn Checkpoint) -> BTreeMap<String, Written> {
    apply(&[input(adapter, 1.0)], base, &Options::default()).0
}

pub fn name(text: &str) -> TensorName {
    TensorName::new(text).unwrap()
}

pub fn target(text: &str) -> Target {
    Target::whole(name(text))
}

pub fn adapter(edits: Vec<Edit<'static>>) -> Adapter<'static> {
    Adapter { edits, ..Adapter::default() }
}

pub fn lora(text: &str, scale: f64, up: Tensor<'static>, down: Tensor<'static>) -> Lora<'static> {
    Lora {
        target: target(text),
        form: LoraForm::Matrix,
        transposed: false,
        scale,
        up,
        down,
        mid: None,
        magnitude: None,
        origin: Origin::default(),
    }
}

pub fn set(text: &str, dtype: SetDtype, value: Tensor<'static>) -> Set<'static> {
    Set {
        target: target(text),
        dtype,
        create: false,
        reshape: false,
        value,
        rows: None,
        origin: Origin::default(),
    }
}

pub fn add(text: &str, scale: f64, value: Tensor<'static>) -> Add<'static> {
    Add { target: target(text), scale, value, exceptions: None, origin: Origin::default() }
}

pub fn remove(text: &str) -> Edit<'static> {
    Edit::Remove(Remove { target: target(text), origin: Origin::default() })
}

pub fn config_edit(value: ConfigValue) -> Edit<'static> {
    Edit::Config(ConfigEdit { component: None, value, origin: Origin::default() })
}

/// The distance of two neighbours of `value` in a dtype.
pub fn spacing(dtype: Dtype, value: f64) -> f64 {
    let (digits, least) = match dtype {
        Dtype::BF16 => (7, -126),
        Dtype::F16 => (10, -14),
        Dtype::F32 => (23, -126),
        _ => (52, -1022),
    };
    let exponent = if value == 0.0 { least } else { (value.abs().log2().floor() as i32).max(least) };
    2f64.powi(exponent - digits)
}
