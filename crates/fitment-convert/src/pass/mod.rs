//! Passes from model to model, which formats share.

pub(crate) mod experts;
pub mod fold;
pub(crate) mod gather;
pub(crate) mod one;
pub(crate) mod pad;
pub(crate) mod permute;
pub(crate) mod refit;
pub(crate) mod rows;
pub(crate) mod scale;
pub(crate) mod servable;
pub(crate) mod spots;
pub(crate) mod stacks;
pub(crate) mod sum;
pub(crate) mod values;
pub(crate) mod whole;
