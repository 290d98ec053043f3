use crate::finding::{Finding, rules};
use crate::tensor::ShapeFault;

/// Why core cannot go on. Variants are sorted by who must act.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes break the format; the first breach, and how many more there are.
    #[error("{first}{}", more_breaches(*.more))]
    Malformed {
        /// The first breach in the order of checking.
        first: Box<Finding>,
        /// Further breaches of severity error.
        more: usize,
    },
    /// The file is fine but is not a Fitment file: no `fitment` key in its metadata.
    #[error("not a Fitment file: its metadata have no key `fitment`")]
    NotFitment,
    /// A model could not be built: the caller's values contradict each other.
    #[error("{place}: {message}")]
    Invalid {
        /// Which part of the model.
        place: String,
        /// Expected and found.
        message: String,
    },
    /// Dtype, shape and bytes do not go together.
    #[error("{name}: {source}")]
    Shape {
        /// The tensor.
        name: String,
        /// What is wrong.
        source: ShapeFault,
    },
    /// The sink refused bytes.
    #[error("cannot write: {source}")]
    Write {
        /// What the sink said.
        #[source]
        source: std::io::Error,
    },
}

fn more_breaches(more: usize) -> String {
    match more {
        0 => String::new(),
        1 => " (and 1 more breach: `fitment validate` lists them)".to_owned(),
        more => format!(" (and {more} more breaches: `fitment validate` lists them)"),
    }
}

impl Error {
    /// What the rule that the file breaks says to do.
    pub fn hint(&self) -> Option<&'static str> {
        let Error::Malformed { first, .. } = self else { return None };
        rules::ALL.iter().find(|rule| rule.code == first.code).map(|rule| rule.remedy)
    }
}

/// Result with core's error.
pub type Result<T> = std::result::Result<T, Error>;
