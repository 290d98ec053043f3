use crate::culprit::Culprit;
use fitment_core::checkpoint::CheckpointError;

/// Why adapters cannot be merged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is nothing to merge.
    #[error("no adapter is named")]
    NoInput,
    /// Everything that keeps the adapters apart.
    #[error("{}", first_of(.culprits))]
    Refused {
        /// At least one.
        culprits: Vec<Culprit>,
    },
    /// What the method is told is of no use to it.
    #[error("{reason}")]
    Params {
        /// Why.
        reason: String,
    },
    /// Results cannot be put aside.
    #[error("no room for results: {0}")]
    Room(#[source] std::io::Error),
    /// The base cannot be read.
    #[error("base: {0}")]
    Base(#[source] CheckpointError),
    /// An adapter breaks a rule of the format.
    #[error(transparent)]
    Core(#[from] fitment_core::Error),
    /// A decomposition failed.
    #[error("{target}: {source}")]
    Math {
        /// The target.
        target: String,
        /// Why.
        #[source]
        source: fitment_math::Error,
    },
}

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Error::Refused { culprits } => culprits.iter().find_map(Culprit::hint),
            Error::NoInput
            | Error::Room(_)
            | Error::Params { .. }
            | Error::Base(_)
            | Error::Core(_)
            | Error::Math { .. } => None,
        }
    }
}

/// Names the first, counts the rest.
fn first_of(culprits: &[Culprit]) -> String {
    let first = culprits.first().map(ToString::to_string).unwrap_or_default();
    match culprits.len() {
        0 | 1 => first,
        count => format!("{first}; and {} more", count - 1),
    }
}
