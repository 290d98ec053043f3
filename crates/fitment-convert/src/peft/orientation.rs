//! Whether a square matrix is stored `[out, in]`, or `[in, out]` as GPT-2's Conv1D has it.
//!
//! Any other matrix shows it by its shape. Nor does `fan_in_fan_out` in the config decide: PEFT 0.21 corrects it with a
//! warning, by the class of the layer.

use crate::conv1d::{CONV1D_MODELS, CONV1D_MODULES};
use crate::tying::model_type;
use fitment_core::checkpoint::Checkpoint;

/// Whether a module has a name that Conv1D modules have.
pub(super) fn may_be_conv1d(module: &str) -> bool {
    CONV1D_MODULES.contains(&last(module))
}

/// Whether the square matrix of a module is stored `[in, out]`; `None` when nothing tells.
///
/// `flag` is `fan_in_fan_out` of the config, which PEFT sets by the last module that it wrapped.
pub(super) fn is_transposed(module: &str, flag: bool, base: &dyn Checkpoint) -> Option<bool> {
    let named = may_be_conv1d(module);
    match base.config().and_then(model_type) {
        Some(model_type) if CONV1D_MODELS.contains(&model_type) => Some(named),
        // Without the flag and the names, a square matrix is one of a linear layer.
        _ if !named && !flag => Some(false),
        // Whatever the flag says; only a class that comes with the checkpoint may have Conv1D under other names.
        Some(_) if !named && !has_own_code(base) => Some(false),
        _ => by_siblings(module, base),
    }
}

fn has_own_code(base: &dyn Checkpoint) -> bool {
    base.config().is_some_and(|config| config.contains_key("auto_map"))
}

/// Matrices under the same last name, or another Conv1D name, that are not square show it by their bias.
fn by_siblings(module: &str, base: &dyn Checkpoint) -> Option<bool> {
    base.tensors().iter().find_map(|(name, info)| {
        let sibling = name.strip_suffix(".weight")?;
        let related = last(sibling) == last(module) || (may_be_conv1d(sibling) && may_be_conv1d(module));
        let &[rows, columns] = info.shape.dims() else { return None };
        if !related || rows == columns {
            return None;
        }
        let bias = base.tensors().get(&format!("{sibling}.bias"))?;
        match bias.shape.dims() {
            [out] if *out == columns => Some(true),
            [out] if *out == rows => Some(false),
            _ => None,
        }
    })
}

fn last(module: &str) -> &str {
    module.rsplit('.').next().unwrap_or(module)
}
