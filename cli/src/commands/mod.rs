//! One file for each verb: arguments to options, one call, an exit code.

pub(crate) mod apply;
pub(crate) mod convert;
pub(crate) mod diff;
mod fold;
pub(crate) mod inspect;
pub(crate) mod merge;
mod merge_weights;
pub(crate) mod open;
pub(crate) mod validate;
