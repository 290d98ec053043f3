/// Why an edit could not be analysed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A weight is NaN or infinite: norms and spectra have no meaning.
    #[error("{label}: {role} holds NaN or infinities")]
    NotFinite {
        /// Target or site of the edit.
        label: String,
        /// Role of the tensor in the edit.
        role: &'static str,
    },
    /// A tensor's dtype has no arithmetic here.
    #[error("{label}: {role} is of {dtype}, of which no norm is computed")]
    Dtype {
        /// Target or site of the edit.
        label: String,
        /// Role of the tensor in the edit.
        role: &'static str,
        /// Its dtype.
        dtype: &'static str,
    },
    /// The arithmetic itself.
    #[error("{label}: {source}")]
    Math {
        /// Target or site of the edit.
        label: String,
        /// What went wrong.
        source: fitment_math::Error,
    },
}
