use super::folder::CONFIG;
use super::read::{kept, kept_config};
use crate::error::Error;
use crate::files::{Content, OutputFile};
use crate::loss::Loss;
use crate::write::{WriteOptions, Written};
use fitment_core::Adapter;
use fitment_core::model::{Add, Edit};
use fitment_core::tensor::{Bytes, Dtype, Tensor};
use fitment_math::round::{narrowed, widened};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

const WEIGHTS: &str = "model.safetensors";

/// Writes a folder that `fastchat.model.apply_delta` 0.2.36 adds to its base: every tensor of the base, in F16, zero where
/// nothing changes.
///
/// # Errors
/// [`Error::Unsupported`] when nothing of the adapter can be held; [`Error::Ambiguous`] without a base, unless the adapter
/// came from such a folder; [`Error::Mismatch`] is the matter of `apply`.
pub fn write<'a>(adapter: &Adapter<'a>, options: &WriteOptions<'_>) -> Result<Written<'a>, Error> {
    let is_own = adapter.source.as_ref().is_some_and(|source| source.format == "fastchat");
    let (mut losses, mut tensors) = (Vec::new(), BTreeMap::new());
    for edit in &adapter.edits {
        match hold(edit) {
            Ok((name, value, rounded)) => {
                if let Some(elements) = rounded {
                    losses.push(Loss::Rounded { target: name.clone(), to: Dtype::F16, elements });
                }
                tensors.insert(name, value);
            }
            Err(reason) => losses.push(Loss::not_held(edit, reason)),
        }
    }
    if tensors.is_empty() {
        let reason = losses.first().map_or("it has none".to_owned(), Loss::to_string);
        return Err(Error::Unsupported {
            what: "a FastChat delta".to_owned(),
            reason: format!("it holds differences of whole tensors, and this adapter has none ({reason})"),
            hint: "`fitment apply` it, and `fitment diff BASE RESULT --as add` makes such edits".to_owned(),
        });
    }
    tensors.extend(kept(adapter).into_iter().map(|(key, value)| (key.to_owned(), value.clone())));
    match options.base {
        Some(base) => {
            let mut zeros = Zeros::default();
            for (name, info) in
                base.tensors().iter().filter(|(name, _)| !tensors.contains_key(*name)).collect::<Vec<_>>()
            {
                let len = info.shape.byte_len(Dtype::F16).map_err(|fault| shape(name, fault))?;
                let value = Tensor::new(Dtype::F16, info.shape.clone(), zeros.of(len));
                tensors.insert(name.clone(), value.map_err(|fault| shape(name, fault))?);
            }
        }
        None if is_own => {}
        None => {
            return Err(Error::Ambiguous {
                what: "a FastChat delta".to_owned(),
                reason: "it holds every tensor of its base, also those that do not change".to_owned(),
                hint: "name the base with --base".to_owned(),
            });
        }
    }
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let content = Content::Container { metadata, tensors: tensors.into_iter().collect() };
    let mut files = vec![OutputFile { path: WEIGHTS.to_owned(), content }];
    files.extend(others(adapter));
    match kept_config(adapter).or_else(|| config(options.base.and_then(|base| base.config()))) {
        Some(config) => files.push(json_file(CONFIG, &Value::Object(config))),
        None => losses.push(Loss::FactsLeft {
            what: "config.json, without which FastChat opens no folder: copy the base's beside it",
        }),
    }
    if !files.iter().any(|file| file.path.contains("tokenizer")) {
        losses.push(Loss::FactsLeft {
            what: "the tokenizer, which apply_delta takes from this folder: copy the base's beside it",
        });
    }
    Ok(Written { files, losses })
}

fn shape(name: &str, source: fitment_core::tensor::ShapeFault) -> Error {
    fitment_core::Error::Shape { name: name.to_owned(), source }.into()
}

/// Zeros that all tensors of a size share: a model is mostly tensors of few sizes.
#[derive(Default)]
struct Zeros(BTreeMap<u64, Arc<[u8]>>);

impl Zeros {
    fn of(&mut self, len: u64) -> Bytes<'static> {
        Bytes::Shared(self.0.entry(len).or_insert_with(|| vec![0; len as usize].into()).clone())
    }
}

/// The name of a tensor, its difference in F16, and how many elements were rounded for that; or why it cannot be held.
type Held<'a> = (String, Tensor<'a>, Option<u64>);

fn hold<'a>(edit: &Edit<'a>) -> Result<Held<'a>, &'static str> {
    let Edit::Add(add) = edit else {
        return Err("a delta holds differences of whole tensors");
    };
    let target = &add.target;
    if target.component.is_some()
        || target.experts.is_some()
        || !target.slice.is_empty()
        || !target.uses.is_empty()
    {
        return Err("a delta holds whole tensors by their names");
    }
    if add.exceptions.is_some() {
        return Err("a delta holds no exceptions to the rounded sum");
    }
    let name = target.name.to_string();
    if add.scale == 1.0 && add.value.dtype() == Dtype::F16 {
        return Ok((name, add.value.clone(), None));
    }
    let (value, rounded) = in_f16(add).ok_or("its difference does not fit in F16")?;
    Ok((name, value, (rounded > 0).then_some(rounded)))
}

/// The scaled difference, rounded once, and how many elements are not what they were; `None` where one overflows.
fn in_f16(add: &Add<'_>) -> Option<(Tensor<'static>, u64)> {
    let values: Vec<f64> = widened(&add.value)?.into_iter().map(|value| add.scale * value).collect();
    let narrow = narrowed(Dtype::F16, add.value.dims(), &values)?;
    let back = widened(&narrow)?;
    if back.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let rounded = back.iter().zip(&values).filter(|(back, value)| back != value).count();
    Some((narrow, rounded as u64))
}

/// The files that were carried along.
fn others<'a>(adapter: &Adapter<'a>) -> Vec<OutputFile<'a>> {
    let source = adapter.source.as_ref().filter(|source| source.format == "fastchat");
    let files = source.map_or(&[][..], |source| &source.files);
    let others = files.iter().filter(|file| file.path != CONFIG);
    others
        .map(|file| OutputFile { path: file.path.clone(), content: Content::Bytes(file.data.data().clone()) })
        .collect()
}

/// The base's config, for weights in F16.
fn config(base: Option<&Map<String, Value>>) -> Option<Map<String, Value>> {
    let mut config = base?.clone();
    for key in ["torch_dtype", "dtype"] {
        if config.contains_key(key) {
            config.insert(key.to_owned(), "float16".into());
        }
    }
    Some(config)
}

fn json_file<'a>(path: &str, value: &Value) -> OutputFile<'a> {
    let text = serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
    OutputFile { path: path.to_owned(), content: Content::Bytes(Bytes::Shared(text.into_bytes().into())) }
}
