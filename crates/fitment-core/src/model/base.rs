use super::{ComponentName, TensorName};
use crate::model::ExpertRange;
use crate::tensor::{Dtype, Shape};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// SHA-256.
pub type Digest = [u8; 32];

/// The base checkpoint that an adapter was made for (spec section 6). Bound when digests are there.
#[derive(Clone, Debug, Default)]
pub struct Base {
    /// Hub id or path by which its maker knew it.
    pub name: Option<String>,
    /// Revision of that name.
    pub revision: Option<String>,
    /// `architectures[0]` of the model's config.
    pub architecture: Option<String>,
    /// How the checkpoint names its tensors.
    pub layout: Layout,
    /// Config values that conversions need (`tie_word_embeddings`, `vocab_size`, head counts).
    pub config: Map<String, Value>,
    /// Tied tensors: name on disk → names of its other uses when untied.
    pub tied: BTreeMap<TensorName, Vec<TensorName>>,
    /// Every touched tensor, sorted by component, name and experts.
    pub tensors: Vec<BaseTensor>,
    /// Unknown optional fields, kept.
    pub extra: Map<String, Value>,
}

impl Base {
    /// Whether digests are recorded: for all tensors, or for none.
    pub fn is_bound(&self) -> bool {
        self.tensors.iter().any(|tensor| !tensor.digests.is_empty())
    }

    /// The entry that covers a base tensor of that name, and the row of its digest inside the entry.
    pub fn find(&self, component: Option<&ComponentName>, name: &str) -> Option<(&BaseTensor, usize)> {
        self.tensors.iter().filter(|tensor| tensor.component.as_ref() == component).find_map(|tensor| {
            match tensor.experts {
                None => (tensor.name.as_str() == name).then_some((tensor, 0)),
                Some(range) => {
                    let (before, after) = tensor.name.as_str().split_once("{e}")?;
                    let number = name.strip_prefix(before)?.strip_suffix(after)?;
                    let expert: u64 = number.parse().ok()?;
                    let inside = (range.start..range.end).contains(&expert) && expert.to_string() == number;
                    inside.then(|| (tensor, usize::try_from(expert - range.start).unwrap_or(usize::MAX)))
                }
            }
        })
    }
}

/// One touched base tensor, or a bundle of equal ones.
#[derive(Clone, Debug)]
pub struct BaseTensor {
    /// Part of a pipeline.
    pub component: Option<ComponentName>,
    /// Name on disk, with `{e}` for a bundle.
    pub name: TensorName,
    /// The experts of a bundle.
    pub experts: Option<ExpertRange>,
    /// Dtype, when known.
    pub dtype: Option<Dtype>,
    /// Shape, when known or inferred.
    pub shape: Option<Shape>,
    /// SHA-256 of the raw bytes, one for each tensor of the entry; empty when unbound.
    pub digests: Vec<Digest>,
    /// The tuned checkpoint has the same bits: no edit touches it, and it was not forgotten.
    pub unchanged: bool,
    /// Unknown optional fields, kept.
    pub extra: Map<String, Value>,
}

/// How a checkpoint names its tensors.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Layout {
    /// transformers' names.
    #[default]
    Hf,
    /// A diffusers pipeline or model.
    Diffusers,
    /// The original latent-diffusion single file.
    Ldm,
    /// A GGUF file of that architecture.
    Gguf(String),
}

impl Layout {
    /// The wire form.
    pub fn to_text(&self) -> String {
        match self {
            Layout::Hf => "hf".to_owned(),
            Layout::Diffusers => "diffusers".to_owned(),
            Layout::Ldm => "ldm".to_owned(),
            Layout::Gguf(architecture) => format!("gguf:{architecture}"),
        }
    }

    /// Reads the wire form.
    pub fn from_text(text: &str) -> Option<Self> {
        match text {
            "hf" => Some(Layout::Hf),
            "diffusers" => Some(Layout::Diffusers),
            "ldm" => Some(Layout::Ldm),
            other => other
                .strip_prefix("gguf:")
                .filter(|name| !name.is_empty())
                .map(|name| Layout::Gguf(name.to_owned())),
        }
    }
}
