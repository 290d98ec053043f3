//! From the plan's steps to operations.

use super::norm::norms;
use super::op::{Kept, Op, PreparedShare, PreparedStep, Product};
use super::{Buffers, Error, Pass, element, kernel};
use crate::part::Part;
use crate::plan::{Action, LowRank, Magnitude, Share};
use fitment_core::model::LoraForm;
use fitment_core::tensor::Dtype;
use fitment_math::round::{Element, decode};
use fitment_math::Wide;
use ndarray::{ArrayView2, ArrayView3};

pub(super) fn shares<'p, T: Wide>(
    pass: &Pass<'p>,
    buffers: &mut Buffers<T>,
) -> Result<Vec<PreparedShare<'p, T>>, Error> {
    pass.job.shares.iter().map(|share| prepare(pass, share, buffers)).collect()
}

fn prepare<'p, T: Wide>(
    pass: &Pass<'p>,
    share: &'p Share<'p>,
    buffers: &mut Buffers<T>,
) -> Result<PreparedShare<'p, T>, Error> {
    let additive = share.is_additive();
    let strength = if additive { share.weight } else { 1.0 };
    let mut prepared = PreparedShare { weight: share.weight, additive, steps: Vec::new() };
    for step in &share.steps {
        let region = &step.region;
        let mut push = |op| prepared.steps.push(PreparedStep { region, op });
        match &step.action {
            Action::Add(dense) => {
                let element = element_of(pass, dense.value.dtype)?;
                push(Op::Add { factor: strength * dense.scale, value: &dense.value, element });
                if let Some((positions, value)) = &dense.exceptions {
                    let element = element_of(pass, value.dtype)?;
                    push(Op::Exceptions { positions, value, element });
                }
            }
            Action::Set(values) => {
                let element = element_of(pass, values.value.dtype)?;
                push(Op::Set { values, element });
            }
            Action::LowRank(edit) => {
                let product = product(pass, edit, &region.extents(), strength)?;
                push(Op::Product(product));
                if let Some(magnitude) = &edit.magnitude {
                    let scale = scale(pass, (&mut prepared, edit, magnitude), buffers)?;
                    prepared.steps.push(PreparedStep { region, op: scale });
                }
            }
        }
    }
    Ok(prepared)
}

fn element_of(pass: &Pass<'_>, dtype: Dtype) -> Result<Element, Error> {
    element(dtype).ok_or_else(|| wrong(pass, format!("{dtype} has no arithmetic here")))
}

fn wrong(pass: &Pass<'_>, message: String) -> Error {
    Error::WrongPlan { tensor: pass.tensor.name.clone(), message }
}

fn decoded<T: Wide>(pass: &Pass<'_>, part: &Part<'_>) -> Result<Vec<T>, Error> {
    let mut values = vec![T::ZERO; part.elements()];
    let result = decode(element_of(pass, part.dtype)?, part.bytes, &mut values);
    result.map_err(|error| wrong(pass, error.to_string()))?;
    Ok(values)
}

/// The factors for rows and columns as the slice is stored, with every multiplier in them.
fn product<T: Wide>(
    pass: &Pass<'_>,
    edit: &LowRank<'_>,
    dims: &[u64],
    strength: f64,
) -> Result<Product<T>, Error> {
    let up: Vec<T> = decoded(pass, &edit.up)?;
    let down: Vec<T> = match &edit.mid {
        None => decoded(pass, &edit.down)?,
        Some(mid) => through_mid(pass, mid, &edit.down)?.into_iter().map(T::from_f64).collect(),
    };
    let axis = usize::from(edit.form == LoraForm::Stacked);
    let experts = if edit.form == LoraForm::Stacked { size(dims[0]) } else { 1 };
    let (out, rank) = (size(edit.up.dims[axis]), size(edit.up.dims[axis + 1]));
    let input = down.len() / (experts * rank);
    let shape = |error: ndarray::ShapeError| wrong(pass, error.to_string());
    let mut made = Vec::with_capacity(experts);
    for (up, down) in up.chunks_exact(out * rank).zip(down.chunks_exact(rank * input)) {
        let up = ArrayView2::from_shape((out, rank), up).map_err(shape)?;
        let down = ArrayView2::from_shape((rank, input), down).map_err(shape)?;
        let (left, right) = if edit.transposed { (down.reversed_axes(), up.reversed_axes()) } else { (up, down) };
        made.push(kernel::LowRank::new(left, right, strength * edit.scale));
    }
    let (rows, columns) = if edit.transposed { (input, out) } else { (out, input) };
    Ok(Product { experts: made, rows, columns })
}

/// `[p, i·k]`: `Σ_q mid[p,q,k]·down[q,i]`, in f64.
fn through_mid(pass: &Pass<'_>, mid: &Part<'_>, down: &Part<'_>) -> Result<Vec<f64>, Error> {
    let (outer, inner, input) = (size(mid.dims[0]), size(mid.dims[1]), size(down.dims[1]));
    let (mid, down): (Vec<f64>, Vec<f64>) = (decoded(pass, mid)?, decoded(pass, down)?);
    let kernel = mid.len() / (outer * inner);
    let shape = |error: ndarray::ShapeError| wrong(pass, error.to_string());
    let mid = ArrayView3::from_shape((outer, inner, kernel), &mid).map_err(shape)?;
    let mut out = vec![0.0; outer * input * kernel];
    for p in 0..outer {
        for q in 0..inner {
            for i in 0..input {
                let factor = down[q * input + i];
                for k in 0..kernel {
                    out[(p * input + i) * kernel + k] += mid[[p, q, k]] * factor;
                }
            }
        }
    }
    Ok(out)
}

/// DoRA's `m/(‖V‖ + eps)`, from a pass over the whole tensor. The last step of `prepared` is the low-rank one.
fn scale<'p, T: Wide>(
    pass: &Pass<'p>,
    (prepared, edit, magnitude): (&mut PreparedShare<'p, T>, &LowRank<'_>, &Magnitude<'_>),
    buffers: &mut Buffers<T>,
) -> Result<Op<'p, T>, Error> {
    let Some((PreparedStep { region, op: Op::Product(product) }, before)) = prepared.steps.split_last() else {
        return Err(wrong(pass, "a magnitude without a low-rank update".to_owned()));
    };
    let per: usize = match edit.form {
        LoraForm::Conv => edit.kernel().iter().map(|dim| size(*dim)).product(),
        LoraForm::Matrix | LoraForm::Stacked => 1,
    };
    let columns = product.columns;
    let kept = if (magnitude.axis == 0) != edit.transposed {
        Kept::Row { columns }
    } else {
        Kept::Column { columns, per }
    };
    let wanted: Vec<f64> = decoded(pass, &magnitude.value)?;
    let norms = norms(pass, (before, region, product), (kept, magnitude.norm_of, wanted.len()), buffers);
    let factor = |(wanted, norm): (&f64, f64)| T::from_f64(wanted / (norm + magnitude.eps));
    Ok(Op::Scale { kept, factors: wanted.iter().zip(norms).map(factor).collect() })
}

fn size(dim: u64) -> usize {
    usize::try_from(dim).unwrap_or(usize::MAX)
}
