use super::super::architectures::Architecture;
use super::super::facts::Facts;
use super::check::{Contents, Pair};
use super::{A, B, EMBEDDING};
use crate::bind::bind;
use crate::error::Error;
use crate::loss::Loss;
use crate::names::{Creates, Fit, Places, Want, placed};
use crate::pass::experts::bundle;
use crate::pass::gather::gathered;
use crate::pass::rows::{RowOrder, undone};
use crate::pass::spots::{FORMS, Form, Spot};
use crate::read::ReadOptions;
use crate::tying::is_vocabulary_module;
use fitment_core::Adapter;
use fitment_core::checkpoint::Checkpoint;
use fitment_core::limits::MAX_EXPERTS;
use fitment_core::model::{
    About, Base, BaseTensor, Edit, ExpertRange, Lora, LoraForm, Origin, Phase, Source, Target, TensorName,
    When,
};
use fitment_core::tensor::{Shape, Tensor};
use serde_json::Map;
use std::collections::BTreeMap;

/// Reads the contents of a sound file: a `lora` for each pair.
///
/// # Errors
/// [`Error::Ambiguous`] where rows are in an order that depends on numbers of the base, and neither base nor file has them;
/// those of a base that does not fit.
pub(in crate::gguf) fn read<'a>(
    contents: &Contents<'a>,
    source: Source<'a>,
    options: &ReadOptions<'_>,
) -> Result<(Adapter<'a>, Vec<Loss>), Error> {
    let facts = known(contents, options.base)?;
    let mut losses = Vec::new();
    let (Places { names, tied, renamed }, form) = match options.base {
        Some(base) => places(contents, &facts, base)?,
        None => (Places::default(), None),
    };
    losses.extend(renamed);
    let (mut edits, mut tensors) = (Vec::new(), Vec::new());
    for pair in &contents.pairs {
        let (lora, dims) = lora(pair, contents, &facts, (&names, form, options.base))?;
        tensors.push(expected(&lora.target, &dims));
        edits.push(Edit::Lora(lora));
    }
    let mut adapter = Adapter {
        base: Base { name: options.base_name.map(str::to_owned), tied, ..Base::default() },
        edits,
        source: Some(source),
        about: About::default(),
        extra: Map::new(),
    };
    match options.base {
        Some(base) => bind(&mut adapter, base)?,
        None => {
            tensors.sort_by(|a: &BaseTensor, b| (&a.name, a.experts).cmp(&(&b.name, b.experts)));
            losses.push(Loss::Unbound { targets: tensors.len() });
            adapter.base.tensors = tensors;
        }
    }
    Ok((adapter, losses))
}

/// What is known of the base: from its config, where there is one, else from the file.
fn known(contents: &Contents<'_>, base: Option<&dyn Checkpoint>) -> Result<Facts, Error> {
    let Some(config) = base.and_then(|base| base.config()) else { return Ok(contents.facts) };
    let own = contents.facts.architecture;
    match Facts::of_config(config) {
        Ok(facts) if facts.architecture.name == own.name => Ok(facts.or(Some(&contents.facts))),
        other => {
            let found = match other {
                Ok(facts) => facts.architecture.name.to_owned(),
                Err(model) => model.unwrap_or_else(|| "a model that does not say its type".to_owned()),
            };
            Err(Error::Mismatch {
                culprits: vec![crate::error::Clash {
                    target: "general.architecture".to_owned(),
                    expected: own.name.to_owned(),
                    found,
                }],
            })
        }
    }
}

