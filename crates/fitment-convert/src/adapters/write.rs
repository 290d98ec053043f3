use super::folder::{CONFIG, PICKLE};
use super::keys::{self, Part};
use super::restore::restore;
use crate::architectures::Architecture;
use crate::error::Error;
use crate::files::{Content, OutputFile};
use crate::loss::Loss;
use crate::numbers::transposed;
use crate::tying::model_type;
use crate::write::{WriteOptions, Written};
use fitment_core::model::{
    Edit, FirstLast, Group, Intervention, Overlap, Phase, Select, ShortPrompt, Site, SiteComponent, Source,
};
use fitment_core::tensor::{Bytes, Dtype, Tensor};
use fitment_core::{Adapter, json};
use fitment_math::round::{narrowed, widened};
use fitment_torch::{Archive, Item};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Writes a ReFT that `model.load_adapter` of adapters 1.3.0 opens. What came from it, and still is the same, goes back tensor for
/// tensor.
///
/// Else every intervention is a NoReFT, `h + P'ᵀ(W' h + b' − P' h)`: `P' = Uᵀ`, `W' = s·(W − P) + Uᵀ`, `b' = s·(b − p)`, computed in f64 and
/// rounded once to the dtype of `U`. A layer without a unit for the prefix or the suffix has one that does nothing, since the library would draw
/// it at random.
///
/// # Errors
/// [`Error::Unsupported`] when nothing of the adapter can be held, or its interventions differ in what the library has one of.
pub fn write<'a>(adapter: &Adapter<'a>, options: &WriteOptions<'_>) -> Result<Written<'a>, Error> {
    let source = adapter.source.as_ref().filter(|source| source.format == "adapters");
    if let Some(files) = source.and_then(|source| restore(adapter, source)) {
        return Ok(Written { files, losses: Vec::new() });
    }
    let (mut losses, mut held) = (Vec::new(), Vec::new());
    for edit in &adapter.edits {
        match hold(edit) {
            Ok(one) => held.push(one),
            Err(reason) => losses.push(Loss::NotHeld {
                target: label(edit),
                kind: edit.kind(),
                reason: reason.to_owned(),
            }),
        }
    }
    let Some(first) = held.first() else {
        let reason = losses.first().map_or("it has none".to_owned(), Loss::to_string);
        return Err(unsupported(format!(
            "it holds interventions on the first and last tokens, and this adapter has none ({reason})"
        )));
    };
    uniform(&held)?;
    let kept = source.and_then(kept_config);
    let name = kept.as_ref().and_then(|config| config.get("name")?.as_str()).unwrap_or("fitment").to_owned();
    let rank = held.iter().filter_map(|one| one.edit.rank()).max().unwrap_or(1);
    let is_tied = held.iter().all(|one| one.rule.group == Group::Both);
    let mut tensors: BTreeMap<String, Tensor<'a>> = BTreeMap::new();
    for one in &held {
        let block = block(one, adapter, options)?;
        let from = one.edit.rank().unwrap_or(rank);
        if from != rank {
            losses.push(Loss::RankPadded { target: one.edit.label(), from, to: rank });
        }
        let mine: &[usize] = match one.rule.group {
            Group::Prefix => &[0],
            Group::Suffix => &[1],
            Group::Both if is_tied => &[0],
            Group::Both => &[0, 1],
        };
        for unit in 0..if is_tied { 1 } else { 2 } {
            let parts = if mine.contains(&unit) { unit_of(one.edit, rank) } else { idle(one.edit, rank) };
            let parts =
                parts.ok_or_else(|| unsupported(format!("{} cannot be computed with", one.edit.label())))?;
            for (part, tensor) in parts {
                let key = keys::name(&block, &name, unit, part);
                // The other unit of the layer may be there already, and is more than one that does nothing.
                if mine.contains(&unit) {
                    tensors.insert(key, tensor);
                } else {
                    tensors.entry(key).or_insert(tensor);
                }
            }
        }
    }
    let layers: BTreeSet<u64> = held.iter().map(|one| one.layer).collect();
    let width = first.edit.width().unwrap_or_default();
    let rule = first.rule;
    let shape = Shape { rule, rank, is_tied, layers, width, name };
    let config = config(&shape, first.edit, kept, (adapter, options));
    losses.push(Loss::ConfigRemade {
        reason: "interventions are written as NoReFT, which the library loads as what it is".to_owned(),
    });
    let mut files = vec![OutputFile {
        path: CONFIG.to_owned(),
        content: Content::Bytes(Bytes::Shared(Arc::from(config))),
    }];
    // `load_adapter` looks for safetensors only when it is told to.
    let items: Vec<Item<'a>> = tensors.into_iter().map(|(key, tensor)| Item::new(key, tensor)).collect();
    let archive = Archive::new(PICKLE.trim_end_matches(".bin"), &items)
        .map_err(|error| unsupported(error.to_string()))?;
    files.push(OutputFile { path: PICKLE.to_owned(), content: Content::Torch(archive) });
    Ok(Written { files, losses })
}

