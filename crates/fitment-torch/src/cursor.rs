//! Checked reading of little-endian numbers and byte ranges.

/// A place in bytes. Every step says whether the bytes were there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Begins at an offset; `None` when it lies behind the end.
    pub(crate) fn at(bytes: &'a [u8], offset: u64) -> Option<Self> {
        let at = usize::try_from(offset).ok().filter(|at| *at <= bytes.len())?;
        Some(Self { bytes, at })
    }

    pub(crate) fn offset(&self) -> u64 {
        self.at as u64
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    pub(crate) fn take(&mut self, count: u64) -> Option<&'a [u8]> {
        let count = usize::try_from(count).ok()?;
        let taken = self.rest().get(..count)?;
        self.at = self.at.checked_add(count)?;
        Some(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let taken = self.rest().first_chunk::<N>().copied()?;
        self.at = self.at.checked_add(N)?;
        Some(taken)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_le_bytes)
    }

    /// The bytes up to the next line feed, which is passed.
    pub(crate) fn line(&mut self) -> Option<&'a [u8]> {
        let end = self.rest().iter().position(|byte| *byte == b'\n')?;
        let line = self.take(end as u64)?;
        self.u8()?;
        Some(line)
    }
}
