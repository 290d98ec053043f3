//! Passes from model to model, which formats share.

pub mod fold;
pub(crate) mod pad;
