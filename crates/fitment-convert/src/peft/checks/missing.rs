//! Modules that the config selects in the base, and the file does not hold.

use crate::names::Names;
use crate::peft::config::{Config, Modules};
use crate::peft::pattern::PatternFault;
use crate::peft::rules;
use crate::peft::selection::{Choice, Selection};
use crate::peft::units::{Change, Unit};
use fitment_core::Finding;
use fitment_core::checkpoint::Checkpoint;
use std::collections::BTreeSet;

/// Every module of the base that `target_modules` selects by name or pattern and that no unit adapts.
///
/// What `all-linear` or PEFT's own tables select depends on classes that a checkpoint does not show.
pub(in crate::peft) fn check_missing(
    config: &Config,
    units: &[Unit<'_>],
    (names, base): (&Names, &dyn Checkpoint),
) -> Result<Vec<Finding>, PatternFault> {
    if matches!(config.target_modules, Modules::Unset | Modules::AllLinear) {
        return Ok(Vec::new());
    }
    let selection = Selection::new(config)?;
    let adapted = units.iter().filter(|unit| matches!(unit.change, Change::Lora { .. }));
    let mut covered: BTreeSet<&str> = adapted.filter_map(|unit| names.on_disk(&unit.name)).collect();
    let mut findings = Vec::new();
    for (name, disk) in names.all() {
        let Some(module) = name.strip_suffix(".weight") else { continue };
        let is_matrix = base.tensors().get(disk).is_some_and(|info| info.shape.axes() >= 2);
        // A tensor may be known under two names: one finding for each is enough.
        if is_matrix && !covered.contains(disk) && selection.choice(module)? == Choice::Selected {
            covered.insert(disk);
            let message = "target_modules selects this module of the base, the file holds nothing for it";
            findings.push(Finding::new(&rules::P_MODULE_MISSING, module, message));
        }
    }
    Ok(findings)
}
