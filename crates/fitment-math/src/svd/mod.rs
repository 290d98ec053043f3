//! Low-rank approximation of a matrix: `A ≈ up · down` by its largest singular values, split evenly (`√σ` to each side).
//!
//! Small matrices are decomposed exactly. For larger ones a randomised range finder with two power iterations (Halko,
//! Martinsson and Tropp 2011, algorithms 4.4 and 5.1) reads the matrix in blocks of rows and never holds it whole; with
//! [`approximate_from`] it begins where the caller says, and goes on until the values stand. All of it
//! is arithmetic in f32 by the faer crate, and it uses the widest instructions of the processor: this is the one module
//! whose results may differ between machines in their last bits, and the errors that it reports are measured on the
//! factors as they are given.
//!
//! ```
//! use fitment_math::svd::{Dense, Limit, approximate};
//!
//! // Two times the product of (1, 2) and (3, 4).
//! let matrix = Dense { columns: 2, numbers: &[6.0, 8.0, 12.0, 16.0] };
//! let found = approximate(&matrix, Limit::Rank(1))?.unwrap();
//! assert_eq!((found.up.shape(), found.down.shape()), (&[2, 1][..], &[1, 2][..]));
//! assert!(found.relative_error < 1e-6);
//! # Ok::<(), fitment_math::Error>(())
//! ```
//!
//! A product of two factors is shortened without forming it: [`shorten()`]. [`thin_svd`] and [`orthonormal`] decompose a matrix
//! in memory. These are in f64.

mod shorten;
mod thin;

pub use shorten::{Factors, shorten, shorten_by, within};
pub use thin::{Svd, orthonormal, thin_svd};

use crate::Error;
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par};
use ndarray::{Array2, ArrayView2};

/// A matrix that is read in blocks of rows.
pub trait Blocks {
    /// Rows and columns.
    fn shape(&self) -> [usize; 2];

    /// Fills `into`, whole rows in row-major order, with the rows from `first` on.
    ///
    /// # Errors
    /// When the rows cannot be read.
    fn read(&self, first: usize, into: &mut [f32]) -> Result<(), Error>;
}

/// A matrix in memory, row-major.
#[derive(Clone, Copy, Debug)]
pub struct Dense<'m> {
    /// Length of a row.
    pub columns: usize,
    /// Rows one after the other.
    pub numbers: &'m [f32],
}

impl Blocks for Dense<'_> {
    fn shape(&self) -> [usize; 2] {
        [self.numbers.len() / self.columns.max(1), self.columns]
    }

    fn read(&self, first: usize, into: &mut [f32]) -> Result<(), Error> {
        let end = first * self.columns + into.len();
        let expected = Error::Length { what: "numbers", expected: end, found: self.numbers.len() };
        into.copy_from_slice(self.numbers.get(first * self.columns..end).ok_or(expected)?);
        Ok(())
    }
}

/// How near an approximation must come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// As near as this rank allows.
    Rank(usize),
    /// The smallest rank with at most this relative Frobenius error, up to a largest rank.
    Error {
        /// `‖A − up·down‖ / ‖A‖`.
        relative: f64,
        /// The largest rank of use.
        most: usize,
    },
}

/// Two factors, and how far their product is from the matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Approximation {
    /// `[rows, rank]`.
    pub up: Array2<f32>,
    /// `[rank, columns]`.
    pub down: Array2<f32>,
    /// `‖A − up·down‖ / ‖A‖`, Frobenius; 0 for a matrix of zeros.
    pub relative_error: f64,
    /// The largest `|A − up·down|` of an element.
    pub largest_error: f64,
}

/// Up to this smaller dimension a matrix is decomposed exactly.
const EXACT_SIDE: usize = 512;
/// … and up to this number of elements, as the whole must then be in memory.
const EXACT_ELEMENTS: usize = 1 << 24;
/// Directions beyond the rank (Halko et al. recommend 5 to 10).
const OVERSAMPLING: usize = 8;
const POWER_ITERATIONS: usize = 2;
/// The most of them where the start says where to look: there they end by themselves.
const MOST_ITERATIONS: usize = 24;
/// They end when one gains less than this of the squares that are left: the error is then within 1e-4 of the best.
const STANDS: f64 = 2e-5;
/// Elements in memory at once.
const BLOCK: usize = 1 << 20;
/// The first rank that is tried for a largest error.
const FIRST_RANK: usize = 16;

