//! One linear layer while interventions are folded into it.

use super::affine::{Affine, join, matrix, times};
use super::place::{Side, Touch};
use crate::error::Error;
use fitment_core::checkpoint::{Checkpoint, CheckpointError};
use fitment_core::model::{IndexRange, Lora};
use fitment_core::tensor::Dtype;
use fitment_math::ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, Zip};
use fitment_math::round::{Element, decode};
use std::borrow::Cow;

/// The weight `W + Σ up·down`, `[out, in]`, as far as it has been folded, and what its bias has gained.
pub(super) struct Linear<'b> {
    bytes: Cow<'b, [u8]>,
    dtype: Dtype,
    conv1d: bool,
    out: usize,
    input: usize,
    /// Edits of the weight that come before: `[out, r]`, `[r, in]`.
    before: (Array2<f64>, Array2<f64>),
    /// Dense ones, `[out, in]`.
    dense: Vec<Array2<f64>>,
    /// What has been folded.
    pub(super) up: Array2<f64>,
    pub(super) down: Array2<f64>,
    /// The bias so far; zeros without one.
    pub(super) bias: Array1<f64>,
    pub(super) gained: Array1<f64>,
}

impl<'b> Linear<'b> {
    /// The layer as the base has it. `extents` are its outputs and inputs.
    pub(super) fn read(
        base: &'b dyn Checkpoint,
        module: &str,
        (out, input): (u64, u64),
        conv1d: bool,
    ) -> Result<Self, Error> {
        let name = format!("{module}.weight");
        let too_large = || {
            Error::Base(CheckpointError {
                name: name.clone(),
                reason: "is too large".to_owned(),
                source: None,
            })
        };
        let extent = |extent: u64| usize::try_from(extent).map_err(|_| too_large());
        let (out, input) = (extent(out)?, extent(input)?);
        let dtype = base.tensors().get(&name).map(|info| info.dtype);
        let bytes = base.read(&name).map_err(Error::Base)?;
        let mut linear = Self {
            bytes,
            dtype: dtype.ok_or_else(|| Error::Base(CheckpointError::missing(&name)))?,
            conv1d,
            out,
            input,
            before: (Array2::zeros((out, 0)), Array2::zeros((0, input))),
            dense: Vec::new(),
            up: Array2::zeros((out, 0)),
            down: Array2::zeros((0, input)),
            bias: Array1::zeros(out),
            gained: Array1::zeros(out),
        };
        let bias = format!("{module}.bias");
        if let Some(info) = base.tensors().get(&bias) {
            let bytes = base.read(&bias).map_err(Error::Base)?;
            let mut numbers = vec![0.0; out];
            let decoded = Element::of(info.dtype).map(|element| decode(element, &bytes, &mut numbers));
            if let Some(Ok(())) = decoded {
                linear.bias = Array1::from_vec(numbers);
            }
        }
        Ok(linear)
    }

    /// A low-rank edit of the weight that comes before the interventions. `None` when its shapes do not fit.
    pub(super) fn add_lora(&mut self, lora: &Lora<'_>, weight: f64) -> Option<()> {
        let (up, down) = (matrix(&lora.up)? * (lora.scale * weight), matrix(&lora.down)?);
        // What is stored `[in, out]`, and not read as its transpose, has its factors the other way round.
        let (up, down) = if lora.transposed == self.conv1d {
            (up, down)
        } else {
            (down.reversed_axes(), up.reversed_axes())
        };
        if up.nrows() != self.out || down.ncols() != self.input || up.ncols() != down.nrows() {
            return None;
        }
        self.before = (join(Axis(1), &self.before.0, &up), join(Axis(0), &self.before.1, &down));
        Some(())
    }

    /// A dense one, in the stored orientation.
    pub(super) fn add_dense(&mut self, delta: Array2<f64>, factor: f64) -> Option<()> {
        let delta = (if self.conv1d { delta.reversed_axes() } else { delta }) * factor;
        (delta.dim() == (self.out, self.input)).then(|| self.dense.push(delta))
    }

    pub(super) fn add_bias(&mut self, delta: &[f64], factor: f64) -> Option<()> {
        (delta.len() == self.out)
            .then(|| Zip::from(&mut self.bias).and(delta).for_each(|b, d| *b += factor * d))
    }

