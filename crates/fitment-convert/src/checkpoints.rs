//! Checkpoints of a training under way, which are no adapters: what is said of them.

use crate::error::Error;
use crate::files::Files;

/// Files of a kind, and how an adapter is made of them.
struct Kind {
    /// Whether a file's name is of it.
    is_of: fn(&str) -> bool,
    what: &'static str,
    hint: &'static str,
}

const KNOWN: &[Kind] = &[
    Kind {
        is_of: |name| name.ends_with(".distcp") || name.starts_with("pytorch_model_fsdp"),
        what: "a distributed checkpoint of FSDP",
        hint: "let the training save the adapter (in Axolotl `fsdp_state_dict_type: FULL_STATE_DICT`), or put the model together with `accelerate merge-weights` and take `fitment diff BASE TUNED`",
    },
    Kind {
        is_of: |name| name.ends_with("_model_states.pt") || name.ends_with("_optim_states.pt"),
        what: "a checkpoint of DeepSpeed",
        hint: "put the model together with the `zero_to_fp32.py` beside it, or name the folder that the trainer saved at the end",
    },
];

/// The error about such files; `None` when there are none.
pub(crate) fn refusal(files: &Files<'_>) -> Option<Error> {
    let name = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    let told = |path: &str| KNOWN.iter().find(|kind| (kind.is_of)(&name(path)));
    let (path, Kind { what, hint, .. }) = files.iter().find_map(|(path, _)| Some((path, told(path)?)))?;
    Some(Error::Unsupported {
        what: path.to_owned(),
        reason: format!("is part of {what}, not an adapter"),
        hint: (*hint).to_owned(),
    })
}
