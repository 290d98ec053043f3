//! What tools save of the model that they trained, beside their own: where PEFT wrapped it, PEFT's tensors without PEFT's config.
//!
//! Formats know nothing of each other; those whose folders may hold such a file read and write it through here.

pub(crate) use crate::peft::state::{check, read, write};
