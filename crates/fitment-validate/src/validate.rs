use crate::base;
use crate::error::Error;
use crate::outcome::{Checked, Options, Outcome, Refusal};
use crate::{effect, file, foreign, rules, servers};
use fitment_convert::each;
use fitment_convert::{
    Checks, Error as ConvertError, Files, FormatId, ReadOptions, check_options, detect, torch_findings,
};
use fitment_core::checkpoint::Checkpoint;
use fitment_core::model::Adapter;
use fitment_core::{Depth, Finding};

/// An adapter to check: a Fitment file, or the files of any other format that can be read.
#[derive(Clone, Copy, Debug)]
pub struct Input<'i, 'a> {
    /// What the reports call it: a path.
    pub name: &'i str,
    /// Its files.
    pub files: &'i Files<'a>,
    /// What the caller knows beside the files; a base is an argument of its own.
    pub options: ReadOptions<'i>,
}

/// Checks an adapter by every rule there is: its own format's, those about what it does, and with a base those about the
/// fit. All findings are collected.
///
/// # Errors
/// [`Error::Input`] when the files fit several formats or hold several adapters and none is named, or an option
/// cannot be what it says; [`Error::Base`] when a tensor of the base cannot be read.
pub fn validate(
    input: &Input<'_, '_>,
    base: Option<&dyn Checkpoint>,
    options: &Options,
) -> Result<Outcome, Error> {
    let mut outcome = Outcome {
        name: input.name.to_owned(),
        files: input.files.iter().map(|(path, _)| path.to_owned()).collect(),
        format: None,
        checked: Checked::default(),
        refusal: None,
        findings: Vec::new(),
        allowed: 0,
    };
    let format = match input.options.from {
        Some(format) => format,
        None => match detect(input.files) {
            Ok(format) => format,
            Err(error @ (ConvertError::NotDetected { .. } | ConvertError::Malformed { .. })) => {
                undetected(input, &error, &mut outcome, options);
                return Ok(outcome);
            }
            Err(error) => return Err(error.into()),
        },
    };
    check_options(format, &input.options)?;
    outcome.format = Some(format.to_string());
    let findings = match format.format().checks {
        None => fitment(input, base, options, &mut outcome.checked)?,
        Some(checks) => foreign(input, (format, checks), base, options, &mut outcome.checked)?,
    };
    outcome.judge(findings, options);
    Ok(outcome)
}

/// A lone file that is hardly safetensors is told what is wrong with it, and so are torch files; for anything else there
/// are no rules.
fn undetected(input: &Input<'_, '_>, error: &ConvertError, outcome: &mut Outcome, options: &Options) {
    if let Some(bytes) = container(input) {
        let report = fitment_core::check::check_each(bytes, Depth::Structure, &each::each);
        if report.container.is_none() {
            outcome.checked.format = true;
            outcome.judge(report.findings, options);
            return;
        }
    }
    if let Some(findings) = torch_findings(input.files).filter(|findings| !findings.is_empty()) {
        outcome.checked.format = true;
        outcome.judge(findings, options);
        return;
    }
    outcome.refusal = Some(Refusal { message: error.to_string(), hint: error.hint() });
}

fn container<'a>(input: &Input<'_, 'a>) -> Option<&'a [u8]> {
    let (path, bytes) = input.files.iter().next().filter(|_| input.files.len() == 1)?;
    path.ends_with(".safetensors").then_some(bytes)
}

fn fitment(
    input: &Input<'_, '_>,
    base: Option<&dyn Checkpoint>,
    options: &Options,
    checked: &mut Checked,
) -> Result<Vec<Finding>, Error> {
    let Some((_, bytes)) = input.files.iter().next().filter(|_| input.files.len() == 1) else {
        let looked_for = "one Fitment file".to_owned();
        return Err(ConvertError::NotDetected { looked_for }.into());
    };
    let look = file::check(bytes, options.depth());
    let mut findings = look.findings;
    let weights = look.adapter.is_some() && !options.structure_only;
    *checked = Checked { format: true, weights, ..Checked::default() };
    if let Some(adapter) = &look.adapter {
        findings.extend(effects(adapter, options));
        if let Some(base) = base {
            let report = base::check(adapter, base, options.structure_only)?;
            findings.extend(report.findings);
            (checked.base, checked.digests) = (true, report.digests);
        }
    }
    findings.extend(served((input, FormatId::Fitment), look.adapter.as_ref(), base, options, checked)?);
    findings.extend(no_base(look.adapter.as_ref(), base));
    Ok(findings)
}

fn foreign(
    input: &Input<'_, '_>,
    format: (FormatId, Checks),
    base: Option<&dyn Checkpoint>,
    options: &Options,
    checked: &mut Checked,
) -> Result<Vec<Finding>, Error> {
    let look = foreign::check(input, format, base, options.depth())?;
    let weights = look.adapter.is_some() && !options.structure_only;
    *checked = Checked { format: !look.is_refused, weights, base: look.base, ..Checked::default() };
    let mut findings = look.findings;
    findings.extend(served((input, format.0), look.adapter.as_ref(), base, options, checked)?);
    findings.extend(look.adapter.iter().flat_map(|adapter| effects(adapter, options)));
    findings.extend(no_base(look.adapter.as_ref(), base));
    Ok(findings)
}

/// Whether the adapter does anything, where its values are at hand.
fn effects(adapter: &Adapter<'_>, options: &Options) -> Vec<Finding> {
    if options.structure_only { Vec::new() } else { effect::check(adapter) }
}

/// What the servers make of it that the caller named.
fn served(
    (input, format): (&Input<'_, '_>, FormatId),
    adapter: Option<&Adapter<'_>>,
    base: Option<&dyn Checkpoint>,
    options: &Options,
    checked: &mut Checked,
) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    for server in &options.servers {
        let found = match adapter {
            Some(adapter) => {
                let own = (format == FormatId::Peft).then_some((input.files, input.options.adapter_name));
                Some(servers::check(adapter, own, server, base)?)
            }
            None => {
                let files = (input.files, input.options.adapter_name);
                servers::check_files(files, (format, checked.format), server)
            }
        };
        match found {
            Some(found) => {
                if found.iter().all(|finding| finding.code != rules::V_UNKNOWN.code) {
                    checked.servers.push(server.name);
                }
                findings.extend(found);
            }
            None => {
                let message = format!("nothing was checked for {}", server.named());
                findings.push(Finding::new(&rules::V_UNKNOWN, "", message));
            }
        }
    }
    Ok(findings)
}

/// Silence about the fit must not be taken for a fit.
fn no_base(adapter: Option<&Adapter<'_>>, base: Option<&dyn Checkpoint>) -> Option<Finding> {
    let adapter = adapter.filter(|adapter| base.is_none() && !adapter.edits.is_empty())?;
    let made_for = match &adapter.base.name {
        Some(name) => format!("; the adapter says it was made for {name:?}"),
        None => String::new(),
    };
    let message = format!("no base was given: nothing was checked about a fit{made_for}");
    Some(Finding::new(&rules::B_NO_BASE, "", message))
}
