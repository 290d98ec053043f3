//! A GGUF model as a base: tensors by transformers' names, in transformers' order of rows.

use super::architectures::Architecture;
use super::container::{Head, Line};
use super::control;
use super::facts::Facts;
use super::ggml::TensorType;
use super::quants::{dequantised, is_known};
use super::value::Value as Metadatum;
use crate::error::Error;
use crate::pass::gather::gathered;
use crate::pass::rows::{RowOrder, undone};
use fitment_core::checkpoint::{CheckpointError, TensorInfo};
use fitment_core::limits::{MAX_EXPERTS, MAX_TENSORS};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// The header of a model's file, understood: what there is, where it lies, and how it is turned.
///
/// Quantised tensors are F32 here, dequantised when they are read; [`Model::quantised`] tells them.
#[derive(Debug)]
pub struct Model {
    config: Map<String, Value>,
    tensors: BTreeMap<String, TensorInfo>,
    places: BTreeMap<String, Place>,
    unnamed: Vec<String>,
}

/// Where a tensor lies in the file, and what makes it that of transformers.
#[derive(Clone, Debug)]
struct Place {
    range: Range<u64>,
    kind: TensorType,
    /// Extents in the file, slowest first.
    dims: Vec<u64>,
    order: Option<RowOrder>,
    transposed: bool,
    /// Norms of Gemma: the file holds one more than transformers adds itself.
    less_one: bool,
}

