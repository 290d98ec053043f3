use crate::device::DeviceError;
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
        /// A bit-exact change is among the reasons: no option accepts another base for it.
        strict: bool,
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
    /// The device that does the arithmetic cannot go on.
    #[error("{tensor}")]
    Device {
        /// The tensor.
        tensor: String,
        /// Why.
        #[source]
        source: DeviceError,
    },
    /// A payload is damaged.
    #[error("{tensor}: its bit-exact change is damaged")]
    Payload {
        /// The tensor.
        tensor: String,
        /// What is wrong with it.
        #[source]
        source: fitment_math::bits::Error,
    },
    /// The base is right, the result is not the recorded one.
    #[error("{tensor}: the result has not the digest that its bit-exact change records")]
    OtherResult {
        /// The tensor.
        tensor: String,
    },
    /// The base is what the diff makes already.
    #[error("already applied: {tensor} is the result of {file}, not its base")]
    AlreadyApplied {
        /// The first such tensor.
        tensor: String,
        /// The adapter.
        file: String,
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
            Error::BaseMismatch { strict: true, .. } => {
                Some("name the right base; a bit-exact change fits no other")
            }
            Error::BaseMismatch { .. } => {
                Some("name the right base; --allow-base-mismatch applies to this one all the same")
            }
            Error::NotFinite { .. } => {
                Some("a lower weight, or --dtype with more range (bfloat16, float32), may hold it")
            }
            Error::Device { source: DeviceError::OutOfMemory, .. } => {
                Some("free some of its memory, or apply without --device")
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