/// Whether interventions differ in what the library has one of for all layers.
fn uniform(held: &[Held<'_, '_>]) -> Result<(), Error> {
    let Some(first) = held.first() else { return Ok(()) };
    let (rule, activation) = (first.rule, first.edit.activation);
    if held.iter().any(|one| (one.rule.first, one.rule.last) != (rule.first, rule.last)) {
        return Err(unsupported(
            "it has one number of prefix and of suffix positions for all layers, and this adapter several"
                .to_owned(),
        ));
    }
    if held.iter().any(|one| one.edit.activation != activation) {
        return Err(unsupported("it has one activation for all layers, and this adapter several".to_owned()));
    }
    Ok(())
}

fn unsupported(reason: String) -> Error {
    Error::Unsupported {
        what: "a ReFT of adapters".to_owned(),
        reason,
        hint: "write another format with --to".to_owned(),
    }
}

fn label(edit: &Edit<'_>) -> String {
    match edit {
        Edit::Intervention(intervention) => intervention.label(),
        _ => edit.target().map(|target| target.label()).unwrap_or_default(),
    }
}

/// An intervention that the library has a place for.
struct Held<'e, 'a> {
    edit: &'e Intervention<'a>,
    layer: u64,
    rule: FirstLast,
}

fn hold<'e, 'a>(edit: &'e Edit<'a>) -> Result<Held<'e, 'a>, &'static str> {
    let Edit::Intervention(edit) = edit else { return Err("adapters' ReFT holds interventions only") };
    let Site::Layer { layer, component: SiteComponent::BlockOutput } = edit.site else {
        return Err("adapters' ReFT acts on block_output");
    };
    let Select::FirstLast(rule) = edit.positions.select else {
        return Err("adapters' ReFT acts on first and last tokens");
    };
    if edit.positions.phase != Phase::EveryForward {
        return Err("adapters' ReFT acts in every forward pass, also where one token is fed back");
    }
    if rule.short != ShortPrompt::Overlap || rule.end_offset != 0 {
        return Err("adapters' ReFT does not take fewer tokens of short prompts, and ends with the last one");
    }
    if edit.overlap != Overlap::LastWins && rule.group != Group::Both {
        return Err("adapters' ReFT lets the suffix win where prefix and suffix overlap");
    }
    if edit.input_site.is_some() || edit.dims.is_some() || edit.component.is_some() || edit.up_bias.is_some()
    {
        return Err(
            "adapters' ReFT acts on the whole state that it reads, without a constant behind the projection",
        );
    }
    if edit.up.is_none() {
        return Err("adapters' ReFT has a projection");
    }
    let as_trained = edit.subtract && edit.proj.is_none() && edit.proj_bias.is_none() && edit.scale == 1.0;
    if edit.activation.is_some() && !as_trained {
        return Err(
            "the library subtracts the projection itself, at strength 1, where there is an activation",
        );
    }
    Ok(Held { edit, layer, rule })
}

/// `learned_source` and `projection` of a unit, its rank padded with zeros.
fn unit_of<'a>(edit: &Intervention<'a>, rank: u64) -> Option<Vec<(Part, Tensor<'a>)>> {
    let up = edit.up.as_ref()?;
    let &[width, r] = up.dims() else { return None };
    let plain = edit.subtract && edit.scale == 1.0 && edit.proj.is_none() && edit.proj_bias.is_none();
    let dtype = up.dtype();
    if let (true, true, Some(weight), Some(bias)) = (plain, r == rank, &edit.source_weight, &edit.source_bias)
        && weight.dtype() == dtype
        && bias.dtype() == dtype
    {
        return Some(vec![
            (Part::Weight, weight.clone()),
            (Part::Bias, bias.clone()),
            (Part::Projection, up.transposed()?),
        ]);
    }
    let p = transposed(&widened(up)?, usize::try_from(r).ok()?);
    let zeros = |count: usize| vec![0.0; count];
    let or_zeros = |tensor: &Option<Tensor<'_>>, count: usize| {
        tensor.as_ref().map_or_else(|| Some(zeros(count)), widened)
    };
    let rows = usize::try_from(r).ok()?;
    let (weight, bias) = (or_zeros(&edit.source_weight, p.len())?, or_zeros(&edit.source_bias, rows)?);
    let subtracted = match (edit.subtract, &edit.proj) {
        (false, _) => zeros(p.len()),
        (true, None) => p.clone(),
        (true, Some(proj)) => widened(proj)?,
    };
    let offset = or_zeros(&edit.proj_bias, rows)?;
    let s = edit.scale;
    let source = |((w, q), p): ((&f64, &f64), &f64)| if plain { *w } else { s * (w - q) + p };
    let mut weight: Vec<f64> = weight.iter().zip(&subtracted).zip(&p).map(source).collect();
    let mut bias: Vec<f64> = bias.iter().zip(&offset).map(|(b, p)| s * (b - p)).collect();
    let mut p = p;
    let (padded, elements) = (usize::try_from(rank).ok()?, usize::try_from(rank.checked_mul(width)?).ok()?);
    weight.resize(elements, 0.0);
    p.resize(elements, 0.0);
    bias.resize(padded, 0.0);
    lay_out(dtype, (rank, width), (&weight, &bias, &p))
}

