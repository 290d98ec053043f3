//! Room for a file: the one place of this crate with unsafe code.
#![allow(unsafe_code, reason = "memory that nobody writes to costs nothing, and no safe call gives it")]

/// The bytes of a file.
#[derive(Debug)]
pub(crate) enum Room {
    /// From the allocator.
    Own(Vec<u8>),
    /// Fresh pages of the module's memory, which are never given back: zeros, for which the system takes no memory before someone
    /// writes to them. The allocator's zeroed memory would be written to at once.
    Fresh(&'static mut [u8]),
}

impl Room {
    /// Zeros; `None` when they do not fit into the memory.
    #[cfg(target_arch = "wasm32")]
    pub(crate) fn fresh(len: usize) -> Option<Self> {
        const PAGE: usize = 65_536;
        let before = core::arch::wasm32::memory_grow::<0>(len.div_ceil(PAGE));
        let start = before.checked_mul(PAGE)?;
        // SAFETY: growing gives pages that belong to nobody: the allocator takes only what it grows itself, and this slice is the
        // only reference to these. They are zero, as the specification of WebAssembly says (4.5.3), and stay for good. A refusal
        // is `usize::MAX`, whose product has overflowed above. No slice is longer than `isize::MAX`: checked here.
        (len <= isize::MAX as usize)
            .then(|| Self::Fresh(unsafe { core::slice::from_raw_parts_mut(start as *mut u8, len) }))
    }

    /// Zeros, where there is an operating system that gives them.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn fresh(len: usize) -> Option<Self> {
        (len <= isize::MAX as usize).then(|| Self::Fresh(vec![0; len].leak()))
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Room::Own(bytes) => bytes,
            Room::Fresh(bytes) => bytes,
        }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        match self {
            Room::Own(bytes) => bytes,
            Room::Fresh(bytes) => bytes,
        }
    }

    /// The same for good.
    pub(crate) fn leak(self) -> &'static [u8] {
        match self {
            Room::Own(bytes) => bytes.leak(),
            Room::Fresh(bytes) => bytes,
        }
    }
}
