//! DoRA through the public interface: against plain formulas, over splits, and its refusals.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use fitment_math::Error;
use fitment_math::dense::{add_change, add_scaled};
use fitment_math::ndarray::{Array2, ArrayView2, Axis, arr2, s};
use fitment_math::norm::{ColumnNorms, magnitude_factors, row_norms, scale_columns, scale_rows};
use proptest::prelude::*;

fn matrix() -> impl Strategy<Value = Array2<f64>> {
    (0..9_usize, 0..40_usize).prop_flat_map(|(rows, columns)| {
        prop::collection::vec(-3.0..3.0, rows * columns)
            .prop_map(move |cells| Array2::from_shape_vec((rows, columns), cells).unwrap())
    })
}

fn bits(matrix: ArrayView2<'_, f64>) -> Vec<u64> {
    matrix.iter().map(|value| value.to_bits()).collect()
}

proptest! {
    #[test]
    fn row_norms_are_the_roots_of_the_sums_of_squares(v in matrix()) {
        for (row, norm) in v.rows().into_iter().zip(row_norms(v.view())) {
            let plain = row.dot(&row).sqrt();
            prop_assert!((norm - plain).abs() <= 1e-14 * plain);
        }
    }

    #[test]
    fn row_norms_depend_on_no_split_and_no_stride(v in matrix(), at in any::<prop::sample::Index>()) {
        let whole = row_norms(v.view());
        let (head, tail) = v.view().split_at(Axis(0), at.index(v.nrows() + 1));
        prop_assert_eq!(&whole, &[row_norms(head), row_norms(tail)].concat());
        let turned = v.t().as_standard_layout().into_owned();
        prop_assert_eq!(&whole, &row_norms(turned.t()));
    }

    #[test]
    fn column_norms_are_those_of_the_groups_and_depend_on_no_split(
        v in matrix(),
        at in any::<prop::sample::Index>(),
        group in 1..5_usize,
    ) {
        let columns = v.ncols() / group * group;
        let v = v.slice_move(s![.., ..columns]);
        let mut whole = ColumnNorms::new(columns, group).unwrap();
        whole.add_rows(0, v.view()).unwrap();
        let whole = whole.finish();

        let at = at.index(v.nrows() + 1);
        let (head, tail) = v.view().split_at(Axis(0), at);
        let mut parts = ColumnNorms::new(columns, group).unwrap();
        parts.add_rows(0, head).unwrap();
        parts.add_rows(at, tail).unwrap();
        prop_assert_eq!(&whole, &parts.finish());

        let expected = v.axis_chunks_iter(Axis(1), group).map(|part| part.iter().map(|x| x * x).sum::<f64>().sqrt());
        for (norm, plain) in whole.iter().zip(expected) {
            prop_assert!((norm - plain).abs() <= 1e-14 * plain);
        }
    }

    #[test]
    fn a_magnitude_becomes_the_norm_along_either_axis(v in matrix()) {
        prop_assume!(v.iter().all(|value| value.abs() > 1e-3));
        let magnitude: Vec<f64> = (0..v.nrows()).map(|row| 0.5 + row as f64).collect();
        let factors = magnitude_factors(0, &row_norms(v.view()), &magnitude, 0.0);
        if v.ncols() == 0 {
            prop_assert_eq!(factors.is_err(), v.nrows() > 0);
            return Ok(());
        }
        let factors = factors.unwrap();
        let mut rows = v.clone();
        scale_rows(rows.view_mut(), &factors).unwrap();
        for (norm, magnitude) in row_norms(rows.view()).iter().zip(&magnitude) {
            prop_assert!((norm - magnitude).abs() <= 1e-14 * magnitude);
        }
        // The transposed base, scaled by the same factors.
        let mut columns = v.t().as_standard_layout().into_owned();
        scale_columns(columns.view_mut(), &factors).unwrap();
        prop_assert_eq!(bits(rows.view()), bits(columns.t()));
    }
}

#[test]
fn many_rows_and_columns_are_the_same_as_few() {
    // More than one job of rows and of columns.
    let v = Array2::from_shape_fn((130, 1100), |(i, j)| ((i * 31 + j * 17) % 101) as f64 - 50.0);
    let each: Vec<f64> = v.rows().into_iter().flat_map(|row| row_norms(row.insert_axis(Axis(0)))).collect();
    assert_eq!(row_norms(v.view()), each);
    let mut norms = ColumnNorms::new(1100, 1).unwrap();
    norms.add_rows(0, v.view()).unwrap();
    let exact: Vec<f64> = v.columns().into_iter().map(|column| column.dot(&column).sqrt()).collect();
    assert_eq!(norms.finish(), exact);
    let mut scaled = v.clone();
    scale_rows(scaled.view_mut(), &vec![0.5; 130]).unwrap();
    scale_columns(scaled.view_mut(), &vec![2.0; 1100]).unwrap();
    assert_eq!(scaled, v);
}

