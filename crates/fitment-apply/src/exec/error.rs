use fitment_core::checkpoint::CheckpointError;

/// Why an application stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The base is not the one that the adapters were made for.
    #[error("this is not the base that {} was made for: {}", files.join(", "), differing(tensors, *more))]
    BaseMismatch {
        /// The adapters that say so.
        files: Vec<String>,
        /// The first base tensors that differ, by name.
        tensors: Vec<String>,
        /// Whether there may be more.
        more: bool,
    },
    /// A finite value of the base became infinite or NaN: the result's dtype cannot hold it.
    #[error("{tensor}: element {position} is finite in the base and not in the result, which is {dtype}")]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// Flat position of the element.
        position: usize,
        /// The result's dtype.
        dtype: fitment_core::tensor::Dtype,
    },
    /// A kernel refuses: a row or column without a norm cannot get a magnitude.
    #[error("{tensor}")]
    Arithmetic {
        /// The tensor.
        tensor: String,
        /// Why.
        #[source]
        source: fitment_math::Error,
    },
    /// The caller asked to stop.
    #[error("interrupted")]
    Cancelled,
    /// A tensor could not be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The plan does not fit the base that it is run on.
    #[error("{tensor}: {message}")]
    WrongPlan {
        /// The tensor.
        tensor: String,
        /// What does not fit.
        message: String,
    },
}

impl Error {
    /// What resolves it, where something does.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Error::BaseMismatch { .. } => {
                Some("name the right base; --allow-base-mismatch applies to this one all the same")
            }
            Error::NotFinite { .. } => {
                Some("a lower weight, or --dtype with more range (bfloat16, float32), may hold it")
            }
            _ => None,
        }
    }
}

fn differing(tensors: &[String], more: bool) -> String {
    match tensors {
        [only] if !more => format!("{only} differs"),
        tensors => format!("{}{} differ", tensors.join(", "), if more { ", …" } else { "" }),
    }
}
