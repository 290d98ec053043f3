use fitment_core::tensor::Dtype;

/// What a device cannot do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No device has this name.
    #[error("{0}: no such device; there are cpu-candle, cuda, cuda:N, metal and metal:N")]
    UnknownDevice(String),
    /// The build lacks the kind.
    #[error("{name}: this build has no such devices; the feature `{feature}` brings them")]
    NotBuilt {
        /// The device.
        name: String,
        /// The feature of this crate.
        feature: &'static str,
    },
    /// It does not answer.
    #[error("{name}: no such device: {reason}")]
    Absent {
        /// The device.
        name: String,
        /// Its driver's words.
        reason: String,
    },
    /// It has no arithmetic of this dtype.
    #[error("{name} cannot compute {dtype}, which {tensor} is")]
    Dtype {
        /// The device.
        name: String,
        /// What it cannot do.
        dtype: Dtype,
        /// The first such tensor.
        tensor: String,
    },
}

/// candle's words without the trace behind them.
pub(crate) fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
