use crate::rules;
use fitment_core::Finding;
use fitment_core::finding::Rule;
use std::fmt;

/// Why a file is not read: always the file, always one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {fault}")]
pub struct Error {
    /// The file, as the caller named it.
    pub file: String,
    /// What is wrong with it.
    pub fault: Fault,
}

/// Where in a file: a member of its archive, and a byte of that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The archive's member; empty for the file itself.
    pub member: String,
    /// Offset in the member, or in the file.
    pub byte: u64,
}

/// A name in a pickle that weights do not need: a class or function that loading would look up, and mostly call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Global {
    /// Python module, such as `os`.
    pub module: String,
    /// Name inside it, such as `system`.
    pub name: String,
    /// Where the pickle first names it.
    pub place: Place,
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The pickle names what no weight file needs. Nothing of it was run.
    #[error("{}", unsafe_globals(.globals, *.more))]
    Unsafe {
        /// At most [`crate::limits::MAX_LISTED`], each once, in order of their first place.
        globals: Vec<Global>,
        /// How many more there are.
        more: usize,
    },
    /// The pickle is malformed, or does with its values what torch does not.
    #[error("{place}: {message}")]
    Pickle {
        /// Where.
        place: Place,
        /// Expected and found.
        message: String,
    },
    /// The zip archive is malformed, or is not as torch writes it.
    #[error("{}{message}", before(.member))]
    Archive {
        /// The member; empty for the archive as a whole.
        member: String,
        /// Expected and found.
        message: String,
    },
    /// A member's bytes do not have the recorded CRC-32.
    #[error("{member}: its CRC-32 is {found:08x}, the archive records {recorded:08x}")]
    Checksum {
        /// The member.
        member: String,
        /// What the archive says.
        recorded: u32,
        /// What the bytes have.
        found: u32,
    },
    /// A tensor or storage that cannot be.
    #[error("{place}: {message}")]
    Tensor {
        /// Where the pickle makes it.
        place: Place,
        /// Expected and found.
        message: String,
    },
    /// Another kind of file.
    #[error("{what}")]
    Kind {
        /// What it is.
        what: String,
        /// What the user can do.
        hint: &'static str,
    },
    /// Beyond a limit of [`crate::limits`].
    #[error("{}{message}", before(.member))]
    Limit {
        /// The member; empty for the file itself.
        member: String,
        /// How much is allowed and how much there is.
        message: String,
    },
    /// The value is no state dict.
    #[error("{}{message}", before(.name))]
    Names {
        /// The key at fault; empty for the whole.
        name: String,
        /// Expected and found.
        message: String,
    },
}

impl Fault {
    /// The rule that is broken.
    pub fn rule(&self) -> &'static Rule {
        match self {
            Fault::Unsafe { .. } => &rules::T_UNSAFE,
            Fault::Pickle { .. } => &rules::T_PICKLE,
            Fault::Archive { .. } => &rules::T_ARCHIVE,
            Fault::Checksum { .. } => &rules::T_CHECKSUM,
            Fault::Tensor { .. } => &rules::T_TENSOR,
            Fault::Kind { .. } => &rules::T_KIND,
            Fault::Limit { .. } => &rules::T_LIMIT,
            Fault::Names { .. } => &rules::T_NAMES,
        }
    }
}

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> &'static str {
        match &self.fault {
            Fault::Kind { hint, .. } => hint,
            fault => fault.rule().remedy,
        }
    }

    /// The error as findings: one for each unsafe name, else one.
    pub fn findings(&self) -> Vec<Finding> {
        let one = |message: String| Finding::new(self.fault.rule(), self.file.clone(), message);
        match &self.fault {
            Fault::Unsafe { globals, more } => {
                let mut findings: Vec<Finding> =
                    globals.iter().map(|global| one(global.to_string())).collect();
                if *more > 0 {
                    findings.push(one(format!("and {more} more such names")));
                }
                findings
            }
            Fault::Kind { what, hint } => vec![one(format!("{what} ({hint})"))],
            fault => vec![one(fault.to_string())],
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.member.as_str() {
            "" => write!(f, "byte {}", self.byte),
            member => write!(f, "{member}, byte {}", self.byte),
        }
    }
}

impl fmt::Display for Global {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: the pickle names {}, which no weights need: nothing was run",
            self.place,
            self.full_name()
        )
    }
}

impl Global {
    /// `module.name`, with control characters escaped.
    pub fn full_name(&self) -> String {
        one_line(&format!("{}.{}", self.module, self.name))
    }
}

fn unsafe_globals(globals: &[Global], more: usize) -> String {
    match globals {
        [] => "the pickle names what no weights need: nothing was run".to_owned(),
        [one] if more == 0 => one.to_string(),
        [first, rest @ ..] => format!("{first} (and {} more such names)", rest.len().saturating_add(more)),
    }
}

fn before(member: &str) -> String {
    if member.is_empty() { String::new() } else { format!("{}: ", one_line(member)) }
}

/// A foreign text as part of a message of one line: cut to a readable length, control characters escaped.
pub(crate) fn one_line(text: &str) -> String {
    const SHOWN: usize = 120;
    let mut shown: String = text
        .chars()
        .take(SHOWN)
        .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// The fault of a bound that is passed.
pub(crate) fn limit(member: &str, what: &str, allowed: impl fmt::Display, found: impl fmt::Display) -> Fault {
    Fault::Limit {
        member: member.to_owned(),
        message: format!("{what}: at most {allowed} are allowed, found {found}"),
    }
}