/// A unit that changes nothing.
fn idle<'a>(edit: &Intervention<'_>, rank: u64) -> Option<Vec<(Part, Tensor<'a>)>> {
    let up = edit.up.as_ref()?;
    let width = *up.dims().first()?;
    let zeros = vec![0.0; usize::try_from(rank.checked_mul(width)?).ok()?];
    let bias = vec![0.0; usize::try_from(rank).ok()?];
    lay_out(up.dtype(), (rank, width), (&zeros, &bias, &zeros))
}

fn lay_out<'a>(
    dtype: Dtype,
    (rank, width): (u64, u64),
    (weight, bias, projection): (&[f64], &[f64], &[f64]),
) -> Option<Vec<(Part, Tensor<'a>)>> {
    Some(vec![
        (Part::Weight, narrowed(dtype, &[rank, width], weight)?),
        (Part::Bias, narrowed(dtype, &[rank], bias)?),
        (Part::Projection, narrowed(dtype, &[rank, width], projection)?),
    ])
}

/// The name of the layer's module: by the key that it came under, else by the architecture of the base.
fn block(one: &Held<'_, '_>, adapter: &Adapter<'_>, options: &WriteOptions<'_>) -> Result<String, Error> {
    let came = one.edit.origin.keys.get("source.weight").and_then(|key| keys::parse(key));
    if let Some(key) = came.filter(|key| key.layer == one.layer) {
        return Ok(key.block.to_owned());
    }
    let known = |kind: &str| match kind {
        "bert" => Some("bert.encoder.layer"),
        "roberta" => Some("roberta.encoder.layer"),
        "gpt2" => Some("transformer.h"),
        other => Architecture::of(other).filter(|known| known.layers == "layers").map(|_| "model.layers"),
    };
    let kind = kind(adapter, options);
    match kind.as_deref().and_then(known) {
        Some(layers) => Ok(format!("{layers}.{}", one.layer)),
        None => Err(Error::Unsupported {
            what: "a ReFT of adapters".to_owned(),
            reason: format!(
                "its keys name the model's layers, and the model is {}",
                kind.as_deref().unwrap_or("not known")
            ),
            hint: "name the base with --base".to_owned(),
        }),
    }
}

fn kind(adapter: &Adapter<'_>, options: &WriteOptions<'_>) -> Option<String> {
    let of_base = options.base.and_then(|base| base.config()).and_then(model_type);
    of_base.map(str::to_owned).or_else(|| adapter.base.config.get("model_type")?.as_str().map(str::to_owned))
}

fn kept_config(source: &Source<'_>) -> Option<Map<String, Value>> {
    let file = source.files.iter().find(|file| file.path == CONFIG)?;
    match json::parse(file.data.bytes()) {
        Ok(Value::Object(config)) => Some(config),
        Ok(_) | Err(_) => None,
    }
}

struct Shape {
    rule: FirstLast,
    rank: u64,
    is_tied: bool,
    layers: BTreeSet<u64>,
    width: u64,
    name: String,
}

/// As adapters 1.3.0 writes it; model class and name by the source's own config, where there is one.
fn config(
    shape: &Shape,
    edit: &Intervention<'_>,
    kept: Option<Map<String, Value>>,
    (adapter, options): (&Adapter<'_>, &WriteOptions<'_>),
) -> Vec<u8> {
    let kept = kept.unwrap_or_default();
    let text = |key: &str| kept.get(key).and_then(Value::as_str).map(str::to_owned);
    let dtype = match edit.up.as_ref().map(Tensor::dtype) {
        Some(Dtype::BF16) => Some("bfloat16"),
        Some(Dtype::F16) => Some("float16"),
        Some(Dtype::F64) => Some("float64"),
        _ => None,
    };
    let value = json!({
        "config": {
            "architecture": "reft",
            "dropout": 0.0,
            "dtype": dtype,
            "init_weights_seed": null,
            "layers": shape.layers,
            "non_linearity": edit.activation.map(|activation| match activation.name() {
                "leaky_relu" => "leakyrelu",
                name => name,
            }),
            "orthogonality": false,
            "output_reft": true,
            "prefix_positions": shape.rule.first,
            "r": shape.rank,
            "suffix_positions": shape.rule.last,
            "tied_weights": shape.is_tied,
        },
        "hidden_size": shape.width,
        "model_class": text("model_class"),
        "model_name": text("model_name").or_else(|| adapter.base.name.clone()).unwrap_or_default(),
        "model_type": text("model_type").or_else(|| kind(adapter, options)).unwrap_or_default(),
        "name": shape.name,
        "version": "adapters.1.3.0",
    });
    let mut text = serde_json::to_vec_pretty(&value).expect("plain values serialise");
    text.push(b'\n');
    text
}
