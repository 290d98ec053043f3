//! Passes from model to model, which formats share.

pub mod fold;
