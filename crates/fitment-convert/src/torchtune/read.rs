use super::folder::{self, CONFIG, Folder, MODEL_CONFIG, SPELLING, TRAINING, Unit};
use super::names::{self, Family};
use super::rules;
use crate::alpha::{self, Alpha};
use crate::error::{Clash, Error};
use crate::factors::{Factors, Model, Place, adapter};
use crate::files::Files;
use crate::formats::Ask;
use crate::model_config::{self, Heads};
use crate::pairs::Role;
use crate::pass::gather::gathered;
use crate::pass::rows::undone;
use crate::read::{Converted, ReadOptions};
use crate::several;
use fitment_core::model::{Origin, Source};
use fitment_core::tensor::Tensor;
use fitment_core::{Finding, Severity};
use serde_json::{Map, Value};

/// Reads an adapter: a `lora` for each module.
///
/// # Errors
/// [`Error::Malformed`]; [`Error::Unsupported`] for modules and models that are not known; [`Error::Ambiguous`] where neither
/// files nor options say alpha or the base's heads; those of a base that does not fit.
pub fn read<'a>(files: &Files<'a>, options: &ReadOptions<'_>) -> Result<Converted<'a>, Error> {
    let folder = folder::open(files, options.adapter_name)?;
    let (errors, mut findings): (Vec<_>, Vec<_>) =
        folder.findings.iter().cloned().partition(|finding| finding.severity == Severity::Error);
    if let [first, ..] = &errors[..]
        && let Some(other) = errors.iter().find(|finding| finding.code == rules::U_UNSUPPORTED.code)
        && first.code == other.code
    {
        return Err(Error::Unsupported {
            what: other.place.clone(),
            reason: other.message.clone(),
            hint: rules::U_UNSUPPORTED.remedy.to_owned(),
        });
    }
    if !errors.is_empty() {
        return Err(Error::Malformed { findings: errors });
    }
    let alpha = said_alpha(&folder, options)?;
    if folder.alpha.is_none() {
        findings.extend(folder::zero(alpha));
    }
    let of_base = options.base.and_then(|base| base.config());
    let config = trained_on(folder.model.as_ref(), of_base);
    let (family, heads) = family(config)?;
    findings.extend(of_base.and_then(|of_base| other_family(family, config?, of_base)));
    let factors = folder.units.iter().map(|(place, unit)| factors(*place, unit, alpha, family, &heads));
    let factors = factors.collect::<Result<Vec<_>, Error>>()?;
    let place = (&*folder.prefix, &*folder.others);
    let (kept, mut losses) =
        several::beside(files, place, &folder.weights, &[CONFIG, MODEL_CONFIG, TRAINING], options.keep_files);
    let source = Source {
        format: "torchtune".to_owned(),
        weights: Some("torch".to_owned()),
        files: kept,
        ..Source::default()
    };
    let is_tied = config.and_then(|config| model_config::find(config, "tie_word_embeddings")?.as_bool());
    let (adapter, assumed) = adapter(factors, source, Model { name: folder.base_name, is_tied }, options)?;
    losses.extend(assumed);
    Ok(Converted { adapter, losses, findings, id: None })
}

fn said_alpha(folder: &Folder<'_>, options: &ReadOptions<'_>) -> Result<f64, Error> {
    match (folder.alpha, options.alpha) {
        (Some(alpha), None) => Ok(alpha),
        (None, Some(text)) => Alpha::plain(text, "torchtune"),
        (Some(alpha), Some(_)) => {
            Err(Error::no_use(Ask::Alpha, "this folder", format!("its config says {alpha}")))
        }
        (None, None) => Err(Error::Ambiguous {
            what: folder.weights.clone(),
            reason: format!(
                "neither {CONFIG} nor {TRAINING} is there to say alpha, which stands nowhere else"
            ),
            hint: alpha::HOW.to_owned(),
        }),
    }
}

fn model_type(config: &Map<String, Value>) -> Option<&str> {
    config.get("model_type").and_then(Value::as_str)
}

/// The config of the model that the adapter was trained on. The one beside it is of that model, whatever the base is; it counts
/// unless it lacks the type, or the heads where the base is of the same type.
fn trained_on<'c>(
    own: Option<&'c Map<String, Value>>,
    of_base: Option<&'c Map<String, Value>>,
) -> Option<&'c Map<String, Value>> {
    let (Some(beside), Some(base)) = (own, of_base) else { return own.or(of_base) };
    let is_enough = || Heads::of(beside).is_some() || model_type(beside) != model_type(base);
    if model_type(beside).is_some() && is_enough() { own } else { of_base }
}

