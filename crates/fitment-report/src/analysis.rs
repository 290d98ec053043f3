//! Size and spectrum of what an edit adds.

use crate::error::Error;
use fitment_core::model::{Edit, Intervention, Lora, LoraForm};
use fitment_core::tensor::Tensor;
use fitment_math::ndarray::{Array2, ArrayView2, Axis};
use fitment_math::orthogonal::departure;
use fitment_math::round::widened;
use fitment_math::spectrum::product_values;
use serde::Serialize;

/// What can be said of one edit without a base. A field is `None` where the edit has no such thing.
///
/// The update `ΔW` of a `lora` is `s·up·down`; with a magnitude (DoRA) it is this part alone, as the rest depends on the base.
/// Stacked experts are one block-diagonal matrix, a convolution is `[out, in·k]`. Of an intervention it is its linear part
/// `s·U(W − P)`, of one that has none `s·c`; of `add` and `sparse_add` what is added. What replaces values has no norm of its
/// own: of it, the share of elements.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Analysis {
    /// `‖ΔW‖`, Frobenius.
    pub norm: Option<f64>,
    /// The largest singular value.
    pub spectral: Option<f64>,
    /// `‖ΔW‖² / σ₁²`: how many directions the update uses, at least 1 and at most its rank (Rudelson and Vershynin 2007).
    pub stable_rank: Option<f64>,
    /// Singular values of a low-rank update, descending; those that are rounding are left out.
    pub spectrum: Vec<f64>,
    /// The fewest directions that hold 90 % of `‖ΔW‖²`.
    pub rank_90: Option<usize>,
    /// The fewest that hold 99 %.
    pub rank_99: Option<usize>,
    /// Part of the target's elements that change, where the shape of the target is known.
    pub share: Option<f64>,
    /// The largest element of `|UᵀU − I|`, of an intervention that has a `U`.
    pub orthogonality: Option<f64>,
}

/// Analyses one edit by the r × r core between its factors, never by the dense matrix: within 2e-8 of the largest singular value, and
/// those below 1e-7 of it are left out ([`product_values`]).
///
/// # Errors
/// [`Error::NotFinite`], [`Error::Dtype`]: of weights with which nothing can be computed.
pub fn analyse(edit: &Edit<'_>) -> Result<Analysis, Error> {
    let label = edit.label().unwrap_or_default();
    match edit {
        Edit::Lora(edit) => lora(edit, &label),
        Edit::Intervention(edit) => intervention(edit, &label),
        Edit::Add(edit) => dense(&edit.value, edit.scale, "value", &label),
        Edit::SparseAdd(edit) => dense(&edit.value, edit.scale, "value", &label),
        Edit::Set(_) | Edit::SparseSet(_) | Edit::Bits(_) | Edit::Remove(_) | Edit::Config(_) => {
            Ok(Analysis::default())
        }
    }
}

impl Analysis {
    /// Of singular values, descending.
    fn of(values: Vec<f64>) -> Self {
        let squares: f64 = values.iter().rev().map(|value| value * value).sum();
        let holding = |part: f64| {
            let mut sum = 0.0;
            let short = values.iter().take_while(|value| {
                sum += *value * *value;
                sum < part * squares
            });
            (short.count() + 1).min(values.len())
        };
        let spectral = values.first().copied().unwrap_or(0.0);
        Self {
            norm: Some(squares.sqrt()),
            spectral: Some(spectral),
            stable_rank: (spectral > 0.0).then(|| squares / (spectral * spectral)),
            rank_90: Some(holding(0.9)),
            rank_99: Some(holding(0.99)),
            spectrum: values,
            ..Self::default()
        }
    }
}

fn lora(edit: &Lora<'_>, label: &str) -> Result<Analysis, Error> {
    let experts = match edit.has_expert_axis() {
        true => edit.up.dims().first().copied().unwrap_or(0),
        false => 1,
    };
    let (up, down) = (numbers(&edit.up, "up", label)?, numbers(&edit.down, "down", label)?);
    let rank = usize::try_from(edit.rank()).unwrap_or(0);
    let count = usize::try_from(experts).unwrap_or(0).max(1);
    let mut values = Vec::new();
    if up.is_empty() || down.is_empty() || rank == 0 {
        return Ok(Analysis::of(values));
    }
    let mid = match (&edit.mid, edit.form) {
        (Some(mid), LoraForm::Conv) => Some(numbers(mid, "mid", label)?),
        _ => None,
    };
    for (up, down) in up.chunks_exact(up.len() / count).zip(down.chunks_exact(down.len() / count)) {
        let down = match &mid {
            Some(mid) => through_core(mid, down, rank),
            None => down.to_vec(),
        };
        let shapes = ([up.len() / rank, rank], [rank, down.len() / rank]);
        let (Some(up), Some(down)) = (view(up, shapes.0), view(&down, shapes.1)) else { continue };
        values.extend(product(up, down, edit.scale, label)?);
    }
    values.sort_by(|a, b| b.total_cmp(a));
    Ok(Analysis::of(values))
}

