//! DoRA: a weighted sum of magnitudes is one magnitude.
//!
//! One DoRA gives `g ∘ (W + Δ)` with `g = m / (‖N‖ + eps)` along the kept axis. Of several, and of plain low-rank updates
//! beside them, `W + Σ wᵢ·(gᵢ∘(W + Δᵢ) − W) + Σ wⱼ·Δⱼ = c ∘ (W + Δ')` with `c = 1 + Σ wᵢ·(gᵢ − 1)` and
//! `Δ' = (Σ wᵢ·gᵢ∘Δᵢ + Σ wⱼ·Δⱼ) / c`: again a DoRA, of rank `Σ r`, with the magnitude `c ∘ ‖W + Δ'‖`.

use super::change::{Change, Start};
use super::{Context, Done, Fault, additive};
use fitment_core::model::{Edit, Lora, LoraForm, Magnitude, NormOf, Origin};
use fitment_core::tensor::{Dtype, Tensor};
use fitment_math::ndarray::{Array1, Array2, Axis, Slice};
use fitment_math::round::{narrowed, widened};

/// A low-rank update with its part in the sum.
struct Part<'a> {
    weight: f64,
    lora: &'a Lora<'a>,
    /// `[out, r]` and `[r, in]`.
    factors: (Array2<f64>, Array2<f64>),
}

/// One DoRA of all, and behind it what is no low-rank update of its kind.
pub(super) fn merge<'a>(context: &Context<'_, 'a>, changes: &[Change<'a>]) -> Result<Done<'a>, Fault> {
    let doras: Vec<(f64, &Lora<'a>)> = changes
        .iter()
        .filter_map(|change| match change.start {
            Start::Dora(lora) => Some((change.weight, lora)),
            _ => None,
        })
        .collect();
    let Some((_, first)) = doras.first().copied() else { return Err(Fault::exact("there is no magnitude")) };
    let Some(kept) = first.magnitude.as_ref().map(|magnitude| magnitude.axis) else {
        return Err(Fault::exact("there is no magnitude"));
    };
    let is_alike = |lora: &Lora<'_>| {
        lora.form == first.form && lora.transposed == first.transposed && lora.mid.is_none()
    };
    let same_axis = |lora: &Lora<'_>| lora.magnitude.as_ref().is_some_and(|magnitude| magnitude.axis == kept);
    let has_form = first.form == LoraForm::Matrix || (first.form == LoraForm::Conv && kept == 0);
    if !has_form || !doras.iter().all(|(_, lora)| is_alike(lora) && same_axis(lora)) {
        return Err(Fault::exact("magnitudes along other axes, or of other forms, are not one magnitude"));
    }
    let (mut plain, mut others) = (Vec::new(), Vec::new());
    for change in changes {
        for touch in &change.added {
            match touch.edit {
                Edit::Lora(lora) if is_alike(lora) => plain.push((change.weight, lora)),
                _ => others.push(*touch),
            }
        }
    }
    let weight = weight_of(context, first)?;
    let dora = sum(&weight, kept, &parts(&doras, &weight)?, &parts(&plain, &weight)?, first)?;
    let (more, rounded) = additive::merge(&others)?;
    Ok(([vec![Edit::Lora(dora)], more].concat(), rounded))
}

/// Whether a magnitude has an element that is not above 0: the weights have turned a row around, or an adapter had it.
pub(super) fn is_turned(edit: &Edit<'_>) -> bool {
    let Edit::Lora(Lora { magnitude: Some(magnitude), .. }) = edit else { return false };
    widened(&magnitude.value).is_some_and(|values| values.iter().any(|value| *value <= 0.0))
}

/// The base's `W`, as the edit reads it.
fn weight_of(context: &Context<'_, '_>, first: &Lora<'_>) -> Result<Array2<f64>, Fault> {
    let held = context
        .base
        .read(&first.target, "a magnitude of several adapters, or with a weight, depends on the base")?;
    let rows = held.dims.first().map_or(0, |rows| *rows as usize);
    let shape = (rows, held.values.len() / rows.max(1));
    let weight = Array2::from_shape_vec(shape, held.values)
        .map_err(|_| Fault::exact("the base's tensor is no matrix"))?;
    Ok(if first.transposed { weight.reversed_axes().as_standard_layout().into_owned() } else { weight })
}

fn parts<'a>(loras: &[(f64, &'a Lora<'a>)], weight: &Array2<f64>) -> Result<Vec<Part<'a>>, Fault> {
    let [out, inner] = [weight.nrows(), weight.ncols()];
    let part = |(weight, lora): &(f64, &'a Lora<'a>)| {
        let rank = lora.rank() as usize;
        let matrix = |tensor: &Tensor<'_>, shape| Array2::from_shape_vec(shape, widened(tensor)?).ok();
        let factors = matrix(&lora.up, (out, rank)).zip(matrix(&lora.down, (rank, inner)));
        let factors = factors.ok_or_else(|| {
            Fault::BaseAtHand(
                format!("factors of {} and {}", lora.up.shape(), lora.down.shape()),
                format!("[{out}, {inner}]"),
            )
        })?;
        Ok(Part { weight: *weight, lora, factors })
    };
    loras.iter().map(part).collect()
}