/// The nearest product of two factors within the limit; `None` where the largest rank does not come as near as was asked.
///
/// # Errors
/// [`Error::NotFinite`]; [`Error::NoConvergence`]; whatever reading the matrix gives.
pub fn approximate(matrix: &dyn Blocks, limit: Limit) -> Result<Option<Approximation>, Error> {
    approximate_from(matrix, limit, ArrayView2::from(&[[0.0; 0]; 0]))
}

/// The same, where much of the matrix's rows is known to lie near those of `start` `[any, columns]`: nearer to the best for
/// as much work. A matrix that came of the sum of low-rank updates `Σ upᵢ·downᵢ` by a rule for its elements has the
/// rows of the `downᵢ`.
///
/// # Errors
/// As [`approximate`]; [`Error::NotFinite`] of `start` too, [`Error::Length`] where its rows are no rows of the matrix.
pub fn approximate_from(
    matrix: &dyn Blocks,
    limit: Limit,
    start: ArrayView2<'_, f32>,
) -> Result<Option<Approximation>, Error> {
    let scaled = Scaled::new(matrix)?;
    let [rows, columns] = matrix.shape();
    if start.nrows() > 0 && start.ncols() != columns {
        return Err(Error::Length { what: "columns of the start", expected: columns, found: start.ncols() });
    }
    if start.iter().any(|number| !number.is_finite()) {
        return Err(Error::NotFinite);
    }
    let side = rows.min(columns);
    let most = match limit {
        Limit::Rank(most) | Limit::Error { most, .. } => most.min(side),
    };
    if scaled.norm == 0.0 || most == 0 {
        return Ok((scaled.norm == 0.0).then(|| scaled.zero()));
    }
    let is_small = side <= EXACT_SIDE && rows.saturating_mul(columns) <= EXACT_ELEMENTS;
    let mut directions = match limit {
        _ if is_small => side,
        Limit::Rank(_) => most.saturating_add(OVERSAMPLING).max(start.nrows()).min(side),
        Limit::Error { .. } => (FIRST_RANK.max(start.nrows()) + OVERSAMPLING).min(side),
    };
    let iterations = if start.is_empty() { POWER_ITERATIONS } else { MOST_ITERATIONS };
    loop {
        let decomposed = if is_small {
            scaled.exact()?
        } else {
            scaled.near_range(&directions_from(start, columns, directions), most, iterations)?
        };
        let known = most.min(decomposed.values.len());
        match limit {
            Limit::Rank(_) => return scaled.product(&decomposed, known).map(Some),
            Limit::Error { relative, .. } => {
                if let Some(found) = scaled.within(&decomposed, relative, known)? {
                    return Ok(Some(found));
                }
            }
        }
        if known == most {
            return Ok(None);
        }
        directions = (directions * 2).min(most + OVERSAMPLING).min(side);
    }
}

/// A matrix times a power of two, so that its largest element is near 1 and no square leaves f32's range.
struct Scaled<'m> {
    matrix: &'m dyn Blocks,
    rows: usize,
    columns: usize,
    /// The power of two.
    exponent: i32,
    /// Of the scaled matrix.
    norm: f64,
}

/// Takes the first row and the numbers of a block.
type Take<'t> = dyn FnMut(usize, &[f32]) -> Result<(), Error> + 't;

/// `U · diag(values) · Vᵀ`.
struct Decomposed {
    left: Mat<f32>,
    values: Vec<f32>,
    right: Mat<f32>,
}

impl<'m> Scaled<'m> {
    fn new(matrix: &'m dyn Blocks) -> Result<Self, Error> {
        let [rows, columns] = matrix.shape();
        let mut scaled = Self { matrix, rows, columns, exponent: 0, norm: 0.0 };
        let (mut largest, mut squares, mut is_finite) = (0.0_f32, 0.0_f64, true);
        scaled.blocks(&mut |_, block| {
            for number in block {
                is_finite &= number.is_finite();
                largest = largest.max(number.abs());
                squares += f64::from(*number) * f64::from(*number);
            }
            Ok(())
        })?;
        if !is_finite {
            return Err(Error::NotFinite);
        }
        // Of a subnormal the exponent reads -127; 2^127 is the largest power there is.
        let exponent = i32::try_from(largest.to_bits() >> 23).unwrap_or(0) - 127;
        scaled.exponent = (-exponent).min(126);
        scaled.norm = squares.sqrt() * libm::scalbn(1.0, scaled.exponent);
        Ok(scaled)
    }

