//! Low-rank approximations against matrices of known rank and spectrum.
#![cfg(feature = "svd")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_math::Error;
use fitment_math::ndarray::{Array2, ArrayView2};
use fitment_math::svd::{Approximation, Blocks, Dense, Limit, approximate, approximate_from, shorten};

/// Reproducible numbers in (−1, 1).
fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / 8_388_608.0) - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// `Σ weight^k · left_k right_kᵀ` of `rank` random directions.
fn decaying(rows: usize, columns: usize, rank: usize, weight: f32) -> Vec<f32> {
    let (left, right) = (noise(rows * rank, 7), noise(columns * rank, 11));
    let mut numbers = vec![0.0; rows * columns];
    for of in 0..rank {
        let factor = weight.powi(of as i32);
        for row in 0..rows {
            let scaled = left[of * rows + row] * factor;
            let line = &mut numbers[row * columns..(row + 1) * columns];
            line.iter_mut().zip(&right[of * columns..]).for_each(|(number, right)| *number += scaled * right);
        }
    }
    numbers
}

fn found(columns: usize, numbers: &[f32], limit: Limit) -> Option<Approximation> {
    let found = approximate(&Dense { columns, numbers }, limit).unwrap()?;
    let rows = numbers.len() / columns;
    let rank = found.up.ncols();
    assert_eq!((found.up.shape(), found.down.shape()), (&[rows, rank][..], &[rank, columns][..]));
    // What is reported is what the factors give.
    let product = found.up.mapv(f64::from).dot(&found.down.mapv(f64::from));
    let (mut squares, mut norm, mut largest) = (0.0, 0.0, 0.0_f64);
    for (number, near) in numbers.iter().zip(product.iter()) {
        let number = f64::from(*number);
        squares += (number - near).powi(2);
        norm += number * number;
        largest = largest.max((number - near).abs());
    }
    let relative = if norm == 0.0 { 0.0 } else { (squares / norm).sqrt() };
    assert!((relative - found.relative_error).abs() <= 1e-6 + 1e-3 * relative, "{relative}");
    assert!((largest - found.largest_error).abs() <= 1e-6 * norm.sqrt() + 1e-3 * largest, "{largest}");
    Some(found)
}

#[test]
fn a_matrix_of_low_rank_is_met_by_its_rank_exactly_and_at_random() {
    for (rows, columns) in [(40, 70), (70, 40), (700, 600), (600, 900)] {
        let numbers = decaying(rows, columns, 5, 0.9);
        let all = found(columns, &numbers, Limit::Rank(5)).unwrap();
        assert!(all.relative_error < 1e-5, "{rows} x {columns}: {}", all.relative_error);
        let one_less = found(columns, &numbers, Limit::Rank(4)).unwrap();
        assert!(one_less.relative_error > 0.05, "{}", one_less.relative_error);
    }
}

#[test]
fn the_random_one_is_nearly_as_near_as_the_exact_one() {
    // One row more than what is decomposed exactly; the values fall slowly, by a tenth in ten.
    let numbers = decaying(513, 600, 120, 0.97);
    let random = found(600, &numbers, Limit::Rank(24)).unwrap();
    let exact = found(600, &numbers[..512 * 600], Limit::Rank(24)).unwrap();
    assert!(
        random.relative_error < exact.relative_error * 1.02,
        "{} {}",
        random.relative_error,
        exact.relative_error
    );
}

#[test]
fn the_smallest_rank_within_an_error() {
    for (rows, columns) in [(60, 50), (560, 520)] {
        let numbers = decaying(rows, columns, 48, 0.8);
        let limit = |relative, most| Limit::Error { relative, most };
        let near = found(columns, &numbers, limit(0.01, 48)).unwrap();
        let rank = near.up.ncols();
        assert!(near.relative_error <= 0.01 && rank < 40, "{rank}");
        let less = found(columns, &numbers, Limit::Rank(rank - 1)).unwrap();
        assert!(less.relative_error > 0.0099, "{}", less.relative_error);
        assert_eq!(found(columns, &numbers, limit(0.01, rank / 2)), None);
        let all = found(columns, &numbers, limit(1.0, 48)).unwrap();
        assert_eq!(all.up.ncols(), 1);
    }
}

#[test]
fn zeros_extremes_and_what_is_not_finite() {
    let zero = found(3, &[0.0; 12], Limit::Rank(2)).unwrap();
    assert_eq!((zero.up.ncols(), zero.relative_error, zero.largest_error), (1, 0.0, 0.0));
    for scale in [1e-44_f32, 1e-30, 1e30, 1e38] {
        let numbers: Vec<f32> = decaying(20, 30, 2, 0.5).iter().map(|number| number * 0.3 * scale).collect();
        let near = approximate(
            &Dense { columns: 30, numbers: &numbers },
            Limit::Rank(if scale < 1e-40 { 20 } else { 2 }),
        );
        let near = near.unwrap().unwrap();
        assert!(
            near.relative_error < if scale < 1e-40 { 0.5 } else { 1e-5 },
            "{scale}: {}",
            near.relative_error
        );
    }
    for odd in [f32::NAN, f32::INFINITY] {
        let error = approximate(&Dense { columns: 1, numbers: &[1.0, odd] }, Limit::Rank(1)).unwrap_err();
        assert_eq!(error, Error::NotFinite);
    }
    assert_eq!(Dense { columns: 0, numbers: &[] }.shape(), [0, 0]);
}

