//! Convolutions against their formulas, written as loops.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use fitment_math::Error;
use fitment_math::conv::{matrices, matrices_with_mid};
use fitment_math::lowrank::{Pair, accumulate_rows};
use fitment_math::ndarray::{Array2, ArrayD, IxDyn};
use proptest::prelude::*;

/// Small integers: every sum is exact, whatever its order.
fn tensor(shape: &[usize], seed: usize) -> ArrayD<f32> {
    let length = shape.iter().product();
    let cells = (0..length)
        .map(|at: usize| ((at + seed).wrapping_mul(2_654_435_761) >> 7) % 15)
        .map(|n| n as f32 - 7.0);
    ArrayD::from_shape_vec(IxDyn(shape), cells.collect()).unwrap()
}

fn index(head: &[usize], kernel: &[usize], mut tap: usize) -> Vec<usize> {
    let mut position = vec![0; kernel.len()];
    for (at, &size) in position.iter_mut().zip(kernel).rev() {
        *at = tap % size;
        tap /= size;
    }
    [head, &position].concat()
}

fn kernel() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0..4_usize, 0..4)
}

fn with_ones(head: &[usize], ones: usize) -> Vec<usize> {
    [head, &vec![1; ones]].concat()
}

proptest! {
    #[test]
    fn a_product_has_the_formula_of_the_convolution(
        (out, rank, inputs) in (0..5_usize, 1..4_usize, 0..4_usize),
        kernel in kernel(),
        ones in 0..4_usize,
    ) {
        let up = tensor(&with_ones(&[out, rank], ones), 1);
        let down = tensor(&[&[rank, inputs], &kernel[..]].concat(), 2);
        let (up_matrix, down_matrix) = matrices(up.view(), down.view()).unwrap();
        let taps: usize = kernel.iter().product();
        let mut delta = Array2::zeros((out, inputs * taps));
        accumulate_rows(delta.view_mut(), Pair::new(up_matrix.view(), down_matrix.view(), 0.5)).unwrap();
        for o in 0..out {
            for (i, tap) in (0..inputs).flat_map(|i| (0..taps).map(move |tap| (i, tap))) {
                let terms = (0..rank).map(|r| {
                    up[&with_ones(&[o, r], 0).into_iter().chain(vec![0; ones]).collect::<Vec<_>>()[..]]
                        * down[&index(&[r, i], &kernel, tap)[..]]
                });
                prop_assert_eq!(delta[[o, i * taps + tap]], 0.5 * f64::from(terms.sum::<f32>()));
            }
        }
    }

    #[test]
    fn a_core_has_the_formula_of_the_tucker_form(
        (out, inputs) in (0..4_usize, 0..4_usize),
        (outer, inner) in (1..4_usize, 1..4_usize),
        kernel in kernel(),
    ) {
        let up = tensor(&with_ones(&[out, outer], kernel.len()), 1);
        let mid = tensor(&[&[outer, inner], &kernel[..]].concat(), 2);
        let down = tensor(&with_ones(&[inner, inputs], kernel.len()), 3);
        let (up_matrix, core) = matrices_with_mid(up.view(), mid.view(), down.view()).unwrap();
        let taps: usize = kernel.iter().product();
        let mut delta = Array2::zeros((out, inputs * taps));
        accumulate_rows(delta.view_mut(), Pair::new(up_matrix.view(), core.view(), 2.0)).unwrap();
        let zeros = vec![0; kernel.len()];
        let at = |head: &[usize]| [head, &zeros].concat();
        for o in 0..out {
            for (i, tap) in (0..inputs).flat_map(|i| (0..taps).map(move |tap| (i, tap))) {
                let terms = (0..outer).flat_map(|r1| (0..inner).map(move |r2| (r1, r2))).map(|(r1, r2)| {
                    up[&at(&[o, r1])[..]] * mid[&index(&[r1, r2], &kernel, tap)[..]] * down[&at(&[r2, i])[..]]
                });
                prop_assert_eq!(delta[[o, i * taps + tap]], 2.0 * f64::from(terms.sum::<f32>()));
            }
        }
    }
}

#[test]
fn strides_of_a_factor_do_not_matter() {
    let up = tensor(&[3, 2], 1);
    let down = tensor(&[3, 4, 2], 2);
    let turned = down.clone().reversed_axes();
    let (_, plain) = matrices(up.view(), turned.as_standard_layout().into_owned().view()).unwrap();
    let (_, strided) = matrices(up.view(), turned.view()).unwrap();
    assert_eq!(plain, strided);
}

#[test]
fn factors_that_do_not_fit_are_refused_by_name() {
    let refused = |up: &[usize], mid: Option<&[usize]>, down: &[usize]| {
        let (up, down) = (tensor(up, 0), tensor(down, 0));
        match mid {
            None => matrices(up.view(), down.view()).unwrap_err(),
            Some(mid) => matrices_with_mid(up.view(), tensor(mid, 0).view(), down.view()).unwrap_err(),
        }
    };
    let role = |error| match error {
        Error::FactorShape { role, found, .. } => (role, found),
        error => panic!("{error}"),
    };
    assert_eq!(role(refused(&[4, 2, 3, 3], None, &[2, 3, 1, 1])), ("up", vec![4, 2, 3, 3]));
    assert_eq!(role(refused(&[4], None, &[2, 3])), ("up", vec![4]));
    assert_eq!(role(refused(&[4, 2], None, &[2])), ("down", vec![2]));
    assert_eq!(role(refused(&[4, 2], None, &[2, 3, 1, 1, 1, 1])), ("down", vec![2, 3, 1, 1, 1, 1]));
    assert_eq!(role(refused(&[4, 2], Some(&[2]), &[2, 3])), ("mid", vec![2]));
    assert_eq!(role(refused(&[4, 2], Some(&[2, 2, 3, 3]), &[2, 3, 3, 3])), ("down", vec![2, 3, 3, 3]));

    assert_eq!(refused(&[4, 2], None, &[3, 3, 3, 3]), Error::Rank { up: 2, other: "down", found: 3 });
    assert_eq!(refused(&[4, 2], Some(&[3, 2, 3]), &[2, 5]), Error::Rank { up: 2, other: "mid", found: 3 });
    assert_eq!(refused(&[4, 2], Some(&[2, 3, 3]), &[2, 5]), Error::Rank { up: 3, other: "down", found: 2 });
}

#[test]
fn a_core_whose_product_no_memory_holds_is_refused() {
    let one = tensor(&[1], 0);
    let mid = one.broadcast(IxDyn(&[2, 0, 1 << 40, 1 << 10])).unwrap();
    let down = one.broadcast(IxDyn(&[0, 1 << 20])).unwrap();
    let refused = matrices_with_mid(tensor(&[4, 2], 0).view(), mid, down).unwrap_err();
    assert_eq!(refused, Error::TooLarge { rank: 2, width: usize::MAX });
}
