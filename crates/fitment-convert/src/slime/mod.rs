//! Disk deltas of slime (THUDM/slime), the weight versions that a trainer publishes for its rollout engines.
//!
//! | file of `weight_v000003/` | holds |
//! |---|---|
//! | `model.safetensors.index.json` | `metadata`: `version`, `base_version`, `delta_encoding`, `compression_format`, `checksum_format`; `weight_map`: tensor → file, empty where nothing changed |
//! | `model-00000-of-00002.safetensors` … | for each changed tensor a U8 `[n]` under its Hugging Face name: one zstd frame; in `__metadata__` the checksum of its new bytes |
//!
//! | encoding | content of a frame | becomes |
//! |---|---|---|
//! | `xor` | new bytes, exclusive or the old ones | `bits`, or `set` where that is hardly larger |
//! | `overwrite` | u32 count, that many ascending u32 byte positions, that many bytes | `sparse_set`, or `set` where that is no larger |
//!
//! `sparse_set` and `set` hold numbers; what is none, or not finite, becomes `bits`, or `set` where it has no arithmetic.
//!
//! Dtypes and shapes stand in the base only, so reading needs it: the checkpoint of `base_version`. Every tensor's new bytes are
//! held against the checksum, so that no other base passes. Positions of 32 bits do not reach beyond 4 GiB of a tensor.
//!
//! Facts: `slime/utils/disk_delta.py` and `update_weight_from_disk_delta.py`. slime's frames are those of the one-shot
//! function of python-zstandard at level 1: a single segment up to 512 KiB, a window of that size above.
//!
//! Not here: chains. A version changes the one before, so each is an adapter of its own.

mod checksum;
mod edits;
mod encoding;
mod folder;
mod read;
pub mod rules;
mod write;

pub use read::read;
pub use write::write;

use crate::error::Error;
use crate::files::Files;
use encoding::{Encoding, ScanFault, scan};
use fitment_core::Finding;
use fitment_math::frame;
use folder::{Delta, Folder};

/// Whether there is a version, at the root or in a sub-folder.
pub fn detect(files: &Files<'_>) -> bool {
    !folder::versions(files).is_empty()
}

/// Every breach of [`rules`] that the files show. Contents of `xor` mean nothing without the base: of them the frame alone is
/// checked.
///
/// # Errors
/// [`Error::Ambiguous`] when there are several versions and `adapter_name` names none of them.
pub fn check(files: &Files<'_>, adapter_name: Option<&str>) -> Result<Vec<Finding>, Error> {
    let mut folder = folder::open(files, adapter_name)?;
    let mut findings = std::mem::take(&mut folder.findings);
    findings.extend(contents(&folder));
    Ok(findings)
}

fn contents(folder: &Folder<'_>) -> Vec<Finding> {
    if folder.encoding != Some(Encoding::Overwrite) {
        return Vec::new();
    }
    folder.deltas.iter().filter_map(content_fault).collect()
}

fn content_fault(delta: &Delta<'_>) -> Option<Finding> {
    let finding = |rule, message: String| Some(Finding::new(rule, &*delta.name, message));
    let fault = match frame::reader(delta.frame) {
        Ok(content) => scan(content, delta.content).err()?,
        Err(error) => ScanFault::Frame(error.to_string()),
    };
    match fault {
        ScanFault::Frame(message) => finding(&rules::S_FRAME, message),
        ScanFault::Content(message) => finding(&rules::S_OVERWRITE, message),
    }
}
