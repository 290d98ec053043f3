//! Low-rank approximations against matrices of known rank and spectrum.
#![cfg(feature = "svd")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_math::Error;
use fitment_math::svd::{Approximation, Blocks, Dense, Limit, approximate};

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
