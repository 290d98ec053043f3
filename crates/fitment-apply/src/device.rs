//! Arithmetic of an application done elsewhere than in this crate: on a graphics processor.
//!
//! The executor keeps everything but numbers: the order of work, reading and digests, `bits` decoded, tensors cut into blocks, the check for numbers
//! that are no longer finite, writing. A [`Device`] gets the tensor's [`Work`], and then block after block.
//!
//! Its arithmetic is f32, or f64 for tensors of that dtype, rounded once to the result's dtype. Order of additions and use of FMA are its own, so
//! the result may differ from [`crate::execute`]'s in the last place.

pub use crate::exec::{Change, Factors, Piece, Rescale, Work, WorkOp, WorkShare, WorkStep};

/// Does the arithmetic of tensors. Several threads call it, each with its own tensors.
pub trait Device: Sync {
    /// How many tensors may be worked on at the same time: while one is read, another is computed and a third one written.
    fn in_flight(&self) -> usize;

    /// How many elements of the result a block may have, with this many tensors in flight.
    fn block_elements(&self, work: &Work<'_>) -> usize;

    /// Takes up a tensor.
    ///
    /// # Errors
    /// [`DeviceError`]
    fn begin<'w>(&'w self, work: &'w Work<'w>) -> Result<Box<dyn Blocks + 'w>, DeviceError>;
}

/// A tensor that a device works on.
///
/// A block begins at flat position `first` and has `len` elements; it holds whole rows of every product. `stored` are
/// the base's bytes of it: fewer than `len` elements, or none, where the result is longer than the base, and those
/// missing count as 0.
pub trait Blocks {
    /// How often all blocks must be shown before results can be asked for: once for each norm that is taken over whole columns.
    fn rehearsals(&self) -> usize;

    /// Shows a block for rehearsal number `number`. When it fails, the block has not been seen.
    ///
    /// # Errors
    /// [`DeviceError`]; after [`DeviceError::OutOfMemory`] the caller comes back with a smaller block.
    fn rehearse(&mut self, number: usize, block: Block<'_>) -> Result<(), DeviceError>;

    /// All blocks have been shown for rehearsal number `number`.
    ///
    /// # Errors
    /// [`DeviceError`]
    fn rehearsed(&mut self, number: usize) -> Result<(), DeviceError>;

    /// The result's bytes of a block.
    ///
    /// # Errors
    /// As [`Blocks::rehearse`].
    fn block(&mut self, block: Block<'_>, out: &mut [u8]) -> Result<(), DeviceError>;
}

/// A run of elements of the result.
#[derive(Clone, Copy, Debug)]
pub struct Block<'b> {
    /// Flat position of the first one.
    pub first: usize,
    /// How many.
    pub len: usize,
    /// The base's bytes of it, as [`Work::source`] says.
    pub stored: &'b [u8],
}

/// Why a device cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// Its memory does not hold the block.
    #[error("out of memory")]
    OutOfMemory,
    /// A kernel refuses, as on the processor.
    #[error(transparent)]
    Arithmetic(#[from] fitment_math::Error),
    /// What it says itself.
    #[error("{0}")]
    Failed(String),
}
