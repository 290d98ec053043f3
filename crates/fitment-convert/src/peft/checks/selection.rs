//! Which modules the config selects against which the file holds.

use crate::peft::config::{Bias, Config, Modules};
use crate::peft::contents::{Contents, Module};
use crate::peft::keys::{INNER, Whole};
use crate::peft::pattern::PatternFault;
use crate::peft::rules;
use crate::peft::selection::{Choice, Selection, is_named};
use crate::tying::is_vocabulary_module;
use fitment_core::Finding;

/// Names that PEFT adds to `modules_to_save` by the task, whether the model has them or not.
const ADDED_BY_PEFT: &[&str] = &["classifier", "score", "qa_outputs"];

/// Checks `target_modules` and `modules_to_save` against the modules of the file.
pub(in crate::peft) fn check_selection(
    config: &Config,
    contents: &Contents<'_>,
) -> Result<Vec<Finding>, PatternFault> {
    let mut findings = unlisted_targets(config, contents)?;
    findings.extend(unused_targets(config, contents));
    findings.extend(unlisted_saved(config, contents));
    findings.extend(missing_saved(config, contents));
    Ok(findings)
}

fn unlisted_targets(config: &Config, contents: &Contents<'_>) -> Result<Vec<Finding>, PatternFault> {
    let selection = Selection::new(config)?;
    let has_embedding = contents.modules.values().any(|module| module.embedding_a.is_some());
    let mut findings = Vec::new();
    for (path, module) in contents.modules.iter().filter(|(path, module)| is_by_target(path, module)) {
        // PEFT ties such a head to the embedding without a place in target_modules.
        if config.ensure_weight_tying && has_embedding && is_vocabulary_module(path) {
            continue;
        }
        let reason = match selection.choice(path)? {
            Choice::Selected => continue,
            Choice::Excluded => "exclude_modules or modules_to_save takes this module out",
            Choice::Unnamed => "target_modules does not select this module",
        };
        let key = module.entries().next().map_or(path.as_str(), |entry| entry.key.as_str());
        findings.push(Finding::new(
            &rules::P_TARGET_UNLISTED,
            key,
            format!("{reason}: PEFT drops its tensors"),
        ));
    }
    Ok(findings)
}

/// Whether a module is one that `target_modules` must select. Nested factors that belong to no parameter are told of elsewhere.
fn is_by_target(path: &str, module: &Module<'_>) -> bool {
    module.has_lora() && !module.in_attention && !module.is_parameter && !path.ends_with(&format!(".{INNER}"))
}

fn unused_targets(config: &Config, contents: &Contents<'_>) -> Vec<Finding> {
    let used = |name: &str, of_parameters: bool| {
        let is = |module: &Module<'_>| module.has_lora() && module.is_parameter == of_parameters;
        contents.modules.iter().any(|(path, module)| is(module) && is_named(path, name))
    };
    let unused = |names: &[String], field: &'static str, what: &str, of_parameters: bool| -> Vec<Finding> {
        let unused = names.iter().filter(|name| !used(name, of_parameters));
        let message = |name: &String| format!("{name:?} selects no {what} of the file");
        unused.map(|name| Finding::new(&rules::P_TARGET_UNUSED, field, message(name))).collect()
    };
    let mut findings = match &config.target_modules {
        Modules::Names(names) => unused(names, "target_modules", "module", false),
        Modules::Unset | Modules::AllLinear | Modules::Pattern(_) => Vec::new(),
    };
    findings.extend(unused(&config.target_parameters, "target_parameters", "parameter", true));
    findings
}

/// Whether `modules_to_save` saves a module: PEFT compares the end of its path, or of a parent's, without regard to dots.
pub(in crate::peft) fn saves(config: &Config, module: &str) -> bool {
    config.modules_to_save.iter().any(|name| is_saved_by(name, module))
}

fn is_saved_by(name: &str, module: &str) -> bool {
    let ends = module.match_indices('.').map(|(at, _)| at).chain([module.len()]);
    !name.is_empty() && ends.map(|end| &module[..end]).any(|path| path.ends_with(name))
}

fn unlisted_saved(config: &Config, contents: &Contents<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for ((module, param), copies) in &contents.whole {
        let is_bias = param == "bias" || param.ends_with(".bias");
        let explained =
            saves(config, module) || is_vocabulary_module(module) || (is_bias && config.bias != Bias::None);
        let plain = copies.get(&Whole::Plain).or_else(|| copies.get(&Whole::BaseLayer));
        if let Some(entry) = plain.filter(|_| !explained) {
            let message = "a whole tensor that neither modules_to_save nor bias names";
            findings.push(Finding::new(&rules::P_SAVED_UNLISTED, &entry.key, message));
        }
    }
    findings
}

fn missing_saved(config: &Config, contents: &Contents<'_>) -> Vec<Finding> {
    let holds = |name: &str| contents.whole.keys().any(|(module, _)| is_saved_by(name, module));
    let missing =
        config.modules_to_save.iter().filter(|name| !ADDED_BY_PEFT.contains(&name.as_str()) && !holds(name));
    missing
        .map(|name| {
            let message = format!("{name:?} has no tensors in the file");
            Finding::new(&rules::P_SAVED_MISSING, "modules_to_save", message)
        })
        .collect()
}
