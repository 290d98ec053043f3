//! Norms of rows or columns of a tensor, from a pass over it. Sums of squares are f64, added in the order of the elements.

use super::op::{Kept, PreparedStep, Product, on_w};
use super::{BLOCK, Buffers, Pass};
use crate::region::Region;
use fitment_core::model::NormOf;
use fitment_math::Wide;

/// `‖V‖` or `‖W‖` for each of `count` kept indices, where `W` is what the steps before make of the base.
pub(super) fn norms<T: Wide>(
    pass: &Pass<'_>,
    (before, region, product): (&[PreparedStep<'_, T>], &Region, &Product<T>),
    (kept, norm_of, count): (Kept, NormOf, usize),
    buffers: &mut Buffers<T>,
) -> Vec<f64> {
    let unit = pass.unit();
    let block = unit.max(BLOCK / unit * unit);
    let mut sums = vec![0.0f64; count];
    let Buffers { total, gathered, share, .. } = buffers;
    for first in (0..pass.len).step_by(block) {
        let len = block.min(pass.len - first);
        pass.decode_block(first, len, total);
        for step in before {
            step.apply(first, total, gathered);
        }
        on_w(region, (first, total), gathered, |position, w| {
            share.clear();
            share.extend_from_slice(w);
            if norm_of == NormOf::Merged {
                product.add(position, share);
            }
            add_squares(kept, position, share, &mut sums);
        });
    }
    sums.into_iter().map(f64::sqrt).collect()
}

fn add_squares<T: Wide>(kept: Kept, position: usize, w: &[T], sums: &mut [f64]) {
    let square = |w: &T| w.to_f64() * w.to_f64();
    kept.for_rows(position..position + w.len(), |places, row, column| match kept {
        Kept::Row { .. } => {
            if let Some(sum) = sums.get_mut(row) {
                *sum += sum_of_squares(&w[places]);
            }
        }
        Kept::Column { per, .. } => {
            for (w, column) in w[places].iter().zip(column..) {
                if let Some(sum) = sums.get_mut(column / per) {
                    *sum += square(w);
                }
            }
        }
    });
}

/// Eight partial sums, so that additions do not wait for each other; always the same ones, for rows come whole.
fn sum_of_squares<T: Wide>(row: &[T]) -> f64 {
    let (chunks, rest) = row.as_chunks::<8>();
    let mut sums = [0.0f64; 8];
    for chunk in chunks {
        for (sum, w) in sums.iter_mut().zip(chunk) {
            *sum += w.to_f64() * w.to_f64();
        }
    }
    let tail: f64 = rest.iter().map(|w| w.to_f64() * w.to_f64()).sum();
    sums.iter().sum::<f64>() + tail
}
