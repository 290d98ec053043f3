use super::edits::{self, Formula};
use super::folder::{self, CONFIG, Folder, TORCH};
use super::inspect::{Inspected, Projection, Unit, inspect};
use super::methods::Method;
use super::{bottleneck, keys, lora, rules};
use crate::bind::bind;
use crate::error::{Error, one_line};
use crate::files::{Files, is_safe_path, kept_bytes};
use crate::formats::Ask;
use crate::loss::Loss;
use crate::read::{Converted, ReadOptions};
use crate::several;
use fitment_core::model::{About, Base, BaseTensor, Edit, Intervention, KeptTensor, Source, SourceFile};
use fitment_core::{Adapter, Finding, Severity};

/// Weights of a prediction head, which `save_adapter` writes beside the adapter.
const HEADS: [&str; 2] = ["model_head.safetensors", "pytorch_model_head.bin"];

/// Reads an adapter: interventions for the units of a ReFT that act on some token and for bottleneck adapters, `lora` edits for LoRA.
///
/// # Errors
/// [`Error::Malformed`] for files that break a rule; [`Error::Unsupported`] for another method, or what has no edit here;
/// [`Error::Ambiguous`] when the projection is not orthogonal and `formula` does not say whether it is subtracted;
/// [`Error::Option`] for a `formula` that the files contradict; those of a base that does not fit a LoRA.
pub fn read<'a>(files: &Files<'a>, options: &ReadOptions<'_>) -> Result<Converted<'a>, Error> {
    let folder = folder::open(files, options.adapter_name)?;
    let mut seen = inspect(&folder);
    let findings = std::mem::take(&mut seen.findings);
    if let Some(other) = findings.iter().find(|finding| finding.code == rules::H_UNSUPPORTED.code) {
        return Err(Error::Unsupported {
            what: "adapters".to_owned(),
            reason: other.message.clone(),
            hint: rules::H_UNSUPPORTED.remedy.to_owned(),
        });
    }
    let (errors, findings): (Vec<_>, Vec<_>) =
        findings.into_iter().partition(|finding| finding.severity == Severity::Error);
    if !errors.is_empty() {
        return Err(Error::Malformed { findings: errors });
    }
    if options.formula.is_some() && !matches!(seen.config.method, Method::Reft) {
        let reason = "only ReFT leaves open whether the projection is subtracted";
        return Err(Error::no_use(Ask::Formula, "this adapter", reason));
    }
    let Content { edits, kept, tensors, mut losses } = match &seen.config.method {
        Method::Reft => reft(&seen, options)?,
        Method::Bottleneck(form) => Content {
            edits: interventions(bottleneck::interventions(&seen.bottlenecks, form))?,
            kept: bottleneck::kept(&seen.bottlenecks),
            ..Content::default()
        },
        Method::Lora(form) => {
            let placed = lora::place(&seen.loras, form, options.base)?;
            let (tensors, losses) = (placed.tensors, placed.losses);
            Content { edits: placed.edits, tensors, losses, ..Content::default() }
        }
    };
    let files = carried(files, &folder, options.keep_files, &mut losses);
    let config = seen.config;
    let mut adapter = Adapter {
        base: Base {
            name: options.base_name.map(str::to_owned).or(config.model_name),
            tensors,
            ..Base::default()
        },
        edits,
        source: Some(Source {
            format: "adapters".to_owned(),
            version: config.version,
            weights: folder.is_torch.then(|| TORCH.to_owned()),
            files,
            kept,
            metadata: folder.metadata,
            ..Source::default()
        }),
        about: About::default(),
        extra: serde_json::Map::new(),
    };
    if let Some(base) = options.base {
        bind(&mut adapter, base)?;
    }
    Ok(Converted { adapter, losses, findings, id: None })
}

/// What the tensors become.
#[derive(Default)]
struct Content<'a> {
    edits: Vec<Edit<'a>>,
    kept: Vec<KeptTensor<'a>>,
    /// What a LoRA without its base expects.
    tensors: Vec<BaseTensor>,
    losses: Vec<Loss>,
}

