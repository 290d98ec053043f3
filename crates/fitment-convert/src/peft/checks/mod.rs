//! The rules about tensors and config, each collected, none stopping another.

mod exported;
mod flags;
mod missing;
mod selection;
mod tensors;

pub(super) use exported::check_exported;
pub(super) use flags::check_flags;
pub(super) use missing::check_missing;
pub(super) use selection::{check_selection, saves};
pub(super) use tensors::check_tensors;
