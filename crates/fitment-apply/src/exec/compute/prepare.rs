//! From the plan's steps to operations.

use super::op::{Op, PreparedShare, PreparedStep, Product, Rows, on_w};
use super::{BLOCK, Buffers, Error, Pass, element};
use crate::part::Part;
use crate::plan::{Action, LowRank, Magnitude, Share};
use crate::region::Region;
use fitment_core::model::{LoraForm, NormOf};
use fitment_core::tensor::Dtype;
use fitment_math::lowrank;
use fitment_math::ndarray::{ArrayView2, ArrayViewD, IxDyn, ShapeError};
use fitment_math::norm::{self, ColumnNorms};
use fitment_math::round::{Element, decode};
use fitment_math::{Wide, conv};

/// Products that are added to whole matrices, by expert, and the rows of each: the common case, done in one pass.
pub(super) struct Fast {
    pub(super) experts: Vec<Vec<lowrank::LowRank<T>>>,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// The fast case, when nothing else happens to the tensor than low-rank updates of all of it.
pub(super) fn fast(pass: &Pass<'_>) -> Result<Option<Fast>, Error> {
    let steps = || pass.job.shares.iter().flat_map(|share| share.steps.iter().map(move |step| (share, step)));
    let is_plain = steps().all(|(_, step)| match &step.action {
        Action::LowRank(edit) => edit.magnitude.is_none() && step.region.is_whole(),
        Action::Add(_) | Action::Set(_) => false,
    });
    let stacked = |step: &crate::plan::Step<'_>| {
        matches!(&step.action, Action::LowRank(edit) if edit.form == LoraForm::Stacked)
    };
    let forms: Vec<bool> = steps().map(|(_, step)| stacked(step)).collect();
    if !is_plain || forms.is_empty() || forms.iter().any(|form| *form != forms[0]) {
        return Ok(None);
    }
    let mut made: Option<Fast> = None;
    for (share, step) in steps() {
        let Action::LowRank(edit) = &step.action else { continue };
        let product = product(pass, edit, share.weight)?;
        let made = made.get_or_insert_with(|| Fast {
            experts: product.experts.iter().map(|_| Vec::new()).collect(),
            rows: product.rows,
            columns: product.columns,
        });
        for (products, product) in made.experts.iter_mut().zip(product.experts) {
            products.push(product);
        }
    }
    Ok(made)
}

pub(super) fn shares<'p>(
    pass: &Pass<'p>,
    buffers: &mut Buffers,
) -> Result<Vec<PreparedShare<'p>>, Error> {
    pass.job.shares.iter().map(|share| prepare(pass, share, buffers)).collect()
}

fn prepare<'p>(
    pass: &Pass<'p>,
    share: &'p Share<'p>,
    buffers: &mut Buffers,
) -> Result<PreparedShare<'p>, Error> {
    let additive = share.is_additive();
    let strength = if additive { share.weight } else { 1.0 };
    let mut steps = Vec::new();
    for step in &share.steps {
        let region = &step.region;
        match &step.action {
            Action::Add(dense) => {
                let element = element_of(pass, dense.value.dtype)?;
                let op = Op::Add { factor: strength * dense.scale, value: &dense.value, element };
                steps.push(PreparedStep { region, op });
                if let Some((positions, value)) = &dense.exceptions {
                    let element = element_of(pass, value.dtype)?;
                    steps.push(PreparedStep { region, op: Op::Exceptions { positions, value, element } });
                }
            }
            Action::Set(values) => {
                let element = element_of(pass, values.value.dtype)?;
                steps.push(PreparedStep { region, op: Op::Set { values, element } });
            }
            Action::LowRank(edit) => {
                let product = product(pass, edit, strength)?;
                let op = match &edit.magnitude {
                    None => Op::Product(product),
                    Some(magnitude) => rescaled(pass, (&steps, region), (product, edit, magnitude), buffers)?,
                };
                steps.push(PreparedStep { region, op });
            }
        }
    }
    Ok(PreparedShare { weight: share.weight, additive, steps })
}

fn element_of(pass: &Pass<'_>, dtype: Dtype) -> Result<Element, Error> {
    element(dtype).ok_or_else(|| wrong(pass, format!("{dtype} has no arithmetic here")))
}

fn wrong(pass: &Pass<'_>, message: String) -> Error {
    Error::WrongPlan { tensor: pass.tensor.name.clone(), message }
}

fn decoded(pass: &Pass<'_>, part: &Part<'_>) -> Result<Vec<T>, Error> {
    let mut values = vec![T::ZERO; part.elements()];
    decode(element_of(pass, part.dtype)?, part.bytes, &mut values).map_err(|error| pass.arithmetic(error))?;
    Ok(values)
}

