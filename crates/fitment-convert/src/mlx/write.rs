use super::experts;
use super::folder::{CONFIG, Kind, WEIGHTS, is_embedding};
use crate::error::Error;
use crate::files::{Content, OutputFile};
use crate::loss::Loss;
use crate::pass::experts::{is_single, is_stack};
use crate::pass::one::one_each;
use crate::pass::pad::{padded, padded_stack};
use crate::pass::scale::scaled;
use crate::pass::stacks::{bundled, unstacked};
use crate::write::{WriteOptions, Written};
use fitment_core::model::{Edit, Lora, LoraForm, NormOf, Set, Target};
use fitment_core::tensor::{Bytes, Dtype, Tensor};
use fitment_core::{Adapter, json};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Writes a folder that `mlx_lm.tuner.utils.load_adapters` 0.32.2 opens, and so `mlx_lm.generate`, `.fuse` and `.server`.
///
/// The config lists the modules by their whole paths. A file has one rank and one scale: smaller ranks are padded with zeros,
/// and other scales go into `lora_b` by their ratio to the first.
///
/// # Errors
/// [`Error::Unsupported`] when nothing of the adapter can be held.
pub fn write<'a>(adapter: &Adapter<'a>, options: &WriteOptions<'_>) -> Result<Written<'a>, Error> {
    let kind = kind(adapter);
    let (mut losses, mut loras, mut tensors) = (Vec::new(), Vec::new(), Vec::new());
    let (edits, rounded) = bundled(unstacked(adapter, options.base), options.base, &adapter.base.config);
    let to = Dtype::F32;
    losses.extend(rounded.into_iter().map(|(target, elements)| Loss::Rounded { target, to, elements }));
    let edits = one_each(&Adapter { edits, ..adapter.clone() }, options.base, &mut losses);
    let config_of_base = options.base.and_then(|base| base.config()).unwrap_or(&adapter.base.config);
    for edit in &edits {
        let held = match (edit, kind) {
            (Edit::Lora(lora), Kind::Lora | Kind::Dora) => {
                holds(lora, kind, config_of_base).map(|module| loras.push((module, lora)))
            }
            (Edit::Set(set), Kind::Full) => whole(set, config_of_base).map(|pair| tensors.push(pair)),
            (Edit::Lora(_), Kind::Full) => Err("a file of whole weights holds nothing else"),
            (Edit::Set(_), _) => Err("a file of LoRA holds no whole weights"),
            _ => Err("MLX-LM holds LoRA, DoRA and whole weights"),
        };
        if let Err(reason) = held {
            losses.push(Loss::not_held(edit, reason));
        }
    }
    if loras.is_empty() && tensors.is_empty() {
        let reason = losses.first().map_or("it has none".to_owned(), Loss::to_string);
        return Err(Error::Unsupported {
            what: "an adapter of MLX-LM".to_owned(),
            reason: format!(
                "it holds LoRA and DoRA of linear layers, LoRA of embeddings, or whole weights, and this adapter has none ({reason})"
            ),
            hint: "`fitment apply` it, and convert the result with mlx_lm.convert".to_owned(),
        });
    }
    let rank = loras.iter().map(|(_, lora)| lora.rank()).max().unwrap_or(0);
    let scale = loras.first().map_or(1.0, |(_, lora)| lora.scale);
    for (module, lora) in &loras {
        tensors.extend(factors(module, lora, (rank, scale), &mut losses)?);
    }
    let modules: Vec<String> = loras.into_iter().map(|(module, _)| module).collect();
    let config = match kept_config(adapter).filter(|config| says(config, kind, (rank, scale))) {
        Some(bytes) => bytes,
        None => Bytes::Shared(config(adapter, kind, (rank, scale), &modules).into_bytes().into()),
    };
    let mut files = vec![
        OutputFile { path: CONFIG.to_owned(), content: Content::Bytes(config) },
        OutputFile {
            path: WEIGHTS.to_owned(),
            content: Content::Container { metadata: metadata(adapter), tensors },
        },
    ];
    files.extend(others(adapter));
    if !adapter.base.tensors.iter().all(|tensor| tensor.digests.is_empty()) {
        losses.push(Loss::FactsLeft { what: "digests of the base" });
    }
    Ok(Written { files, losses })
}

