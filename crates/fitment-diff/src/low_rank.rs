//! Matrices whose difference is approximated by two factors.

use crate::encode::{Context, Pair, finite};
use crate::error::Error;
use crate::part::Outcome;
use crate::spool::Stream;
use fitment_core::tensor::Dtype;
use fitment_math::Error as MathError;
use fitment_math::round::{Element, decode};
use fitment_math::svd::{Blocks, Limit, approximate};
use std::ops::Range;

/// How near the approximation of a matrix's difference must come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LowRank {
    /// As near as this rank allows.
    Rank(usize),
    /// The smallest rank with at most this `‖Δ − up·down‖ / ‖Δ‖` (Frobenius).
    Error(f64),
}

/// A matrix's approximation, as measured on the stored factors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Approximated {
    /// The rank.
    pub rank: u64,
    /// `‖Δ − up·down‖ / ‖Δ‖`, Frobenius, before the sum with the base is rounded.
    pub relative_error: f64,
    /// The largest `|Δ − up·down|` of an element.
    pub largest_error: f64,
}

/// `tuned − base` in f32.
struct Difference<'p> {
    element: Element,
    base: &'p [u8],
    tuned: &'p [u8],
    shape: [usize; 2],
}

/// Elements in arithmetic at once.
const BLOCK: usize = 16 * 1024;

impl Blocks for Difference<'_> {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }

    fn read(&self, first: usize, into: &mut [f32]) -> Result<(), MathError> {
        let size = self.element.size();
        let start = first * self.shape[1] * size;
        let (mut base, mut tuned) = (vec![0.0_f64; BLOCK], vec![0.0_f64; BLOCK]);
        for (number, block) in into.chunks_mut(BLOCK).enumerate() {
            let at = start + number * BLOCK * size;
            let stored = at..at + block.len() * size;
            let (base, tuned) = (&mut base[..block.len()], &mut tuned[..block.len()]);
            decode(self.element, &self.base[stored.clone()], base)?;
            decode(self.element, &self.tuned[stored], tuned)?;
            let pairs = tuned.iter().zip(base.iter());
            block.iter_mut().zip(pairs).for_each(|(d, (tuned, base))| *d = (tuned - base) as f32);
        }
        Ok(())
    }
}

impl Context<'_> {
    /// Factors in F32; `None` for what is no matrix of finite numbers, and where the factors are no smaller than the tensor or
    /// not near enough.
    pub(crate) fn factors(&self, pair: &Pair<'_>, wanted: LowRank) -> Result<Option<Outcome>, Error> {
        let (Some(element), &[rows, columns]) = (Element::of(pair.info.dtype), pair.info.shape.dims()) else {
            return Ok(None);
        };
        if !finite(pair.info.dtype, pair.base) || !finite(pair.info.dtype, pair.tuned) {
            return Ok(None);
        }
        let one = (rows + columns) * 4;
        let most = (pair.tuned.len() as u64).saturating_sub(1) / one.max(1);
        let place = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let limit = match wanted {
            LowRank::Rank(rank) if rank.min(place(rows.min(columns))) > place(most) => return Ok(None),
            LowRank::Rank(rank) => Limit::Rank(rank),
            LowRank::Error(relative) => Limit::Error { relative, most: place(most) },
        };
        let shape = [place(rows), place(columns)];
        let difference = Difference { element, base: pair.base, tuned: pair.tuned, shape };
        let found = match approximate(&difference, limit) {
            // A difference beyond f32's range.
            Err(MathError::NotFinite) | Ok(None) => return Ok(None),
            Err(source) => return Err(Error::Approximate { name: pair.name.to_owned(), source }),
            Ok(Some(found)) => found,
        };
        let stored = |factor: &fitment_math::ndarray::Array2<f32>| -> Vec<u8> {
            factor.iter().flat_map(|number| number.to_le_bytes()).collect()
        };
        let (up, down) = (stored(&found.up), stored(&found.down));
        if !finite(Dtype::F32, &up) || !finite(Dtype::F32, &down) {
            return Ok(None);
        }
        let measured = Approximated {
            rank: found.up.ncols() as u64,
            relative_error: found.relative_error,
            largest_error: found.largest_error,
        };
        let (up, down) = (self.put(pair.name, &up)?, self.put(pair.name, &down)?);
        Ok(Some(Outcome::LowRank { up, down, measured }))
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<Range<u64>, Error> {
        let mut stream = Stream::new(self.spool, name, bytes.len() as u64)?;
        stream.extend(bytes)?;
        stream.end()
    }
}
