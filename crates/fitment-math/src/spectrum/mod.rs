//! Spectra of low-rank products, and angles between their spaces, from matrices no larger than the ranks: for pictures and tables of
//! many modules. In f64, by Gram matrices: quick, and as exact as numbers are read from a screen. What needs vectors, or the
//! last digits, is in `svd`.

mod symmetric;
mod values;

pub use values::{principal_cosines, product_values};