/// Tensors that are computed from the config in transformers, and stored nowhere.
const COMPUTED: &[&str] = &["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];

const GEMMAS: &[&str] = &["gemma", "gemma2", "gemma3"];

impl Model {
    /// Reads the header: `start` is the file up to its data, or more of it, `len` the length of the file.
    ///
    /// # Errors
    /// [`Error::Malformed`] by a rule of [`rules`](super::rules); [`Error::Unsupported`] for a file that is no model, one part of several, or of
    /// an architecture whose names are not known here; [`Error::Ambiguous`] where the numbers of heads are missing.
    pub fn read(start: &[u8], len: u64) -> Result<Self, Error> {
        let malformed = |finding| Error::Malformed { findings: vec![finding] };
        let head = Head::of_model(start).map_err(malformed)?;
        check_kind(&head)?;
        let facts = Facts::of_metadata(&head.metadata).map_err(|name| {
            let name = name.map_or("no architecture".to_owned(), |name| crate::error::one_line(&name));
            unsupported(
                &format!("a GGUF model of {name}"),
                "its tensors' names in transformers are not known here",
            )
        })?;
        let mut model = Self {
            config: Map::new(),
            tensors: BTreeMap::new(),
            places: BTreeMap::new(),
            unnamed: Vec::new(),
        };
        let data =
            head.data_start().ok_or_else(|| unsupported("the GGUF model", "its header is too long"))?;
        let names: BTreeSet<&str> = head.lines.iter().map(|line| &*line.name).collect();
        for line in &head.lines {
            let start = data.checked_add(line.offset);
            let range = start.and_then(|start| Some(start..start.checked_add(line.len)?));
            let range = range.filter(|range| range.end <= len).ok_or_else(|| {
                let message = format!("its {} bytes lie behind the end of the file", line.len);
                malformed(fitment_core::Finding::new(&super::rules::G_TRUNCATED, &*line.name, message))
            })?;
            model.add(line, range, &names, &facts)?;
        }
        model.config = config(&head, &facts);
        Ok(model)
    }

    /// What is known of the model: some keys of `config.json`, and all single values of the file's metadata.
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    /// Every tensor.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// The type of a tensor that is quantised.
    pub fn quantised(&self, name: &str) -> Option<&'static str> {
        self.places.get(name).filter(|place| place.kind.dtype.is_none()).map(|place| place.kind.name)
    }

    /// Tensors that have no name in transformers known here, and are not [`Model::tensors`].
    pub fn unnamed(&self) -> &[String] {
        &self.unnamed
    }

    /// Where a tensor's bytes lie in the file.
    pub fn range(&self, name: &str) -> Option<Range<u64>> {
        self.places.get(name).map(|place| place.range.clone())
    }

    /// A tensor as transformers has it, from its bytes in the file.
    ///
    /// # Errors
    /// [`CheckpointError`] for no such tensor, for other bytes than those of [`Model::range`], and for types that are not dequantised here.
    pub fn decode<'b>(&self, name: &str, bytes: &'b [u8]) -> Result<Cow<'b, [u8]>, CheckpointError> {
        let place = self.places.get(name).ok_or_else(|| CheckpointError::missing(name))?;
        let failed = |reason: String| CheckpointError { name: name.to_owned(), reason, source: None };
        let plain = match place.kind.dtype {
            Some(_) => Cow::Borrowed(bytes),
            None if is_known(place.kind) => {
                let values = dequantised(place.kind, bytes);
                Cow::Owned(values.ok_or_else(|| failed("has other bytes than its type asks for".to_owned()))?)
            }
            None => return Err(failed(format!("is {}, which is not dequantised here", place.kind.name))),
        };
        if place.order.is_none() && !place.transposed && !place.less_one {
            return Ok(plain);
        }
        let turned = place.turned(&plain);
        turned
            .map(Cow::Owned)
            .ok_or_else(|| failed("does not have the extents that its rows ask for".to_owned()))
    }

    fn add(
        &mut self,
        line: &Line,
        range: Range<u64>,
        names: &BTreeSet<&str>,
        facts: &Facts,
    ) -> Result<(), Error> {
        let architecture = facts.architecture;
        let parts = line.name.rsplit_once('.').filter(|(_, part)| matches!(*part, "weight" | "bias"));
        let named = parts.and_then(|(stem, part)| Some((stem, part, module(architecture, stem, names)?)));
        let Some((stem, part, module)) = named else {
            self.unnamed.extend((!COMPUTED.contains(&&*line.name)).then(|| line.name.clone()));
            return Ok(());
        };
        let is_block = stem.starts_with("blk.");
        let mut place = Place {
            range,
            kind: line.kind,
            dims: line.dims.clone(),
            order: super::lora::order_of(facts, stem)?,
            transposed: architecture.conv1d && is_block && line.dims.len() == 2,
            less_one: GEMMAS.contains(&architecture.name) && stem.ends_with("_norm") && part == "weight",
        };
        let Some((before, after)) = module.split_once("{e}") else {
            return self.insert(format!("{module}.{part}"), place);
        };
        let Some((count, dims)) = line.dims.split_first() else { return Ok(()) };
        let Some(each) = line.len.checked_div(*count) else { return Ok(()) };
        place.dims = dims.to_vec();
        for expert in 0..(*count).min(MAX_EXPERTS) {
            // Below the end of the stack, which lies inside the file.
            let start = place.range.start + expert * each;
            let one = Place { range: start..start + each, ..place.clone() };
            self.insert(format!("{before}{expert}{after}.{part}"), one)?;
        }
        Ok(())
    }

    fn insert(&mut self, name: String, place: Place) -> Result<(), Error> {
        // A lying number of experts must not fill the memory.
        if self.tensors.len() >= MAX_TENSORS {
            return Err(unsupported("the GGUF model", &format!("it has over {MAX_TENSORS} tensors")));
        }
        let mut dims = place.dims.clone();
        if place.transposed {
            dims.reverse();
        }
        let invalid = |source| fitment_core::Error::Shape { name: name.clone(), source };
        let shape = Shape::new(&dims).map_err(invalid)?;
        let dtype = place.kind.dtype.unwrap_or(Dtype::F32);
        self.tensors.insert(name.clone(), TensorInfo { dtype, shape });
        self.places.insert(name, place);
        Ok(())
    }
}

impl Place {
    /// The elements in transformers' order.
    fn turned(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let dtype = self.kind.dtype.unwrap_or(Dtype::F32);
        let mut tensor = Tensor::borrowed(dtype, Shape::new(&self.dims).ok()?, bytes).ok()?;
        if let Some(order) = self.order {
            let sources: Vec<Option<usize>> =
                undone(&order.sources(*self.dims.first()?)?).into_iter().map(Some).collect();
            tensor = gathered(&tensor, 0, &sources)?;
        }
        if self.transposed {
            tensor = tensor.transposed()?;
        }
        if !self.less_one {
            return Some(tensor.bytes().to_vec());
        }
        if dtype != Dtype::F32 {
            return None;
        }
        let less = |four: &[u8; 4]| (f32::from_le_bytes(*four) - 1.0).to_le_bytes();
        Some(tensor.bytes().as_chunks::<4>().0.iter().flat_map(less).collect())
    }
}

