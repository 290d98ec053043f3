use fitment_core::checkpoint::CheckpointError;

/// Why a validation cannot go on. What is wrong with an adapter is a finding, never an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller must say more: which format, or which adapter of a folder.
    #[error(transparent)]
    Input(#[from] fitment_convert::Error),
    /// The base could not be read.
    #[error("base: {0}")]
    Base(#[from] CheckpointError),
}