/// The names of the base on disk for those of transformers' classes, and how it stores experts.
fn places(
    contents: &Contents<'_>,
    facts: &Facts,
    base: &dyn Checkpoint,
) -> Result<(Places, Option<Form>), Error> {
    let want = |pair: &Pair<'_>| {
        let module = module(facts.architecture, pair)?.replacen("{e}", "0", 1);
        let dims = extents(pair);
        Ok(Want {
            name: format!("{module}.weight"),
            fit: match (facts.architecture.conv1d && pair.stem != EMBEDDING, &dims[..]) {
                (true, &[out, input]) => Fit::Exact(vec![input, out]),
                _ => Fit::Exact(dims),
            },
            creates: Creates::Nothing,
            is_vocabulary: is_vocabulary_module(&module),
        })
    };
    let spot = |pair: &Pair<'_>| Spot::of_bundle(&module(facts.architecture, pair).ok()?);
    let (experts, plain): (Vec<_>, Vec<_>) = contents.pairs.iter().partition(|pair| spot(pair).is_some());
    let plain = plain.into_iter().map(want).collect::<Result<Vec<_>, Error>>()?;
    let Some(likely) = experts.first().and_then(|pair| spot(pair)).map(|spot| spot.likely()) else {
        return Ok((placed(&plain, base)?, None));
    };
    let mut first = None;
    for form in [likely].into_iter().chain(FORMS) {
        let of_experts = experts.iter().filter_map(|pair| Some(spot(pair)?.want(sides(pair), form)));
        let wants: Vec<Want> = plain.iter().cloned().chain(of_experts).collect();
        match placed(&wants, base) {
            Ok(places) => return Ok((places, Some(form))),
            Err(error) => first = first.or(Some(error)),
        }
    }
    first.map_or_else(|| Ok((placed(&plain, base)?, None)), Err)
}

/// Experts, outputs and inputs.
fn sides(pair: &Pair<'_>) -> [u64; 3] {
    let count = if pair.a.dims().len() > 2 { pair.a.dims().first().copied().unwrap_or(1) } else { 1 };
    let own = extents(pair);
    [count, own.first().copied().unwrap_or(0), own.get(1).copied().unwrap_or(0)]
}

fn module(architecture: &Architecture, pair: &Pair<'_>) -> Result<String, Error> {
    architecture.module(&pair.stem).ok_or_else(|| Error::Unsupported {
        what: pair.stem.clone(),
        reason: format!("{} has no such tensor", architecture.name),
        hint: super::super::rules::G_NAME.remedy.to_owned(),
    })
}

/// Extents of the matrix `[out, in]`, of an expert's where there are several.
fn extents(pair: &Pair<'_>) -> Vec<u64> {
    let axis =
        |tensor: &Tensor<'_>, from_end: usize| tensor.dims().iter().rev().nth(from_end).copied().unwrap_or(0);
    match pair.stem == EMBEDDING {
        true => vec![axis(&pair.a, 1), axis(&pair.b, 1)],
        false => vec![axis(&pair.b, 1), axis(&pair.a, 0)],
    }
}

fn lora<'a>(
    pair: &Pair<'a>,
    contents: &Contents<'a>,
    facts: &Facts,
    (names, form, base): (&BTreeMap<String, String>, Option<Form>, Option<&dyn Checkpoint>),
) -> Result<(Lora<'a>, Vec<u64>), Error> {
    let unfit = |reason: &str| Error::Unsupported {
        what: format!("{}.weight", pair.stem),
        reason: reason.to_owned(),
        hint: super::super::rules::G_FACTORS.remedy.to_owned(),
    };
    let module = module(facts.architecture, pair)?;
    let is_embedding = pair.stem == EMBEDDING;
    let (mut up, down) = match is_embedding {
        true => (pair.a.clone(), pair.b.transposed().ok_or_else(|| unfit("its factors are no matrices"))?),
        false => (pair.b.clone(), pair.a.clone()),
    };
    if let Some(sources) = rows(facts, &pair.stem, extents(pair)[0])? {
        let sources: Vec<Option<usize>> = undone(&sources).into_iter().map(Some).collect();
        let axis = up.dims().len().saturating_sub(2);
        up = gathered(&up, axis, &sources).ok_or_else(|| unfit("its rows cannot be put in order"))?;
    }
    // Of all tensors, llama.cpp takes it from there.
    let rank = pair.b.dims().last().copied().unwrap_or(1);
    let alpha = f64::from(contents.alpha);
    let transposed = facts.architecture.conv1d && pair.stem.starts_with("blk.");
    let parts = if is_embedding { [A, B] } else { [B, A] };
    let keys = ["up", "down"].into_iter().zip(parts.map(|part| format!("{}{part}", pair.stem)));
    let (target, form, turned) = match (Spot::of_bundle(&module), form) {
        (Some(spot), Some(form)) => {
            check_count(pair)?;
            let name = spot.name(form);
            let (target, form, turned) =
                spot.target(sides(pair), form, (names.get(&name).unwrap_or(&name), base))?;
            (Target { when: when(contents), ..target }, form, turned)
        }
        _ => (target(&module, pair, contents, names)?, LoraForm::Matrix, false),
    };
    let lora = Lora {
        target,
        form,
        transposed: transposed || turned,
        // Ranks are extents of tensors in memory: far below 2^53.
        scale: if alpha == 0.0 { 1.0 } else { alpha / rank as f64 },
        up,
        down,
        mid: None,
        magnitude: None,
        origin: Origin {
            alpha: (alpha != 0.0).then_some(alpha),
            rank: Some(rank),
            keys: keys.map(|(role, key)| (role.to_owned(), key)).collect(),
            ..Origin::default()
        },
    };
    let mut dims = extents(pair);
    if transposed {
        dims.reverse();
    }
    Ok((lora, dims))
}

