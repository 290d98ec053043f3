use super::super::container::Head;
use super::super::facts::Facts;
use super::super::layout::{kept_head, laid_out, restored};
use super::super::value::Value;
use super::alpha::{Unit, scale, settle};
use super::place::{Piece, Placer, Stop};
use super::{A, ADAPTER, ADAPTER_TYPE, ALPHA, B, EMBEDDING, INVOCATION_TOKENS, LORA, TYPE};
use crate::error::Error;
use crate::files::OutputFile;
use crate::loss::Loss;
use crate::pass::experts::spread;
use crate::pass::stacks::unstacked;
use crate::pass::sum::{Product, sum};
use crate::write::{WriteOptions, Written};
use fitment_core::Adapter;
use fitment_core::model::Phase;
use fitment_core::tensor::{Dtype, Tensor};
use fitment_math::round::{narrowed, widened};
use std::collections::BTreeMap;

/// Writes a file that `llama-server --lora` and `llama-export-lora` take with a GGUF of the base.
///
/// # Errors
/// [`Error::Ambiguous`] where names, orders of rows or ties depend on a base that is not known; [`Error::Unsupported`] when nothing can be
/// held, or where llama.cpp would pass over a tensor in silence.
pub(in crate::gguf) fn write<'a>(
    adapter: &Adapter<'a>,
    options: &WriteOptions<'_>,
) -> Result<Written<'a>, Error> {
    let facts = facts(adapter, options)?;
    let placer = Placer { adapter, base: options.base, facts };
    let tokens = invocation_tokens(adapter);
    let mut losses = Vec::new();
    let mut stems: Vec<String> = Vec::new();
    let mut placed: BTreeMap<String, Vec<Piece<'a>>> = BTreeMap::new();
    for edit in &unstacked(adapter, options.base) {
        match placer.piece(edit, &tokens) {
            Ok(piece) => {
                if !placed.contains_key(&piece.stem) {
                    stems.push(piece.stem.clone());
                }
                placed.entry(piece.stem.clone()).or_default().push(piece);
            }
            Err(Stop::Loss(reason)) => losses.push(Loss::not_held(edit, &reason)),
            Err(Stop::Error(error)) => return Err(error),
        }
    }
    if stems.is_empty() {
        let reason = losses.first().map_or("it has none".to_owned(), Loss::to_string);
        return Err(Error::Unsupported {
            what: "a GGUF LoRA".to_owned(),
            reason: format!("llama.cpp applies LoRA to matrices, and this adapter has none ({reason})"),
            hint: "`fitment apply` it, and convert the result with convert_hf_to_gguf.py".to_owned(),
        });
    }
    let mut units = Vec::with_capacity(stems.len());
    for stem in stems {
        let pieces = placed.remove(&stem).unwrap_or_default();
        units.push(unit(stem, &pieces, &facts, &mut losses)?);
    }
    if let Some(file) = restore(adapter, &units, &tokens).filter(|_| losses.is_empty()) {
        return Ok(Written { files: vec![file], losses });
    }
    let unfit = || unfit("a GGUF LoRA", "its factors cannot be scaled to one alpha");
    let (alpha, units) = settle(units, &mut losses).ok_or_else(unfit)?;
    let content =
        laid_out(&metadata(adapter, &facts, alpha, &tokens), &tensors(&units)?).ok_or_else(unfit)?;
    if !adapter.base.tensors.iter().all(|tensor| tensor.digests.is_empty()) {
        losses.push(Loss::FactsLeft { what: "digests of the base" });
    }
    Ok(Written { files: vec![OutputFile { path: "adapter.gguf".to_owned(), content }], losses })
}

/// What is known of the base: from the one at hand, else as the adapter recorded it, else from the file that it came from.
fn facts(adapter: &Adapter<'_>, options: &WriteOptions<'_>) -> Result<Facts, Error> {
    let at_hand = options.base.and_then(|base| base.config()).map(Facts::of_config);
    let recorded = Some(Facts::of_config(&adapter.base.config)).filter(|_| !adapter.base.config.is_empty());
    let head = kept_head(adapter).and_then(|(_, head)| Head::parse(head.bytes()).ok());
    let kept = head.map(|head| Facts::of_metadata(&head.metadata));
    let mut said = None;
    let mut found: Option<Facts> = None;
    for source in [at_hand, recorded, kept].into_iter().flatten() {
        match source {
            Ok(facts) => {
                let fits = found.is_none_or(|first| first.architecture.name == facts.architecture.name);
                found = Some(found.map_or(facts, |first| if fits { first.or(Some(&facts)) } else { first }));
            }
            Err(name) => said = said.or(name),
        }
    }
    match (found, said) {
        (Some(facts), _) => Ok(facts),
        (None, Some(name)) => Err(Error::Unsupported {
            what: format!("a GGUF LoRA of {}", crate::error::one_line(&name)),
            reason: "what llama.cpp calls the tensors of this model is not known here".to_owned(),
            hint: "`fitment apply` it, and convert the result with convert_hf_to_gguf.py".to_owned(),
        }),
        (None, None) => Err(Error::Ambiguous {
            what: "the architecture".to_owned(),
            reason: "names and orders of rows in GGUF depend on it, and nothing says what model this is of"
                .to_owned(),
            hint: "name the base with --base: a Hugging Face folder with its config.json, or a GGUF file"
                .to_owned(),
        }),
    }
}

/// The sequence of the first edit that has one.
fn invocation_tokens(adapter: &Adapter<'_>) -> Vec<u64> {
    let when = adapter.edits.iter().find_map(|edit| edit.target()?.when.as_ref());
    let held = when.filter(|when| when.phase == Phase::EveryForward);
    held.map(|when| when.after_tokens.clone()).unwrap_or_default()
}

