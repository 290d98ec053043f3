//! The nearest low-rank updates of a smaller rank, without the dense matrix.
//!
//! `up = Q_u·R_u` and `downᵀ = Q_d·R_d` by Householder QR, the singular values of the small `R_u·R_dᵀ`, and back: by Eckart
//! and Young the best approximation in the Frobenius and the spectral norm. The error is read from the values that fall
//! away. Computed in f64.

use crate::error::Error;
use crate::exact::hidden::Linear;
use crate::input::{Limit, Merged, Truncated};
use crate::numbers::{narrowed, widened};
use fitment_core::model::{Edit, Intervention, Lora, LoraForm};
use fitment_core::tensor::{Dtype, Tensor};
use fitment_math::ndarray::{Array2, Axis, concatenate};
use fitment_math::svd::{Factors, shorten_by};

/// Shortens every low-rank update that has no magnitude and is no bundle.
pub(crate) fn truncate(merged: &mut Merged<'_>, limit: Limit) -> Result<(), Error> {
    for edit in &mut merged.adapter.edits {
        if let Edit::Intervention(intervention) = edit {
            merged.truncated.extend(hidden(intervention, limit)?);
            continue;
        }
        let Edit::Lora(lora) = edit else { continue };
        if lora.magnitude.is_some() || lora.mid.is_some() || lora.has_expert_axis() {
            continue;
        }
        if let Some(truncated) = shortened(lora, limit)? {
            merged.truncated.push(truncated);
        }
    }
    Ok(())
}

/// A linear intervention at a smaller rank: the nearest `[U·V | U·b]`, whose distance is told. `None` for one that is not
/// linear, or has that rank.
fn hidden(edit: &mut Intervention<'_>, limit: Limit) -> Result<Option<Truncated>, Error> {
    let Some(Linear { up, map, bias, constant, is_wide }) = Linear::of(edit) else { return Ok(None) };
    let from = up.ncols() as u64;
    if from == 0 {
        return Ok(None);
    }
    let target = edit.label();
    let failed = |source| Error::Math { target: target.clone(), source };
    let broken = || failed(fitment_math::Error::NotFinite);
    let both = concatenate(Axis(1), &[map.view(), bias.view().insert_axis(Axis(1))]).map_err(|_| broken())?;
    let found = shorten_by(up.view(), both.view(), &|values| kept(values, limit)).map_err(failed)?;
    let to = found.up.ncols() as u64;
    if to >= from {
        return Ok(Some(Truncated { target, from, to: from, relative_error: 0.0 }));
    }
    let columns = map.ncols();
    let map = found.down.slice_axis(Axis(1), (..columns).into()).to_owned();
    let short = Linear { up: found.up, map, bias: found.down.column(columns).to_owned(), constant, is_wide };
    let mut shorter = short.at(edit).ok_or_else(broken)?;
    let approximation = serde_json::json!({ "relative_error": found.relative_error });
    shorter.origin.extra.insert("approximation".to_owned(), approximation);
    *edit = shorter;
    Ok(Some(Truncated { target, from, to, relative_error: found.relative_error }))
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

fn shortened(lora: &mut Lora<'_>, limit: Limit) -> Result<Option<Truncated>, Error> {
    let target = lora.target.label();
    let Some((up, down)) = matrices(lora) else { return Ok(None) };
    let from = up.ncols() as u64;
    let failed = |source| Error::Math { target: target.clone(), source };
    let Factors { up, down, relative_error, .. } =
        shorten_by(up.view(), down.view(), &|values| kept(values, limit)).map_err(failed)?;
    let to = up.ncols() as u64;
    // Of a product that keeps its rank the factors stay as they were.
    if to >= from || to == 0 {
        return Ok(Some(Truncated { target, from, to: from, relative_error: 0.0 }));
    }
    let dtype = match [lora.up.dtype(), lora.down.dtype()].contains(&Dtype::F64) {
        true => Dtype::F64,
        false => Dtype::F32,
    };
    let mut dims = [lora.up.dims().to_vec(), lora.down.dims().to_vec()];
    (dims[0][1], dims[1][0]) = (to, to);
    let stored = |dims: &[u64], matrix: &Array2<f64>| {
        narrowed(dtype, dims, &matrix.iter().copied().collect::<Vec<f64>>())
    };
    let pair: Option<(Tensor<'static>, Tensor<'static>)> = stored(&dims[0], &up).zip(stored(&dims[1], &down));
    let Some((up, down)) = pair else { return Ok(None) };
    (lora.up, lora.down) = (up, down);
    let approximation = serde_json::json!({ "relative_error": relative_error });
    lora.origin.extra.insert("approximation".to_owned(), approximation);
    Ok(Some(Truncated { target, from, to, relative_error }))
}

/// `[out, r]` and `[r, in·k…]`.
fn matrices(lora: &Lora<'_>) -> Option<(Array2<f64>, Array2<f64>)> {
    let rank = usize::try_from(lora.rank()).ok()?;
    let (up, down) = (widened(&lora.up)?, widened(&lora.down)?);
    debug_assert!(lora.form != LoraForm::Stacked);
    let (rows, columns) = (up.len() / rank.max(1), down.len() / rank.max(1));
    let up = Array2::from_shape_vec((rows, rank), up).ok()?;
    Some((up, Array2::from_shape_vec((rank, columns), down).ok()?))
}
