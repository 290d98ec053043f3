//! Changes of weights, taken from a plan: a device for `fitment-apply` that keeps what it is told instead of computing it, as far as it can.

use super::change::{Change, Factors};
use crate::apply::{Done, OnDevice, Stop, flat};
use candle_core::{DType, Device, Tensor};
use fitment_apply::device::{self, Block, Blocks, DeviceError, Rescale, Work, WorkOp, WorkStep};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Collects the changes of the tensors that need arithmetic.
pub(super) struct Collector<'d> {
    device: &'d Device,
    found: Mutex<BTreeMap<String, Change>>,
}

impl<'d> Collector<'d> {
    pub(super) fn new(device: &'d Device) -> Self {
        Self { device, found: Mutex::default() }
    }

    pub(super) fn finish(self) -> BTreeMap<String, Change> {
        self.found.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl device::Device for Collector<'_> {
    fn in_flight(&self) -> usize {
        1
    }

    fn block_elements(&self, _: &Work<'_>) -> usize {
        usize::MAX
    }

    fn begin<'w>(&'w self, work: &'w Work<'w>) -> Result<Box<dyn Blocks + 'w>, DeviceError> {
        let computed = OnDevice::new(self.device, work)?;
        Ok(Box::new(Collected { collector: self, work, computed }))
    }
}

struct Collected<'w> {
    collector: &'w Collector<'w>,
    work: &'w Work<'w>,
    computed: OnDevice<'w>,
}

