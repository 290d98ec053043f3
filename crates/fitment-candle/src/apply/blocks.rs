//! A tensor on a device, block after block.

use super::{failed, flat, norms};
use candle_core::{DType, Device, Tensor};
use fitment_apply::device::{
    Block, Blocks, DeviceError, Factors, Rescale, Work, WorkOp, WorkShare, WorkStep,
};
use fitment_core::model::NormOf;
use fitment_math::norm;
use fitment_math::round::Element;
use std::cell::RefCell;
use std::collections::BTreeMap;

pub(crate) type Done<T> = Result<T, Stop>;

/// A [`DeviceError`] that candle's errors turn into.
pub(crate) struct Stop(DeviceError);

impl Stop {
    pub(crate) fn into_error(self) -> DeviceError {
        self.0
    }
}

impl From<candle_core::Error> for Stop {
    fn from(error: candle_core::Error) -> Self {
        Stop(failed(error))
    }
}

impl From<fitment_math::Error> for Stop {
    fn from(error: fitment_math::Error) -> Self {
        Stop(error.into())
    }
}

/// A tensor that is worked on.
pub(crate) struct OnDevice<'w> {
    device: &'w Device,
    work: &'w Work<'w>,
    /// The dtype of sums and products.
    wide: DType,
    /// Steps that rescale columns, by share and step, in order.
    columns: Vec<Columns>,
    /// The right factor that was used last, with share, step and expert: uploaded once for all blocks.
    right: RefCell<BTreeMap<(usize, usize), (usize, Tensor)>>,
}

/// A step that rescales columns: sums of squares, then factors.
struct Columns {
    place: (usize, usize),
    sums: Vec<f64>,
    factors: Option<Tensor>,
}

/// A step, and where it stands.
#[derive(Clone, Copy)]
struct At<'w> {
    place: (usize, usize),
    step: &'w WorkStep<'w>,
}

impl<'w> OnDevice<'w> {
    /// Whether sums are f64.
    pub(crate) fn computes_f64(work: &Work<'_>) -> bool {
        [work.source, work.target].contains(&Element::F64)
    }

    pub(crate) fn new(device: &'w Device, work: &'w Work<'w>) -> Result<Self, DeviceError> {
        let wide = if Self::computes_f64(work) { DType::F64 } else { DType::F32 };
        let mut columns = Vec::new();
        for (share, steps) in work.shares.iter().map(|share| &share.steps).enumerate() {
            for (number, step) in steps.iter().enumerate() {
                if let WorkOp::Rescaled(factors, rescale) = step.op()
                    && !rescale.keeps_rows
                {
                    let width = factors.columns();
                    let group = width.checked_div(rescale.magnitude.len()).unwrap_or(0);
                    norm::ColumnNorms::new(width, group)?;
                    columns.push(Columns { place: (share, number), sums: vec![0.0; width], factors: None });
                }
            }
        }
        Ok(Self { device, work, wide, columns, right: RefCell::default() })
    }

    /// The base's numbers of a block, 0 where it has none.
    pub(crate) fn base(&self, block: Block<'_>) -> Done<Tensor> {
        let known = flat::upload(block.stored, self.work.source, self.wide, self.device)?;
        let missing = block.len - known.elem_count();
        if missing == 0 {
            return Ok(known);
        }
        Ok(Tensor::cat(&[known, Tensor::zeros(missing, self.wide, self.device)?], 0)?)
    }

    /// `W + Σ wᵢ·(Fᵢ(W) − W)`.
    pub(crate) fn result(&self, block: Block<'_>) -> Done<Tensor> {
        let base = self.base(block)?;
        if let [share] = &self.work.shares[..]
            && (share.additive || share.weight == 1.0)
        {
            return self.share(0, share, (block.first, base));
        }
        let mut total = base.clone();
        for (number, share) in self.work.shares.iter().enumerate() {
            total = if share.additive {
                self.share(number, share, (block.first, total))?
            } else {
                let changed = self.share(number, share, (block.first, base.clone()))?;
                (total + ((changed - &base)? * share.weight)?)?
            };
        }
        Ok(total)
    }

    fn share(&self, number: usize, share: &'w WorkShare<'w>, block: (usize, Tensor)) -> Done<Tensor> {
        self.steps((number, share, share.steps.len()), block)
    }

    /// The first `count` steps of a share.
    fn steps(
        &self,
        (number, share, count): (usize, &'w WorkShare<'w>, usize),
        (first, mut block): (usize, Tensor),
    ) -> Done<Tensor> {
        for (at, step) in share.steps.iter().take(count).enumerate() {
            let at = At { place: (number, at), step };
            block = on_w(step, (first, &block), |position, w| self.step(at, (position, w)))?;
        }
        Ok(block)
    }