#[test]
fn the_kept_input_axis_of_a_convolution_groups_its_kernel() {
    // [out 1, in 2, kernel 2]: the norm of each input channel covers its two taps.
    let mut v = arr2(&[[3.0, 4.0, 5.0, 12.0]]);
    let mut norms = ColumnNorms::new(4, 2).unwrap();
    norms.add_rows(0, v.view()).unwrap();
    let factors = magnitude_factors(0, &norms.finish(), &[10.0, 26.0], 0.0).unwrap();
    scale_columns(v.view_mut(), &factors).unwrap();
    assert_eq!(v, arr2(&[[6.0, 8.0, 10.0, 24.0]]));
}

#[test]
fn eps_is_added_to_the_norm() {
    assert_eq!(magnitude_factors(0, &[1.5], &[4.0], 0.5), Ok(vec![2.0]));
    assert_eq!(magnitude_factors(0, &[0.0], &[4.0], 0.5), Ok(vec![8.0]));
}

#[test]
fn a_norm_that_is_no_divisor_is_named() {
    let one = [1.0; 2];
    assert_eq!(magnitude_factors(70, &[1.0, 0.0], &one, 0.0), Err(Error::ZeroNorm { index: 71 }));
    assert_eq!(magnitude_factors(70, &[0.0, 1.0], &[0.0; 2], 0.0), Err(Error::ZeroNorm { index: 70 }));
    let refused = magnitude_factors(0, &[1.0, f64::INFINITY], &one, 0.0);
    assert_eq!(refused, Err(Error::NonFiniteNorm { index: 1, norm: f64::INFINITY }));
    let nan = row_norms(arr2(&[[1.0, f64::NAN]]).view());
    let refused = magnitude_factors(5, &nan, &[1.0], 1e-6).unwrap_err();
    assert_eq!(refused.to_string(), "the norm at index 5 of the kept axis is NaN");
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    let mut block = Array2::zeros((2, 6));
    let refused = magnitude_factors(0, &[1.0; 2], &[1.0; 3], 0.0).unwrap_err();
    assert_eq!(refused, Error::Length { what: "magnitudes", expected: 2, found: 3 });
    let refused = scale_rows(block.view_mut(), &[1.0; 3]).unwrap_err();
    assert_eq!(refused, Error::Length { what: "factors of the rows", expected: 2, found: 3 });
    let refused = scale_columns(block.view_mut(), &[1.0; 4]).unwrap_err();
    assert_eq!(refused, Error::Length { what: "columns in whole groups", expected: 4, found: 6 });
    assert!(scale_columns(block.view_mut(), &[]).is_err());

    assert_eq!(
        ColumnNorms::new(7, 2).unwrap_err(),
        Error::Length { what: "columns in whole groups", expected: 6, found: 7 }
    );
    assert!(ColumnNorms::new(7, 0).is_err());
    assert!(ColumnNorms::new(0, 0).unwrap().finish().is_empty());
    let mut norms = ColumnNorms::new(6, 1).unwrap();
    norms.add_rows(0, block.view()).unwrap();
    assert_eq!(norms.add_rows(3, block.view()), Err(Error::RowOrder { expected: 2, found: 3 }));
    assert_eq!(norms.add_rows(2, block.t()), Err(Error::Columns { expected: 6, found: 2 }));
    norms.add_rows(2, block.view()).unwrap();
}

#[test]
fn dense_changes_follow_their_formulas() {
    let mut w = [1.0, 2.0, f64::INFINITY];
    add_scaled(&mut w, &[10.0, -4.0, f64::NEG_INFINITY], 0.25).unwrap();
    assert_eq!((w[0], w[1], w[2].to_bits()), (3.5, 1.0, 0x7ff8_0000_0000_0000));
    let mut total = [100.0, 200.0];
    add_change(&mut total, &[3.0, 5.0], &[1.0, 1.0], 0.5).unwrap();
    assert_eq!(total, [101.0, 202.0]);
    let refused = add_scaled(&mut total, &[1.0], 1.0).unwrap_err();
    assert_eq!(refused, Error::Length { what: "numbers of the delta", expected: 2, found: 1 });
    let refused = add_change(&mut total, &[1.0, 2.0], &[1.0], 1.0).unwrap_err();
    assert_eq!(refused, Error::Length { what: "numbers of the base", expected: 2, found: 1 });
}