impl Collected<'_> {
    fn change(&self, block: Block<'_>) -> Done<Change> {
        match self.factors(block)? {
            Some(factors) => Ok(Change::Factors(factors)),
            None => {
                let base = self.computed.base(block)?;
                let delta = (self.computed.result(block)? - base)?.to_dtype(DType::F32)?;
                Ok(Change::Dense(delta.reshape(self.work.dims.as_slice())?))
            }
        }
    }

    /// The change as factors; `None` where it is none of a matrix, or not of that form.
    fn factors(&self, block: Block<'_>) -> Done<Option<Factors>> {
        let ([share], [_, _, ..]) = (&self.work.shares[..], &self.work.dims[..]) else { return Ok(None) };
        if let Some(made) = self.of_experts(&share.steps)? {
            return Ok(Some(made));
        }
        let mut made = Factors::default();
        for (number, step) in share.steps.iter().enumerate() {
            let (factors, rescale) = match step.op() {
                WorkOp::Change(_) => return Ok(None),
                WorkOp::Product(factors) => (factors, None),
                WorkOp::Rescaled(factors, rescale) => (factors, Some(rescale)),
            };
            let Some((left, right)) = self.product(step, factors)? else { return Ok(None) };
            made.add(left, right)?;
            match rescale {
                None => {}
                // Factors hold for whole rows and columns only.
                Some(rescale) if self.cuts_lines(step, rescale.keeps_rows) => return Ok(None),
                Some(rescale) if rescale.keeps_rows => {
                    let scales = self.row_scales(step, (number, rescale), block)?;
                    made.scale_rows(&scales)?;
                }
                Some(_) => {
                    let Some(scales) = self.computed.column_scales((0, number)) else { return Ok(None) };
                    let scales =
                        self.spread(&scales.to_dtype(DType::F32)?, step.indices(1), self.columns(), 1.0)?;
                    made.scale_columns(&scales)?;
                }
            }
        }
        let twice = made.row.is_some() && made.column.is_some();
        Ok((!twice).then_some(made))
    }

    /// The change of a stack of experts' matrices, when all of it is products of its own for each.
    fn of_experts(&self, steps: &[WorkStep<'_>]) -> Done<Option<Factors>> {
        let [experts, rows, columns] = self.work.dims[..] else { return Ok(None) };
        let mut made = Factors::default();
        for step in steps {
            let WorkOp::Product(factors) = step.op() else { return Ok(None) };
            let whole = (0..3).all(|axis| step.indices(axis).is_none());
            if !whole || [factors.experts(), factors.rows(), factors.columns()] != [experts, rows, columns] {
                return Ok(None);
            }
            let rank = factors.rank();
            let left = (0..experts).flat_map(|expert| factors.left(expert, 0..rows, |number| number as f32));
            let right = (0..experts).flat_map(|expert| factors.right(expert, |number| number as f32));
            let device = self.collector.device;
            let left = Tensor::from_vec(left.collect(), (experts, rows, rank), device)?;
            made.add(left, Tensor::from_vec(right.collect(), (experts, rank, columns), device)?)?;
        }
        Ok(made.product.is_some().then_some(made))
    }

    /// Whether a step changes a part of its rows, or of its columns.
    fn cuts_lines(&self, step: &WorkStep<'_>, rows: bool) -> bool {
        let axes = if rows { 1..self.work.dims.len() } else { 0..1 };
        axes.into_iter().any(|axis| step.indices(axis).is_some())
    }

    fn rows(&self) -> usize {
        self.work.dims[0]
    }

    fn columns(&self) -> usize {
        self.work.dims[1..].iter().product()
    }

    /// `left` and `right` of a step, 0 outside the slice that it changes; `None` for experts and for slices of a kernel's axes.
    fn product(&self, step: &WorkStep<'_>, factors: &device::Factors) -> Done<Option<(Tensor, Tensor)>> {
        let sliced_inside = (2..self.work.dims.len()).any(|axis| step.indices(axis).is_some());
        let kernel = self.work.dims.len() > 2 && step.indices(1).is_some();
        let alien = factors.rows() > self.rows() || factors.columns() > self.columns();
        if factors.experts() != 1 || sliced_inside || kernel || alien {
            return Ok(None);
        }
        let device = self.collector.device;
        let rank = factors.rank();
        let left = Tensor::from_vec(
            factors.left(0, 0..factors.rows(), |number| number as f32),
            (factors.rows(), rank),
            device,
        )?;
        let right = factors.right(0, |number| number as f32);
        let right = Tensor::from_vec(right, (rank, factors.columns()), device)?;
        let left = self.spread(&left, step.indices(0), self.rows(), 0.0)?;
        let right = self.spread(&right.t()?.contiguous()?, step.indices(1), self.columns(), 0.0)?;
        Ok(Some((left, right.t()?.contiguous()?)))
    }

    /// Rows at their places among `len` rows, the others being `fill`.
    fn spread(&self, rows: &Tensor, indices: Option<Vec<u64>>, len: usize, fill: f32) -> Done<Tensor> {
        let found = rows.dim(0)?;
        let indices = match indices {
            None if found == len => return Ok(rows.clone()),
            // Rows that a later step appends are not this one's.
            None => (0..found as u64).collect(),
            Some(indices) => indices,
        };
        let indices: Vec<u32> = indices.into_iter().map(|index| index as u32).collect();
        let mut dims = rows.dims().to_vec();
        dims[0] = len;
        let all = Tensor::full(fill, dims, rows.device())?;
        let indices = Tensor::new(indices, rows.device())?;
        Ok(all.index_add(&indices, &(rows - f64::from(fill))?, 0)?)
    }

    /// DoRA's factor for each row of the tensor.
    fn row_scales(
        &self,
        step: &WorkStep<'_>,
        (number, rescale): (usize, &Rescale),
        block: Block<'_>,
    ) -> Done<Tensor> {
        let scales = self.computed.row_scales((0, number), rescale, block)?;
        let scales = flat::numbers(scales, DType::F32, self.collector.device)?;
        self.spread(&scales, step.indices(0), self.rows(), 1.0)
    }
}

impl Blocks for Collected<'_> {
    fn rehearsals(&self) -> usize {
        self.computed.rehearsals()
    }

    fn rehearse(&mut self, number: usize, block: Block<'_>) -> Result<(), DeviceError> {
        self.computed.rehearse(number, block)
    }

    fn rehearsed(&mut self, number: usize) -> Result<(), DeviceError> {
        self.computed.rehearsed(number)
    }

    fn block(&mut self, block: Block<'_>, out: &mut [u8]) -> Result<(), DeviceError> {
        if block.len != self.work.len {
            return Err(DeviceError::OutOfMemory);
        }
        let change = self.change(block).map_err(Stop::into_error)?;
        let mut found = self.collector.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.insert(self.work.name.to_owned(), change);
        // Nobody keeps the bytes.
        out.fill(0);
        Ok(())
    }
}
