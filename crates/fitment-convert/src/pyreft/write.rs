use super::folder::{CONFIG, MODEL};
use super::place::{PREFIX, SUFFIX};
use crate::architectures::Architecture;
use crate::error::Error;
use crate::files::{Content, OutputFile};
use crate::loss::Loss;
use crate::wrapped;
use crate::write::{WriteOptions, Written};
use fitment_core::Adapter;
use fitment_core::model::{Edit, Intervention, Rounding, Site, SiteComponent, Source};
use fitment_core::tensor::{Bytes, Dtype, Tensor};
use fitment_math::round::{narrowed, widened};
use fitment_torch::{Archive, Item, Order};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Writes a folder that `ReftModel.load` of pyreft 0.1.0 opens: every linear intervention as a LoReFT, `W = V + Uᵀ`. What
/// came from a LoReFT goes back bit for bit, and so does what was trained of the model, where it came from pyreft.
///
/// A site that is a module's path is written by pyvene's word for it, where the model's architecture has one: by its path
/// pyreft saves it and does not load it.
///
/// pyreft has no place for positions: they are listed as facts left out, since whoever runs the model gives them.
///
/// # Errors
/// [`Error::Unsupported`] when nothing of the adapter can be held.
pub fn write<'a>(adapter: &Adapter<'a>, options: &WriteOptions<'_>) -> Result<Written<'a>, Error> {
    let (mut losses, mut files, mut entries) = (Vec::new(), Vec::new(), Vec::new());
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    match model(adapter) {
        Ok(file) => files.extend(file),
        Err(reason) => losses.extend(weights(adapter).map(|edit| Loss::NotHeld {
            target: label(edit),
            kind: edit.kind(),
            reason: reason.clone(),
        })),
    }
    let architecture = match files.is_empty() {
        true => architecture(adapter, options).ok_or("pyreft 0.1.0 does not load a site that is a module's path; with --base it is written by pyvene's word"),
        false => Err("pyvene knows the modules of a model that PEFT wrapped by their paths, which pyreft 0.1.0 does not load"),
    };
    let has_alpha = !files.is_empty() && adapter.edits.iter().any(|edit| matches!(edit, Edit::Lora(_)));
    for edit in adapter.edits.iter().filter(|edit| matches!(edit, Edit::Intervention(_))) {
        match held(edit, architecture) {
            Ok((place, loreft)) => {
                let number = *seen.entry(place.stem.clone()).and_modify(|number| *number += 1).or_insert(0);
                let key = format!("{}#{number}", place.stem);
                files.push(file(&key, &loreft, adapter)?);
                let extent = |axis: usize| loreft.rotation.dims().get(axis).copied();
                entries.push(Entry { key, place, rank: extent(1), width: extent(0) });
            }
            Err(reason) => losses.push(Loss::NotHeld { target: label(edit), kind: edit.kind(), reason }),
        }
    }
    if entries.is_empty() {
        let reason = losses.first().map_or("it has none".to_owned(), Loss::to_string);
        return Err(Error::Unsupported {
            what: "a pyreft folder".to_owned(),
            reason: format!("it holds interventions of one form, and this adapter has none ({reason})"),
            hint: "write another format with --to".to_owned(),
        });
    }
    losses.push(Loss::FactsLeft {
        what: "the choice of tokens, which pyreft leaves to whoever runs the model,",
    });
    if has_alpha {
        losses.push(Loss::FactsLeft {
            what: "the alpha of LoRA, which pyreft leaves to whoever wraps the model,",
        });
    }
    let config = kept_config(adapter, &entries).unwrap_or_else(|| Bytes::Shared(Arc::from(config(&entries))));
    files.push(OutputFile { path: CONFIG.to_owned(), content: Content::Bytes(config) });
    Ok(Written { files, losses })
}

/// The edits of weights.
fn weights<'e, 'a>(adapter: &'e Adapter<'a>) -> impl Iterator<Item = &'e Edit<'a>> {
    adapter.edits.iter().filter(|edit| !matches!(edit, Edit::Intervention(_)))
}

/// What was trained of the model itself, as it came.
fn model<'a>(adapter: &Adapter<'a>) -> Result<Option<OutputFile<'a>>, String> {
    let source = adapter.source.as_ref().filter(|source| source.format == "pyreft");
    let kept = source.iter().flat_map(|source| &source.kept);
    let kept: Vec<_> = kept.filter(|kept| !kept.key.starts_with(PREFIX)).cloned().collect();
    let edits: Vec<_> = weights(adapter).cloned().collect();
    if edits.is_empty() && kept.is_empty() {
        return Ok(None);
    }
    if source.is_none() {
        return Err("pyreft holds interventions only".to_owned());
    }
    let trained = Adapter { edits, ..Adapter::default() };
    let tensors = wrapped::write(&trained, &Source { kept, ..Source::default() })?;
    let items: Vec<Item<'a>> = tensors.into_iter().map(|(key, tensor)| Item::new(key, tensor)).collect();
    let archive = Archive::new(MODEL.trim_end_matches(".bin"), &items).map_err(|error| error.to_string())?;
    Ok(Some(OutputFile { path: MODEL.to_owned(), content: Content::Torch(archive) }))
}

