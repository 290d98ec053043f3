//! From the model to a PEFT folder: the source's own files again, or new ones that PEFT loads.

mod alpha;
mod config;
mod draft;
mod export;
mod restore;

use crate::error::Error;
use crate::loss::Loss;
use crate::write::{WriteOptions, Written};
use fitment_core::Adapter;

/// Lays an adapter out as PEFT does.
///
/// An adapter that was read from PEFT comes back with equal tensors and an equal config. Any other gets a config made for it,
/// and what PEFT cannot hold is listed as a loss.
///
/// # Errors
/// [`Error::Base`] when the base cannot be read.
pub fn write<'a>(adapter: &Adapter<'a>, options: &WriteOptions<'_>) -> Result<Written<'a>, Error> {
    match restore::restore(adapter) {
        restore::Restored::Same(written) => Ok(written),
        restore::Restored::NotPeft => export::export(adapter, options),
        restore::Restored::Changed(reason) => {
            let mut written = export::export(adapter, options)?;
            written.losses.insert(0, Loss::ConfigRemade { reason });
            Ok(written)
        }
    }
}
