use crate::formats::{Ask, Checks, FORMATS, FormatId};
use crate::loss::Loss;
use fitment_core::Finding;
use fitment_core::checkpoint::CheckpointError;
use fitment_core::finding::rules;

/// Why a conversion cannot go on. Variants are sorted by who must act.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The adapter's files break the rules of their format, or contradict each other: every breach of severity error.
    #[error("{}", breaches(.findings))]
    Malformed {
        /// At least one, in the order of checking.
        findings: Vec<Finding>,
    },
    /// The adapter is sound, but holds something that this version does not convert.
    #[error("{what}: {reason}")]
    Unsupported {
        /// What it holds, by the name that its tool uses.
        what: String,
        /// Why it is refused.
        reason: String,
        /// What the user can do.
        hint: String,
    },
    /// The files do not say what the adapter does; a guess could change the function.
    #[error("{what}: {reason}")]
    Ambiguous {
        /// What is not said.
        what: String,
        /// What the possible readings are.
        reason: String,
        /// The option, or the change to the files, that decides it.
        hint: String,
    },
    /// An option has a value that it cannot have, or is of no use to the files.
    #[error("{option} {reason}")]
    Option {
        /// The option, with its value where that is at fault.
        option: String,
        /// What is wrong with it.
        reason: String,
        /// What the user can do.
        hint: String,
    },
    /// Modules of the adapter have no tensor in the base.
    #[error("{}", unmapped(.culprits))]
    Unmapped {
        /// Every such module.
        culprits: Vec<Unmapped>,
    },
    /// Tensors of the base differ in shape, dtype or content from what the adapter asks.
    #[error("{}", clashes(.culprits))]
    Mismatch {
        /// Every difference.
        culprits: Vec<Clash>,
    },
    /// The base has the right tensors, but is not the one whose bytes the adapter changes.
    #[error("{finding}")]
    WrongBase {
        /// The first tensor that shows it, by the rule of the adapter's format.
        finding: Finding,
        /// What the user can do.
        hint: String,
    },
    /// The base could not be read.
    #[error("base: {0}")]
    Base(#[source] CheckpointError),
    /// No known format fits the files.
    #[error("no known adapter format fits: {looked_for}")]
    NotDetected {
        /// What the formats are recognised by.
        looked_for: String,
    },
    /// Several formats fit the files.
    #[error("the files fit several formats: {}", names(.formats))]
    SeveralFormats {
        /// All that fit.
        formats: Vec<FormatId>,
    },
    /// The format can be read but not written, or the other way round.
    #[error("{format} cannot be {verb}")]
    NoSuchWay {
        /// The format.
        format: FormatId,
        /// `read` or `written`.
        verb: &'static str,
    },
    /// The Fitment file itself is at fault, or a sink failed.
    #[error(transparent)]
    Core(#[from] fitment_core::Error),
}

/// A module of the adapter that the base does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmapped {
    /// The tensor that was looked for, by the adapter's own name for it.
    pub expected: String,
    /// The base tensor whose name is most like it.
    pub nearest: Option<String>,
}

/// A base tensor, or the site of an intervention, that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clash {
    /// The base tensor, or the label of the intervention.
    pub target: String,
    /// What the adapter asks for.
    pub expected: String,
    /// What the base has.
    pub found: String,
}

impl Clash {
    /// Both sides, without the name.
    pub fn message(&self) -> String {
        format!("the adapter asks for {}, the base has {}", self.expected, self.found)
    }
}

impl Error {
    /// An option that would be passed over.
    pub(crate) fn no_use(ask: Ask, whose: &str, reason: impl Into<String>) -> Self {
        let reason = format!("is of no use to {whose}: {}", reason.into());
        Error::Option { option: ask.option().to_owned(), reason, hint: "leave it out".to_owned() }
    }