fn label(edit: &Edit<'_>) -> String {
    match edit {
        Edit::Intervention(intervention) => intervention.label(),
        _ => edit.target().map(|target| target.label()).unwrap_or_default(),
    }
}

struct Place {
    stem: String,
    layer: u64,
    component: &'static str,
}

struct Entry {
    key: String,
    place: Place,
    rank: Option<u64>,
    width: Option<u64>,
}

/// `weight`, `bias`, `rotate_layer`.
struct Loreft<'a> {
    weight: Tensor<'a>,
    bias: Tensor<'a>,
    rotation: Tensor<'a>,
}

fn held<'a>(
    edit: &Edit<'a>,
    architecture: Result<&Architecture, &str>,
) -> Result<(Place, Loreft<'a>), String> {
    let Edit::Intervention(intervention) = edit else {
        return Err("pyreft holds interventions only".to_owned());
    };
    let (layer, component) = place(&intervention.site, architecture)?;
    if intervention.input_site.is_some() || intervention.dims.is_some() || intervention.component.is_some() {
        return Err("pyreft's LoReFT acts on the whole state that it reads".to_owned());
    }
    if intervention.activation.is_some() {
        return Err("pyreft loses an activation when it loads the folder".to_owned());
    }
    if component.is_per_head() {
        return Err(
            "pyvene has no word for every head: which heads change is said when the model runs".to_owned()
        );
    }
    let component = component.name();
    let stem = format!("layer_{layer}_comp_{component}_unit_pos_nunit_1");
    let place = Place { stem, layer, component };
    let loreft = same(intervention).map_or_else(|| remade(intervention), Ok)?;
    Ok((place, loreft))
}

/// The architecture of the base, as far as the base or the adapter says it.
fn architecture(adapter: &Adapter<'_>, options: &WriteOptions<'_>) -> Option<&'static Architecture> {
    let of_base = options.base.and_then(|base| base.config()?.get("model_type"));
    let model_type = of_base.or_else(|| adapter.base.config.get("model_type"))?;
    Architecture::of(model_type.as_str()?)
}

/// Layer and component of a site.
fn place(site: &Site, architecture: Result<&Architecture, &str>) -> Result<(u64, SiteComponent), String> {
    let path = match site {
        Site::Layer { layer, component } => return Ok((*layer, *component)),
        Site::Module(path) => path,
    };
    let architecture = architecture?;
    let (module, is_output) = path.split();
    let found = architecture.inside(module);
    let word = found.and_then(|(_, layer, rest)| Some((layer, architecture.component(&rest, is_output)?)));
    word.ok_or_else(|| {
        "pyreft 0.1.0 does not load a site that is a module's path, and pyvene has no other name for this one"
            .to_owned()
    })
}

/// The tensors of an intervention that is a LoReFT as it stands.
fn same<'a>(edit: &Intervention<'a>) -> Option<Loreft<'a>> {
    let is_loreft = edit.rounding == Rounding::Loreft && edit.scale == 1.0 && edit.subtract;
    let plain = edit.proj.is_none() && edit.proj_bias.is_none() && edit.up_bias.is_none();
    (is_loreft && plain).then_some(())?;
    Some(Loreft {
        weight: edit.source_weight.clone()?,
        bias: edit.source_bias.clone()?,
        rotation: edit.up.clone()?,
    })
}

