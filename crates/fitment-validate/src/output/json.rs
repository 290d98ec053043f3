use crate::codes;
use crate::outcome::Outcome;
use fitment_core::finding::{Code, Finding, Severity};
use serde::Serialize;

/// Version of the JSON document: raised when a field changes its meaning or goes away, not when one is added.
pub const JSON_VERSION: u32 = 1;

#[derive(Serialize)]
struct Document<'o> {
    fitment_validate: u32,
    files: Vec<File<'o>>,
}

#[derive(Serialize)]
struct File<'o> {
    path: &'o str,
    format: Option<&'o str>,
    checked: Checked<'o>,
    refusal: Option<Refusal<'o>>,
    findings: Vec<Entry<'o>>,
    counts: Counts,
}

#[derive(Serialize)]
struct Checked<'o> {
    format: bool,
    weights: bool,
    base: bool,
    digests: u64,
    #[serde(rename = "for")]
    servers: &'o [&'static str],
}

#[derive(Serialize)]
struct Refusal<'o> {
    message: &'o str,
    hint: Option<&'o str>,
}

#[derive(Serialize)]
struct Entry<'o> {
    code: Code,
    severity: Severity,
    place: &'o str,
    message: &'o str,
    section: Option<&'static str>,
    remedy: Option<&'static str>,
}

#[derive(Serialize)]
struct Counts {
    error: usize,
    warning: usize,
    note: usize,
    allowed: usize,
}

/// One JSON document for all inputs, `{"fitment_validate": 1, "files": [{path, format, checked, refusal, findings:
/// [{code, severity, place, message, section, remedy}], counts}]}`: a stable contract.
pub fn json(outcomes: &[Outcome]) -> String {
    let document = Document { fitment_validate: JSON_VERSION, files: outcomes.iter().map(file).collect() };
    let mut text = serde_json::to_string_pretty(&document).expect("strings and numbers serialise");
    text.push('\n');
    text
}

fn file(outcome: &Outcome) -> File<'_> {
    let checked = &outcome.checked;
    File {
        path: &outcome.name,
        format: outcome.format.as_deref(),
        checked: Checked {
            format: checked.format,
            weights: checked.weights,
            base: checked.base,
            digests: checked.digests,
            servers: &checked.servers,
        },
        refusal: outcome
            .refusal
            .as_ref()
            .map(|refusal| Refusal { message: &refusal.message, hint: refusal.hint.as_deref() }),
        findings: outcome.findings.iter().map(entry).collect(),
        counts: Counts {
            error: outcome.count(Severity::Error),
            warning: outcome.count(Severity::Warning),
            note: outcome.count(Severity::Note),
            allowed: outcome.allowed,
        },
    }
}

fn entry(finding: &Finding) -> Entry<'_> {
    let rule = codes::of(finding.code);
    Entry {
        code: finding.code,
        severity: finding.severity,
        place: &finding.place,
        message: &finding.message,
        section: rule.map(|rule| rule.section),
        remedy: rule.map(|rule| rule.remedy),
    }
}
