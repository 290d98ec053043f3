//! From the model to a PEFT folder: the source's own files again, or new ones that PEFT loads.

mod alpha;
mod config;
mod draft;
mod experts;
mod export;
mod restore;
mod singles;

pub(super) use restore::state_tensors;

use crate::error::Error;
use crate::loss::Loss;
use crate::pass::fold::{File, Into, fold};
use crate::pass::servable::servable;
use crate::write::{Preset, WriteOptions, Written};
use fitment_core::Adapter;
use fitment_core::checkpoint::Checkpoint;
use fitment_core::model::Edit;

/// Lays an adapter out as PEFT does.
///
/// An adapter that was read from PEFT comes back with equal tensors and an equal config, but for factors of experts in another layout
/// than today's PEFT has. Any other gets a config made for it, and what PEFT cannot hold is listed as a loss. Interventions become LoRA with biases where the base is given and [`fold`] can.
///
/// # Errors
/// [`Error::Base`] when the base cannot be read; [`Error::Ambiguous`] where only a base tells today's layout of experts.
pub fn write<'a>(adapter: &Adapter<'a>, options: &WriteOptions<'_>) -> Result<Written<'a>, Error> {
    if options.preset == Some(Preset::Servable) {
        return as_served(adapter, options);
    }
    let with_interventions = adapter.edits.iter().any(|edit| matches!(edit, Edit::Intervention(_)));
    if let Some(base) = options.base.filter(|_| with_interventions) {
        return folded(adapter, base, options);
    }
    match restore::restore(adapter, options.base)? {
        restore::Restored::Same(written) => Ok(written),
        restore::Restored::NotPeft => export::export(adapter, options),
        restore::Restored::Changed(reason) => {
            let mut written = export::export(adapter, options)?;
            written.losses.insert(0, Loss::ConfigRemade { reason });
            Ok(written)
        }
    }
}

/// The form that all servers load; see [`Preset::Servable`].
fn as_served<'a>(adapter: &Adapter<'a>, options: &WriteOptions<'_>) -> Result<Written<'a>, Error> {
    let (adapter, mut losses) = servable(adapter, options.base)?;
    let mut written = export::export(&adapter, options)?;
    losses.append(&mut written.losses);
    Ok(Written { losses, ..written })
}

/// With the base at hand, interventions that a LoRA with a bias can stand for become one.
fn folded<'a>(
    adapter: &Adapter<'a>,
    base: &dyn Checkpoint,
    options: &WriteOptions<'_>,
) -> Result<Written<'a>, Error> {
    let folded = fold(&[File { adapter, weight: 1.0 }], base, Into::Lora)?;
    let mut adapter = adapter.clone();
    adapter.edits.retain(|edit| !matches!(edit, Edit::Intervention(_)));
    adapter.edits.extend(folded.edits);
    let mut written = export::export(&adapter, options)?;
    written.losses.extend(folded.kept.into_iter().map(|kept| Loss::NotHeld {
        target: kept.site,
        kind: "intervention",
        reason: format!("PEFT holds changes of weights, and it cannot be folded into one: {}", kept.obstacle),
    }));
    Ok(written)
}