/// The factors for rows and columns as the slice is stored, with every multiplier in them.
fn product(pass: &Pass<'_>, edit: &LowRank<'_>, strength: f64) -> Result<Product, Error> {
    let scale = strength * edit.scale;
    if edit.form == LoraForm::Conv {
        return conv_product(pass, edit, scale);
    }
    let (up, down): (Vec<T>, Vec<T>) = (decoded(pass, &edit.up)?, decoded(pass, &edit.down)?);
    let (experts, up_dims) = match (edit.form, edit.up.dims.as_slice()) {
        (LoraForm::Stacked, [experts, dims @ ..]) => (size(*experts), dims),
        (_, dims) => (1, dims),
    };
    let &[out, rank] = up_dims else { return Err(wrong(pass, "factors have other axes".to_owned())) };
    let (out, rank) = (size(out), size(rank));
    let input = down.len() / (experts * rank).max(1);
    let shape = |error: ShapeError| wrong(pass, error.to_string());
    let mut made = Vec::with_capacity(experts);
    for (up, down) in up.chunks_exact(out * rank).zip(down.chunks_exact(rank * input)) {
        let up = ArrayView2::from_shape((out, rank), up).map_err(shape)?;
        let down = ArrayView2::from_shape((rank, input), down).map_err(shape)?;
        let product = match edit.transposed {
            false => lowrank::LowRank::new(up, down, scale),
            true => lowrank::LowRank::transposed(up, down, scale),
        };
        made.push(product.map_err(|error| pass.arithmetic(error))?);
    }
    let (rows, columns) = if edit.transposed { (input, out) } else { (out, input) };
    Ok(Product { experts: made, rows, columns })
}

fn conv_product(pass: &Pass<'_>, edit: &LowRank<'_>, scale: f64) -> Result<Product, Error> {
    let (up, down): (Vec<T>, Vec<T>) = (decoded(pass, &edit.up)?, decoded(pass, &edit.down)?);
    let mid: Option<Vec<T>> = edit.mid.as_ref().map(|mid| decoded(pass, mid)).transpose()?;
    let view = |part: &Part<'_>, values| {
        let dims: Vec<usize> = part.dims.iter().map(|dim| size(*dim)).collect();
        ArrayViewD::from_shape(IxDyn(&dims), values).map_err(|error| wrong(pass, error.to_string()))
    };
    let mid = match (&edit.mid, &mid) {
        (Some(part), Some(values)) => Some(view(part, values.as_slice())?),
        _ => None,
    };
    let product = conv::product(view(&edit.up, &up)?, mid, view(&edit.down, &down)?, scale);
    let product = product.map_err(|error| pass.arithmetic(error))?;
    let (rows, columns) = (product.rows(), product.columns());
    Ok(Product { experts: vec![product], rows, columns })
}

/// A product with DoRA's magnitude: rows have their norm at hand, columns take a pass over the whole tensor, with the
/// steps before.
fn rescaled<'p>(
    pass: &Pass<'p>,
    (before, region): (&[PreparedStep<'p>], &Region),
    (product, edit, magnitude): (Product, &LowRank<'_>, &Magnitude<'_>),
    buffers: &mut Buffers,
) -> Result<Op<'p>, Error> {
    let (norm_of, eps) = (magnitude.norm_of, magnitude.eps);
    let wanted: Vec<f64> = decoded(pass, &magnitude.value)?;
    let keeps_rows = (magnitude.axis == 0) != edit.transposed;
    if keeps_rows {
        return Ok(Op::Rows(Rows { product, magnitude: wanted, norm_of, eps }));
    }
    let group = product.columns.checked_div(wanted.len()).unwrap_or(0);
    let norms = ColumnNorms::new(product.columns, group).map_err(|error| pass.arithmetic(error))?;
    let norms = column_norms(pass, (before, region), (&product, norms, norm_of), buffers)?;
    let factors = norm::magnitude_factors(0, &norms, &wanted, eps).map_err(|error| pass.arithmetic(error))?;
    Ok(Op::Columns { product, factors })
}

fn column_norms(
    pass: &Pass<'_>,
    (before, region): (&[PreparedStep<'_>], &Region),
    (product, mut norms, norm_of): (&Product, ColumnNorms, NormOf),
    buffers: &mut Buffers,
) -> Result<Vec<f64>, Error> {
    let unit = pass.unit();
    let block = unit.max(BLOCK / unit * unit);
    let end = size(region.elements());
    let Buffers { total, gathered, .. } = buffers;
    for first in (0..pass.len).step_by(block) {
        pass.context.check_stop()?;
        pass.decode_block(first, block.min(pass.len - first), total);
        let sums = before.iter().try_for_each(|step| step.apply(first, total, gathered)).and_then(|()| {
            on_w(region, (first, total), gathered, |position, w| {
                // Rows that a later step appends are not `W`'s.
                let known = end.saturating_sub(position).min(w.len());
                let w = &mut w[..known];
                if norm_of == NormOf::Merged {
                    product.add(position, w)?;
                }
                norms.add_rows(position / product.columns, product.matrix(w).1.view())
            })
        });
        sums.map_err(|error| pass.arithmetic(error))?;
    }
    Ok(norms.finish())
}

fn size(dim: u64) -> usize {
    usize::try_from(dim).unwrap_or(usize::MAX)
}
