use super::{artifact, sentence};
use crate::codes;
use crate::outcome::Outcome;
use fitment_core::finding::Severity;

/// GitHub workflow commands, one a finding: annotations of the run that prints them.
///
/// Form and escapes: "Workflow commands for GitHub Actions", as `@actions/core` writes them.
pub fn github(outcomes: &[Outcome]) -> String {
    let mut out = String::new();
    for outcome in outcomes {
        for finding in &outcome.findings {
            let command = match finding.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
                Severity::Note => "notice",
            };
            let file = property(&artifact(outcome, Some(finding)));
            let help = codes::of(finding.code).map(|rule| format!("\nhelp: {}", rule.remedy));
            let text = data(&format!("{}{}", sentence(finding), help.unwrap_or_default()));
            out.push_str(&format!("::{command} file={file},title=fitment {}::{text}\n", finding.code));
        }
        if let Some(refusal) = &outcome.refusal {
            let file = property(&artifact(outcome, None));
            let hint = refusal.hint.as_ref().map(|hint| format!("\nhelp: {hint}")).unwrap_or_default();
            let text = data(&format!("not checked: {}{hint}", refusal.message));
            out.push_str(&format!("::warning file={file},title=fitment::{text}\n"));
        }
    }
    out
}

/// What stands behind `::`.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// What stands behind `=`.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