/// What kind of file holds the most: DoRA where there is a magnitude, else LoRA where there is one, else whole weights.
fn kind(adapter: &Adapter<'_>) -> Kind {
    let loras = || {
        adapter.edits.iter().filter_map(|edit| if let Edit::Lora(lora) = edit { Some(lora) } else { None })
    };
    if loras().any(|lora| lora.magnitude.is_some()) {
        Kind::Dora
    } else if loras().next().is_some() {
        Kind::Lora
    } else {
        Kind::Full
    }
}

fn is_plain(target: &Target) -> bool {
    target.component.is_none()
        && target.experts.is_none()
        && target.slice.is_empty()
        && target.uses.is_empty()
        && target.when.is_none()
}

/// The module that an edit is of, or why there is none.
fn holds(lora: &Lora<'_>, kind: Kind, config: &Map<String, Value>) -> Result<String, &'static str> {
    if lora.target.experts.is_some() && lora.form == LoraForm::Matrix {
        let is_plain = is_plain(&Target { experts: None, ..lora.target.clone() });
        return match experts::module(lora.target.name.as_str(), config) {
            _ if kind == Kind::Dora => Err("a file of DoRA holds no LoRA without magnitude"),
            Some(module) if is_plain && !lora.transposed && lora.magnitude.is_none() => Ok(module),
            _ => Err("MLX-LM has LoRA on all experts of a layer, by their gate, up and down"),
        };
    }
    if is_single(lora.target.name.as_str()) {
        return Err("MLX-LM has all experts of a layer in one stack, and nothing says how many there are");
    }
    let is_weight = lora.target.name.as_str().ends_with(".weight");
    if lora.form != LoraForm::Matrix || lora.up.dims().len() != 2 || lora.down.dims().len() != 2 {
        return Err("MLX-LM has LoRA on linear layers, embeddings and experts only");
    }
    if !is_plain(&lora.target) || !is_weight || lora.transposed {
        return Err("MLX-LM has LoRA on whole modules only, stored as [out, in]");
    }
    match &lora.magnitude {
        None if kind == Kind::Dora => Err("a file of DoRA holds no LoRA without magnitude"),
        None => Ok(module(&lora.target)),
        Some(_) if is_embedding(&module(&lora.target)) => {
            Err("MLX-LM's magnitude of an embedding is of tokens")
        }
        Some(magnitude)
            if magnitude.axis != 0 || magnitude.norm_of != NormOf::Merged || magnitude.eps != 0.0 =>
        {
            Err("MLX-LM's magnitude is of the rows, by the norm of the merged weight")
        }
        Some(_) => Ok(module(&lora.target)),
    }
}

fn whole<'a>(set: &Set<'a>, config: &Map<String, Value>) -> Result<(String, Tensor<'a>), &'static str> {
    let name = set.target.name.as_str();
    let is_plain = is_plain(&Target { experts: None, ..set.target.clone() });
    if set.rows.is_some() || set.create || set.reshape || !is_plain {
        return Err("MLX-LM loads whole weights that the model has, in their shapes");
    }
    if set.target.experts.is_some() {
        let module = experts::module(name, config)
            .ok_or("MLX-LM has all experts of a layer by their gate, up and down")?;
        return Ok((format!("{module}.weight"), set.value.clone()));
    }
    if is_single(name) {
        return Err(
            "MLX-LM has all experts of a layer in one stack, and it changes some of them only, or nothing says how many there are",
        );
    }
    if is_stack(name) {
        return Err(
            "MLX-LM has gate, up and down of all experts by themselves, and the shape of the stack is not known",
        );
    }
    Ok((name.to_owned(), set.value.clone()))
}

fn module(target: &Target) -> String {
    let name = target.name.as_str();
    name.strip_suffix(".weight").unwrap_or(name).to_owned()
}

/// The tensors of one module, at the file's rank and scale.
fn factors<'a>(
    module: &str,
    lora: &Lora<'a>,
    (rank, scale): (u64, f64),
    losses: &mut Vec<Loss>,
) -> Result<Vec<(String, Tensor<'a>)>, Error> {
    let target = lora.target.label();
    let unfit = || Error::Unsupported {
        what: target.clone(),
        reason: "its factors are no matrices of numbers".to_owned(),
        hint: "convert it to another format with --to".to_owned(),
    };
    if lora.rank() != rank {
        losses.push(Loss::RankPadded { target: target.clone(), from: lora.rank(), to: rank });
    }
    let mut up = lora.up.clone();
    if lora.scale != scale {
        let (folded, elements) = scaled(&up, lora.scale / scale).ok_or_else(unfit)?;
        if elements > 0 {
            losses.push(Loss::Rounded { target: target.clone(), to: up.dtype(), elements });
        }
        up = folded;
    }
    if lora.has_expert_axis() {
        let (up, down) = padded_stack(&up, &lora.down, rank).ok_or_else(unfit)?;
        return Ok(vec![(format!("{module}.lora_a"), down), (format!("{module}.lora_b"), up)]);
    }
    let (up, down) = padded(&up, &lora.down, rank).ok_or_else(unfit)?;
    let (a, b) = match is_embedding(module) {
        true => (up, down),
        false => (down.transposed().ok_or_else(unfit)?, up.transposed().ok_or_else(unfit)?),
    };
    let mut tensors = vec![(format!("{module}.lora_a"), a), (format!("{module}.lora_b"), b)];
    if let Some(magnitude) = &lora.magnitude {
        let dims = [magnitude.value.elements()];
        let shape = fitment_core::tensor::Shape::new(&dims).map_err(|_| unfit())?;
        let value = Tensor::new(magnitude.value.dtype(), shape, magnitude.value.data().clone());
        tensors.push((format!("{module}.m"), value.map_err(|_| unfit())?));
    }
    Ok(tensors)
}

