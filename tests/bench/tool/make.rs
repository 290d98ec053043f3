//! Random base and adapter, always the same ones.

use crate::model::{self, ALPHA, LAYERS, LINEAR, SHARD_BYTES};
use fitment_core::checkpoint::Checkpoint;
use fitment_core::container::Layout;
use fitment_core::identity::sha256;
use fitment_core::model::{Adapter, Base, BaseTensor, Edit, Lora, LoraForm, Origin, Target, TensorName};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_io::{Access, CheckpointDir};
use serde_json::json;
use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// SplitMix64.
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Near a normal distribution of that deviation: four uniform numbers summed.
    pub(crate) fn normal(&mut self, deviation: f32) -> f32 {
        let bits = self.next();
        let sum: i32 = (0..4).map(|part| i32::from((bits >> (16 * part)) as u16)).sum();
        // Each part has the variance 65536²/12.
        (sum - 2 * 65535) as f32 * (deviation / (65536.0 / 3f32.sqrt()))
    }
}

/// Writes the base's folder.
pub(crate) fn base(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let mut shards: Vec<Vec<(String, Shape)>> = vec![Vec::new()];
    let (mut filled, mut total) = (0, 0);
    for (name, dims) in model::tensors() {
        let shape = Shape::new(&dims)?;
        let len = shape.byte_len(Dtype::BF16)?;
        if filled + len > SHARD_BYTES {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += len;
        total += len;
        shards.last_mut().ok_or("no shard")?.push((name, shape));
    }
    let mut map = BTreeMap::new();
    for (number, tensors) in shards.iter().enumerate() {
        let file = format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len());
        write_shard(&folder.join(&file), tensors)?;
        map.extend(tensors.iter().map(|(name, _)| (name.clone(), file.clone())));
    }
    let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
    let text = serde_json::to_string_pretty(&index)? + "\n";
    fs::write(folder.join("model.safetensors.index.json"), text)?;
    fs::write(folder.join("config.json"), model::config())?;
    Ok(())
}

fn write_shard(path: &Path, tensors: &[(String, Shape)]) -> Result<()> {
    let items = tensors.iter().map(|(name, shape)| (name.clone(), Dtype::BF16, shape.clone()));
    let layout = Layout::canonical([("format", "pt")], items);
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    out.write_all(&layout.head)?;
    for entry in &layout.entries {
        let mut noise = Noise(entry.name.bytes().fold(7, |seed, byte| seed * 31 + u64::from(byte)));
        let norm = entry.shape.axes() == 1;
        for _ in 0..entry.shape.elements() {
            let value = if norm { 1.0 + noise.normal(0.1) } else { noise.normal(0.02) };
            out.write_all(&((value.to_bits() >> 16) as u16).to_le_bytes())?;
        }
    }
    out.into_inner()?.sync_all()?;
    Ok(())
}

/// Writes an adapter of every linear module, the same for the same seed and rank, as PEFT would and as a Fitment file bound to the
/// base.
pub(crate) fn adapter(base: &Path, peft: &Path, file: &Path, (seed, rank): (u64, u64)) -> Result<()> {
    let checkpoint = CheckpointDir::open(base, Access::Map)?;
    let mut adapter = Adapter::default();
    let mut stored = BTreeMap::new();
    for layer in 0..LAYERS {
        for (module, rows, columns) in LINEAR {
            let path = format!("model.layers.{layer}.{module}");
            let up = factor(&[*rows, rank], &path, 2 * seed + 1)?;
            let down = factor(&[rank, *columns], &path, 2 * seed + 2)?;
            let key = |role: &str| format!("base_model.model.{path}.{role}.weight");
            stored.insert(key("lora_B"), up.clone());
            stored.insert(key("lora_A"), down.clone());
            adapter.edits.push(Edit::Lora(Lora {
                target: Target::whole(TensorName::new(format!("{path}.weight"))?),
                form: LoraForm::Matrix,
                transposed: false,
                scale: ALPHA / rank as f64,
                up,
                down,
                mid: None,
                magnitude: None,
                origin: Origin::default(),
            }));
        }
    }
    adapter.base = bound(&checkpoint, &adapter)?;
    fs::create_dir_all(peft)?;
    fs::write(peft.join("adapter_config.json"), model::adapter_config(rank))?;
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut out = BufWriter::new(File::create(peft.join("adapter_model.safetensors"))?);
    let items = stored.iter().map(|(name, tensor)| (name.clone(), tensor));
    fitment_core::container::write_container(&metadata, items, &mut out)?;
    out.flush()?;
    let mut out = BufWriter::new(File::create(file)?);
    fitment_core::write(&adapter, &mut out)?;
    out.flush()?;
    Ok(())
}

fn factor(dims: &[u64], path: &str, salt: u64) -> Result<Tensor<'static>> {
    let mut noise = Noise(path.bytes().fold(salt, |seed, byte| seed.wrapping_mul(131) + u64::from(byte)));
    let shape = Shape::new(dims)?;
    let bytes: Vec<u8> = (0..shape.elements()).flat_map(|_| noise.normal(0.02).to_le_bytes()).collect();
    Ok(Tensor::owned(Dtype::F32, shape, bytes)?)
}

fn bound(checkpoint: &CheckpointDir, adapter: &Adapter<'_>) -> Result<Base> {
    let mut tensors = Vec::new();
    for target in adapter.edits.iter().filter_map(Edit::target) {
        let info = checkpoint.tensors().get(target.name.as_str()).ok_or("no such tensor")?;
        tensors.push(BaseTensor {
            unchanged: false,
            component: None,
            name: target.name.clone(),
            experts: None,
            dtype: Some(info.dtype),
            shape: Some(info.shape.clone()),
            digests: vec![sha256(&checkpoint.read(target.name.as_str())?)],
            extra: serde_json::Map::new(),
        });
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Base { name: Some("base".to_owned()), tensors, ..Base::default() })
}