fn unsupported(what: &str, reason: &str) -> Error {
    Error::Unsupported {
        what: what.to_owned(),
        reason: reason.to_owned(),
        hint: "name the Hugging Face folder that it was made from".to_owned(),
    }
}

fn check_kind(head: &Head) -> Result<(), Error> {
    let kind = head.get("general.type").and_then(Metadatum::as_text);
    if let Some(other) = kind.filter(|kind| *kind != "model") {
        let reason = format!("is of type {}, not a model", crate::error::one_line(other));
        return Err(unsupported("the GGUF file", &reason));
    }
    match head.get("split.count").and_then(Metadatum::as_count) {
        Some(count) if count > 1 => Err(Error::Unsupported {
            what: "the GGUF file".to_owned(),
            reason: format!("is one of {count} parts of a model"),
            hint: "put them together with `llama-gguf-split --merge`".to_owned(),
        }),
        _ => Ok(()),
    }
}

/// The module of transformers behind a stem.
fn module(architecture: &Architecture, stem: &str, names: &BTreeSet<&str>) -> Option<String> {
    let module = architecture.module(stem)?;
    // Falcon with norms of their own for both halves of a block calls this one otherwise.
    let beside = format!("{stem}_2.weight");
    match module.strip_suffix("input_layernorm") {
        Some(block) if architecture.name == "falcon" && names.contains(&*beside) => {
            Some(format!("{block}ln_mlp"))
        }
        _ => Some(module),
    }
}

/// What `config.json` would say, as far as it is known, and the metadata by their own keys.
fn config(head: &Head, facts: &Facts) -> Map<String, Value> {
    let mut config = Map::new();
    for (key, value) in &head.metadata {
        let value = match value {
            Metadatum::Text(text) => json!(text),
            Metadatum::Bool(flag) => json!(flag),
            Metadatum::F32(number) => json!(number),
            Metadatum::F64(number) => json!(number),
            other => other.as_count().map_or(Value::Null, |number| json!(number)),
        };
        if key.contains('.') && !value.is_null() {
            config.insert(key.clone(), value);
        }
    }
    let architecture = facts.architecture;
    let count = |key: &str| head.get(&format!("{}.{key}", architecture.name)).and_then(Metadatum::as_count);
    let has = |name: &str| head.lines.iter().any(|line| line.name == name);
    let rows = |name: &str| head.lines.iter().find(|line| line.name == name)?.dims.first().copied();
    let is_mixture = facts.numbers.experts.is_some_and(|experts| experts > 0);
    let model_type = match architecture.model_types {
        [only] => Some(*only),
        _ if architecture.name == "llama" => is_mixture.then_some("mixtral"),
        _ => None,
    };
    let key_heads = if architecture.name == "falcon" { "num_kv_heads" } else { "num_key_value_heads" };
    let experts = if architecture.name == "llama" { "num_local_experts" } else { "num_experts" };
    let known = [
        ("num_attention_heads", facts.numbers.heads),
        (key_heads, facts.numbers.key_heads),
        ("head_dim", facts.numbers.head_width),
        (experts, facts.numbers.experts.filter(|_| is_mixture)),
        ("hidden_size", count("embedding_length")),
        ("intermediate_size", count("feed_forward_length")),
        ("num_hidden_layers", count("block_count")),
        ("vocab_size", rows("token_embd.weight")),
    ];
    config.extend(known.into_iter().filter_map(|(key, number)| Some((key.to_owned(), json!(number?)))));
    config.extend(model_type.map(|name| ("model_type".to_owned(), json!(name))));
    config.insert("tie_word_embeddings".to_owned(), json!(!has("output.weight")));
    config.insert(control::ARCHITECTURE.to_owned(), json!(architecture.name));
    config
}
