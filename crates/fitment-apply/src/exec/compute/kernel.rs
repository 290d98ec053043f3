//! The product kernel.

use fitment_math::Wide;
use ndarray::ArrayView2;

/// Packed factors.
pub(super) struct LowRank<T> {
    rank: usize,
    columns: usize,
    left: Vec<T>,
    right: Vec<T>,
}

impl<T: Wide> LowRank<T> {
    pub(super) fn new(left: ArrayView2<'_, T>, right: ArrayView2<'_, T>, scale: f64) -> Self {
        let left_values = left.iter().map(|v| T::from_f64(scale * v.to_f64())).collect();
        Self { rank: left.ncols(), columns: right.ncols(), left: left_values, right: right.iter().copied().collect() }
    }

    pub(super) fn add_to(&self, first_row: usize, w: &mut [T]) {
        let mut sums = vec![T::ZERO; self.columns];
        for (row, w) in w.chunks_exact_mut(self.columns).enumerate() {
            sums.fill(T::ZERO);
            let left = &self.left[(first_row + row) * self.rank..][..self.rank];
            for (a, right) in left.iter().zip(self.right.chunks_exact(self.columns)) {
                for (sum, b) in sums.iter_mut().zip(right) {
                    *sum = *sum + *a * *b;
                }
            }
            for (w, sum) in w.iter_mut().zip(&sums) {
                *w = (*w + *sum).canonical();
            }
        }
    }
}