    /// Folds `z = h + U V h + c` at one end.
    pub(super) fn fold(&mut self, affine: &Affine, touch: &Touch) {
        match touch.side {
            Side::Output => self.fold_output(affine, touch.rows.as_deref()),
            Side::Input => self.fold_input(affine),
        }
    }

    /// `W' = M W` on some rows, `b' = M b + c`.
    fn fold_output(&mut self, affine: &Affine, rows: Option<&[IndexRange]>) {
        let rows: Vec<usize> = match rows {
            None => (0..self.out).collect(),
            Some(ranges) => ranges.iter().flat_map(|range| range.indices()).map(|row| row as usize).collect(),
        };
        let bias = self.bias.select(Axis(0), &rows);
        let change = affine.up.dot(&affine.down.dot(&bias)) + &affine.shift;
        for (row, change) in rows.iter().zip(change) {
            self.gained[*row] += change;
            self.bias[*row] += change;
        }
        if affine.is_constant() {
            return;
        }
        let mut reads = Array2::zeros((affine.down.nrows(), self.out));
        let mut writes = Array2::zeros((self.out, affine.up.ncols()));
        for (at, row) in rows.iter().enumerate() {
            reads.column_mut(*row).assign(&affine.down.column(at));
            writes.row_mut(*row).assign(&affine.up.row(at));
        }
        let down = self.left_times(reads.view());
        self.push(&writes, &down);
    }

    /// `W' = W M`, `b' = b + W c`.
    fn fold_input(&mut self, affine: &Affine) {
        let shift = affine.shift.view().insert_axis(Axis(1));
        let both = join(Axis(1), &affine.up, &shift.to_owned());
        let product = self.times_right(both.view());
        let (up, gained) = product.view().split_at(Axis(1), affine.up.ncols());
        self.gained += &gained.column(0);
        self.bias += &gained.column(0);
        if !affine.is_constant() {
            self.push(&up.to_owned(), &affine.down);
        }
    }

    fn push(&mut self, up: &Array2<f64>, down: &Array2<f64>) {
        self.up = join(Axis(1), &self.up, up);
        self.down = join(Axis(0), &self.down, down);
    }

    /// `left · W`, `[r, in]`, with the weight as it is now.
    fn left_times(&self, left: ArrayView2<'_, f64>) -> Array2<f64> {
        let mut product = through(left, &self.before.0, &self.before.1) + through(left, &self.up, &self.down);
        for dense in &self.dense {
            product += &times(left, dense.view());
        }
        self.each_stored_row(|at, row| match self.conv1d {
            // Row `at` holds what input `at` gives to each output.
            true => product.column_mut(at).scaled_add(1.0, &left.dot(&row)),
            false => {
                for (mut sum, factor) in product.outer_iter_mut().zip(left.column(at)) {
                    if *factor != 0.0 {
                        sum.scaled_add(*factor, &row);
                    }
                }
            }
        });
        product
    }

    /// `W · right`, `[out, r]`.
    fn times_right(&self, right: ArrayView2<'_, f64>) -> Array2<f64> {
        let mut product = onto(&self.before.0, &self.before.1, right) + onto(&self.up, &self.down, right);
        for dense in &self.dense {
            product += &times(dense.view(), right);
        }
        self.each_stored_row(|at, row| match self.conv1d {
            true => {
                for (mut sums, factor) in product.axis_iter_mut(Axis(1)).zip(right.row(at)) {
                    sums.scaled_add(*factor, &row);
                }
            }
            false => product.row_mut(at).scaled_add(1.0, &row.dot(&right)),
        });
        product
    }

    fn each_stored_row(&self, mut use_row: impl FnMut(usize, ArrayView1<'_, f64>)) {
        let width = if self.conv1d { self.out } else { self.input };
        let Some(element) = Element::of(self.dtype) else { return };
        let mut numbers = vec![0.0; width];
        for (at, bytes) in self.bytes.chunks_exact((width * element.size()).max(1)).enumerate() {
            if decode(element, bytes, &mut numbers).is_ok() {
                use_row(at, ArrayView1::from(&numbers[..]));
            }
        }
    }
}

/// `left · up · down`.
fn through(left: ArrayView2<'_, f64>, up: &Array2<f64>, down: &Array2<f64>) -> Array2<f64> {
    times(times(left, up.view()).view(), down.view())
}

/// `up · down · right`.
fn onto(up: &Array2<f64>, down: &Array2<f64>, right: ArrayView2<'_, f64>) -> Array2<f64> {
    times(up.view(), times(down.view(), right).view())
}
