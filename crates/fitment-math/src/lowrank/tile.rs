//! The innermost loop.

use crate::Wide;

/// `sum[i][c] = Σ_k left[k][i] · right[k][c]`, k ascending, starting from the first product; untouched if there is none.
///
/// The loops have the one nesting that the optimiser keeps in registers at every shape in use (LLVM 20 to 22: with `i`
/// outside `c`, some are forty times slower). Each operation rounds: nothing here may be fused.
#[inline(always)]
pub(crate) fn product<T: Wide, const R: usize, const C: usize>(
    left: &[[T; R]],
    right: &[[T; C]],
    sum: [&mut [T; C]; R],
) {
    let (Some((left_0, left)), Some((right_0, right))) = (left.split_first(), right.split_first()) else {
        return;
    };
    let mut sums = [[T::default(); C]; R];
    for c in 0..C {
        for i in 0..R {
            sums[i][c] = left_0[i] * right_0[c];
        }
    }
    for (left, right) in left.iter().zip(right) {
        for c in 0..C {
            for i in 0..R {
                sums[i][c] = sums[i][c] + left[i] * right[c];
            }
        }
    }
    for (sum, sums) in sum.into_iter().zip(sums) {
        *sum = sums;
    }
}
