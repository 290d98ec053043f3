use super::Report;
use crate::modules::Module;
use crate::text::{counted, measured, number};
use fitment_core::Severity;
use fitment_validate::{Outcome, codes};
use std::fmt::Write as _;

/// More modules than this are left to the other forms of a report.
const MOST_ROWS: usize = 400;

impl Report {
    /// The report as GitHub-flavoured Markdown: for a pull request or a model card.
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        let summary = &self.summary;
        let _ = writeln!(out, "# {}\n\n{}\n", plain(&summary.path), plain(&summary.sentence()));
        if let Some(outcome) = &self.outcome {
            verdict(&mut out, outcome);
        }
        for line in &self.losses {
            let _ = writeln!(out, "- {}", plain(line));
        }
        if !self.losses.is_empty() {
            out.push('\n');
        }
        let _ = writeln!(out, "| | |\n|---|---|");
        for (name, value) in super::html::facts(summary) {
            let _ = writeln!(out, "| {name} | {} |", plain(&value));
        }
        out.push('\n');
        if !self.modules.is_empty() {
            self.table(&mut out);
        }
        for problem in &self.problems {
            let _ = writeln!(out, "- {}", plain(problem));
        }
        out
    }

    fn table(&self, out: &mut String) {
        let _ = writeln!(out, "## Modules\n");
        let _ = writeln!(
            out,
            "| module | kind | rank | scale | ‖ΔW‖ | stable rank | 90 % in | 99 % in | share |"
        );
        let _ = writeln!(out, "|---|---|--:|--:|--:|--:|--:|--:|--:|");
        for (module, analysis) in self.modules.iter().zip(&self.analyses).take(MOST_ROWS) {
            let of = |value: Option<f64>| value.map(measured).unwrap_or_default();
            let count = |value: Option<usize>| value.map(|value| value.to_string()).unwrap_or_default();
            let (analysis, kind) = (analysis.as_ref(), kind(module));
            let _ = writeln!(
                out,
                "| {} | {kind} | {} | {} | {} | {} | {} | {} | {} |",
                code(&module.label),
                module.rank.map(|rank| rank.to_string()).unwrap_or_default(),
                module.scale.map(number).unwrap_or_default(),
                of(analysis.and_then(|analysis| analysis.norm)),
                of(analysis.and_then(|analysis| analysis.stable_rank)),
                count(analysis.and_then(|analysis| analysis.rank_90)),
                count(analysis.and_then(|analysis| analysis.rank_99)),
                of(module.share),
            );
        }
        if let Some(more) = self.modules.len().checked_sub(MOST_ROWS).filter(|more| *more > 0) {
            let _ = writeln!(out, "\n… and {}.", counted(more, "more module"));
        }
        out.push('\n');
    }
}

/// Kind of a module, with what marks it off.
pub(super) fn kind(module: &Module) -> String {
    format!("{}{}", module.kind, if module.magnitude { " + magnitude" } else { "" })
}

fn verdict(out: &mut String, outcome: &Outcome) {
    let _ = writeln!(out, "**{}**\n", super::html::verdict_words(outcome));
    for finding in &outcome.findings {
        let place = if finding.place.is_empty() { String::new() } else { format!("{}: ", finding.place) };
        let text = plain(&format!("{place}{}", finding.message));
        let remedy = codes::of(finding.code).map(|rule| rule.remedy);
        let help = remedy.filter(|_| finding.severity > Severity::Note).map(|help| format!(" {help}"));
        let _ =
            writeln!(out, "- {} `{}` {text}.{}", finding.severity, finding.code, help.unwrap_or_default());
    }
    if !outcome.findings.is_empty() {
        out.push('\n');
    }
}

/// A name as code, where it can be.
fn code(name: &str) -> String {
    match name.contains(['`', '|', '\\', '<']) || name.chars().any(char::is_control) {
        true => plain(name),
        false => format!("`{name}`"),
    }
}

/// Text of one line without meaning to Markdown.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '|' | '*' | '_' | '`' | '[' | ']' | '#' | '\\' | '~' => {
                out.push('\\');
                out.push(character);
            }
            _ if character.is_control() => out.push(' '),
            _ => out.push(character),
        }
    }
    out
}
