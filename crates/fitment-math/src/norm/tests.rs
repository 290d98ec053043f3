use ndarray::Array2;

use super::row::row_norms_at;
use crate::dispatch::Level;

#[test]
fn every_level_has_the_bits_of_the_definition() {
    for columns in (0..40).chain([255, 256, 1000]) {
        let v = Array2::from_shape_fn((3, columns), |(i, j)| ((i * 7919 + j * 104_729) as f64).sin());
        let by_definition = |row: ndarray::ArrayView1<'_, f64>| {
            let mut sums = [0.0; 8];
            for (j, value) in row.iter().enumerate() {
                sums[j % 8] += value * value;
            }
            let [s0, s1, s2, s3, s4, s5, s6, s7] = sums;
            (((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7))).sqrt()
        };
        let expected: Vec<f64> = v.rows().into_iter().map(by_definition).collect();
        for level in Level::available() {
            assert_eq!(row_norms_at(level, v.view()), expected, "{columns} columns at {level:?}");
        }
    }
}
