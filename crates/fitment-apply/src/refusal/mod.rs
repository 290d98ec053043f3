//! Why an application does not begin: everything that is wrong, found before anything is written.

mod culprit;

pub use culprit::Culprit;

use std::fmt;

/// Everything that keeps these adapters from being applied to this base. Never empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    culprits: Vec<Culprit>,
}

impl Refusal {
    pub(crate) fn unless_empty(culprits: Vec<Culprit>) -> Result<(), Self> {
        if culprits.is_empty() { Ok(()) } else { Err(Self { culprits }) }
    }

    /// All of them: those of the whole run, then those of each target, by its name.
    pub fn culprits(&self) -> &[Culprit] {
        &self.culprits
    }

    /// What resolves the first one, where something does.
    pub fn hint(&self) -> Option<&'static str> {
        self.culprits.iter().find_map(Culprit::hint)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.culprits.as_slice() {
            [] => f.write_str("nothing is wrong"),
            [only] => only.fmt(f),
            [first, rest @ ..] => write!(f, "{first} (and {} more)", rest.len()),
        }
    }
}

impl std::error::Error for Refusal {}