/// `h + s·(U(W h + b − P h − p) + c)` as `h + R(W' h + b' − Rᵀ h)`: `R = s·U`, `W' = W − P + Rᵀ`, `b' = b − p`; a constant
/// `c` as one more column `s·c` with `W' = Rᵀ` and `b' = 1`.
fn remade<'a>(edit: &Intervention<'_>) -> Result<Loreft<'a>, String> {
    let wide = |tensor: &Option<Tensor<'_>>| -> Result<Option<Vec<f64>>, String> {
        tensor
            .as_ref()
            .map(|t| widened(t).ok_or(format!("{} cannot be computed with", t.dtype())))
            .transpose()
    };
    let width = edit.width().ok_or("its width is not known")?;
    let (d, r) = (size(width)?, if edit.up.is_some() { size(edit.rank().unwrap_or(0))? } else { 0 });
    if edit.up.is_none() && (edit.source_weight.is_some() || edit.subtract) {
        return Err("without U it has full rank, which pyreft's LoReFT is not meant for".to_owned());
    }
    let up = wide(&edit.up)?.unwrap_or_default();
    let (weight, bias) = (wide(&edit.source_weight)?, wide(&edit.source_bias)?);
    let (proj, proj_bias, constant) = (wide(&edit.proj)?, wide(&edit.proj_bias)?, wide(&edit.up_bias)?);
    let columns = r + usize::from(constant.is_some());
    if columns > d {
        return Err(format!(
            "its rank {r} and its constant need {columns} columns, its states have a width of {d}"
        ));
    }
    let (mut rotation, mut source, mut offset) =
        (vec![0.0; d * columns], vec![0.0; columns * d], vec![0.0; columns]);
    for i in 0..r {
        offset[i] = bias.as_ref().map_or(0.0, |b| b[i]) - proj_bias.as_ref().map_or(0.0, |p| p[i]);
        for j in 0..d {
            let u = up[j * r + i];
            let projected = if !edit.subtract { 0.0 } else { proj.as_ref().map_or(u, |p| p[i * d + j]) };
            rotation[j * columns + i] = edit.scale * u;
            source[i * d + j] = weight.as_ref().map_or(0.0, |w| w[i * d + j]) - projected + edit.scale * u;
        }
    }
    if let Some(constant) = constant {
        offset[r] = 1.0;
        for j in 0..d {
            rotation[j * columns + r] = edit.scale * constant[j];
            source[r * d + j] = edit.scale * constant[j];
        }
    }
    let rank = columns as u64;
    let stored = |dims: &[u64], values: &[f64]| {
        narrowed(Dtype::F32, dims, values).ok_or_else(|| format!("a tensor {dims:?} cannot be stored"))
    };
    Ok(Loreft {
        weight: stored(&[rank, width], &source)?,
        bias: stored(&[rank], &offset)?,
        rotation: stored(&[width, rank], &rotation)?,
    })
}

fn size(extent: u64) -> Result<usize, String> {
    usize::try_from(extent).map_err(|_| "it is too large".to_owned())
}

/// One intervention, and what its file held beside it: pyreft reads three tensors and passes over others.
fn file<'a>(key: &str, loreft: &Loreft<'a>, adapter: &Adapter<'a>) -> Result<OutputFile<'a>, Error> {
    let item = |name: &str, tensor: &Tensor<'a>| Item {
        name: name.to_owned(),
        tensor: tensor.clone(),
        order: Order::RowMajor,
    };
    let mut items = vec![
        item("weight", &loreft.weight),
        item("bias", &loreft.bias),
        item("rotate_layer", &loreft.rotation),
    ];
    let stem = format!("{PREFIX}{key}");
    let of_file = format!("{stem}{SUFFIX}/");
    let source = adapter.source.as_ref().filter(|source| source.format == "pyreft");
    for kept in source.iter().flat_map(|source| &source.kept) {
        // Widths that the class counts for itself are no parameters.
        let name = kept.key.strip_prefix(&of_file).filter(|_| kept.value.dtype().is_weight());
        let name = name.filter(|name| items.iter().all(|item| item.name != *name));
        if let Some(name) = name {
            items.push(item(name, &kept.value));
        }
    }
    let archive = Archive::new(&stem, &items).map_err(|error| Error::Unsupported {
        what: stem.clone(),
        reason: error.to_string(),
        hint: "write another format with --to".to_owned(),
    })?;
    Ok(OutputFile { path: format!("{stem}{SUFFIX}"), content: Content::Torch(archive) })
}

/// The source's config, where it says of every entry what a new one would.
fn kept_config<'a>(adapter: &Adapter<'a>, entries: &[Entry]) -> Option<Bytes<'a>> {
    let source = adapter.source.as_ref().filter(|source| source.format == "pyreft")?;
    let kept = source.files.iter().find(|file| file.path == CONFIG)?;
    let text: Value = serde_json::from_slice(kept.data.bytes()).ok()?;
    let new: Value = serde_json::from_slice(&config(entries)).ok()?;
    let same = ["representations", "intervention_types", "sorted_keys"]
        .iter()
        .all(|key| text.get(key) == new.get(key));
    same.then(|| kept.data.data().clone())
}

/// As pyvene 0.1.8 writes it, with the rank that loading needs.
fn config(entries: &[Entry]) -> Vec<u8> {
    let every = |value: Value| vec![value; entries.len()];
    let representation = |entry: &Entry| {
        let none = Value::Null;
        json!([
            entry.place.layer,
            entry.place.component,
            "pos",
            1,
            entry.rank,
            none,
            none,
            none,
            none,
            none,
            none,
            none,
            none,
            none
        ])
    };
    let value = json!({
        "intervention_constant_sources": every(true.into()),
        "intervention_dimensions": entries.iter().map(|entry| entry.width).collect::<Vec<_>>(),
        "intervention_types": every("<class 'pyreft.interventions.LoreftIntervention'>".into()),
        "mode": "parallel",
        "representations": entries.iter().map(representation).collect::<Vec<_>>(),
        "sorted_keys": entries.iter().map(|entry| entry.key.clone()).collect::<Vec<_>>(),
    });
    let mut text = serde_json::to_vec_pretty(&value).expect("plain values serialise");
    text.push(b'\n');
    text
}
