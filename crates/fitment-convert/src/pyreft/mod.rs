//! pyreft 0.1.0's saved interventions (pyvene 0.1.8), in all forms since pyvene 0.0.8.
//!
//! | file | holds |
//! |---|---|
//! | `config.json` | classes, layers and components, as lists of 8 to 14 fields, objects, or texts |
//! | `intkey_….bin`, one for each intervention | a torch file of its tensors; the name has `_` or, older, dots between its words |
//!
//! | `pytorch_model.bin` | what was trained of the model itself: PEFT's factors and saved modules, heads, whole weights |
//!
//! | class | becomes, with U `[d, r]`, W `[r, d]`, b `[r]` |
//! |---|---|
//! | LoReFT | U = `rotate_layer`, W = `weight`, b = `bias`, subtracted; bit for bit |
//! | NoReFT | U = `proj_layer.weight`ᵀ, W, b, subtracted, with `proj_layer.bias` where there is one |
//! | ConsReFT | U = the rotation, b, subtracted |
//! | LobiReFT | U = the rotation, b |
//! | DiReFT | U = the rotation, W, b |
//! | NodiReFT | U = `proj_layer.weight`ᵀ, W, b; `proj_layer.bias` is kept without effect, as there |
//!
//! Rotations that torch keeps as parameters are rebuilt in f64 and rounded once; of their `d × d` base only `d × r` matters,
//! and the rest is left out. What was trained of the model becomes edits of weights, as in PEFT's own files; their alpha is
//! saved nowhere. What a folder does not say is asked for: positions, activation, and the class where no config
//! and no key tells it.

mod class;
mod folder;
mod place;
mod read;
pub mod rules;
mod said;
mod write;

pub use read::read;
pub use write::write;

use crate::error::Error;
use crate::files::Files;
use crate::wrapped;
use fitment_core::Finding;

/// Whether there is a file of an intervention.
pub fn detect(files: &Files<'_>) -> bool {
    folder::is_there(files)
}

/// Every breach of [`rules`] that the files show, and those of torch files and of PEFT's tensors.
///
/// # Errors
/// [`Error::Ambiguous`] when there are several folders and `adapter_name` names none of them.
pub fn check(files: &Files<'_>, adapter_name: Option<&str>) -> Result<Vec<Finding>, Error> {
    let folder = folder::open(files, adapter_name)?;
    let mut findings = folder.findings;
    if !folder.model.is_empty() {
        findings.extend(wrapped::check(folder.model.into_iter().collect()));
    }
    Ok(findings)
}
