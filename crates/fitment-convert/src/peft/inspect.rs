//! Everything that can be said about an adapter folder without its base: what it holds, and every breach of a rule.

use super::checks;
use super::config::{self, Config, Dating, Parsed, PatternRule, Refusal};
use super::contents::{self, Contents};
use super::folder::{self, Folder};
use super::parameters;
use super::rules;
use super::scale::{self, Scale};
use crate::error::{Error, one_line};
use crate::files::Files;
use fitment_core::{Finding, Severity};
use std::collections::BTreeMap;

/// An adapter folder, looked through.
#[derive(Debug)]
pub(super) struct Inspection<'a> {
    pub(super) folder: Folder<'a>,
    /// The config, when it could be read.
    pub(super) config: Option<Config>,
    pub(super) contents: Contents<'a>,
    /// By module path.
    pub(super) scales: BTreeMap<String, Scale>,
    /// The rule for patterns, where it had to be inferred and matters.
    pub(super) assumed_rule: Option<PatternRule>,
    pub(super) findings: Vec<Finding>,
    pub(super) refusal: Option<Refusal>,
}

/// Looks through a folder.
///
/// # Errors
/// [`Error::Ambiguous`] when it holds several adapters and none is named.
pub(super) fn inspect<'a>(files: &Files<'a>, adapter_name: Option<&str>) -> Result<Inspection<'a>, Error> {
    let folder = folder::open(files, adapter_name)?;
    let parsed = folder.config.map(config::parse);
    Ok(of_folder(folder, parsed))
}

/// Looks through what was opened, by its config where there is one.
pub(super) fn of_folder(mut folder: Folder<'_>, parsed: Option<Parsed>) -> Inspection<'_> {
    let mut inspection = Inspection {
        findings: std::mem::take(&mut folder.findings),
        refusal: None,
        folder,
        config: None,
        contents: Contents::default(),
        scales: BTreeMap::new(),
        assumed_rule: None,
    };
    if let Some(parsed) = parsed {
        inspection.findings.extend(parsed.findings);
        inspection.config = parsed.config;
        inspection.refusal = parsed.refusal;
    }
    if inspection.refusal.is_none() {
        let sorted = contents::sort(&inspection.folder.tensors);
        (inspection.contents, inspection.refusal) = (sorted.contents, sorted.refusal);
        inspection.findings.extend(sorted.findings);
    }
    if inspection.refusal.is_none() {
        inspection.check();
    }
    inspection.note_refusal();
    inspection
}

impl Inspection<'_> {
    /// Gives factors of parameters the names of these; gives whether all could be told.
    fn assign(&mut self) -> bool {
        let Some(config) = &self.config else { return true };
        match parameters::assign(&mut self.contents, config) {
            Ok(assigned) => {
                let is_told = assigned.findings.is_empty();
                self.findings.extend(assigned.findings);
                self.refusal = assigned.refusal;
                self.findings.extend(twisted(config, &self.contents));
                is_told
            }
            Err(fault) => {
                self.findings.push(Finding::new(&rules::P_PATTERN, one_line(&fault.pattern), fault.reason));
                false
            }
        }
    }

    fn check(&mut self) {
        let unread = self.folder.weight_files.is_empty() || self.folder.tensors.is_empty();
        let broken = self.findings.iter().any(|finding| finding.severity == Severity::Error);
        if unread {
            if !broken {
                let message = "the weight file holds no tensor";
                self.findings.push(Finding::new(&rules::P_EMPTY, self.folder.prefix.clone(), message));
            }
            return;
        }
        let is_told = self.assign();
        let (findings, refusal) = checks::check_tensors(&self.contents);
        self.findings.extend(findings);
        self.refusal = self.refusal.take().or(refusal);
        if !is_told {
            return;
        }
        let Some(config) = &self.config else { return };
        match self.check_config(config) {
            Ok((scaled, findings)) => {
                self.findings.extend(findings);
                self.findings.extend(scaled.findings);
                self.scales = scaled.scales;
                self.assumed_rule = scaled.assumed_rule;
                self.refusal = self.refusal.take().or(scaled.refusal);
            }
            Err(fault) => {
                self.findings.push(Finding::new(&rules::P_PATTERN, one_line(&fault.pattern), fault.reason))
            }
        }
    }

    fn check_config(
        &self,
        config: &Config,
    ) -> Result<(scale::Scaled, Vec<Finding>), super::pattern::PatternFault> {
        let exported = checks::check_exported(config, &self.contents, self.folder.model_type.as_deref());
        let mut findings: Vec<Finding> = exported.into_iter().collect();
        findings.extend(checks::check_selection(config, &self.contents)?);
        findings.extend(checks::check_flags(config, &self.contents));
        Ok((scale::find(config, &self.contents)?, findings))
    }

    fn note_refusal(&mut self) {
        if let Some(refusal) = &self.refusal {
            let message = format!("{} ({})", refusal.reason, refusal.hint);
            self.findings.push(Finding::new(&rules::P_UNSUPPORTED, refusal.what.clone(), message));
        }
    }

    /// The config, when nothing stands against converting.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for what is refused by name, [`Error::Malformed`] for breaches of severity error.
    pub(super) fn sound(&self) -> Result<&Config, Error> {
        if let Some(Refusal { what, reason, hint }) = self.refusal.clone() {
            return Err(Error::Unsupported { what, reason, hint });
        }
        let errors = self.findings.iter().filter(|finding| finding.severity == Severity::Error);
        let findings: Vec<Finding> = errors.cloned().collect();
        match &self.config {
            Some(config) if findings.is_empty() => Ok(config),
            _ => Err(Error::Malformed { findings }),
        }
    }
}

/// Files of Unsloth may mean another order of columns than PEFT's.
fn twisted(config: &Config, contents: &Contents<'_>) -> Option<Finding> {
    let (_, module) = contents.modules.iter().find(|(_, module)| module.is_parameter)?;
    let entry = module.b.as_ref().filter(|_| config.of_unsloth)?;
    let message =
        "is read as PEFT computes it, the rank before the expert; Unsloth may have trained it the other way";
    Some(Finding::new(&rules::P_MOE_B_LAYOUT, &entry.key, message))
}

/// By which rules the patterns may be read, the first one being the most likely.
pub(super) fn possible_rules(config: &Config) -> Vec<PatternRule> {
    match config.dating() {
        Dating::Stated(rule) => vec![rule],
        Dating::ByKeys(first) => {
            let others = PatternRule::ALL.into_iter().filter(|rule| *rule != first);
            [first].into_iter().chain(others).collect()
        }
        Dating::Unknown => PatternRule::ALL.to_vec(),
    }
}
