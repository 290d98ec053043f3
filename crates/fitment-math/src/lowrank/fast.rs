//! The kernel that computes bf16 results in f32 first; [`Fast`] says why it may.

use super::bounds::{Fast, RUN};
use super::exact::{self, Coded, STRIP, Strips};
use super::product::{LowRank, Part};
use crate::dispatch::{Isa, Kernel};
use crate::round::{cells, f64_to_bf16};
use crate::wide::canonical;

/// From one unsure result in this many of a row on, a strip is computed again as a whole.
const MANY: usize = 16;

/// Adds the product's rows from `first_row` on to `rows` rows of cells, of which the output is bf16.
pub(super) struct AddFast<'a> {
    pub(super) product: &'a LowRank,
    pub(super) fast: &'a Fast,
    pub(super) first_row: usize,
    pub(super) rows: usize,
    pub(super) cells: Coded<'a>,
}

impl Kernel for AddFast<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa, const R32: usize, const R64: usize, const C: usize>(mut self, isa: I) {
        let mut strips = FastStrips::<I, R32>::new(isa);
        let mut exact_strips = Strips::<I, R64>::new(isa);
        for row in (0..self.rows).step_by(R32) {
            let height = R32.min(self.rows - row);
            let lefts: Vec<_> = self
                .product
                .parts
                .iter()
                .map(|part| interleave::<R32>(part, self.first_row + row, height))
                .collect();
            for column in (0..self.product.columns()).step_by(STRIP) {
                let width = STRIP.min(self.product.columns() - column);
                strips.sum::<C>(self.fast, &lefts, (column, width));
                let mut many = false;
                for i in 0..height {
                    many |= strips.store::<C>(&mut self, (i, row + i), (column, width));
                }
                if many {
                    for i in (0..height).step_by(R64) {
                        let height = R64.min(height - i);
                        let groups = exact::groups::<R64>(self.product, self.first_row + row + i, height);
                        exact_strips.add::<_, C>(
                            &groups,
                            (row + i, height),
                            (column, width),
                            &mut self.cells,
                        );
                    }
                }
            }
        }
    }
}

impl AddFast<'_> {
    /// `D[row, column]` in f64, as [`exact`] defines it: f32 holds the right factors exactly.
    fn exactly<const C: usize>(&self, row: usize, column: usize) -> f64 {
        let part = |(part, right): (&Part, &Vec<f32>)| {
            let left = &part.left[row * part.rank..][..part.rank];
            let panel = &right.as_chunks::<C>().0[column / C * part.rank..][..part.rank];
            let mut products =
                left.iter().zip(panel).map(|(left, right)| left * f64::from(right[column % C]));
            let first = products.next().unwrap_or(0.0);
            part.scale * products.fold(first, |sum, product| sum + product)
        };
        let mut sums = self.product.parts.iter().zip(&self.fast.rights).map(part);
        let first = sums.next().unwrap_or(0.0);
        sums.fold(first, |total, sum| total + sum)
    }
}

#[inline(always)]
fn interleave<const R: usize>(part: &Part, row: usize, height: usize) -> Vec<[f32; R]> {
    let mut left = vec![[0.0; R]; part.rank];
    for (i, values) in part.left[row * part.rank..].chunks_exact(part.rank).enumerate().take(height) {
        for (left, &value) in left.iter_mut().zip(values) {
            left[i] = (part.scale * value) as f32;
        }
    }
    left
}

/// Room for one strip of rows.
struct FastStrips<I, const R: usize> {
    isa: I,
    wide: [f32; STRIP],
    sums: [[f32; STRIP]; R],
    total: [[f32; STRIP]; R],
    /// For each result of a row, 1 if it is unsure.
    unsure: [u8; STRIP],
}

impl<I: Isa, const R: usize> FastStrips<I, R> {
    #[inline(always)]
    fn new(isa: I) -> Self {
        let zeros = [[0.0; STRIP]; R];
        FastStrips { isa, wide: [0.0; STRIP], sums: zeros, total: zeros, unsure: [0; STRIP] }
    }

