//! The nearest low-rank updates of a smaller rank, without the dense matrix.
//!
//! `up = Q_u·R_u` and `downᵀ = Q_d·R_d` by Householder QR, the singular values of the small `R_u·R_dᵀ`, and back: by Eckart
//! and Young the best approximation in the Frobenius and the spectral norm. The error is read from the values that fall
//! away. Computed in f64.

use crate::error::Error;
use crate::exact::hidden::Linear;
use crate::factors::{edit, matrices};
use crate::input::{Limit, Merged, Note, Truncated};
use crate::parallel;
use fitment_core::model::{Edit, Intervention, Lora};
use fitment_math::ndarray::{Array2, Axis, concatenate};
use fitment_math::svd::{Factors, shorten_by};
use std::collections::BTreeSet;

/// What became of an edit.
enum Cut<'a> {
    /// No low-rank update.
    Other,
    /// A low-rank update that keeps its rank, though it was to be cut: its magnitude, or its core, is no part of a product.
    Kept,
    Shorter(Box<Edit<'a>>, Truncated),
}

/// Shortens every low-rank update and linear intervention; magnitudes and convolutions with a core keep their rank, which a
/// note says.
///
/// # Errors
/// [`Error::Params`] when there is nothing to cut, or a rank is asked for that none exceeds; [`Error::Math`].
pub(crate) fn truncate(merged: &mut Merged<'_>, limit: Limit) -> Result<(), Error> {
    // Dense results are low-rank from the start where a limit is given.
    let cut: BTreeSet<String> = merged.truncated.iter().map(|cut| cut.target.clone()).collect();
    let done = parallel::map(&merged.adapter.edits, |edit| match edit {
        Edit::Lora(lora) if cut.contains(&lora.target.label()) => Ok(Cut::Other),
        Edit::Intervention(edit) => hidden(edit, limit),
        Edit::Lora(lora) if lora.magnitude.is_some() || lora.mid.is_some() => Ok(Cut::Kept),
        Edit::Lora(lora) => shortened(lora, limit),
        _ => Ok(Cut::Other),
    });
    let mut whole = 0;
    for (edit, cut) in merged.adapter.edits.iter_mut().zip(done) {
        match cut? {
            Cut::Other => {}
            Cut::Kept => whole += 1,
            Cut::Shorter(short, truncated) => {
                *edit = *short;
                merged.truncated.push(truncated);
            }
        }
    }
    if whole > 0 {
        merged.notes.push(Note::NotCut { targets: whole });
    }
    if whole == 0 && merged.truncated.is_empty() {
        let reason = "there is no low-rank update to cut".to_owned();
        return Err(Error::Params { reason });
    }
    reached(&merged.truncated, limit)
}

/// That there is something to cut at the rank that is asked for.
///
/// # Errors
/// [`Error::Params`] when no update has so large a rank.
pub(crate) fn reached(truncated: &[Truncated], limit: Limit) -> Result<(), Error> {
    let largest = truncated.iter().max_by_key(|cut| cut.from);
    match (limit, largest) {
        (Limit::Rank(rank), Some(largest)) if largest.from < rank => {
            let (from, target) = (largest.from, &largest.target);
            let reason = format!(
                "rank {rank} is asked for; the largest there is has {from} ({target}): nothing to cut"
            );
            Err(Error::Params { reason })
        }
        _ => Ok(()),
    }
}

