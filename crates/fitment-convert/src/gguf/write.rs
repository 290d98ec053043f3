use super::{control, lora};
use crate::error::Error;
use crate::write::{WriteOptions, Written};
use fitment_core::Adapter;
use fitment_core::model::Edit;

/// Writes a LoRA where the adapter has one, else a control vector. What came from GGUF goes back byte for byte.
///
/// # Errors
/// [`Error::Unsupported`] when nothing of the adapter can be held, or when llama.cpp would pass over part of it in silence;
/// [`Error::Ambiguous`] where it takes the base to know how.
pub fn write<'a>(adapter: &Adapter<'a>, options: &WriteOptions<'_>) -> Result<Written<'a>, Error> {
    match adapter.edits.iter().any(|edit| matches!(edit, Edit::Lora(_))) {
        true => lora::write(adapter, options),
        false => control::write(adapter),
    }
}