/// The config that the adapter came with.
fn kept_config<'a>(adapter: &Adapter<'a>) -> Option<Bytes<'a>> {
    let source = adapter.source.as_ref().filter(|source| source.format == "mlx")?;
    source.files.iter().find(|file| file.path == CONFIG).map(|file| file.data.data().clone())
}

/// Whether a config says what is written. Which modules there are, mlx-lm sees by `keys` and `num_layers`: they are those of
/// the adapter as long as it has the edits that it came with.
fn says(config: &Bytes<'_>, kind: Kind, (rank, scale): (u64, f64)) -> bool {
    let Ok(Value::Object(fields)) = json::parse(config.as_slice()) else { return false };
    let told = fields.get("fine_tune_type").and_then(Value::as_str).unwrap_or("lora");
    let parameter = |name: &str| fields.get("lora_parameters")?.get(name).cloned();
    let is_same = parameter("rank").and_then(|rank| rank.as_u64()) == Some(rank)
        && parameter("scale").and_then(|scale| scale.as_f64()) == Some(scale);
    told == kind.name() && (kind == Kind::Full || is_same)
}

fn config(adapter: &Adapter<'_>, kind: Kind, (rank, scale): (u64, f64), modules: &[String]) -> String {
    let mut fields = Map::new();
    fields.insert("fine_tune_type".to_owned(), kind.name().into());
    // All blocks: the modules are named by their whole paths.
    fields.insert("num_layers".to_owned(), (-1).into());
    if kind != Kind::Full {
        let parameters = json!({"rank": rank, "scale": scale, "dropout": 0.0, "keys": modules});
        fields.insert("lora_parameters".to_owned(), parameters);
    }
    if let Some(name) = &adapter.base.name {
        fields.insert("model".to_owned(), name.clone().into());
    }
    serde_json::to_string_pretty(&Value::Object(fields)).unwrap_or_default() + "\n"
}

fn metadata(adapter: &Adapter<'_>) -> BTreeMap<String, String> {
    let source = adapter.source.as_ref().filter(|source| source.format == "mlx");
    source.map(|source| source.metadata.clone()).unwrap_or_default()
}

/// The other files that were carried along.
fn others<'a>(adapter: &Adapter<'a>) -> Vec<OutputFile<'a>> {
    let source = adapter.source.as_ref().filter(|source| source.format == "mlx");
    let files = source.map_or(&[][..], |source| &source.files);
    let others = files.iter().filter(|file| file.path != CONFIG);
    others
        .map(|file| OutputFile { path: file.path.clone(), content: Content::Bytes(file.data.data().clone()) })
        .collect()
}