    /// Calls `take` for each block, in order.
    fn blocks(&self, take: &mut Take<'_>) -> Result<(), Error> {
        if self.columns == 0 {
            return Ok(());
        }
        let height = (BLOCK / self.columns).max(1);
        let mut block = vec![0.0; height.min(self.rows) * self.columns];
        let factor = libm::scalbnf(1.0, self.exponent);
        for first in (0..self.rows).step_by(height) {
            let block = &mut block[..height.min(self.rows - first) * self.columns];
            self.matrix.read(first, block)?;
            block.iter_mut().for_each(|number| *number *= factor);
            take(first, block)?;
        }
        Ok(())
    }

    fn zero(&self) -> Approximation {
        Approximation {
            up: Array2::zeros((self.rows, 1)),
            down: Array2::zeros((1, self.columns)),
            relative_error: 0.0,
            largest_error: 0.0,
        }
    }

    fn exact(&self) -> Result<Decomposed, Error> {
        let mut whole = Mat::zeros(self.rows, self.columns);
        self.blocks(&mut |first, block| {
            let block = self.view(block);
            whole.as_mut().subrows_mut(first, block.nrows()).copy_from(block);
            Ok(())
        })?;
        decompose(&whole)
    }

    /// From `start` `[columns, directions]`: subspace iteration until the `rank` largest values stand, or at most so often.
    fn near_range(&self, start: &Mat<f32>, rank: usize, iterations: usize) -> Result<Decomposed, Error> {
        let mut range = self.times(start)?.qr().compute_thin_Q();
        let mut back = self.transposed_times(&range)?;
        let mut known = 0.0;
        for _ in 0..iterations {
            let turned = back.qr();
            let energy = energy(turned.thin_R(), rank)?;
            let left = (self.norm * self.norm - energy).max(0.0);
            if energy - known <= STANDS * left {
                break;
            }
            known = energy;
            range = self.times(&turned.compute_thin_Q())?.qr().compute_thin_Q();
            back = self.transposed_times(&range)?;
        }
        // (Qᵀ A)ᵀ = U S Vᵀ, so A ≈ (Q V) S Uᵀ.
        let inner = decompose(&back)?;
        let mut left = Mat::zeros(self.rows, inner.values.len());
        matmul(&mut left, Accum::Replace, &range, &inner.right, 1.0, Par::Seq);
        Ok(Decomposed { left, values: inner.values, right: inner.left })
    }