    fn step(&self, at: At<'w>, (position, w): (usize, Tensor)) -> Done<Tensor> {
        match at.step.op() {
            WorkOp::Change(change) => {
                let mut w = w;
                for piece in change.pieces(position..position + w.elem_count())? {
                    w = flat::put(&w, position, piece)?;
                }
                Ok(w)
            }
            WorkOp::Product(factors) => self.add_product((at, factors), (position, w)),
            WorkOp::Rescaled(factors, rescale) if rescale.keeps_rows => {
                self.rescale_rows((at, factors), rescale, (position, w))
            }
            WorkOp::Rescaled(factors, _) => {
                let sum = self.add_product((at, factors), (position, w))?;
                match self.column_scales(at.place) {
                    Some(scales) => {
                        let len = sum.elem_count();
                        let matrix = sum.reshape((len / factors.columns(), factors.columns()))?;
                        Ok(matrix.broadcast_mul(scales)?.reshape(len)?)
                    }
                    None => Err(Stop(DeviceError::Failed(
                        "a norm is asked for before its columns were seen".to_owned(),
                    ))),
                }
            }
        }
    }

    /// Adds a product to whole rows of `W`; rows beyond the product's stay as they are.
    fn add_product(&self, (at, factors): (At<'w>, &Factors), (position, w): (usize, Tensor)) -> Done<Tensor> {
        let (columns, rows) = (factors.columns(), factors.rows());
        let (mut row, mut done) = (position / columns, 0);
        let end = w.elem_count();
        let mut parts = Vec::new();
        while done < end && row / rows < factors.experts() {
            let (expert, local) = (row / rows, row % rows);
            let here = (rows - local).min((end - done) / columns);
            if here == 0 {
                break;
            }
            let left = factors.left(expert, local..local + here, |number| number);
            let left = flat::numbers(left, self.wide, self.device)?.reshape((here, factors.rank()))?;
            let right = self.right(at.place, expert, factors)?;
            let part = w.narrow(0, done, here * columns)?.reshape((here, columns))?;
            parts.push((part + left.matmul(&right)?)?.flatten_all()?);
            (row, done) = (row + here, done + here * columns);
        }
        if done < end {
            parts.push(w.narrow(0, done, end - done)?);
        }
        match &parts[..] {
            [whole] => Ok(whole.clone()),
            parts => Ok(Tensor::cat(parts, 0)?),
        }
    }

    fn right(&self, place: (usize, usize), expert: usize, factors: &Factors) -> Done<Tensor> {
        if let Some((of, right)) = self.right.borrow().get(&place)
            && *of == expert
        {
            return Ok(right.clone());
        }
        let right = factors.right(expert, |number| number);
        let right =
            flat::numbers(right, self.wide, self.device)?.reshape((factors.rank(), factors.columns()))?;
        self.right.borrow_mut().insert(place, (expert, right.clone()));
        Ok(right)
    }

    /// `m ∘ V/‖V‖` by rows, which a block holds whole.
    fn rescale_rows(
        &self,
        (at, factors): (At<'w>, &Factors),
        rescale: &Rescale,
        (position, w): (usize, Tensor),
    ) -> Done<Tensor> {
        let columns = factors.columns();
        let (sum, scales) = self.row_factors((at, factors), rescale, (position, &w))?;
        let rows = scales.len();
        let scales = flat::numbers(scales, self.wide, self.device)?.reshape((rows, 1))?;
        let scaled = sum.broadcast_mul(&scales)?.flatten_all()?;
        let rest = w.elem_count() - rows * columns;
        if rest == 0 {
            return Ok(scaled);
        }
        Ok(Tensor::cat(&[scaled, w.narrow(0, rows * columns, rest)?], 0)?)
    }

    /// `V`, of the rows that have a magnitude, and the factor of each.
    fn row_factors(
        &self,
        (at, factors): (At<'w>, &Factors),
        rescale: &Rescale,
        (position, w): (usize, &Tensor),
    ) -> Done<(Tensor, Vec<f64>)> {
        let columns = factors.columns();
        let first = position / columns;
        let rows = rescale.magnitude.len().saturating_sub(first).min(w.elem_count() / columns);
        let known = w.narrow(0, 0, rows * columns)?;
        let sum = self.add_product((at, factors), (position, known.clone()))?.reshape((rows, columns))?;
        let measured = match rescale.norm_of {
            NormOf::Base => known.reshape((rows, columns))?,
            NormOf::Merged => sum.clone(),
        };
        let squares = norms::of_rows(&measured)?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        let norms: Vec<f64> = squares.into_iter().map(f64::sqrt).collect();
        let magnitude = &rescale.magnitude[first..first + rows];
        Ok((sum, norm::magnitude_factors(first, &norms, magnitude, rescale.eps)?))
    }

    /// The factors of a step that rescales rows, from the block that is the whole tensor.
    pub(crate) fn row_scales(
        &self,
        place: (usize, usize),
        rescale: &Rescale,
        block: Block<'_>,
    ) -> Done<Vec<f64>> {
        let mut scales = Vec::new();
        self.before(place, block, |at, factors, (position, w)| {
            scales = self.row_factors((at, factors), rescale, (position, &w))?.1;
            Ok(w)
        })?;
        Ok(scales)
    }

    /// The factors of a step that rescales columns, when all of them have been rehearsed.
    pub(crate) fn column_scales(&self, place: (usize, usize)) -> Option<&Tensor> {
        self.columns.iter().find(|columns| columns.place == place)?.factors.as_ref()
    }

    /// Gives `look` the elements of `W` as a step with a product meets them.
    fn before(
        &self,
        place: (usize, usize),
        block: Block<'_>,
        look: impl FnOnce(At<'w>, &'w Factors, (usize, Tensor)) -> Done<Tensor>,
    ) -> Done<()> {
        let share = &self.work.shares[place.0];
        let at = At { place, step: &share.steps[place.1] };
        let (WorkOp::Product(factors) | WorkOp::Rescaled(factors, _)) = at.step.op() else { return Ok(()) };
        let before = self.steps((place.0, share, place.1), (block.first, self.base(block)?))?;
        on_w(at.step, (block.first, &before), |position, w| look(at, factors, (position, w)))?;
        Ok(())
    }

    /// The sums of squares of a block's columns, for rehearsal number `number`.
    fn column_sums(&self, number: usize, block: Block<'_>) -> Done<Vec<f64>> {
        let mut sums = Vec::new();
        self.before(self.columns[number].place, block, |at, factors, (position, w)| {
            // Rows that a later step appends are not `W`'s.
            let known = at.step.elements().saturating_sub(position).min(w.elem_count());
            if let (WorkOp::Rescaled(_, rescale), 1..) = (at.step.op(), known) {
                let seen = w.narrow(0, 0, known)?;
                let seen = match rescale.norm_of {
                    NormOf::Merged => self.add_product((at, factors), (position, seen))?,
                    NormOf::Base => seen,
                };
                let matrix = seen.reshape((known / factors.columns(), factors.columns()))?;
                sums = norms::of_columns(&matrix)?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
            }
            Ok(w)
        })?;
        Ok(sums)
    }

    fn settle(&mut self, number: usize) -> Done<()> {
        let (share, step) = self.columns[number].place;
        let WorkOp::Rescaled(_, rescale) = self.work.shares[share].steps[step].op() else { return Ok(()) };
        let columns = &mut self.columns[number];
        let group = columns.sums.len().checked_div(rescale.magnitude.len()).unwrap_or(0).max(1);
        let norms: Vec<f64> =
            columns.sums.chunks(group).map(|sums| sums.iter().sum::<f64>().sqrt()).collect();
        let scales = norm::magnitude_factors(0, &norms, &rescale.magnitude, rescale.eps)?;
        let wide = scales.iter().flat_map(|scale| std::iter::repeat_n(*scale, group)).collect();
        columns.factors = Some(flat::numbers(wide, self.wide, self.device)?);
        Ok(())
    }
}

/// Gives `change` the elements of `W` in a block as one run, with the position of the first.
fn on_w(
    step: &WorkStep<'_>,
    (first, block): (usize, &Tensor),
    change: impl FnOnce(usize, Tensor) -> Done<Tensor>,
) -> Done<Tensor> {
    match step.locate(first..first + block.elem_count()) {
        Some((position, runs)) => flat::on_runs(block, &runs, |w| change(position, w)),
        None => Ok(block.clone()),
    }
}

impl Blocks for OnDevice<'_> {
    fn rehearsals(&self) -> usize {
        self.columns.len()
    }

    fn rehearse(&mut self, number: usize, block: Block<'_>) -> Result<(), DeviceError> {
        let sums = self.column_sums(number, block).map_err(|stop| stop.0)?;
        for (total, sum) in self.columns[number].sums.iter_mut().zip(sums) {
            *total += sum;
        }
        Ok(())
    }

    fn rehearsed(&mut self, number: usize) -> Result<(), DeviceError> {
        self.settle(number).map_err(|stop| stop.0)
    }

    fn block(&mut self, block: Block<'_>, out: &mut [u8]) -> Result<(), DeviceError> {
        let done = self.result(block).and_then(|result| Ok(flat::download(&result, self.work.target, out)?));
        done.map_err(|stop| stop.0)
    }
}
