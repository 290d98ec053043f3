use ndarray::{ArrayView2, Axis};

use crate::Error;

/// One factor of a product, decoded. F32 holds bf16, f16 and f32 exactly; any strides.
#[derive(Clone, Copy, Debug)]
pub enum Factor<'a> {
    /// Numbers that f32 holds.
    F32(ArrayView2<'a, f32>),
    /// Numbers that need f64.
    F64(ArrayView2<'a, f64>),
}

impl<'a> From<ArrayView2<'a, f32>> for Factor<'a> {
    fn from(view: ArrayView2<'a, f32>) -> Self {
        Factor::F32(view)
    }
}

impl<'a> From<ArrayView2<'a, f64>> for Factor<'a> {
    fn from(view: ArrayView2<'a, f64>) -> Self {
        Factor::F64(view)
    }
}

/// The factors of `scale · up · down`.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// `[rows, r]`.
    pub up: Factor<'a>,
    /// `[r, columns]`.
    pub down: Factor<'a>,
    /// The scale, all strengths included.
    pub scale: f64,
}

impl<'a> Pair<'a> {
    /// Factors of either type.
    pub fn new(up: impl Into<Factor<'a>>, down: impl Into<Factor<'a>>, scale: f64) -> Self {
        Pair { up: up.into(), down: down.into(), scale }
    }

    pub(super) fn transposed(self) -> Self {
        Pair { up: self.down.transposed(), down: self.up.transposed(), scale: self.scale }
    }
}

impl Factor<'_> {
    pub(super) fn dim(&self) -> (usize, usize) {
        match self {
            Factor::F32(view) => view.dim(),
            Factor::F64(view) => view.dim(),
        }
    }

    fn transposed(self) -> Self {
        match self {
            Factor::F32(view) => Factor::F32(view.reversed_axes()),
            Factor::F64(view) => Factor::F64(view.reversed_axes()),
        }
    }

    /// Calls `each` with row, column and number, row by row.
    fn for_each(&self, mut each: impl FnMut(usize, usize, f64)) {
        match self {
            Factor::F32(view) => walk(view, |row, column, value: f32| each(row, column, f64::from(value))),
            Factor::F64(view) => walk(view, each),
        }
    }

    /// The numbers, row by row.
    pub(super) fn rows(&self) -> Result<Vec<f64>, Error> {
        let (rows, columns) = self.dim();
        let mut packed = reserve(rows, columns, rows.checked_mul(columns))?;
        self.for_each(|_, _, value| packed.push(value));
        Ok(packed)
    }

    /// The numbers of a right factor `[rank, columns]`, cut into panels of `width` columns, each `[rank, width]` row by
    /// row: a tile then reads its panel from front to back. The last panel is filled up with zeros.
    pub(super) fn panels(&self, width: usize) -> Result<Vec<f64>, Error> {
        let (rank, columns) = self.dim();
        let length = columns.checked_next_multiple_of(width).and_then(|padded| padded.checked_mul(rank));
        let mut packed = reserve(rank, columns, length)?;
        packed.resize(length.unwrap_or(0), 0.0);
        self.for_each(|k, column, value| {
            packed[(column / width * rank + k) * width + column % width] = value
        });
        Ok(packed)
    }
}

fn walk<T: Copy>(view: &ArrayView2<'_, T>, mut each: impl FnMut(usize, usize, T)) {
    for (row, cells) in view.axis_iter(Axis(0)).enumerate() {
        for (column, &value) in cells.iter().enumerate() {
            each(row, column, value);
        }
    }
}

fn reserve(rank: usize, width: usize, length: Option<usize>) -> Result<Vec<f64>, Error> {
    let mut packed = Vec::new();
    match length {
        Some(length) if packed.try_reserve_exact(length).is_ok() => Ok(packed),
        _ => Err(Error::TooLarge { rank, width }),
    }
}
