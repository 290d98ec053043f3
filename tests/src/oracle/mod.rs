//! Oracles of the fuzz targets: plain functions, so that `cargo test` runs them too (on every fixture and vector).
//!
//! Each panics when a promise is broken; that bytes are refused is no breach.

mod container;
mod gguf;
mod manifest;
mod payload;
mod peft;
mod torch;

pub use container::container;
pub use gguf::{gguf, gguf_model};
pub use manifest::manifest;
pub use payload::payload;
pub use peft::{join_peft, peft};
pub use torch::{torch, torch_pickle};