fn target(
    module: &str,
    pair: &Pair<'_>,
    contents: &Contents<'_>,
    names: &BTreeMap<String, String>,
) -> Result<Target, Error> {
    let first = format!("{}.weight", module.replacen("{e}", "0", 1));
    let disk = names.get(&first).unwrap_or(&first);
    let mut experts = None;
    let mut name = disk.clone();
    if module.contains("{e}") {
        check_count(pair)?;
        let count = pair.a.dims().first().copied().unwrap_or(0);
        name = bundle(disk).unwrap_or_else(|| disk.clone());
        experts = Some(ExpertRange { start: 0, end: count });
    }
    Ok(Target { experts, when: when(contents), ..Target::whole(TensorName::new(name)?) })
}

/// On which tokens all of it acts.
fn when(contents: &Contents<'_>) -> Option<When> {
    let after_tokens = contents.invocation_tokens.clone();
    (!after_tokens.is_empty()).then_some(When { phase: Phase::EveryForward, after_tokens })
}

/// Whether there are no more experts than are read.
fn check_count(pair: &Pair<'_>) -> Result<(), Error> {
    let [count, ..] = sides(pair);
    if count <= MAX_EXPERTS {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: format!("{}.weight", pair.stem),
        reason: format!("{count} experts, {MAX_EXPERTS} are read"),
        hint: super::super::rules::G_FACTORS.remedy.to_owned(),
    })
}

fn expected(target: &Target, dims: &[u64]) -> BaseTensor {
    BaseTensor {
        unchanged: false,
        component: None,
        name: target.name.clone(),
        experts: target.experts,
        dtype: None,
        shape: Shape::new(dims).ok(),
        digests: Vec::new(),
        extra: Map::new(),
    }
}

/// For each row in GGUF its row in transformers; `None` for the same.
///
/// # Errors
/// [`Error::Ambiguous`] where the numbers of heads are not known; [`Error::Mismatch`] where so many rows are not of so many heads.
pub(super) fn rows(facts: &Facts, stem: &str, rows: u64) -> Result<Option<Vec<usize>>, Error> {
    let order = order_of(facts, stem)?;
    let Some(order) = order else { return Ok(None) };
    let wanted = facts.numbers.head_width.and_then(|width| order.heads().checked_mul(width));
    let sources = order.sources(rows).filter(|_| wanted.is_none_or(|wanted| wanted == rows));
    let sources = sources.ok_or_else(|| Error::Mismatch {
        culprits: vec![crate::error::Clash {
            target: format!("{stem}.weight"),
            expected: format!("{rows} rows"),
            found: match wanted {
                Some(wanted) => format!("{wanted}, by the numbers in its config"),
                None => format!("heads that {rows} is no multiple of"),
            },
        }],
    })?;
    Ok(Some(sources))
}

/// How GGUF lists the rows of a tensor.
///
/// # Errors
/// [`Error::Ambiguous`] where the numbers of heads are not known.
pub(in crate::gguf) fn order_of(facts: &Facts, stem: &str) -> Result<Option<RowOrder>, Error> {
    facts.architecture.order(stem, &facts.numbers).map_err(|number| Error::Ambiguous {
        what: format!("{stem}.weight"),
        reason: format!(
            "llama.cpp has its rows in another order, which depends on the number of {number}, and nothing says that"
        ),
        hint: "name the base with --base: a Hugging Face folder with its config.json, or a GGUF file".to_owned(),
    })
}
