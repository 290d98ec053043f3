//! The definition of the arithmetic, in tiles of f64.

use super::product::{LowRank, Part};
use crate::dispatch::{Isa, Kernel};
use crate::round::{Element, cells};
use crate::wide::canonical;

/// Columns in work at a time. `W` and the sums of a strip stay in the first-level cache, and the loops that decode, add
/// and encode are long enough to run at full vector width.
pub(super) const STRIP: usize = 256;

/// Where a kernel takes `W` from and puts the result: a run of one row at a time.
pub(super) trait Cells {
    fn load(&self, row: usize, column: usize, run: &mut [f64]);
    fn store(&mut self, row: usize, column: usize, run: &[f64]);
}

/// Rows of f64, changed in place.
pub(super) struct InPlace<'a> {
    pub(super) rows: Vec<&'a mut [f64]>,
}

impl Cells for InPlace<'_> {
    #[inline(always)]
    fn load(&self, row: usize, column: usize, run: &mut [f64]) {
        run.copy_from_slice(&self.rows[row][column..][..run.len()]);
    }

    #[inline(always)]
    fn store(&mut self, row: usize, column: usize, run: &[f64]) {
        self.rows[row][column..][..run.len()].copy_from_slice(run);
    }
}

/// Rows of stored numbers, from `base` to `out`, both `[rows, columns]`.
pub(super) struct Coded<'a> {
    pub(super) base: &'a [u8],
    pub(super) base_element: Element,
    pub(super) out: &'a mut [u8],
    pub(super) out_element: Element,
    pub(super) columns: usize,
}

impl Cells for Coded<'_> {
    #[inline(always)]
    fn load(&self, row: usize, column: usize, run: &mut [f64]) {
        let size = self.base_element.size();
        cells::decode(self.base_element, &self.base[(row * self.columns + column) * size..], run);
    }

    #[inline(always)]
    fn store(&mut self, row: usize, column: usize, run: &[f64]) {
        let size = self.out_element.size();
        cells::encode(self.out_element, run, &mut self.out[(row * self.columns + column) * size..]);
    }
}

/// Adds the product's rows from `first_row` on to `rows` rows of cells.
pub(super) struct AddExactly<'a, S> {
    pub(super) product: &'a LowRank,
    pub(super) first_row: usize,
    pub(super) rows: usize,
    pub(super) cells: S,
}

impl<S: Cells> Kernel for AddExactly<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa, const R32: usize, const R64: usize, const C: usize>(mut self, isa: I) {
        let mut strips = Strips::<I, R64>::new(isa);
        for row in (0..self.rows).step_by(R64) {
            let height = R64.min(self.rows - row);
            let groups = groups::<R64>(self.product, self.first_row + row, height);
            for column in (0..self.product.columns()).step_by(STRIP) {
                let width = STRIP.min(self.product.columns() - column);
                strips.add::<_, C>(&groups, (row, height), (column, width), &mut self.cells);
            }
        }
    }
}

/// The left factors of some rows, `[rank, R]` for each part, and the part's right factor.
pub(super) struct Group<'a, const R: usize> {
    part: &'a Part,
    left: Vec<[f64; R]>,
}

#[inline(always)]
pub(super) fn groups<const R: usize>(product: &LowRank, row: usize, height: usize) -> Vec<Group<'_, R>> {
    let group = |part| Group { part, left: interleave(part, row, height) };
    product.parts.iter().map(group).collect()
}

#[inline(always)]
fn interleave<const R: usize>(part: &Part, row: usize, height: usize) -> Vec<[f64; R]> {
    let mut left = vec![[0.0; R]; part.rank];
    for (i, values) in part.left[row * part.rank..].chunks_exact(part.rank).enumerate().take(height) {
        for (left, &value) in left.iter_mut().zip(values) {
            left[i] = value;
        }
    }
    left
}

/// Room for one strip of rows.
pub(super) struct Strips<I, const R: usize> {
    isa: I,
    wide: [f64; STRIP],
    sums: [[f64; STRIP]; R],
    total: [[f64; STRIP]; R],
}

impl<I: Isa, const R: usize> Strips<I, R> {
    #[inline(always)]
    pub(super) fn new(isa: I) -> Self {
        let zeros = [[0.0; STRIP]; R];
        Strips { isa, wide: [0.0; STRIP], sums: zeros, total: zeros }
    }

    /// Adds the groups' product to the cells of `height` rows and `width` columns.
    #[inline(always)]
    pub(super) fn add<S: Cells, const C: usize>(
        &mut self,
        groups: &[Group<'_, R>],
        (row, height): (usize, usize),
        (column, width): (usize, usize),
        cells: &mut S,
    ) {
        let Some((last, before)) = groups.split_last() else { return };
        for (p, group) in before.iter().enumerate() {
            self.sum::<C>(group, (column, width));
            for (total, sums) in self.total.iter_mut().zip(&self.sums) {
                let cells = total.iter_mut().zip(sums);
                if p == 0 {
                    cells.for_each(|(total, sum)| *total = group.part.scale * sum);
                } else {
                    cells.for_each(|(total, sum)| *total += group.part.scale * sum);
                }
            }
        }
        self.sum::<C>(last, (column, width));
        let scale = last.part.scale;
        let rows = self.sums.iter().zip(&self.total).enumerate().take(height);
        for (i, (sums, total)) in rows {
            let wide = &mut self.wide[..width];
            cells.load(row + i, column, wide);
            if before.is_empty() {
                wide.iter_mut().zip(sums).for_each(|(w, sum)| *w = canonical(*w + scale * sum));
            } else {
                let totals = total.iter().zip(sums).map(|(total, sum)| total + scale * sum);
                wide.iter_mut().zip(totals).for_each(|(w, total)| *w = canonical(*w + total));
            }
            cells.store(row + i, column, wide);
        }
    }

    /// `sums = Σ_p` for one part.
    #[inline(always)]
    fn sum<const C: usize>(&mut self, group: &Group<'_, R>, (column, width): (usize, usize)) {
        let panels = group.part.right.as_chunks::<C>().0;
        for at in (0..width).step_by(C) {
            let right = &panels[(column + at) / C * group.part.rank..][..group.part.rank];
            let sums = self.sums.each_mut();
            let sums = sums.map(|sums| sums[at..].first_chunk_mut().expect("C divides STRIP"));
            self.isa.product(&group.left, right, sums);
        }
    }
}
