//! The arithmetic of the Fitment tools: products of low-rank factors, norms, and rounding, with the same bits on every
//! machine.
//!
//! A base weight is decoded to f64, edits are added there, and the result is rounded once:
//!
//! ```
//! use fitment_math::lowrank::{LowRank, Pair};
//! use fitment_math::ndarray::array;
//! use fitment_math::round::{Element, Encoded, EncodedMut, decode};
//!
//! // W = [[1, 2], [3, 4]] in bf16; W' = W + 2 · up · down.
//! let base = [0x80, 0x3f, 0x00, 0x40, 0x40, 0x40, 0x80, 0x40];
//! let (up, down) = (array![[1.0_f32], [0.5]], array![[1.0_f32, 8.0]]);
//! let delta = LowRank::new(&[Pair::new(up.view(), down.view(), 2.0)])?;
//!
//! let mut merged = [0; 8];
//! let element = Element::Bf16;
//! delta.merge(0, Encoded { element, bytes: &base }, EncodedMut { element, bytes: &mut merged })?;
//!
//! let mut numbers = [0.0_f32; 4];
//! decode(element, &merged, &mut numbers)?;
//! assert_eq!(numbers, [3.0, 18.0, 4.0, 12.0]);
//! # Ok::<(), fitment_math::Error>(())
//! ```
//!
//! # The rule
//! Every kernel states its operations and their order, and keeps to them at every vector width, block size and thread
//! count: each `+`, `·`, `/` and square root is one IEEE operation on f64 rounded to the nearest, ties to even, and
//! none is fused (no FMA). A NaN that arithmetic produces is the positive quiet one without payload.
//!
//! # Modules
//! | module | holds |
//! |---|---|
//! | [`round`] | bf16, f16, f32, f64: one number, or a tensor's bytes |
//! | [`lowrank`] | `W + s · up · down` on blocks of rows |
//! | [`conv`] | the same for convolutions, with or without a core |
//! | [`norm`] | DoRA: norms along an axis, and magnitudes |
//! | [`dense`] | dense deltas, and shares of several adapters |
//! | [`not_finite`] | the first NaN or infinity of a tensor |
//! | [`bits`] | bit-exact changes: the codec of `bits` payloads |
//! | [`frame`] | single zstd frames, read without C where there is none |
//! | [`spectrum`] | singular values of low-rank products, angles between their spaces |
//! | `svd` | low-rank approximation of a matrix (feature `svd`; may differ between machines in its last bits) |
//! | [`intervention`] | the map of an intervention on hidden states |
//!
//! # What it does not do
//! No files, no clock, no environment; it knows no adapter format and no tensor names. Builds for `wasm32`.
//!
//! # Features
//! `parallel` (off by default): threads over row blocks, by rayon. `zstd` (off by default): bit-exact diffs are encoded, by
//! the C library; without it they can only be decoded. `svd` (off by default): low-rank approximations, by the faer crate.
#![warn(
    clippy::disallowed_methods,
    reason = "pure crate: no files, clock, environment, threads or fused operations"
)]

pub mod bits;
pub mod conv;
pub mod dense;
mod dispatch;
mod error;
pub mod frame;
pub mod intervention;
pub mod lowrank;
pub mod norm;
pub mod not_finite;
pub mod orthogonal;
mod parallel;
pub mod round;
pub mod spectrum;
#[cfg(feature = "svd")]
pub mod svd;
mod wide;

pub use error::Error;
/// The views in the signatures of this crate.
pub use ndarray;
pub use wide::Wide;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
