use ndarray::{ArrayViewMut2, Axis};

use super::bounds::Fast;
use super::exact::{AddExactly, Coded, InPlace};
use super::factor::Pair;
use super::fast::AddFast;
use crate::dispatch::Level;
use crate::round::{Element, Encoded, EncodedMut};
use crate::{Error, parallel};

/// Rows that one thread takes at a time: enough work to pay for handing it over.
const ROWS_PER_JOB: usize = 64;

/// A sum of products `s · up · down`, packed for the kernel of this machine.
#[derive(Clone, Debug)]
pub struct LowRank {
    rows: usize,
    columns: usize,
    pub(super) parts: Vec<Part>,
    pub(super) fast: Option<Fast>,
    pub(super) level: Level,
}

/// One product of rank above zero.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) rank: usize,
    pub(super) scale: f64,
    /// `[rows, rank]`.
    pub(super) left: Vec<f64>,
    /// Panels `[rank, width]`.
    pub(super) right: Vec<f64>,
}

impl LowRank {
    /// `s₁ · up₁ · down₁ + s₂ · up₂ · down₂ + …`, in the order given. A pair of rank zero is the zero matrix.
    ///
    /// # Errors
    /// [`Error::NoFactors`] without pairs; [`Error::Rank`] if the factors of one disagree on the rank; [`Error::Shape`]
    /// if two pairs disagree on the shape; [`Error::TooLarge`] if the packed form does not fit into memory.
    pub fn new(pairs: &[Pair<'_>]) -> Result<Self, Error> {
        check_ranks(pairs)?;
        Self::at_level(Level::detect(), pairs)
    }

    /// The transposed sum, for a base that is stored transposed: `[columns, rows]`.
    ///
    /// # Errors
    /// As [`LowRank::new`].
    pub fn transposed(pairs: &[Pair<'_>]) -> Result<Self, Error> {
        check_ranks(pairs)?;
        let pairs: Vec<_> = pairs.iter().map(|pair| pair.transposed()).collect();
        Self::at_level(Level::detect(), &pairs)
    }

    /// Of pairs whose ranks agree.
    pub(super) fn at_level(level: Level, pairs: &[Pair<'_>]) -> Result<Self, Error> {
        let shape = |pair: &Pair<'_>| [pair.up.dim().0, pair.down.dim().1];
        let [rows, columns] = shape(pairs.first().ok_or(Error::NoFactors)?);
        if let Some(found) = pairs.iter().map(shape).find(|&found| found != [rows, columns]) {
            return Err(Error::Shape { what: "another product", expected: [rows, columns], found });
        }
        let width = level.panel_width();
        let pack = |pair: &Pair<'_>| {
            let (left, right) = (pair.up.rows()?, pair.down.panels(width)?);
            Ok(Part { rank: pair.up.dim().1, scale: pair.scale, left, right })
        };
        let parts =
            pairs.iter().filter(|pair| pair.up.dim().1 > 0).map(pack).collect::<Result<Vec<_>, Error>>()?;
        let fast = Fast::of(&parts, columns, width);
        Ok(LowRank { rows, columns, parts, fast, level })
    }

    /// Rows of the product.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of the product.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Adds the product's rows from `first_row` on to `block` `[any, columns]`. Any strides are allowed; rows without
    /// gaps are fastest.
    ///
    /// # Errors
    /// [`Error::Columns`] if `block` has another number of columns, [`Error::Rows`] if it has too many rows.
    pub fn add_to(&self, first_row: usize, mut block: ArrayViewMut2<'_, f64>) -> Result<(), Error> {
        self.check_rows(first_row, block.nrows())?;
        if block.ncols() != self.columns {
            return Err(Error::Columns { expected: self.columns, found: block.ncols() });
        }
        if block.is_empty() || self.parts.is_empty() {
            return Ok(());
        }
        let jobs = block.axis_chunks_iter_mut(Axis(0), ROWS_PER_JOB).enumerate().collect();
        parallel::for_each(jobs, |(job, mut block): (usize, ArrayViewMut2<'_, f64>)| {
            let first_row = first_row + job * ROWS_PER_JOB;
            let rows: Option<Vec<_>> = block.rows_mut().into_iter().map(|row| row.into_slice()).collect();
            if let Some(rows) = rows {
                self.add_exactly(first_row, rows.len(), InPlace { rows });
            } else {
                let mut copy: Vec<f64> = block.iter().copied().collect();
                let rows: Vec<_> = copy.chunks_exact_mut(self.columns).collect();
                self.add_exactly(first_row, rows.len(), InPlace { rows });
                block.iter_mut().zip(copy).for_each(|(to, from)| *to = from);
            }
        });
        Ok(())
    }

    /// Writes `base` with the product's rows from `first_row` on added: whole rows `[any, columns]`, in one pass. The
    /// bits are those of [`decode`](crate::round::decode), [`LowRank::add_to`] and [`encode`](crate::round::encode),
    /// but nothing wider than a few kilobytes is written in between.
    ///
    /// # Errors
    /// [`Error::Length`] if `base` does not hold whole rows, or `out` not as many; [`Error::Rows`] if it has too many.
    pub fn merge(&self, first_row: usize, base: Encoded<'_>, out: EncodedMut<'_>) -> Result<(), Error> {
        let row_bytes = self.columns.saturating_mul(base.element.size());
        let rows = base.bytes.len().checked_div(row_bytes).unwrap_or(0);
        check_length("bytes of the base in whole rows", rows * row_bytes, base.bytes.len())?;
        self.check_rows(first_row, rows)?;
        let out_row_bytes = self.columns.saturating_mul(out.element.size());
        check_length("bytes of the output", rows.saturating_mul(out_row_bytes), out.bytes.len())?;
        if self.parts.is_empty() {
            return crate::round::convert(base, out);
        }
        if rows == 0 {
            return Ok(());
        }

        let (base_element, out_element) = (base.element, out.element);
        let fast =
            self.fast.as_ref().filter(|_| out_element == Element::Bf16 && base_element != Element::F64);
        let bases = base.bytes.chunks(ROWS_PER_JOB * row_bytes);
        let outs = out.bytes.chunks_mut(ROWS_PER_JOB * out_row_bytes);
        parallel::for_each(
            bases.zip(outs).enumerate().collect(),
            |(job, (base, out)): (usize, (&[u8], &mut [u8]))| {
                let first_row = first_row + job * ROWS_PER_JOB;
                let rows = base.len() / row_bytes;
                let cells = Coded { base, base_element, out, out_element, columns: self.columns };
                match fast {
                    Some(fast) => self.level.run(AddFast { product: self, fast, first_row, rows, cells }),
                    None => self.add_exactly(first_row, rows, cells),
                }
            },
        );
        Ok(())
    }

    fn add_exactly(&self, first_row: usize, rows: usize, cells: impl super::exact::Cells) {
        self.level.run(AddExactly { product: self, first_row, rows, cells });
    }

    fn check_rows(&self, first: usize, count: usize) -> Result<(), Error> {
        match first.checked_add(count) {
            Some(end) if end <= self.rows => Ok(()),
            end => Err(Error::Rows { first, end: end.unwrap_or(usize::MAX), available: self.rows }),
        }
    }
}

fn check_ranks(pairs: &[Pair<'_>]) -> Result<(), Error> {
    for pair in pairs {
        let (up, down) = (pair.up.dim().1, pair.down.dim().0);
        if up != down {
            return Err(Error::Rank { up, other: "down", found: down });
        }
    }
    Ok(())
}

fn check_length(what: &'static str, expected: usize, found: usize) -> Result<(), Error> {
    if found == expected { Ok(()) } else { Err(Error::Length { what, expected, found }) }
}