/// `[r, in·k]` from a core `[r, r, k]` and `[r, in]`: `Σ_q mid[p, q, k] · down[q, i]`.
fn through_core(mid: &[f64], down: &[f64], rank: usize) -> Vec<f64> {
    let (kernel, inputs) = (mid.len() / (rank * rank), down.len() / rank);
    let mut out = vec![0.0; rank * inputs * kernel];
    for (p, row) in mid.chunks_exact(rank * kernel).enumerate() {
        for (q, taps) in row.chunks_exact(kernel).enumerate() {
            for (i, factor) in down[q * inputs..(q + 1) * inputs].iter().enumerate() {
                let at = (p * inputs + i) * kernel;
                let cells = out[at..at + kernel].iter_mut();
                cells.zip(taps).for_each(|(cell, tap)| *cell += tap * factor);
            }
        }
    }
    out
}

fn intervention(edit: &Intervention<'_>, label: &str) -> Result<Analysis, Error> {
    let up = edit.up.as_ref().map(|up| matrix(up, "up", label)).transpose()?;
    let orthogonality = up.as_ref().map(|up| {
        let rows: Vec<f64> = up.iter().copied().collect();
        departure(&rows, up.ncols())
    });
    let analysis = match linear(edit, label)? {
        Some(inner) => match &up {
            Some(up) => Analysis::of(product(up.view(), inner.view(), edit.scale, label)?),
            None => {
                Analysis::of(product(Array2::eye(inner.nrows()).view(), inner.view(), edit.scale, label)?)
            }
        },
        None => match &edit.up_bias {
            Some(bias) => dense(bias, edit.scale, "up.bias", label)?,
            None => Analysis::default(),
        },
    };
    Ok(Analysis { orthogonality, ..analysis })
}

/// `W − P` of an intervention, `[r, i]`; `None` where it is no linear map of the states at its site.
fn linear(edit: &Intervention<'_>, label: &str) -> Result<Option<Array2<f64>>, Error> {
    let elsewhere = edit.input_site.is_some() && edit.subtract;
    if edit.activation.is_some() || elsewhere {
        return Ok(None);
    }
    let source =
        edit.source_weight.as_ref().map(|tensor| matrix(tensor, "source.weight", label)).transpose()?;
    let removed = match (edit.subtract, &edit.proj, &edit.up) {
        (false, ..) => None,
        (true, Some(proj), _) => Some(matrix(proj, "proj", label)?),
        (true, None, Some(up)) => Some(matrix(up, "up", label)?.reversed_axes()),
        (true, None, None) => return Ok(None),
    };
    Ok(match (source, removed) {
        (Some(source), Some(removed)) if source.dim() == removed.dim() => Some(source - removed),
        (Some(_), Some(_)) => None,
        (Some(source), None) => Some(source),
        (None, Some(removed)) => Some(-removed),
        (None, None) => None,
    })
}

fn dense(tensor: &Tensor<'_>, scale: f64, role: &'static str, label: &str) -> Result<Analysis, Error> {
    let squares: f64 = numbers(tensor, role, label)?.iter().map(|number| number * number).sum();
    Ok(Analysis { norm: Some(scale.abs() * squares.sqrt()), ..Analysis::default() })
}

fn product(
    up: ArrayView2<'_, f64>,
    down: ArrayView2<'_, f64>,
    scale: f64,
    label: &str,
) -> Result<Vec<f64>, Error> {
    let values = product_values(up, down);
    let values = values.map_err(|source| Error::Math { label: label.to_owned(), source })?;
    Ok(values.into_iter().map(|value| value * scale.abs()).collect())
}

pub(crate) fn matrix(tensor: &Tensor<'_>, role: &'static str, label: &str) -> Result<Array2<f64>, Error> {
    let numbers = numbers(tensor, role, label)?;
    let rows = tensor.dims().first().and_then(|rows| usize::try_from(*rows).ok()).unwrap_or(1).max(1);
    let shape = [rows, numbers.len() / rows];
    Ok(view(&numbers, shape).map(|view| view.to_owned()).unwrap_or_default())
}

fn view(numbers: &[f64], shape: [usize; 2]) -> Option<ArrayView2<'_, f64>> {
    ArrayView2::from_shape(shape, numbers).ok().filter(|view| view.len_of(Axis(0)) > 0)
}

pub(crate) fn numbers(tensor: &Tensor<'_>, role: &'static str, label: &str) -> Result<Vec<f64>, Error> {
    let dtype = tensor.dtype();
    let unknown = || Error::Dtype { label: label.to_owned(), role, dtype: dtype.name() };
    let numbers = widened(tensor).ok_or_else(unknown)?;
    match numbers.iter().all(|number| number.is_finite()) {
        true => Ok(numbers),
        false => Err(Error::NotFinite { label: label.to_owned(), role }),
    }
}
