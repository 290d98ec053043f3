//! Findings: what a file, or the fit between an adapter and a base, breaks or bends. All are collected, none stops.

pub mod rules;

pub use rules::Rule;

use serde::Serialize;
use std::fmt;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; nothing is wrong.
    Note,
    /// Probably not what its maker meant.
    Warning,
    /// Breaks a MUST: the file is invalid, or the result would be wrong.
    Error,
}

impl Severity {
    /// The lower-case word.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The stable name of a rule, such as `C011`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Code(pub &'static str);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// One breach, with its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which rule.
    pub code: Code,
    /// How much it matters.
    pub severity: Severity,
    /// Tensor, JSON path or key that is at fault; empty when it is the whole file.
    pub place: String,
    /// What was expected and what was found, in one line.
    pub message: String,
}

impl Finding {
    /// A finding of a rule, with the rule's own severity.
    pub fn new(rule: &Rule, place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: rule.code, severity: rule.severity, place: place.into(), message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.severity, self.code)?;
        if !self.place.is_empty() {
            write!(f, " {}", self.place)?;
        }
        write!(f, ": {}", self.message)
    }
}
