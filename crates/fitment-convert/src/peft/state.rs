//! PEFT's tensors without PEFT's config, as other tools save what they trained of a model that PEFT wrapped.
//!
//! Everything but alpha, and whether it is rank-stabilised, can be seen in the keys and shapes: a config is made that says so,
//! and the tensors are read by it as from a folder of PEFT's own.

use super::config::{self, Config};
use super::contents::{self, Contents};
use super::folder::Folder;
use super::inspect::{Inspection, of_folder};
use super::keys::Whole;
use super::read::convert;
use super::rules;
use super::scale::rank_of;
use super::unbound::is_new_head;
use super::write::state_tensors;
use crate::alpha::{self, Alpha};
use crate::error::Error;
use crate::files::Files;
use crate::formats::Ask;
use crate::read::{Converted, ReadOptions};
use fitment_core::Finding;
use fitment_core::model::{Adapter, Edit, Source};
use fitment_core::tensor::Tensor;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// Rules about the spelling of keys and about lists in the config: these keys are those of a model in memory, and the
/// config is made of them.
const OF_FOLDERS: &[&fitment_core::finding::Rule] =
    &[&rules::P_KEY_PREFIX, &rules::P_KEY_ADAPTER_NAME, &rules::P_SAVED_UNLISTED];

/// The version whose rules the made config follows.
const VERSION: &str = "0.21.2";

/// Tensors by their keys.
pub(crate) type Tensors<'a> = Vec<(String, Tensor<'a>)>;

/// Reads tensors as edits of weights.
///
/// # Errors
/// Those of PEFT's reader; [`Error::Ambiguous`] without an alpha for LoRA, and without a base for whole tensors that may
/// be copies of its own; [`Error::Option`] for an alpha that nothing has.
pub(crate) fn read<'a>(
    tensors: Tensors<'a>,
    alpha: Option<&str>,
    options: &ReadOptions<'_>,
) -> Result<Converted<'a>, Error> {
    let alpha = alpha.map(Alpha::of).transpose()?;
    let contents = contents::sort(&tensors).contents;
    let mut loras = contents.modules.iter().filter(|(_, module)| module.has_lora());
    match (loras.next(), alpha) {
        (Some((module, _)), None) => {
            return Err(Error::Ambiguous {
                what: module.clone(),
                reason: "the file has its LoRA factors, and their alpha is saved nowhere".to_owned(),
                hint: alpha::HOW.to_owned(),
            });
        }
        (None, Some(_)) => {
            return Err(Error::no_use(Ask::Alpha, "this folder", "it has no LoRA factors"));
        }
        _ => {}
    }
    if options.base.is_none() {
        refuse_whole(&contents)?;
    }
    let inspection = inspected(tensors, alpha);
    let mut converted = convert(&inspection, &Files::new(), options)?;
    converted.findings.retain(of_tensors);
    Ok(converted)
}

/// Every breach of PEFT's rules about tensors.
pub(crate) fn check(tensors: Tensors<'_>) -> Vec<Finding> {
    let mut findings = inspected(tensors, None).findings;
    findings.retain(of_tensors);
    findings
}

/// Puts the edits' tensors under their keys again.
///
/// # Errors
/// Why the edits are no longer those tensors.
pub(crate) fn write<'a>(adapter: &Adapter<'a>, source: &Source<'a>) -> Result<Tensors<'a>, String> {
    let lora = adapter.edits.iter().find(|edit| matches!(edit, Edit::Lora(_))).map(Edit::origin);
    let alpha = lora.and_then(|origin| Some(Alpha { value: origin.alpha?, rslora: origin.rslora }));
    state_tensors(adapter, source, |tensors| made(&contents::sort(tensors).contents, alpha))
}

fn of_tensors(finding: &Finding) -> bool {
    OF_FOLDERS.iter().all(|rule| rule.code != finding.code)
}

/// A whole tensor is trained or a copy, which only a base shows; new heads are always trained.
fn refuse_whole(contents: &Contents<'_>) -> Result<(), Error> {
    let unknown = contents
        .whole
        .iter()
        .find(|((module, _), copies)| !copies.contains_key(&Whole::Saved) && !is_new_head(module));
    match unknown {
        None => Ok(()),
        Some(((module, parameter), _)) => Err(Error::Ambiguous {
            what: format!("{module}.{parameter}"),
            reason: "a whole tensor of the model may be trained or a copy of the base's".to_owned(),
            hint: "name the base with --base".to_owned(),
        }),
    }
}

fn inspected(tensors: Tensors<'_>, alpha: Option<Alpha>) -> Inspection<'_> {
    let parsed = config::parse(&text(&contents::sort(&tensors).contents, alpha));
    of_folder(
        Folder { tensors, weight_files: vec![String::new()], is_torch: true, ..Folder::default() },
        Some(parsed),
    )
}

fn made(contents: &Contents<'_>, alpha: Option<Alpha>) -> Option<Config> {
    config::parse(&text(contents, alpha)).config
}

/// The config that PEFT would have written beside such tensors.
fn text(contents: &Contents<'_>, alpha: Option<Alpha>) -> Vec<u8> {
    let loras: Vec<_> = contents.modules.iter().filter(|(_, module)| module.has_lora()).collect();
    let rank = loras.iter().find_map(|(_, module)| rank_of(module)).unwrap_or(1);
    let others = loras.iter().filter_map(|(path, module)| Some((path, rank_of(module)?)));
    let ranks: BTreeMap<String, u64> =
        others.filter(|(_, other)| *other != rank).map(|(path, other)| (escaped(path), other)).collect();
    let saved = |((module, _), copies): (&(String, String), &contents::Copies<'_>)| {
        (copies.contains_key(&Whole::Saved) || is_new_head(module)).then(|| module.clone())
    };
    let saved: BTreeSet<String> = contents.whole.iter().filter_map(saved).collect();
    let alpha = alpha.unwrap_or(Alpha { value: 1.0, rslora: false });
    let config = json!({
        "bias": "all",
        "lora_alpha": alpha.value,
        "lora_bias": loras.iter().any(|(_, module)| module.bias.is_some()),
        "modules_to_save": saved,
        "peft_type": "LORA",
        "peft_version": VERSION,
        "r": rank,
        "rank_pattern": ranks,
        "target_modules": loras.iter().map(|(path, _)| path).collect::<Vec<_>>(),
        "use_dora": loras.iter().any(|(_, module)| module.magnitude.is_some()),
        "use_rslora": alpha.rslora,
    });
    config.to_string().into_bytes()
}

/// A path as a pattern that matches nothing else.
fn escaped(path: &str) -> String {
    path.chars()
        .flat_map(|c| (!c.is_alphanumeric() && c != '_').then_some('\\').into_iter().chain([c]))
        .collect()
}