/// The pieces of one tensor as one.
fn unit<'a>(
    stem: String,
    pieces: &[Piece<'a>],
    facts: &Facts,
    losses: &mut Vec<Loss>,
) -> Result<Unit<'a>, Error> {
    let target = pieces.first().map(|piece| piece.target.clone()).unwrap_or_default();
    let misfit = || unfit(&target, "its changes do not fit together");
    let (product, rounded) = match pieces {
        [one] if one.first.is_none() => (one.product.clone(), 0),
        // A whole stack stays as it is.
        [one]
            if one.first == Some(0)
                && facts
                    .numbers
                    .experts
                    .is_none_or(|count| Some(&count) == one.product.up.dims().first()) =>
        {
            (one.product.clone(), 0)
        }
        _ if pieces.iter().all(|piece| piece.first.is_none()) => {
            let products: Vec<Product<'a>> = pieces.iter().map(|piece| piece.product.clone()).collect();
            sum(&products).ok_or_else(misfit)?
        }
        _ => {
            let count = facts.numbers.experts.ok_or_else(|| Error::Ambiguous {
                what: target.clone(),
                reason: "in GGUF all experts are one tensor, and nothing says how many there are".to_owned(),
                hint: "name the base with --base: a Hugging Face folder with its config.json, or a GGUF file"
                    .to_owned(),
            })?;
            experts(pieces, count).ok_or_else(misfit)?
        }
    };
    let mut product = product;
    let mut elements = rounded;
    for factor in [&mut product.up, &mut product.down] {
        // Of 64 bits there is nothing in llama.cpp that computes.
        if factor.dtype() == Dtype::F64 {
            let values = widened(factor).ok_or_else(misfit)?;
            let stored = narrowed(Dtype::F32, factor.dims(), &values).ok_or_else(misfit)?;
            let back = widened(&stored).ok_or_else(misfit)?;
            elements += back.iter().zip(&values).filter(|(back, value)| back != value).count() as u64;
            *factor = stored;
        }
    }
    if elements > 0 {
        losses.push(Loss::Rounded { target: target.clone(), to: product.up.dtype(), elements });
    }
    Ok(Unit { stem, target, product })
}

/// Pieces of single experts, and of ranges of them, as one stack.
fn experts<'a>(pieces: &[Piece<'a>], count: u64) -> Option<(Product<'a>, u64)> {
    let pieces: Option<Vec<_>> = pieces.iter().map(|piece| Some((piece.first?, &piece.product))).collect();
    spread(&pieces?, count)
}

/// The tensors of a file.
fn tensors<'a>(units: &[Unit<'a>]) -> Result<Vec<(String, Tensor<'a>)>, Error> {
    let mut tensors = Vec::with_capacity(2 * units.len());
    for Unit { stem, target, product } in units {
        let (a, b) = match stem == EMBEDDING {
            true => {
                let flipped = product.down.transposed();
                (product.up.clone(), flipped.ok_or_else(|| unfit(target, "its factors are no matrices"))?)
            }
            false => (product.down.clone(), product.up.clone()),
        };
        tensors.extend([(format!("{stem}{A}"), a), (format!("{stem}{B}"), b)]);
    }
    Ok(tensors)
}

/// The file that the adapter was read from, when it still says the same.
fn restore<'a>(adapter: &Adapter<'a>, units: &[Unit<'a>], tokens: &[u64]) -> Option<OutputFile<'a>> {
    let (_, head) = kept_head(adapter)?;
    let head = Head::parse(head.bytes()).ok()?;
    let alpha = match head.get(ALPHA) {
        Some(Value::F32(alpha)) => *alpha,
        None => 0.0,
        _ => return None,
    };
    let said = match head.get(INVOCATION_TOKENS) {
        Some(Value::List(said)) => said.iter().filter_map(Value::as_count).collect(),
        _ => Vec::new(),
    };
    let is_same = |unit: &Unit<'_>| scale(alpha, unit.product.rank()) == unit.product.scale;
    if said != tokens || !units.iter().all(is_same) {
        return None;
    }
    restored(adapter, &tensors(units).ok()?)
}

fn metadata(adapter: &Adapter<'_>, facts: &Facts, alpha: f32, tokens: &[u64]) -> Vec<(String, Value)> {
    let text = |text: &str| Value::Text(text.to_owned());
    let mut metadata = vec![
        ("general.architecture".to_owned(), text(facts.architecture.name)),
        (TYPE.to_owned(), text(ADAPTER)),
        (ADAPTER_TYPE.to_owned(), text(LORA)),
    ];
    if let Some(name) = &adapter.base.name {
        metadata.push(("general.base_model.count".to_owned(), Value::U32(1)));
        metadata.push(("general.base_model.0.name".to_owned(), text(name)));
    }
    metadata.push((ALPHA.to_owned(), Value::F32(alpha)));
    let token = |token: &u64| u32::try_from(*token).ok().map(Value::U32);
    if let Some(tokens) =
        tokens.iter().map(token).collect::<Option<Vec<_>>>().filter(|tokens| !tokens.is_empty())
    {
        metadata.push((INVOCATION_TOKENS.to_owned(), Value::List(tokens)));
    }
    // Keys of models, by which the file says itself in which order its rows are.
    let known = facts.metadata().into_iter();
    metadata.extend(known.filter_map(|(key, number)| Some((key, Value::U32(u32::try_from(number).ok()?)))));
    metadata.push(("general.quantization_version".to_owned(), Value::U32(2)));
    metadata
}

pub(super) fn unfit(what: &str, reason: &str) -> Error {
    Error::Unsupported {
        what: what.to_owned(),
        reason: reason.to_owned(),
        hint: "convert it to another format with --to".to_owned(),
    }
}