/// The norms of what is kept along an axis.
fn norms(matrix: &Array2<f64>, kept: u64) -> Array1<f64> {
    let axis = Axis(usize::from(kept == 0));
    matrix.map_axis(axis, |lane| lane.iter().map(|value| value * value).sum::<f64>().sqrt())
}

/// `g` of one DoRA.
fn factors(weight: &Array2<f64>, kept: u64, part: &Part<'_>) -> Result<Array1<f64>, Fault> {
    let broken = || Fault::exact("a magnitude does not fit its tensor");
    let magnitude = part.lora.magnitude.as_ref().ok_or_else(broken)?;
    let (up, down) = &part.factors;
    let norms = match magnitude.norm_of {
        NormOf::Base => norms(weight, kept),
        NormOf::Merged => norms(&(weight + &(up.dot(down) * part.lora.scale)), kept),
    };
    let values = Array1::from(widened(&magnitude.value).ok_or_else(broken)?);
    if values.len() != norms.len() {
        return Err(broken());
    }
    let divisors = norms + magnitude.eps;
    if divisors.iter().any(|divisor| *divisor == 0.0) {
        return Err(Fault::exact(
            "a row of the adapted weight is zero everywhere: its magnitude divides by 0",
        ));
    }
    Ok(values / divisors)
}

fn sum<'a>(
    weight: &Array2<f64>,
    kept: u64,
    doras: &[Part<'a>],
    plain: &[Part<'a>],
    first: &Lora<'a>,
) -> Result<Lora<'a>, Fault> {
    let gains = doras.iter().map(|part| factors(weight, kept, part)).collect::<Result<Vec<_>, _>>()?;
    let mut total = Array1::from_elem(gains[0].len(), 1.0);
    for (part, gain) in doras.iter().zip(&gains) {
        total += &((gain - 1.0) * part.weight);
    }
    if total.iter().any(|factor| *factor == 0.0) {
        return Err(Fault::exact("the weights take a row of the base away altogether"));
    }
    let rank: usize = doras.iter().chain(plain).map(|part| part.lora.rank() as usize).sum();
    let (mut up, mut down) = (Array2::zeros((weight.nrows(), rank)), Array2::zeros((rank, weight.ncols())));
    let mut at = 0;
    let shares = doras.iter().zip(gains.iter().map(Some)).chain(plain.iter().zip(std::iter::repeat(None)));
    for (part, gain) in shares {
        let (own_up, own_down) = &part.factors;
        let gain = gain.map_or_else(|| Array1::from_elem(total.len(), 1.0), Clone::clone);
        let share = gain * (part.weight * part.lora.scale) / &total;
        let range = at..at + own_down.nrows();
        at = range.end;
        let mut up = up.slice_axis_mut(Axis(1), Slice::from(range.clone()));
        let mut down = down.slice_axis_mut(Axis(0), Slice::from(range));
        up.assign(own_up);
        down.assign(own_down);
        if kept == 0 {
            up *= &share.insert_axis(Axis(1));
        } else {
            down *= &share.insert_axis(Axis(0));
        }
    }
    let tensors = doras.iter().chain(plain).flat_map(|part| [&part.lora.up, &part.lora.down]);
    let is_wide = tensors.map(Tensor::dtype).any(|dtype| dtype == Dtype::F64);
    let dtype = if is_wide { Dtype::F64 } else { Dtype::F32 };
    stored(weight, kept, (up, down), &total, (first, dtype, rank))
}

/// The edit; its magnitude is that of the factors as they are stored.
fn stored<'a>(
    weight: &Array2<f64>,
    kept: u64,
    (up, down): (Array2<f64>, Array2<f64>),
    total: &Array1<f64>,
    (first, dtype, rank): (&Lora<'a>, Dtype, usize),
) -> Result<Lora<'a>, Fault> {
    let broken = Fault::factors_overflow;
    let values = |matrix: &Array2<f64>| matrix.iter().copied().collect::<Vec<f64>>();
    let mut dims = [first.up.dims().to_vec(), first.down.dims().to_vec()];
    (dims[0][1], dims[1][0]) = (rank as u64, rank as u64);
    let [up, down] =
        [(&dims[0], &up), (&dims[1], &down)].map(|(dims, matrix)| narrowed(dtype, dims, &values(matrix)));
    let (up, down) = up.zip(down).ok_or_else(broken)?;
    let back = |tensor: &Tensor<'_>, shape| Array2::from_shape_vec(shape, widened(tensor)?).ok();
    let factors = back(&up, (weight.nrows(), rank)).zip(back(&down, (rank, weight.ncols())));
    let (wide_up, wide_down) = factors.ok_or_else(broken)?;
    let norms = norms(&(weight + &wide_up.dot(&wide_down)), kept);
    if norms.iter().any(|norm| *norm == 0.0 || !norm.is_finite()) {
        return Err(Fault::exact("a row of the merged weight is zero everywhere: no magnitude divides by 0"));
    }
    let magnitude = norms * total;
    let value = narrowed(dtype, &[magnitude.len() as u64], &magnitude.to_vec()).ok_or_else(broken)?;
    Ok(Lora {
        target: first.target.clone(),
        form: first.form,
        transposed: first.transposed,
        scale: 1.0,
        up,
        down,
        mid: None,
        magnitude: Some(Magnitude { value, axis: kept, norm_of: NormOf::Merged, eps: 0.0 }),
        origin: Origin::default(),
    })
}
