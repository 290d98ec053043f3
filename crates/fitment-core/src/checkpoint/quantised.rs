//! Bases whose weights are not plain numbers, known by their config or by the names and dtypes of their tensors.

use super::{Checkpoint, TensorInfo};
use crate::tensor::Dtype;
use std::collections::BTreeMap;
use std::fmt;

/// How a base is quantised.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scheme {
    /// bitsandbytes, 4 or 8 bits.
    Bitsandbytes,
    /// GPTQ.
    Gptq,
    /// AWQ.
    Awq,
    /// MXFP4 blocks.
    Mxfp4,
    /// A GGUF file.
    Gguf,
    /// What the config calls it.
    Other(String),
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scheme::Bitsandbytes => "bitsandbytes",
            Scheme::Gptq => "GPTQ",
            Scheme::Awq => "AWQ",
            Scheme::Mxfp4 => "MXFP4",
            Scheme::Gguf => "GGUF",
            Scheme::Other(name) => name,
        })
    }
}

/// The scheme of a quantised base and what shows it; `None` for a base of plain weights.
pub fn find(base: &dyn Checkpoint) -> Option<(Scheme, String)> {
    by_config(base).or_else(|| by_tensors(base.tensors()))
}

fn by_config(base: &dyn Checkpoint) -> Option<(Scheme, String)> {
    let config = base.config()?;
    let quantization = config.get("quantization_config").filter(|value| !value.is_null())?;
    let text = |key: &str| quantization.get(key).and_then(|value| value.as_str());
    let name = text("quant_method").unwrap_or("no quant_method given");
    let is_bitsandbytes = ["load_in_4bit", "load_in_8bit"].iter().any(|key| quantization.get(key).is_some());
    let scheme = match name {
        "bitsandbytes" | "bitsandbytes_4bit" | "bitsandbytes_8bit" => Scheme::Bitsandbytes,
        "gptq" => Scheme::Gptq,
        "awq" => Scheme::Awq,
        "mxfp4" => Scheme::Mxfp4,
        "gguf" => Scheme::Gguf,
        _ if is_bitsandbytes => Scheme::Bitsandbytes,
        other => Scheme::Other(other.to_owned()),
    };
    Some((scheme, "quantization_config in config.json".to_owned()))
}

fn by_tensors(tensors: &BTreeMap<String, TensorInfo>) -> Option<(Scheme, String)> {
    let has = |stem: &str, part: &str| tensors.contains_key(&format!("{stem}{part}"));
    tensors.iter().find_map(|(name, info)| {
        let scheme = if name.contains(".weight.quant_state.") || name.ends_with(".weight.absmax") {
            Scheme::Bitsandbytes
        } else if let Some(stem) = name.strip_suffix(".SCB") {
            has(stem, ".weight").then_some(Scheme::Bitsandbytes)?
        } else if let Some(stem) = name.strip_suffix(".qweight") {
            // Both store qzeros and scales; only GPTQ stores the group of each input, or packs along the input axis.
            let gptq = has(stem, ".g_idx") || !packed_along_output(tensors, stem, info);
            if gptq { Scheme::Gptq } else { Scheme::Awq }
        } else if let Some(stem) = name.strip_suffix("_blocks") {
            (info.dtype == Dtype::U8 && has(stem, "_scales")).then_some(Scheme::Mxfp4)?
        } else {
            return None;
        };
        Some((scheme, format!("tensor {name}")))
    })
}

/// AWQ packs eight outputs in one integer: `qweight [in, out/8]` beside `scales [groups, out]`.
fn packed_along_output(tensors: &BTreeMap<String, TensorInfo>, stem: &str, qweight: &TensorInfo) -> bool {
    let last = |info: &TensorInfo| info.shape.dims().last().copied();
    let scales = tensors.get(&format!("{stem}.scales")).and_then(last);
    matches!((last(qweight), scales), (Some(packed), Some(outputs)) if packed < outputs)
}

#[cfg(test)]
mod tests {
    use super::{Scheme, by_tensors};
    use crate::checkpoint::TensorInfo;
    use crate::tensor::{Dtype, Shape};

    fn scheme(tensors: &[(&str, Dtype, &[u64])]) -> Option<Scheme> {
        let info = |(name, dtype, dims): &(&str, Dtype, &[u64])| {
            ((*name).to_owned(), TensorInfo { dtype: *dtype, shape: Shape::new(dims).unwrap() })
        };
        by_tensors(&tensors.iter().map(info).collect()).map(|(scheme, _)| scheme)
    }

    #[test]
    fn gptq_packs_inputs_and_awq_packs_outputs() {
        let scales: (&str, Dtype, &[u64]) = ("a.scales", Dtype::F16, &[4, 64]);
        assert_eq!(scheme(&[("a.qweight", Dtype::I32, &[16, 64]), scales]), Some(Scheme::Gptq));
        assert_eq!(scheme(&[("a.qweight", Dtype::I32, &[128, 8]), scales]), Some(Scheme::Awq));
    }

    #[test]
    fn blocks_need_their_scales() {
        let blocks: (&str, Dtype, &[u64]) = ("up_blocks", Dtype::U8, &[4, 16]);
        assert_eq!(scheme(&[blocks]), None);
        assert_eq!(scheme(&[blocks, ("up_scales", Dtype::U8, &[4])]), Some(Scheme::Mxfp4));
    }

    #[test]
    fn plain_weights_are_not_quantised() {
        assert_eq!(scheme(&[("a.weight", Dtype::BF16, &[4, 4])]), None);
        let absmax: (&str, Dtype, &[u64]) = ("a.weight.absmax", Dtype::F32, &[4]);
        assert_eq!(scheme(&[absmax, ("a.weight", Dtype::U8, &[8, 1])]), Some(Scheme::Bitsandbytes));
    }
}