    /// A class of ReFT that the files are not of.
    pub(crate) fn contradicts(class: &str, of_files: &str, hint: &str) -> Self {
        let reason = format!("contradicts the files: they are of {of_files}");
        Error::Option { option: format!("{} {class}", Ask::Formula.option()), reason, hint: hint.to_owned() }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Unsupported { hint, .. }
            | Error::Ambiguous { hint, .. }
            | Error::WrongBase { hint, .. }
            | Error::Option { hint, .. } => Some(hint.clone()),
            Error::SeveralFormats { formats } => Some(format!("name one with --from: {}", names(formats))),
            Error::Unmapped { .. } => Some(
                "the adapter was made for another model, or for another class of this one: check --base"
                    .to_owned(),
            ),
            Error::Mismatch { .. } => Some("the adapter was made for another base: check --base".to_owned()),
            Error::NotDetected { .. } => Some(
                "name the file or folder of the adapter itself; the README lists what each format is recognised by, and --from reads it as one all the same"
                    .to_owned(),
            ),
            Error::Malformed { findings } if torch_remedy(findings).is_some() => torch_remedy(findings),
            Error::Malformed { findings } if findings.len() > 1 => {
                Some("`fitment validate` lists all of them".to_owned())
            }
            Error::Malformed { findings } => findings.first().and_then(remedy),
            Error::Core(error) => error.hint().map(str::to_owned),
            Error::Base(_) | Error::NoSuchWay { .. } => None,
        }
    }
}

impl Error {
    /// What only a base can tell, as something that is taken for the usual where the adapter is only to be looked at.
    ///
    /// # Errors
    /// Itself, where it is something else, or where it is not.
    pub(crate) fn shown(self, to_look_at: bool) -> Result<Loss, Error> {
        match self {
            Error::Ambiguous { what, reason, .. } if to_look_at => {
                Ok(Loss::AssumedToShow { target: what, reason })
            }
            error => Err(error),
        }
    }
}

/// What to do about a torch file that is not read; of other kinds of files the message says it.
fn torch_remedy(findings: &[Finding]) -> Option<String> {
    let rule =
        fitment_torch::rules::ALL.iter().find(|rule| Some(rule.code) == findings.first().map(|f| f.code))?;
    (rule.code != fitment_torch::rules::T_KIND.code).then(|| rule.remedy.to_owned())
}

/// What the rule of a format, or of the specification, says to do. Of what is not read at all, the message says it.
fn remedy(finding: &Finding) -> Option<String> {
    let checks = FORMATS.iter().filter_map(|format| format.checks.as_ref());
    let of_format = |checks: &Checks| {
        let rule = checks.rules.iter().find(|rule| rule.code == finding.code)?;
        (rule.code != checks.unsupported.code).then(|| rule.remedy.to_owned())
    };
    let of_spec =
        || rules::ALL.iter().find(|rule| rule.code == finding.code).map(|rule| rule.remedy.to_owned());
    checks.into_iter().find_map(of_format).or_else(of_spec)
}

/// A foreign text as part of a message of one line: control characters escaped, all else as it is.
pub(crate) fn one_line(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect()
}

fn breaches(findings: &[Finding]) -> String {
    match findings {
        [] => "the files are malformed".to_owned(),
        [one] => one.to_string(),
        [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
    }
}

fn unmapped(culprits: &[Unmapped]) -> String {
    let describe = |culprit: &Unmapped| match &culprit.nearest {
        Some(nearest) => format!("{} (nearest: {nearest})", culprit.expected),
        None => culprit.expected.clone(),
    };
    format!("the base has no tensor {}", first_few(culprits, describe))
}

fn clashes(culprits: &[Clash]) -> String {
    first_few(culprits, |clash| format!("{}: {}", clash.target, clash.message()))
}

/// Names three, counts the rest.
fn first_few<T>(culprits: &[T], describe: impl Fn(&T) -> String) -> String {
    const SHOWN: usize = 3;
    let mut text = culprits.iter().take(SHOWN).map(describe).collect::<Vec<_>>().join("; ");
    if culprits.len() > SHOWN {
        text.push_str(&format!("; and {} more", culprits.len() - SHOWN));
    }
    text
}

fn names(formats: &[FormatId]) -> String {
    formats.iter().map(FormatId::to_string).collect::<Vec<_>>().join(", ")
}
