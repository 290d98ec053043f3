use crate::error::Error;
use std::io;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Where encoded tensors are put aside until all are known: a file, or memory. From several threads.
pub trait Spool: Sync {
    /// Room for so many bytes in one piece. It may be left unwritten, and is then of no use.
    ///
    /// # Errors
    /// When the spool cannot grow.
    fn reserve(&self, len: u64) -> io::Result<Range<u64>>;

    /// Writes bytes into reserved room, from a place in the spool on.
    ///
    /// # Errors
    /// When the file cannot take them.
    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()>;
}

/// A spool in memory.
#[derive(Debug, Default)]
pub struct MemorySpool(Mutex<Vec<u8>>);

impl MemorySpool {
    /// All that was kept.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spool for MemorySpool {
    fn reserve(&self, len: u64) -> io::Result<Range<u64>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let start = kept.len();
        let end = usize::try_from(len).ok().and_then(|len| start.checked_add(len));
        kept.resize(end.ok_or(io::ErrorKind::OutOfMemory)?, 0);
        Ok(start as u64..kept.len() as u64)
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let start = usize::try_from(at).unwrap_or(usize::MAX);
        let room = kept.get_mut(start..).and_then(|rest| rest.get_mut(..bytes.len()));
        room.ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(bytes);
        Ok(())
    }
}

/// Bytes of known length on their way into a spool, so that no tensor is held whole.
pub(crate) struct Stream<'s> {
    spool: &'s dyn Spool,
    /// The tensor, for errors.
    name: &'s str,
    room: Range<u64>,
    at: u64,
    held: Vec<u8>,
}

impl<'s> Stream<'s> {
    pub(crate) fn new(spool: &'s dyn Spool, name: &'s str, len: u64) -> Result<Self, Error> {
        let failed = |source| Error::Spool { name: name.to_owned(), source };
        let room = spool.reserve(len).map_err(failed)?;
        let at = room.start;
        Ok(Self { spool, name, room, at, held: Vec::new() })
    }

    pub(crate) fn extend(&mut self, bytes: &[u8]) -> Result<(), Error> {
        /// From so many bytes on they are written.
        const ENOUGH: usize = 1 << 20;
        if self.held.len() + bytes.len() < ENOUGH {
            self.held.extend_from_slice(bytes);
            return Ok(());
        }
        let held = std::mem::take(&mut self.held);
        self.write(&held)?;
        self.write(bytes)?;
        self.held = held;
        self.held.clear();
        Ok(())
    }

    /// Where all of it lies.
    pub(crate) fn end(mut self) -> Result<Range<u64>, Error> {
        let held = std::mem::take(&mut self.held);
        self.write(&held)?;
        debug_assert_eq!(self.at, self.room.end, "as many bytes as were announced");
        Ok(self.room)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let failed = |source| Error::Spool { name: self.name.to_owned(), source };
        self.spool.write_at(self.at, bytes).map_err(failed)?;
        self.at += bytes.len() as u64;
        Ok(())
    }
}
