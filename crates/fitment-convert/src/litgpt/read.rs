use super::folder::{self, Folder, MODEL, SPELLING, Said, TRAINING, WEIGHTS};
use super::names::{self, FUSED, layer};
use super::rules;
use crate::error::Error;
use crate::factors::{Factors, Model, Place, adapter};
use crate::files::Files;
use crate::pairs::{Pair, Role};
use crate::pass::gather::rows;
use crate::read::{Converted, ReadOptions};
use crate::several;
use fitment_core::Severity;
use fitment_core::model::{Origin, Source};
use fitment_core::tensor::Tensor;

/// Reads an adapter: a `lora` for each module, and for each of queries, keys and values that is trained.
///
/// # Errors
/// [`Error::Malformed`]; [`Error::Unsupported`] for modules and models that are not known; [`Error::Ambiguous`] without a base for
/// the head; those of a base that does not fit.
pub fn read<'a>(files: &Files<'a>, options: &ReadOptions<'_>) -> Result<Converted<'a>, Error> {
    let folder = folder::open(files, options.adapter_name)?;
    let (said, findings) = sound(&folder)?;
    let factors = folder.pairs.iter().map(|(path, pair)| factors(path, pair, said));
    let factors = factors.collect::<Option<Vec<_>>>().ok_or_else(unfit)?;
    let place = (&*folder.prefix, &*folder.others);
    let (kept, mut losses) = several::beside(files, place, WEIGHTS, &[TRAINING, MODEL], options.keep_files);
    let source = Source {
        format: "litgpt".to_owned(),
        weights: Some("torch".to_owned()),
        files: kept,
        ..Source::default()
    };
    let model = Model { name: said.base_name.clone(), is_tied: None };
    let (adapter, assumed) = adapter(factors.concat(), source, model, options)?;
    losses.extend(assumed);
    Ok(Converted { adapter, losses, findings, id: None })
}

fn sound<'f>(folder: &'f Folder<'_>) -> Result<(&'f Said, Vec<fitment_core::Finding>), Error> {
    let (errors, findings): (Vec<_>, Vec<_>) =
        folder.findings.iter().cloned().partition(|finding| finding.severity == Severity::Error);
    match (&folder.said, errors.first()) {
        (Some(said), None) => Ok((said, findings)),
        (_, Some(first)) if first.code == rules::I_UNSUPPORTED.code => Err(Error::Unsupported {
            what: first.place.clone(),
            reason: first.message.clone(),
            hint: rules::I_UNSUPPORTED.remedy.to_owned(),
        }),
        _ => Err(Error::Malformed { findings: errors }),
    }
}

/// Shapes that were looked at before.
fn unfit() -> Error {
    Error::Unsupported {
        what: WEIGHTS.to_owned(),
        reason: "its factors are no matrices".to_owned(),
        hint: rules::I_SHAPE.remedy.to_owned(),
    }
}

fn factors<'a>(path: &str, pair: &Pair<'a>, said: &Said) -> Option<Vec<Factors<'a>>> {
    let (a, b) = pair.factors()?;
    let &[_, input] = a.dims() else { return None };
    let keys = [("up", Role::B), ("down", Role::A)]
        .map(|(name, role)| (name.to_owned(), SPELLING.key_of(path, role)));
    let origin = || Origin {
        alpha: Some(said.alpha),
        rank: Some(said.rank),
        keys: keys.clone().into(),
        ..Origin::default()
    };
    let one = |place: names::Place, up: Tensor<'a>, down: Tensor<'a>| Factors {
        place: Place::linear(&place.module, [place.all, input], place.rows),
        up,
        down,
        magnitude: None,
        // Ranks are extents of tensors in memory: far below 2^53.
        scale: said.alpha / said.rank as f64,
        origin: origin(),
    };
    if layer(path).is_none_or(|(_, rest)| rest != FUSED) {
        let place = said.family.place(path, *b.dims().first()?)?;
        return Some(vec![one(place, b.clone(), a.clone())]);
    }
    let mut start = 0;
    let mut parts = Vec::new();
    for (number, part) in (0..).zip(&said.parts) {
        let len = part.len(&said.heads);
        let up = rows(b, start, len)?;
        let down = rows(a, said.rank.checked_mul(number)?, said.rank)?;
        // Keys of the tensors of which these are rows.
        parts.push(one(said.family.part(path, *part, &said.heads)?, up, down));
        start = start.checked_add(len)?;
    }
    Some(parts)
}
