use fitment_core::tensor::Bytes;
use std::sync::Arc;

/// Where results are put aside while others are made.
pub trait Room: Sync {
    /// Takes the bytes of a tensor, from any thread; gives them back as they lie there.
    ///
    /// # Errors
    /// When there is no room.
    fn keep(&self, bytes: Vec<u8>) -> std::io::Result<Bytes<'_>>;
}

/// Memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryRoom;

impl Room for MemoryRoom {
    fn keep(&self, bytes: Vec<u8>) -> std::io::Result<Bytes<'_>> {
        Ok(Bytes::Shared(Arc::from(bytes)))
    }
}