    fn view<'b>(&self, block: &'b [f32]) -> MatRef<'b, f32> {
        MatRef::from_row_major_slice(block, block.len() / self.columns, self.columns)
    }

    /// `A · other`.
    fn times(&self, other: &Mat<f32>) -> Result<Mat<f32>, Error> {
        let mut product = Mat::zeros(self.rows, other.ncols());
        self.blocks(&mut |first, block| {
            let block = self.view(block);
            let into = product.as_mut().subrows_mut(first, block.nrows());
            matmul(into, Accum::Replace, block, other, 1.0, Par::Seq);
            Ok(())
        })?;
        Ok(product)
    }

    /// `Aᵀ · other`.
    fn transposed_times(&self, other: &Mat<f32>) -> Result<Mat<f32>, Error> {
        let mut product = Mat::zeros(self.columns, other.ncols());
        self.blocks(&mut |first, block| {
            let block = self.view(block);
            let rows = other.as_ref().subrows(first, block.nrows());
            matmul(&mut product, Accum::Add, block.transpose(), rows, 1.0, Par::Seq);
            Ok(())
        })?;
        Ok(product)
    }

    /// The smallest rank up to `known` whose factors are near enough, as measured.
    fn within(
        &self,
        decomposed: &Decomposed,
        relative: f64,
        known: usize,
    ) -> Result<Option<Approximation>, Error> {
        let allowed = (relative * self.norm).powi(2);
        // What the first values leave: ‖A‖² − Σ σ².
        let mut left = self.norm * self.norm;
        let mut rank = 0;
        while rank < known && (rank == 0 || left > allowed) {
            left -= f64::from(decomposed.values[rank]).powi(2);
            rank += 1;
        }
        if left > allowed * (1.0 + 1e-3) + self.norm * self.norm * 1e-6 {
            return Ok(None);
        }
        // Rounding may ask for a few more than the sum says.
        while rank <= known {
            let found = self.product(decomposed, rank)?;
            if found.relative_error <= relative {
                return Ok(Some(found));
            }
            rank += 1 + rank / 8;
        }
        Ok(None)
    }

    fn product(&self, decomposed: &Decomposed, rank: usize) -> Result<Approximation, Error> {
        // Values of zero add nothing; one stays, as no factor is empty.
        let significant = decomposed.values.iter().take(rank).filter(|value| **value > 0.0).count().max(1);
        let half = libm::sqrt(libm::scalbn(1.0, -self.exponent));
        let side: Vec<f64> =
            decomposed.values[..significant].iter().map(|v| f64::from(*v).sqrt() * half).collect();
        let stored = |number: f32, of: usize| (f64::from(number) * side[of]) as f32;
        let up = Array2::from_shape_fn((self.rows, significant), |(row, of)| {
            stored(decomposed.left[(row, of)], of)
        });
        let down = Array2::from_shape_fn((significant, self.columns), |(of, column)| {
            stored(decomposed.right[(column, of)], of)
        });
        let (relative_error, largest_error) = self.distance(up.view(), down.view())?;
        Ok(Approximation { up, down, relative_error, largest_error })
    }

    /// Relative Frobenius and largest error, of the matrix as it was given.
    fn distance(&self, up: ArrayView2<'_, f32>, down: ArrayView2<'_, f32>) -> Result<(f64, f64), Error> {
        let unscaled = Scaled { exponent: 0, ..*self };
        let flat = |factor: ArrayView2<'_, f32>| factor.iter().copied().collect::<Vec<f32>>();
        let (up, down, rank) = (flat(up), flat(down), up.ncols());
        let (up, down) = (
            MatRef::from_row_major_slice(&up, self.rows, rank),
            MatRef::from_row_major_slice(&down, rank, self.columns),
        );
        let (mut squares, mut largest, mut room) = (0.0_f64, 0.0_f64, Vec::new());
        unscaled.blocks(&mut |first, block| {
            room.clear();
            room.extend_from_slice(block);
            let height = block.len() / self.columns;
            let into = MatMut::from_row_major_slice_mut(&mut room, height, self.columns);
            matmul(into, Accum::Add, up.subrows(first, height), down, -1.0, Par::Seq);
            for number in &room {
                squares += f64::from(*number) * f64::from(*number);
                largest = largest.max(f64::from(number.abs()));
            }
            Ok(())
        })?;
        let norm = self.norm * libm::scalbn(1.0, -self.exponent);
        Ok((squares.sqrt() / norm, largest))
    }
}

fn decompose(matrix: &Mat<f32>) -> Result<Decomposed, Error> {
    let svd = matrix.thin_svd().map_err(|_| Error::NoConvergence)?;
    let values = svd.S().column_vector().iter().copied().collect();
    Ok(Decomposed { left: svd.U().to_owned(), values, right: svd.V().to_owned() })
}

/// The squares of the largest singular values, added up.
fn energy(matrix: MatRef<'_, f32>, rank: usize) -> Result<f64, Error> {
    let values = matrix.singular_values().map_err(|_| Error::NoConvergence)?;
    Ok(values.iter().take(rank).map(|value| f64::from(*value).powi(2)).sum())
}

/// The rows of `start` as unit columns, so many of them as there are directions, the rest ±1.
fn directions_from(start: ArrayView2<'_, f32>, columns: usize, directions: usize) -> Mat<f32> {
    let mut whole = signs(columns, directions);
    for (of, row) in start.rows().into_iter().enumerate().take(directions) {
        let norm = row.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>().sqrt();
        // A row of zeros is no direction.
        for (at, number) in row.iter().enumerate().filter(|_| norm > 0.0) {
            whole[(at, of)] = (f64::from(*number) / norm) as f32;
        }
    }
    whole
}

/// A reproducible matrix of ±1.
fn signs(rows: usize, columns: usize) -> Mat<f32> {
    // SplitMix64 (Steele, Lea and Flood 2014).
    let mut state = 0x5eed_u64;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        if (mixed ^ (mixed >> 31)) >> 63 == 0 { 1.0 } else { -1.0 }
    };
    Mat::from_fn(rows, columns, |_, _| next())
}
