use super::folder::{self, CONFIG, Folder, is_zero};
use crate::bind::{bind, describe};
use crate::error::{Clash, Error};
use crate::files::{Files, carried};
use crate::loss::Loss;
use crate::read::{Converted, ReadOptions};
use fitment_core::checkpoint::{Checkpoint, TensorInfo};
use fitment_core::model::{
    About, Add, Base, ConfigEdit, ConfigValue, Edit, KeptTensor, Origin, Set, SetDtype, Source, Target,
    TensorName,
};
use fitment_core::tensor::{Shape, Tensor};
use fitment_core::{Adapter, Severity};
use fitment_math::round::{narrowed, widened};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Reads a folder of differences: an `add` for each tensor, with what the base makes of others (see the module).
///
/// # Errors
/// [`Error::Malformed`] for files that break a rule; [`Error::Unsupported`] for tied embeddings; [`Error::Mismatch`] for a
/// difference that is smaller than the base's tensor or has other axes; those of [`bind()`](crate::bind()).
pub fn read<'a>(files: &Files<'a>, options: &ReadOptions<'_>) -> Result<Converted<'a>, Error> {
    let Folder { config, tensors, read, findings } = folder::open(files);
    let (errors, findings): (Vec<_>, Vec<_>) =
        findings.into_iter().partition(|finding| finding.severity == Severity::Error);
    if !errors.is_empty() {
        return Err(Error::Malformed { findings: errors });
    }
    let base_config = options.base.and_then(Checkpoint::config);
    if [config.as_ref(), base_config].into_iter().flatten().any(is_tied) {
        return Err(Error::Unsupported {
            what: "tie_word_embeddings".to_owned(),
            reason: "FastChat subtracts the base from tied embeddings twice, and does not get the tuned model back itself"
                .to_owned(),
            hint: "get the tuned model and take `fitment diff BASE TUNED`".to_owned(),
        });
    }
    let read: Vec<&str> = read.iter().map(String::as_str).collect();
    let (files, mut losses) = carried(files, &read, options.keep_files);
    let (mut edits, mut kept) = (Vec::new(), Vec::new());
    let mut left = false;
    for (name, tensor) in tensors {
        let info = options.base.and_then(|base| base.tensors().get(&name));
        let is_lacking = options.base.is_some() && info.is_none();
        if !tensor.dtype().is_weight() || (is_lacking && is_zero(&tensor)) {
            left = true;
            kept.push(KeptTensor { key: name, value: tensor });
            continue;
        }
        let (base, target) = (options.base, Target::whole(TensorName::new(&*name)?));
        edits.push(match (base, info) {
            (Some(base), Some(info)) if info.shape != *tensor.shape() => grown(target, &tensor, base, info)?,
            (Some(_), None) => set(target, tensor, true),
            _ => add(target, tensor),
        });
    }
    if left {
        losses.push(Loss::FactsLeft {
            what: "the zero differences of tensors that are no weights of the base",
        });
    }
    let mut adapter = Adapter {
        base: Base { name: options.base_name.map(str::to_owned), ..Base::default() },
        edits,
        source: Some(Source { format: "fastchat".to_owned(), files, kept, ..Source::default() }),
        about: About::default(),
        extra: Map::new(),
    };
    let Some(base) = options.base else {
        losses.push(Loss::Unbound { targets: adapter.edits.len() });
        return Ok(Converted { adapter, losses, findings, id: None });
    };
    adapter.edits.extend(vocabulary(config.as_ref(), base_config));
    bind(&mut adapter, base)?;
    Ok(Converted { adapter, losses, findings, id: None })
}

fn is_tied(config: &Map<String, Value>) -> bool {
    config.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false)
}

fn add<'a>(target: Target, value: Tensor<'a>) -> Edit<'a> {
    Edit::Add(Add { target, scale: 1.0, value, exceptions: None, origin: Origin::default() })
}

fn set<'a>(target: Target, value: Tensor<'a>, create: bool) -> Edit<'a> {
    let (dtype, rows, origin) = (SetDtype::Stored, None, Origin::default());
    Edit::Set(Set { target, dtype, create, reshape: false, value, rows, origin })
}

/// The tensor that a difference of a larger shape gives: LLaVA's `apply_delta` adds the base to the corner that it fills.
fn grown(
    target: Target,
    difference: &Tensor<'_>,
    base: &dyn Checkpoint,
    info: &TensorInfo,
) -> Result<Edit<'static>, Error> {
    let name = target.name.to_string();
    let misfit = || Error::Mismatch {
        culprits: vec![Clash {
            target: name.clone(),
            expected: format!("{} {}", difference.dtype(), difference.shape()),
            found: describe(info),
        }],
    };
    let (large, small) = (difference.dims(), info.shape.dims());
    let fits = large.len() == small.len() && matches!(large.len(), 1 | 2);
    if !fits || large.iter().zip(small).any(|(large, small)| large < small) {
        return Err(misfit());
    }
    let bytes = base.read(&name).map_err(Error::Base)?;
    let held = Tensor::borrowed(info.dtype, info.shape.clone(), &bytes).map_err(|_| misfit())?;
    let (Some(mut sum), Some(values)) = (widened(difference), widened(&held)) else { return Err(misfit()) };
    let columns = |shape: &Shape| shape.dims().last().map_or(0, |last| *last as usize);
    let (wide, narrow) = (columns(difference.shape()), columns(&info.shape));
    for (row, values) in sum.chunks_mut(wide.max(1)).zip(values.chunks(narrow.max(1))) {
        for (sum, value) in row.iter_mut().zip(values) {
            *sum += value;
        }
    }
    let value = narrowed(info.dtype, large, &sum).ok_or_else(misfit)?;
    Ok(set(target, value, false))
}

/// The tuned model's `vocab_size`, where it is another than the base's.
fn vocabulary(
    tuned: Option<&Map<String, Value>>,
    base: Option<&Map<String, Value>>,
) -> Option<Edit<'static>> {
    let size = |config: &Map<String, Value>| config.get("vocab_size")?.as_u64();
    let (tuned, base) = (size(tuned?)?, size(base?)?);
    let value = ConfigValue::VocabSize(tuned);
    (tuned != base).then(|| Edit::Config(ConfigEdit { component: None, value, origin: Origin::default() }))
}

/// The config that the folder had, where it was carried along.
pub(super) fn kept_config(adapter: &Adapter<'_>) -> Option<Map<String, Value>> {
    let source = adapter.source.as_ref().filter(|source| source.format == "fastchat")?;
    let file = source.files.iter().find(|file| file.path == CONFIG)?;
    match fitment_core::json::parse(file.data.bytes()) {
        Ok(Value::Object(config)) => Some(config),
        Ok(_) | Err(_) => None,
    }
}

/// Kept tensors by their keys.
pub(super) fn kept<'e, 'a>(adapter: &'e Adapter<'a>) -> BTreeMap<&'e str, &'e Tensor<'a>> {
    let source = adapter.source.as_ref().filter(|source| source.format == "fastchat");
    source.map_or(&[][..], |source| &source.kept).iter().map(|kept| (&*kept.key, &kept.value)).collect()
}
