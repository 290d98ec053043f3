//! A file with a header of a given size: many low-rank edits, as a conversion from PEFT writes them, bound to their base.

use crate::model::{ALPHA, LINEAR};
use fitment_core::identity::sha256;
use fitment_core::model::{Adapter, Base, BaseTensor, Edit, Lora, LoraForm, Origin, Target, TensorName};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;

/// Layers of the adapter from which the size of one is known.
const SAMPLE: usize = 32;

/// Writes a file whose header has at most that many KiB and hardly less, and says what it became.
pub(crate) fn make(kib: &str, file: &Path) -> Result<(), Box<dyn Error>> {
    let limit = kib.parse::<usize>()? << 10;
    // Later layers have longer numbers, so this is a few too many.
    let mut layers = limit * SAMPLE / header_len(&fitment_core::to_bytes(&adapter(SAMPLE)?)?);
    let bytes = loop {
        let bytes = fitment_core::to_bytes(&adapter(layers)?)?;
        if header_len(&bytes) <= limit {
            break bytes;
        }
        layers -= 1;
    };
    fs::write(file, &bytes)?;
    println!("{} edits, {} header bytes", layers * LINEAR.len(), header_len(&bytes));
    Ok(())
}

fn header_len(file: &[u8]) -> usize {
    file.first_chunk::<8>().map_or(0, |length| u64::from_le_bytes(*length) as usize)
}

fn adapter(layers: usize) -> Result<Adapter<'static>, Box<dyn Error>> {
    let mut adapter = Adapter::default();
    let mut tensors = Vec::new();
    for layer in 0..layers {
        for (module, rows, columns) in LINEAR {
            let path = format!("model.layers.{layer}.{module}");
            let name = TensorName::new(format!("{path}.weight"))?;
            let key = |role: &str| format!("base_model.model.{path}.{role}.weight");
            let keys = [("up", key("lora_B")), ("down", key("lora_A"))];
            // Rank 1: the size of the data does not matter here, only that of the header.
            let factor = |dims: &[u64]| {
                let shape = Shape::new(dims)?;
                let len = usize::try_from(shape.byte_len(Dtype::BF16)?).unwrap_or(0);
                Tensor::owned(Dtype::BF16, shape, vec![0x3c; len])
            };
            adapter.edits.push(Edit::Lora(Lora {
                target: Target::whole(name.clone()),
                form: LoraForm::Matrix,
                transposed: false,
                scale: ALPHA,
                up: factor(&[*rows, 1])?,
                down: factor(&[1, *columns])?,
                mid: None,
                magnitude: None,
                origin: Origin {
                    alpha: Some(ALPHA),
                    rank: Some(1),
                    keys: keys.map(|(role, key)| (role.to_owned(), key)).into(),
                    ..Origin::default()
                },
            }));
            tensors.push(BaseTensor {
                unchanged: false,
                component: None,
                digests: vec![sha256(name.as_str().as_bytes())],
                name,
                experts: None,
                dtype: Some(Dtype::BF16),
                shape: Some(Shape::new(&[*rows, *columns])?),
                extra: serde_json::Map::new(),
            });
        }
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    adapter.base = Base { name: Some("base".to_owned()), tensors, tied: BTreeMap::new(), ..Base::default() };
    Ok(adapter)
}
