use super::{one_line, sentence};
use crate::codes;
use crate::outcome::{Checked, Outcome, Refusal};
use fitment_core::finding::{Finding, Severity};
use std::fmt::Write as _;

/// What stands before and behind the parts of a line: nothing, or the escapes of a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Around `error[CODE]`.
    pub error: (&'static str, &'static str),
    /// Around `warning[CODE]`.
    pub warning: (&'static str, &'static str),
    /// Around `note[CODE]`.
    pub note: (&'static str, &'static str),
    /// Around `help:`.
    pub help: (&'static str, &'static str),
    /// Around the summary of an input.
    pub summary: (&'static str, &'static str),
}

impl Style {
    fn severity(&self, severity: Severity) -> (&'static str, &'static str) {
        match severity {
            Severity::Error => self.error,
            Severity::Warning => self.warning,
            Severity::Note => self.note,
        }
    }
}

/// A line for each finding, the remedy once behind findings of one code, and a summary line for each input.
///
/// ```text
/// error[B001] lora: model.layers.9.mlp.up_proj.weight: the base has no such tensor; the nearest is "…"
///   help: …
/// lora: 1 error, 2 notes; checked: format peft, weights, base
/// ```
pub fn text(outcomes: &[Outcome], style: &Style) -> String {
    let mut out = String::new();
    for outcome in outcomes {
        body(&mut out, outcome, Severity::Note, style);
        let (before, behind) = style.summary;
        writeln!(out, "{before}{}{behind}", summary(outcome)).expect("writing to a string does not fail");
    }
    out
}

/// [`text`] of what makes a run fail, and nothing else: findings at or above a severity, and what could not be checked.
pub fn failing(outcomes: &[Outcome], fail_on: Severity, style: &Style) -> String {
    let mut out = String::new();
    for outcome in outcomes {
        body(&mut out, outcome, fail_on, style);
    }
    out
}

fn body(out: &mut String, outcome: &Outcome, least: Severity, style: &Style) {
    let mut findings = outcome.findings.iter().filter(|finding| finding.severity >= least).peekable();
    while let Some(finding) = findings.next() {
        line(out, outcome, finding, style);
        if findings.peek().is_none_or(|next| next.code != finding.code) {
            help(out, finding, style);
        }
    }
    if let Some(refusal) = &outcome.refusal {
        refused(out, outcome, refusal, style);
    }
}

fn line(out: &mut String, outcome: &Outcome, finding: &Finding, style: &Style) {
    let (before, behind) = style.severity(finding.severity);
    let (severity, code, name) = (finding.severity, finding.code, one_line(&outcome.name));
    writeln!(out, "{before}{severity}[{code}]{behind} {name}: {}", sentence(finding))
        .expect("writing to a string does not fail");
}

fn help(out: &mut String, finding: &Finding, style: &Style) {
    let (before, behind) = style.help;
    if let Some(rule) = codes::of(finding.code) {
        writeln!(out, "  {before}help:{behind} {}", rule.remedy).expect("writing to a string does not fail");
    }
}

fn refused(out: &mut String, outcome: &Outcome, refusal: &Refusal, style: &Style) {
    let (before, behind) = style.warning;
    let (name, message) = (one_line(&outcome.name), one_line(&refusal.message));
    writeln!(out, "{before}not checked{behind} {name}: {message}")
        .expect("writing to a string does not fail");
    if let Some(hint) = &refusal.hint {
        let (before, behind) = style.help;
        writeln!(out, "  {before}help:{behind} {}", one_line(hint))
            .expect("writing to a string does not fail");
    }
}

/// One line: how many findings, and what they are the result of.
fn summary(outcome: &Outcome) -> String {
    let counts = [Severity::Error, Severity::Warning, Severity::Note].map(|severity| {
        let count = outcome.count(severity);
        let plural = if count == 1 { "" } else { "s" };
        (count > 0).then(|| format!("{count} {severity}{plural}"))
    });
    let allowed = (outcome.allowed > 0).then(|| format!("{} allowed", outcome.allowed));
    let counts: Vec<String> = counts.into_iter().flatten().chain(allowed).collect();
    let counts = if counts.is_empty() { "no findings".to_owned() } else { counts.join(", ") };
    format!("{}: {counts}; checked: {}", one_line(&outcome.name), checked(outcome))
}

fn checked(outcome: &Outcome) -> String {
    let Checked { format, weights, base, digests, servers } = &outcome.checked;
    let format = format.then(|| match &outcome.format {
        Some(name) => format!("format {name}"),
        None => "format".to_owned(),
    });
    let parts = [
        format,
        weights.then(|| "weights".to_owned()),
        base.then(|| "base".to_owned()),
        (*digests > 0).then(|| format!("{digests} digests")),
        (!servers.is_empty()).then(|| format!("for {}", servers.join(" and "))),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
}