/// What is to be said of a base whose names or rows differ from those of the model that the adapter was trained on.
fn other_family(
    family: Family,
    config: &Map<String, Value>,
    of_base: &Map<String, Value>,
) -> Option<Finding> {
    let kind = model_type(of_base)?;
    let message = format!("it says model_type {:?}, the base is {kind:?}", model_type(config)?);
    (Family::of(kind) != Some(family)).then(|| Finding::new(&rules::U_FAMILY, MODEL_CONFIG, message))
}

/// How the names and the rows of the base differ from torchtune's.
fn family(config: Option<&Map<String, Value>>) -> Result<(Family, Heads), Error> {
    let ambiguous = |what: &str, reason: &str| Error::Ambiguous {
        what: what.to_owned(),
        reason: reason.to_owned(),
        hint: "name the base with --base: a Hugging Face folder with its config.json".to_owned(),
    };
    let config = config.ok_or_else(|| {
        let reason = "torchtune has names and rows of its own, which depend on the type of the model and on its heads, and there is no config.json";
        ambiguous("the model", reason)
    })?;
    let model_type = model_type(config).unwrap_or_default();
    let family = Family::of(model_type).ok_or_else(|| Error::Unsupported {
        what: format!("model_type {model_type:?}"),
        reason: "torchtune's names and rows of it are not known here".to_owned(),
        hint: format!(
            "known are {}; of others, the merged checkpoint that torchtune writes can be had as an adapter: `fitment diff BASE MERGED`",
            Family::known()
        ),
    })?;
    let heads = Heads::of(config).ok_or_else(|| {
        ambiguous("num_attention_heads", "the config.json does not say its numbers of heads")
    })?;
    Ok((family, heads))
}

fn factors<'a>(
    place: names::Place,
    unit: &Unit<'a>,
    alpha: f64,
    family: Family,
    heads: &Heads,
) -> Result<Factors<'a>, Error> {
    let unfit = || Error::Unsupported {
        what: unit.module.clone(),
        reason: "its factors are no matrices".to_owned(),
        hint: rules::U_SHAPE.remedy.to_owned(),
    };
    let (down, up) = unit.pair.factors().ok_or_else(unfit)?;
    let (&[rank, input], &[out, _]) = (down.dims(), up.dims()) else { return Err(unfit()) };
    let (mut up, mut magnitude) = (up.clone(), unit.pair.magnitude.clone());
    if let Some(order) = family.order(place.part, heads) {
        let wanted = heads.rows(order.heads());
        let sources = order.sources(out).filter(|_| wanted == out);
        let sources = sources.ok_or_else(|| misfit(&unit.module, out, wanted))?;
        let rows: Vec<Option<usize>> = undone(&sources).into_iter().map(Some).collect();
        let turned = |tensor: &Tensor<'_>| gathered(tensor, 0, &rows).ok_or_else(unfit);
        up = turned(&up)?;
        magnitude = magnitude.as_ref().map(turned).transpose()?;
    }
    let (module, rows) = family.module(place, out, heads);
    if let Some((range, _)) = rows.filter(|(range, _)| range.len() != out) {
        return Err(misfit(&unit.module, out, range.len()));
    }
    let roles = [("up", Role::B), ("down", Role::A)].into_iter();
    let keys = roles.chain(magnitude.is_some().then_some(("magnitude", Role::Magnitude)));
    let keys = keys.map(|(name, role)| (name.to_owned(), SPELLING.key_of(&unit.module, role))).collect();
    Ok(Factors {
        place: Place::linear(
            &module,
            [rows.map_or(out, |(_, all)| all), input],
            rows.map(|(range, _)| range).into_iter().collect(),
        ),
        up,
        down: down.clone(),
        magnitude,
        // Ranks are extents of tensors in memory: far below 2^53.
        scale: alpha / rank as f64,
        origin: Origin { alpha: Some(alpha), rank: Some(rank), keys, ..Origin::default() },
    })
}

/// Rows that are not those of the base's heads.
fn misfit(module: &str, out: u64, wanted: u64) -> Error {
    Error::Mismatch {
        culprits: vec![Clash {
            target: module.to_owned(),
            expected: format!("{out} rows"),
            found: format!("{wanted}, by the numbers in its config.json"),
        }],
    }
}
