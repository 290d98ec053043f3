//! Adapters of other tools: the rules of their format, and what reading them against a base shows.

mod peft;

use crate::base::{self, BaseReport, Missing, missing_findings};
use crate::error::Error;
use crate::rules;
use crate::validate::Input;
use fitment_convert::each;
use fitment_convert::{
    Checks, Clash, Error as ConvertError, Files, FormatId, Loss, ReadOptions, Unmapped, read,
};
use fitment_core::check::check_model;
use fitment_core::checkpoint::{Checkpoint, CheckpointError, Names};
use fitment_core::finding::{Finding, rules as format};
use fitment_core::model::{Adapter, Edit};
use fitment_core::{Depth, Severity};
use std::collections::BTreeSet;

/// What a look at a foreign adapter gives.
#[derive(Debug, Default)]
pub(crate) struct Look<'a> {
    pub(crate) findings: Vec<Finding>,
    /// The adapter, when there is one.
    pub(crate) adapter: Option<Adapter<'a>>,
    /// The adapter is of a method that this version does not read: nothing of it was understood.
    pub(crate) is_refused: bool,
    /// Names and shapes were compared with the base.
    pub(crate) base: bool,
}

/// Checks an adapter of a foreign format, with a base when there is one.
///
/// # Errors
/// When the folder holds several adapters and none is named, an option cannot be what it says, or the base cannot be read.
pub(crate) fn check<'a>(
    input: &Input<'_, 'a>,
    (format, checks): (FormatId, Checks),
    base: Option<&dyn Checkpoint>,
    depth: Depth,
) -> Result<Look<'a>, Error> {
    let Input { files, options, .. } = *input;
    let findings = (checks.check)(files, options.adapter_name)?;
    let is_refused = findings.iter().any(|finding| finding.code == checks.unsupported.code);
    let mut look = Look { findings, is_refused, ..Look::default() };
    let options = ReadOptions { from: Some(format), base: None, ..options };
    match (read(files, &options), base) {
        (Ok(converted), _) => {
            look.add(converted.findings);
            look.adapter = Some(converted.adapter);
        }
        (Err(ConvertError::Malformed { findings }), _) => look.add(findings),
        // Only a base can tell what such an adapter does.
        (Err(ConvertError::Ambiguous { what, reason, hint }), None) if hint.contains("--base") => {
            let message = format!("without a base this cannot be known: {reason}");
            look.findings.push(Finding::new(&rules::B_NO_BASE, what, message));
        }
        (Err(ConvertError::Ambiguous { what, reason, hint }), None) => {
            look.findings.push(Finding::new(&rules::B_UNSAID, what, format!("{reason} ({hint})")));
        }
        (Err(error @ ConvertError::Option { .. }), _) => return Err(error.into()),
        (Err(ConvertError::Unsupported { what, reason, hint }), None) if !look.is_refused => {
            look.add(vec![Finding::new(checks.unsupported, what, format!("{reason} ({hint})"))]);
        }
        (Err(_), _) => {}
    }
    if let Some(base) = base {
        on_base(&mut look, files, &ReadOptions { base: Some(base), ..options }, (base, checks))?;
    }
    if let Some(adapter) = &look.adapter {
        if format == FormatId::Peft {
            look.findings.extend(peft::not_loaded(adapter, base));
        }
        look.findings.extend(mixed_dtypes(adapter));
        // What no rule of the format speaks of, and no file of ours can hold.
        if look.findings.iter().all(|finding| finding.severity != Severity::Error) {
            let found = check_model(adapter, depth, &each::each).into_iter();
            look.findings.extend(found.filter(|finding| finding.severity == Severity::Error));
        }
    }
    Ok(look)
}

impl Look<'_> {
    /// Adds findings that are not there yet: the rules of a format are checked before it is read and while it is.
    fn add(&mut self, findings: Vec<Finding>) {
        let more: Vec<Finding> =
            findings.into_iter().filter(|finding| !self.findings.contains(finding)).collect();
        self.findings.extend(more);
    }
}