/// A linear intervention at a smaller rank: the nearest `[U·V | U·b]`, whose distance is told.
fn hidden<'a>(edit: &Intervention<'a>, limit: Limit) -> Result<Cut<'a>, Error> {
    let Some(Linear { up, map, bias, constant, is_wide }) = Linear::of(edit) else { return Ok(Cut::Kept) };
    let from = up.ncols() as u64;
    if from == 0 {
        return Ok(Cut::Other);
    }
    let target = edit.label();
    let failed = |source| Error::Math { target: target.clone(), source };
    let broken = || failed(fitment_math::Error::NotFinite);
    let both = concatenate(Axis(1), &[map.view(), bias.view().insert_axis(Axis(1))]).map_err(|_| broken())?;
    let found = shorten_by(up.view(), both.view(), &|values| kept(values, limit)).map_err(failed)?;
    let to = found.up.ncols() as u64;
    if to >= from {
        let truncated = Truncated { target, from, to: from, relative_error: 0.0 };
        return Ok(Cut::Shorter(Box::new(Edit::Intervention(edit.clone())), truncated));
    }
    let columns = map.ncols();
    let map = found.down.slice_axis(Axis(1), (..columns).into()).to_owned();
    let short = Linear { up: found.up, map, bias: found.down.column(columns).to_owned(), constant, is_wide };
    let mut shorter = short.at(edit).ok_or_else(broken)?;
    let approximation = serde_json::json!({ "relative_error": found.relative_error });
    shorter.origin.extra.insert("approximation".to_owned(), approximation);
    let truncated = Truncated { target, from, to, relative_error: found.relative_error };
    Ok(Cut::Shorter(Box::new(Edit::Intervention(shorter)), truncated))
}

/// How many of the singular values stay.
fn kept(values: &[f64], limit: Limit) -> usize {
    match limit {
        Limit::Rank(rank) => usize::try_from(rank).unwrap_or(usize::MAX).min(values.len()),
        Limit::Error(relative) => fitment_math::svd::within(values, relative),
        Limit::Dynamic { rule, value, most } => {
            let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
            rule.count(values, value).min(most).min(values.len())
        }
    }
}

/// The product of each expert, or of the one, at a smaller rank; experts have the rank of the one that needs most.
fn shortened<'a>(lora: &Lora<'a>, limit: Limit) -> Result<Cut<'a>, Error> {
    let target = lora.target.label();
    let Some(experts) = matrices(lora) else { return Ok(Cut::Kept) };
    let from = lora.rank();
    let failed = |source| Error::Math { target: target.clone(), source };
    let shorten = |(up, down): &(Array2<f64>, Array2<f64>)| {
        shorten_by(up.view(), down.view(), &|values| kept(values, limit))
    };
    let short = experts.iter().map(shorten).collect::<Result<Vec<Factors>, _>>().map_err(failed)?;
    let to = short.iter().map(|factors| factors.up.ncols()).max().unwrap_or(0);
    // Of a product that keeps its rank the factors stay as they were.
    if to as u64 >= from || to == 0 {
        let truncated = Truncated { target, from, to: from, relative_error: 0.0 };
        return Ok(Cut::Shorter(Box::new(Edit::Lora(lora.clone())), truncated));
    }
    let squares = |values: &[f64]| values.iter().rev().fold(0.0, |sum, value| sum + value * value);
    let lost = |factors: &Factors| factors.relative_error.powi(2) * squares(&factors.values);
    let whole: f64 = short.iter().map(|factors| squares(&factors.values)).sum();
    let relative_error = if whole > 0.0 { (short.iter().map(lost).sum::<f64>() / whole).sqrt() } else { 0.0 };
    let short: Vec<_> = short.into_iter().map(|factors| (factors.up, factors.down)).collect();
    let Some(Lora { up, down, .. }) = edit(lora, &short) else { return Ok(Cut::Kept) };
    let mut shorter = Lora { up, down, ..lora.clone() };
    let approximation = serde_json::json!({ "relative_error": relative_error });
    shorter.origin.extra.insert("approximation".to_owned(), approximation);
    Ok(Cut::Shorter(Box::new(Edit::Lora(shorter)), Truncated { target, from, to: to as u64, relative_error }))
}

#[cfg(test)]
mod tests {
    use super::truncate;
    use crate::factors::matrices;
    use crate::input::{Limit, Merged, Note};
    use fitment_core::Adapter;
    use fitment_core::model::{Edit, Lora, LoraForm, Magnitude, NormOf, Origin, Target, TensorName};
    use fitment_core::tensor::{Dtype, Shape, Tensor};
    use fitment_math::ndarray::Array2;

