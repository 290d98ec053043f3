//! From the plan's steps to operations.

use super::factors::Factors;
use super::lower::{self, Rescale, WorkOp, WorkShare, WorkStep};
use super::op::{Op, PreparedShare, PreparedStep, Product, Rows, on_w};
use super::{BLOCK, Buffers, Error, Pass};
use crate::plan::{Action, Step};
use crate::region::Region;
use fitment_core::model::{LoraForm, NormOf};
use fitment_math::lowrank::{self, Pair};
use fitment_math::norm::{self, ColumnNorms};

/// The product of all steps, when nothing else happens to the tensor than low-rank updates of all of it: the common
/// case, done in one pass from bytes to bytes.
pub(super) fn fast(pass: &Pass<'_>) -> Result<Option<Product>, Error> {
    let steps = || pass.job.shares.iter().flat_map(|share| share.steps.iter().map(move |step| (share, step)));
    let low_rank = |step: &Step<'_>| match &step.action {
        Action::LowRank(edit) if edit.magnitude.is_none() && step.region.is_whole() => {
            Some(edit.form == LoraForm::Stacked)
        }
        Action::LowRank(_)
        | Action::Add(_)
        | Action::Set(_)
        | Action::Put(_)
        | Action::Scatter { .. }
        | Action::Restore(_) => None,
    };
    let forms: Option<Vec<bool>> = steps().map(|(_, step)| low_rank(step)).collect();
    if forms.is_none_or(|forms| forms.is_empty() || forms.iter().any(|form| *form != forms[0])) {
        return Ok(None);
    }
    let mut factors = Vec::new();
    for (share, step) in steps() {
        if let Action::LowRank(edit) = &step.action {
            factors.push(Factors::new(pass, edit, share.weight)?);
        }
    }
    product(pass, &factors).map(Some)
}

/// The sum of factors that have the same extents.
fn product(pass: &Pass<'_>, factors: &[Factors]) -> Result<Product, Error> {
    let first = factors.first().ok_or_else(|| pass.wrong("no factors".to_owned()))?;
    let experts = (0..first.experts()).map(|expert| {
        let pairs: Vec<Pair<'_>> = factors.iter().map(|factors| factors.pair(expert)).collect();
        lowrank::LowRank::new(&pairs).map_err(|error| pass.arithmetic(error))
    });
    Ok(Product { experts: experts.collect::<Result<_, _>>()?, rows: first.rows(), columns: first.columns() })
}

pub(super) fn shares<'p>(pass: &Pass<'p>, buffers: &mut Buffers) -> Result<Vec<PreparedShare<'p>>, Error> {
    lower::shares(pass)?.into_iter().map(|share| prepare(pass, share, buffers)).collect()
}

fn prepare<'p>(
    pass: &Pass<'p>,
    share: WorkShare<'p>,
    buffers: &mut Buffers,
) -> Result<PreparedShare<'p>, Error> {
    let mut steps = Vec::new();
    for WorkStep { region, op } in share.steps {
        let op = match op {
            WorkOp::Change(change) => Op::Change(change),
            WorkOp::Product(factors) => Op::Product(product(pass, &[factors])?),
            WorkOp::Rescaled(factors, rescale) => {
                let product = product(pass, &[factors])?;
                rescaled(pass, (&steps, region), (product, rescale), buffers)?
            }
        };
        steps.push(PreparedStep { region, op });
    }
    Ok(PreparedShare { weight: share.weight, additive: share.additive, steps })
}

/// A product with DoRA's magnitude: rows have their norm at hand, columns take a pass over the whole tensor, with the
/// steps before.
fn rescaled<'p>(
    pass: &Pass<'p>,
    (before, region): (&[PreparedStep<'p>], &Region),
    (product, rescale): (Product, Rescale),
    buffers: &mut Buffers,
) -> Result<Op<'p>, Error> {
    let Rescale { magnitude, keeps_rows, norm_of, eps } = rescale;
    if keeps_rows {
        return Ok(Op::Rows(Rows { product, magnitude, norm_of, eps }));
    }
    let group = product.columns.checked_div(magnitude.len()).unwrap_or(0);
    let norms = ColumnNorms::new(product.columns, group).map_err(|error| pass.arithmetic(error))?;
    let norms = column_norms(pass, (before, region), (&product, norms, norm_of), buffers)?;
    let factors =
        norm::magnitude_factors(0, &norms, &magnitude, eps).map_err(|error| pass.arithmetic(error))?;
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
    let end = usize::try_from(region.elements()).unwrap_or(usize::MAX);
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
