//! Adapters on [candle](https://github.com/huggingface/candle) devices.
//!
//! | module | holds |
//! |---|---|
//! | [`device`] | the devices by their names, and what they can do |
//! | [`apply`] | a plan of `fitment-apply` carried out on a device |
#![forbid(unsafe_code)]

pub mod apply;
pub mod device;
mod error;

pub use error::Error;