#[test]
fn blocks_and_repetition_change_nothing() {
    // More than one block of 2^20 elements.
    let numbers = decaying(1100, 1000, 4, 0.7);
    let first = found(1000, &numbers, Limit::Rank(4)).unwrap();
    assert!(first.relative_error < 1e-5);
    assert_eq!(found(1000, &numbers, Limit::Rank(4)).unwrap(), first);
}

/// The error of the best product of a rank: read from the singular values in f64.
fn optimum(columns: usize, numbers: &[f32], ranks: &[usize]) -> Vec<f64> {
    let wide = numbers.iter().map(|number| f64::from(*number)).collect();
    let whole = Array2::from_shape_vec((numbers.len() / columns, columns), wide).unwrap();
    let values = shorten(whole.view(), Array2::eye(columns).view(), Limit::Rank(1)).unwrap().values;
    let squares = |from: usize| values[from..].iter().map(|value| value * value).sum::<f64>();
    ranks.iter().map(|rank| (squares(*rank) / squares(0)).sqrt()).collect()
}

/// Two updates of rank 16, each direction `decay` times the one before, and their down factors one below the other.
fn pair(rows: usize, columns: usize, decay: f32) -> ([Vec<f32>; 2], Vec<f32>) {
    let rank = 16;
    let mut downs = Vec::new();
    let update = |of: u64| {
        let (up, down) = (noise(rows * rank, 100 + of), noise(rank * columns, 200 + of));
        let mut numbers = vec![0.0; rows * columns];
        for (row, line) in numbers.chunks_exact_mut(columns).enumerate() {
            for (direction, down) in down.chunks_exact(columns).enumerate() {
                let factor = up[row * rank + direction] * decay.powi(direction as i32);
                line.iter_mut().zip(down).for_each(|(number, down)| *number += factor * down);
            }
        }
        downs.extend(down);
        numbers
    };
    ([0, 1].map(update), downs)
}

/// The largest fifth of each, and the mean of those with the sign of the sum.
fn ties(updates: &[Vec<f32>; 2]) -> Vec<f32> {
    let trimmed = updates.each_ref().map(|numbers| {
        let mut sorted: Vec<f32> = numbers.iter().map(|number| number.abs()).collect();
        sorted.sort_by(f32::total_cmp);
        let least = sorted[numbers.len() * 4 / 5];
        numbers.iter().map(|n| if n.abs() >= least { *n } else { 0.0 }).collect::<Vec<f32>>()
    });
    let mean = |(a, b): (&f32, &f32)| {
        let agree = |n: f32| n != 0.0 && (n > 0.0) == (a + b > 0.0);
        let kept: Vec<f32> = [*a, *b].into_iter().filter(|n| agree(*n)).collect();
        kept.iter().sum::<f32>() / kept.len().max(1) as f32
    };
    trimmed[0].iter().zip(&trimmed[1]).map(mean).collect()
}

/// Every second element of each by chance, twice as large.
fn dare(updates: &[Vec<f32>; 2]) -> Vec<f32> {
    let chance = [0, 1].map(|of| noise(updates[0].len(), 300 + of));
    let kept = |of: usize, at: usize| if chance[of][at] < 0.0 { 2.0 * updates[of][at] } else { 0.0 };
    (0..updates[0].len()).map(|at| kept(0, at) + kept(1, at)).collect()
}

#[test]
fn from_the_factors_of_the_updates_the_error_is_that_of_the_best() {
    let (rows, columns) = (600, 528);
    // With a decay the last directions drown in what the rules leave of the others.
    for decay in [1.0, 0.8] {
        let (updates, downs) = pair(rows, columns, decay);
        let start = ArrayView2::from_shape((32, columns), &downs).unwrap();
        for (name, numbers) in [("ties", ties(&updates)), ("dare", dare(&updates))] {
            let matrix = Dense { columns, numbers: &numbers };
            for (rank, best) in [16, 32].into_iter().zip(optimum(columns, &numbers, &[16, 32])) {
                let near = approximate_from(&matrix, Limit::Rank(rank), start).unwrap().unwrap();
                let excess = near.relative_error / best - 1.0;
                assert!(excess.abs() < 1e-4 && near.up.ncols() == rank, "{name} {rank} {decay}: {excess:e}");
                let limit = Limit::Error { relative: best * (1.0 + 1e-4), most: columns };
                let near = approximate_from(&matrix, limit, start).unwrap().unwrap();
                assert_eq!(near.up.ncols(), rank, "{name} {decay}");
                assert_eq!(approximate_from(&matrix, limit, start).unwrap().unwrap(), near);
            }
        }
    }
}

#[test]
fn a_start_may_be_of_any_size_and_kind_but_has_the_columns_of_the_matrix() {
    let (rows, columns) = (520, 530);
    let numbers = decaying(rows, columns, 5, 0.9);
    let matrix = Dense { columns, numbers: &numbers };
    let many = noise(600 * columns, 3);
    for start in [
        Array2::from_elem((3, columns), 1e38),
        Array2::zeros((2, columns)),
        Array2::from_elem((1, columns), 1e-44),
        Array2::from_shape_vec((600, columns), many).unwrap(),
    ] {
        let near = approximate_from(&matrix, Limit::Rank(5), start.view()).unwrap().unwrap();
        assert!(near.relative_error < 1e-5, "{}", near.relative_error);
    }
    let error = |start: Array2<f32>| approximate_from(&matrix, Limit::Rank(1), start.view()).unwrap_err();
    let what = "columns of the start";
    assert_eq!(error(Array2::zeros((1, 529))), Error::Length { what, expected: 530, found: 529 });
    assert_eq!(error(Array2::from_elem((1, 530), f32::NAN)), Error::NotFinite);
}
