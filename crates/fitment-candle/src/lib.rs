//! Adapters on [candle](https://github.com/huggingface/candle) devices.
//!
//! | module | holds |
//! |---|---|
//! | [`device`] | the devices by their names, and what they can do |
//! | [`apply`] | a plan of `fitment-apply` carried out on a device |
//! | [`unmerged`] | layers with adapters beside their weights |
//! | [`hooks`] | interventions on hidden states, for models that have hooks |
#![forbid(unsafe_code)]

pub mod apply;
pub mod device;
mod error;
pub mod hooks;
pub mod unmerged;

pub use error::Error;
