//! What a validation gives.

use crate::servers::Server;
use fitment_core::Depth;
use fitment_core::finding::{Code, Finding, Rule, Severity, rules};

/// Rules about the values of weights, which readers of other formats ask as well.
const OF_VALUES: [&Rule; 4] =
    [&rules::E_NO_EFFECT, &rules::E_NOT_FINITE, &rules::E_MAGNITUDE_SIGN, &rules::E_ORTHONORMAL];

/// What the caller decides about findings.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The servers that shall load the adapter.
    pub servers: Vec<&'static Server>,
    /// Codes whose findings are left out, and only counted.
    pub allow: Vec<Code>,
    /// Codes whose findings are errors; stronger than `allow`.
    pub deny: Vec<Code>,
    /// The values of weights are not looked at: they are not at hand, only names, dtypes, shapes and what the files say of them.
    pub structure_only: bool,
}

/// One input, checked.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The name that the caller gave.
    pub name: String,
    /// Paths of its files, relative to the name if that is a folder.
    pub files: Vec<String>,
    /// Format of the input, when it is known.
    pub format: Option<String>,
    /// What was looked at.
    pub checked: Checked,
    /// Why the rest could not be looked at, when that is so.
    pub refusal: Option<Refusal>,
    /// Every finding that is not allowed: errors first, else in the order of checking.
    pub findings: Vec<Finding>,
    /// How many findings were left out by [`Options::allow`].
    pub allowed: usize,
}

/// What was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// The rules of the input's own format.
    pub format: bool,
    /// The values of the weights.
    pub weights: bool,
    /// Names and shapes against a base.
    pub base: bool,
    /// How many base tensors were compared with a recorded digest.
    pub digests: u64,
    /// The servers whose rules were asked, by name.
    pub servers: Vec<&'static str>,
}

/// The input is sound as far as it goes, but this version cannot make an adapter of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What it is and why it is refused, in one line.
    pub message: String,
    /// What the user can do.
    pub hint: Option<String>,
}

/// The result in one word: what an exit code says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing at or above the severity asked about.
    Clean,
    /// A finding at or above it.
    Findings,
    /// Nothing could be checked.
    Unchecked,
}

impl Options {
    /// How much of the adapter is looked at.
    pub(crate) fn depth(&self) -> Depth {
        if self.structure_only { Depth::Structure } else { Depth::Values }
    }
}

impl Outcome {
    /// How many findings there are of a severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// Whether a finding is at least that bad, or nothing could be checked at all.
    pub fn verdict(&self, fail_on: Severity) -> Verdict {
        if self.findings.iter().any(|finding| finding.severity >= fail_on) {
            Verdict::Findings
        } else if self.refusal.is_some() || self.checked == Checked::default() {
            Verdict::Unchecked
        } else {
            Verdict::Clean
        }
    }

    /// Takes findings in: severities as the caller wants them, errors first.
    pub(crate) fn judge(&mut self, findings: Vec<Finding>, options: &Options) {
        // What memory holds in place of values that nobody read says nothing.
        let unread = |finding: &Finding| {
            options.structure_only && OF_VALUES.iter().any(|rule| rule.code == finding.code)
        };
        for mut finding in findings.into_iter().filter(|finding| !unread(finding)) {
            if options.deny.contains(&finding.code) {
                finding.severity = Severity::Error;
            } else if options.allow.contains(&finding.code) {
                self.allowed += 1;
                continue;
            }
            self.findings.push(finding);
        }
        self.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    }
}

#[cfg(test)]
mod tests {
    use super::{Checked, Options, Outcome, Refusal, Verdict};
    use crate::rules;
    use fitment_core::finding::{Finding, Severity};

    fn outcome(options: &Options) -> Outcome {
        let checked = Checked { format: true, ..Checked::default() };
        let mut outcome = Outcome {
            name: "a".into(),
            files: vec![],
            format: None,
            checked,
            refusal: None,
            findings: vec![],
            allowed: 0,
        };
        let of = |rule| Finding::new(rule, "x", "y");
        let findings = vec![of(&rules::B_NO_BASE), of(&rules::B_PARTIAL), of(&rules::B_MISSING)];
        outcome.judge(findings, options);
        outcome
    }

    #[test]
    fn errors_come_first() {
        let codes: Vec<_> = outcome(&Options::default()).findings.iter().map(|f| f.code.0).collect();
        assert_eq!(codes, ["B001", "B013", "B017"]);
    }

    #[test]
    fn allowed_findings_are_only_counted() {
        let options = Options { allow: vec![rules::B_MISSING.code], ..Options::default() };
        let outcome = outcome(&options);
        assert_eq!((outcome.allowed, outcome.count(Severity::Error)), (1, 0));
        assert_eq!(outcome.verdict(Severity::Error), Verdict::Clean);
        assert_eq!(outcome.verdict(Severity::Warning), Verdict::Findings);
    }

    #[test]
    fn denying_beats_allowing() {
        let code = rules::B_NO_BASE.code;
        let outcome = outcome(&Options { allow: vec![code], deny: vec![code], ..Options::default() });
        assert_eq!((outcome.allowed, outcome.count(Severity::Error)), (0, 2));
    }

    #[test]
    fn a_refused_input_is_unchecked_unless_it_has_findings() {
        let mut refused = outcome(&Options::default());
        refused.refusal = Some(Refusal { message: "no".into(), hint: None });
        assert_eq!(refused.verdict(Severity::Error), Verdict::Findings);
        refused.findings.clear();
        assert_eq!(refused.verdict(Severity::Note), Verdict::Unchecked);
    }
}