    /// `total = D`.
    #[inline(always)]
    fn sum<const C: usize>(&mut self, fast: &Fast, lefts: &[Vec<[f32; R]>], (column, width): (usize, usize)) {
        let runs = lefts.iter().zip(&fast.rights).flat_map(|(left, right)| {
            let panels = right.as_chunks::<C>().0;
            left.chunks(RUN).enumerate().map(move |(run, chunk)| (run * RUN, left.len(), chunk, panels))
        });
        for (n, (start, rank, left, panels)) in runs.enumerate() {
            for at in (0..width).step_by(C) {
                let right = &panels[(column + at) / C * rank + start..][..left.len()];
                let sums = if n == 0 { self.total.each_mut() } else { self.sums.each_mut() };
                let sums = sums.map(|sums| sums[at..].first_chunk_mut().expect("C divides STRIP"));
                self.isa.product(left, right, sums);
            }
            if n > 0 {
                for (total, sums) in self.total.iter_mut().zip(&self.sums) {
                    total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
                }
            }
        }
    }

    /// Rounds and stores row `i` of the strip as row `row` of the cells. Says whether so many results are not sure to
    /// round as f64 does that the strip had better be computed again; the few are, here.
    #[inline(always)]
    fn store<const C: usize>(
        &mut self,
        job: &mut AddFast<'_>,
        (i, row): (usize, usize),
        (column, width): (usize, usize),
    ) -> bool {
        let cells = &mut job.cells;
        let from = row * cells.columns + column;
        let wide = &mut self.wide[..width];
        cells::decode(cells.base_element, &cells.base[from * cells.base_element.size()..], wide);
        let row_bound = job.fast.row_bounds[job.first_row + row];
        let bounds = &job.fast.column_bounds[column..][..width];
        let out = &mut cells.out.as_chunks_mut::<2>().0[from..][..width];
        let mut any = 0_u32;
        for ((out, &w), (&total, &bound)) in out.iter_mut().zip(&*wide).zip(self.total[i].iter().zip(bounds))
        {
            let value = w + total;
            let bits = value.to_bits();
            *out = ((bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16).to_le_bytes();
            // All ones or none: what a vector comparison gives.
            any |= if is_unsure(value, row_bound * bound) { u32::MAX } else { 0 };
        }
        if any == 0 {
            return false;
        }
        self.unsure[width..].fill(0);
        for (unsure, ((&w, &total), &bound)) in
            self.unsure.iter_mut().zip(wide.iter().zip(&self.total[i]).zip(bounds))
        {
            *unsure = u8::from(is_unsure(w + total, row_bound * bound));
        }
        self.store_exactly::<C>(job, row, (column, width))
    }

    /// Stores the unsure results of a row again, from f64; true if there are too many, and then not all are.
    fn store_exactly<const C: usize>(
        &self,
        job: &mut AddFast<'_>,
        row: usize,
        (column, width): (usize, usize),
    ) -> bool {
        let mut count = 0;
        for (&eight, at) in self.unsure.as_chunks().0.iter().zip((0..).step_by(8)) {
            let mut eight = u64::from_le_bytes(eight);
            while eight != 0 {
                count += 1;
                if count > width / MANY {
                    return true;
                }
                let j = at + eight.trailing_zeros() as usize / 8;
                eight &= eight - 1;
                let value = f64::from(self.wide[j]) + job.exactly::<C>(job.first_row + row, column + j);
                let bits = f64_to_bf16(canonical(value));
                let from = row * job.cells.columns + column;
                job.cells.out.as_chunks_mut().0[from + j] = bits.to_le_bytes();
            }
        }
        false
    }
}

/// Whether the tie between the bf16 neighbours of `value` is within `bound`, or anything is NaN.
#[inline(always)]
fn is_unsure(value: f32, bound: f32) -> bool {
    let tie = f32::from_bits(value.to_bits() & 0xffff_0000 | 0x8000);
    let sure = (value - tie).abs() > bound;
    !sure
}