fn interventions(found: Option<Vec<Intervention<'_>>>) -> Result<Vec<Edit<'_>>, Error> {
    Ok(found.ok_or_else(misfit)?.into_iter().map(Edit::Intervention).collect())
}

/// What inspection lets through and no edit can be made of: it must not become an adapter that does nothing.
pub(super) fn misfit() -> Error {
    let message = "the tensors of a unit do not fit each other";
    Error::Malformed { findings: vec![Finding::new(&rules::H_SHAPE, "", message)] }
}

fn reft<'a>(seen: &Inspected<'a>, options: &ReadOptions<'_>) -> Result<Content<'a>, Error> {
    let (config, units) = (&seen.config, &seen.units);
    let formula = formula(units, options.formula)?;
    let edits = interventions(edits::interventions(units, config, formula))?;
    let mut losses = Vec::new();
    let has_parametrisation =
        units.iter().any(|unit| matches!(unit.projection, Projection::Orthogonal { .. }));
    if has_parametrisation && !options.keep_files {
        let what = "the parametrisation of orthogonal projections, needed only to train on (--keep-files carries it)";
        losses.push(Loss::FactsLeft { what });
    }
    let kept = units.iter().flat_map(|unit| kept(unit, config, options.keep_files)).collect();
    Ok(Content { edits, kept, losses, ..Content::default() })
}

/// Whether the projection is subtracted is saved nowhere. Orthogonal ones are LoReFT's; of plain ones `stated` decides.
fn formula(units: &[Unit<'_>], stated: Option<&str>) -> Result<Formula, Error> {
    const HINT: &str =
        "say how it was trained: --formula noreft (the projection is subtracted) or --formula direft";
    let is_orthogonal = units.iter().any(|unit| matches!(unit.projection, Projection::Orthogonal { .. }));
    match stated {
        Some("loreft") if is_orthogonal => Ok(Formula::Subtracted),
        Some("noreft") if !is_orthogonal => Ok(Formula::Subtracted),
        Some("direft") if !is_orthogonal => Ok(Formula::Direct),
        Some("loreft") => Err(Error::contradicts("loreft", "direft, noreft", HINT)),
        Some(class @ ("noreft" | "direft")) => Err(Error::contradicts(class, "loreft", "leave it out")),
        Some(other) => Err(Error::Option {
            option: format!("--formula {}", one_line(other)),
            reason: "is no formula of this library".to_owned(),
            hint: HINT.to_owned(),
        }),
        None if is_orthogonal => Ok(Formula::Subtracted),
        None => Err(Error::Ambiguous {
            what: "NoReFT or DiReFT".to_owned(),
            reason: "the library saves the same files for both, and loads either as NoReFT".to_owned(),
            hint: HINT.to_owned(),
        }),
    }
}

fn kept<'a>(unit: &Unit<'a>, config: &super::config::Config, keep_files: bool) -> Vec<KeptTensor<'a>> {
    let idle = edits::is_idle(unit, config);
    let parts = edits::unused(unit, config, keep_files || idle);
    let key = |part| keys::name(&unit.block, &unit.adapter, unit.unit, part);
    parts.into_iter().map(|(part, value)| KeptTensor { key: key(part), value }).collect()
}

/// The config, and with `keep_files` everything else of the adapter.
fn carried<'a>(
    files: &Files<'a>,
    folder: &Folder<'a>,
    keep_files: bool,
    losses: &mut Vec<Loss>,
) -> Vec<SourceFile<'a>> {
    let mut kept = Vec::new();
    losses.extend(several::left(&folder.others));
    for (path, data) in files.iter().filter(|(path, _)| !several::is_of_another(&folder.others, path)) {
        if folder.weights.as_deref() == Some(path) {
            continue;
        }
        let name = path.strip_prefix(&*folder.prefix);
        match kept_bytes(data)
            .filter(|_| name.is_some_and(is_safe_path) && (keep_files || name == Some(CONFIG)))
        {
            Some(data) => kept.push(SourceFile { path: name.unwrap_or(path).to_owned(), data }),
            None if name.is_some_and(|name| HEADS.contains(&name)) => {
                losses.push(Loss::HeadLeft { path: path.to_owned() });
            }
            None => losses.push(Loss::FileLeft { path: path.to_owned() }),
        }
    }
    kept
}