    fn tensor(dims: &[u64], seed: u64) -> Tensor<'static> {
        let value = |at: u64| ((at * 29 + seed * 53) % 19) as f32 / 9.0 - 1.0;
        let bytes: Vec<u8> =
            (0..dims.iter().product::<u64>()).flat_map(|at| value(at).to_le_bytes()).collect();
        Tensor::owned(Dtype::F32, Shape::new(dims).unwrap(), bytes).unwrap()
    }

    fn lora(form: LoraForm, up: &[u64], down: &[u64]) -> Lora<'static> {
        let target = Target::whole(TensorName::new("w").unwrap());
        let (up, down) = (tensor(up, 1), tensor(down, 2));
        let (mid, magnitude, origin) = (None, None, Origin::default());
        Lora { target, form, transposed: false, scale: 0.5, up, down, mid, magnitude, origin }
    }

    fn merged(lora: Lora<'static>) -> Merged<'static> {
        let adapter = Adapter { edits: vec![Edit::Lora(lora)], ..Adapter::default() };
        Merged { adapter, notes: Vec::new(), truncated: Vec::new() }
    }

    #[test]
    fn every_expert_is_cut_by_itself_and_the_error_is_of_all() {
        let whole = lora(LoraForm::Stacked, &[3, 6, 4], &[3, 4, 5]);
        let mut cut = merged(whole.clone());
        truncate(&mut cut, Limit::Rank(2)).unwrap();
        let Edit::Lora(short) = &cut.adapter.edits[0] else { panic!() };
        assert_eq!((short.up.dims(), short.down.dims()), (&[3, 6, 2][..], &[3, 2, 5][..]));
        let products = |lora: &Lora<'_>| -> Vec<Array2<f64>> {
            matrices(lora).unwrap().iter().map(|(up, down)| up.dot(down)).collect()
        };
        let squares = |matrix: &Array2<f64>| matrix.iter().map(|value| value * value).sum::<f64>();
        let (all, left) = (products(&whole), products(short));
        let apart: f64 = all.iter().zip(&left).map(|(a, b)| squares(&(a - b))).sum();
        let measured = (apart / all.iter().map(squares).sum::<f64>()).sqrt();
        assert!((cut.truncated[0].relative_error - measured).abs() < 1e-6, "{measured} {:?}", cut.truncated);
        let mut cut = merged(whole);
        truncate(&mut cut, Limit::Error(0.2)).unwrap();
        assert!(cut.truncated[0].relative_error <= 0.2 && cut.truncated[0].to < 4);
    }

    #[test]
    fn what_is_not_cut_is_told_and_a_rank_above_all_is_an_error() {
        let mut dora = lora(LoraForm::Matrix, &[6, 4], &[4, 5]);
        dora.magnitude =
            Some(Magnitude { value: tensor(&[6], 3), axis: 0, norm_of: NormOf::Merged, eps: 0.0 });
        let mut whole = merged(dora);
        truncate(&mut whole, Limit::Rank(2)).unwrap();
        assert_eq!((whole.notes, whole.truncated.len()), (vec![Note::NotCut { targets: 1 }], 0));
        let mut short = merged(lora(LoraForm::Matrix, &[6, 4], &[4, 5]));
        let error = truncate(&mut short, Limit::Rank(9)).unwrap_err().to_string();
        assert_eq!(error, "rank 9 is asked for; the largest there is has 4 (w): nothing to cut");
        truncate(&mut short, Limit::Rank(4)).unwrap();
        let mut none = Merged { adapter: Adapter::default(), notes: Vec::new(), truncated: Vec::new() };
        let error = truncate(&mut none, Limit::Error(0.1)).unwrap_err().to_string();
        assert_eq!(error, "there is no low-rank update to cut");
    }
}