/// Reads the adapter against a base: its names become those on disk, and what does not fit comes out.
fn on_base<'a>(
    look: &mut Look<'a>,
    files: &Files<'a>,
    options: &ReadOptions<'_>,
    (base, checks): (&dyn Checkpoint, Checks),
) -> Result<(), CheckpointError> {
    let report = match read(files, options) {
        Ok(converted) => {
            let mut report = base::check(&converted.adapter, base, true)?;
            // Reading against a base says more than the files alone.
            let more = converted.findings.into_iter().filter(|finding| !look.findings.contains(finding));
            report.findings.extend(more);
            look.adapter = Some(converted.adapter);
            report
        }
        // Reported already as breaches of the format, but for those that only a base shows.
        Err(ConvertError::Malformed { findings }) => {
            look.add(findings);
            return Ok(());
        }
        Err(ConvertError::Unsupported { .. }) if look.is_refused => return Ok(()),
        Err(ConvertError::Base(error)) => return Err(error),
        Err(error) => {
            let mut findings = refusal(&error, base, checks);
            findings.extend(refits(files, options));
            BaseReport { findings, digests: 0 }
        }
    };
    look.findings.extend(report.findings);
    look.base = true;
    Ok(())
}

/// That the base has what the adapter names, fused or apart. Whoever loads the adapter by its names finds nothing all the same.
fn refits(files: &Files<'_>, options: &ReadOptions<'_>) -> Vec<Finding> {
    let Ok(converted) = read(files, &ReadOptions { refit: true, ..*options }) else { return Vec::new() };
    let refitted = |loss: &Loss| match loss {
        Loss::Refitted { from, to, .. } => {
            let message = format!(
                "the base has {to} instead of {from}: `fitment convert --base` fits the adapter to it"
            );
            Some(Finding::new(&rules::B_FORM, to.clone(), message))
        }
        _ => None,
    };
    converted.losses.iter().filter_map(refitted).collect()
}

/// Why an adapter that is sound by itself cannot be read against the base.
fn refusal(error: &ConvertError, base: &dyn Checkpoint, checks: Checks) -> Vec<Finding> {
    match error {
        ConvertError::Unmapped { culprits } => {
            let names = Names::new(base.tensors().keys().map(String::as_str));
            let missing = |culprit: &Unmapped| {
                let name = culprit.expected.clone();
                Missing { label: name.clone(), name, experts: None }
            };
            missing_findings(&culprits.iter().map(missing).collect::<Vec<_>>(), &names)
        }
        ConvertError::Mismatch { culprits } => {
            let finding = |clash: &Clash| {
                // The label of an intervention.
                let rule = if clash.target.starts_with('@') { &rules::B_SITE } else { &rules::B_SHAPE };
                Finding::new(rule, clash.target.clone(), clash.message())
            };
            culprits.iter().map(finding).collect()
        }
        ConvertError::WrongBase { finding, .. } => vec![finding.clone()],
        ConvertError::Unsupported { what, reason, hint } => {
            let quantised = fitment_core::checkpoint::quantised::find(base).is_some();
            let rule = if quantised { &rules::B_QUANTISED } else { checks.unsupported };
            vec![Finding::new(rule, what.clone(), format!("{reason} ({hint})"))]
        }
        ConvertError::Ambiguous { what, reason, hint } => {
            vec![Finding::new(&rules::B_AMBIGUOUS, what.clone(), format!("{reason} ({hint})"))]
        }
        other => vec![Finding::new(&rules::B_AMBIGUOUS, "", other.to_string())],
    }
}

fn mixed_dtypes(adapter: &Adapter<'_>) -> Option<Finding> {
    let factors = adapter.edits.iter().filter(|edit| matches!(edit, Edit::Lora(_))).flat_map(Edit::tensors);
    let dtypes: BTreeSet<&str> = factors.map(|(_, tensor)| tensor.dtype().name()).collect();
    let message = || format!("factors are {}", dtypes.iter().copied().collect::<Vec<_>>().join(" and "));
    (dtypes.len() > 1).then(|| Finding::new(&format::E_MIXED_DTYPES, "", message()))
}
