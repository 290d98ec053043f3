//! Single zstd frames in one shot: compressed by the C library, decompressed by it where it is built in and by ruzstd
//! elsewhere.
//!
//! ```
//! use fitment_math::frame;
//!
//! // One raw block of two bytes, as RFC 8878 has it.
//! let bytes = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 2, 0x11, 0, 0, 7, 8];
//! assert_eq!(frame::content_size(&bytes)?, 2);
//! assert_eq!(frame::decompress(&bytes, 2)?, [7, 8]);
//! assert!(frame::decompress(&bytes, 3).is_err());
//! # Ok::<(), frame::Error>(())
//! ```
//!
//! A frame may announce any size: hold [`content_size`] against what the content can be before [`decompress`] allocates it.

use fitment_core::payload::{self, PayloadFault};
use std::io::Read;

/// Why a frame cannot be made or taken apart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not one frame that states its content's size.
    #[error("{}", .0.message)]
    Frame(PayloadFault),
    /// The frame announces another size than is asked for.
    #[error("the frame holds {found} bytes, {expected} are asked for")]
    Size {
        /// Asked for.
        expected: usize,
        /// Announced.
        found: u64,
    },
    /// The blocks do not decode to what is announced.
    #[error("the frame does not decode: {0}")]
    Content(String),
    /// The compressor failed, or is not built in.
    #[error("cannot compress: {0}")]
    Compress(String),
}

/// The size of the content of exactly one frame, as its header states it; nothing is decompressed.
///
/// # Errors
/// [`Error::Frame`]: see [`payload::content_size`].
pub fn content_size(frame: &[u8]) -> Result<u64, Error> {
    payload::content_size(frame).map_err(Error::Frame)
}

/// The content of exactly one frame, `len` bytes.
///
/// # Errors
/// [`Error::Frame`]; [`Error::Size`], before anything is allocated; [`Error::Content`].
pub fn decompress(frame: &[u8], len: usize) -> Result<Vec<u8>, Error> {
    let found = content_size(frame)?;
    if found != len as u64 {
        return Err(Error::Size { expected: len, found });
    }
    content(frame, len).map_err(Error::Content)
}

/// The content of a frame piece by piece, in the memory of its window. The announced size is not held to.
///
/// # Errors
/// [`Error::Frame`]; [`Error::Content`]. The reader fails where a block does not decode.
pub fn reader(frame: &[u8]) -> Result<impl Read + '_, Error> {
    content_size(frame)?;
    ruzstd::decoding::StreamingDecoder::new(frame).map_err(|error| Error::Content(error.to_string()))
}

/// One frame of all bytes, with its content's size, as the library's one-shot function makes it at that level. Needs the
/// feature `zstd`.
///
/// # Errors
/// [`Error::Compress`].
pub fn compress(bytes: &[u8], level: i32) -> Result<Vec<u8>, Error> {
    compress_within(bytes, level, None).map_err(Error::Compress)
}

/// [`compress`] with a window of that many bits.
#[cfg(feature = "zstd")]
pub(crate) fn compress_within(bytes: &[u8], level: i32, window: Option<u32>) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut compressor = zstd::bulk::Compressor::new(level).map_err(failed)?;
    compressor.include_contentsize(true).map_err(failed)?;
    if let Some(log) = window {
        compressor.window_log(log).map_err(failed)?;
    }
    let mut frame = compressor.compress(bytes).map_err(failed)?;
    // Its room is that of the worst case, and frames wait for each other.
    frame.shrink_to_fit();
    Ok(frame)
}

#[cfg(not(feature = "zstd"))]
pub(crate) fn compress_within(_: &[u8], _: i32, _: Option<u32>) -> Result<Vec<u8>, String> {
    Err("fitment-math was built without its feature `zstd`".to_owned())
}

/// The content of a frame that was checked, `len` bytes.
pub(crate) fn content(frame: &[u8], len: usize) -> Result<Vec<u8>, String> {
    #[cfg(feature = "zstd")]
    let bytes = native(frame, len)?;
    #[cfg(not(feature = "zstd"))]
    let bytes = portable(frame, len)?;
    if bytes.len() != len {
        return Err(format!("{} bytes came out, {len} are announced", bytes.len()));
    }
    Ok(bytes)
}

#[cfg(feature = "zstd")]
fn native(frame: &[u8], len: usize) -> Result<Vec<u8>, String> {
    zstd::bulk::decompress(frame, len).map_err(|error| error.to_string())
}

/// Without C: what browsers run.
#[cfg(any(test, not(feature = "zstd")))]
fn portable(frame: &[u8], len: usize) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; len];
    let found = ruzstd::decoding::FrameDecoder::new()
        .decode_all(frame, &mut bytes)
        .map_err(|error| error.to_string())?;
    bytes.truncate(found);
    Ok(bytes)
}

#[cfg(all(test, feature = "zstd"))]
mod tests {
    use super::{Error, compress, compress_within, content_size, decompress, native, portable, reader};
    use std::io::Read;

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at * at % 251 / (1 + at % 5)) as u8).collect()
    }

    #[test]
    fn both_decoders_give_the_same_bytes() {
        for len in [1usize, 100, 70_000, 1 << 20] {
            for level in [1, 3, 19] {
                let bytes = bytes(len);
                let level = if len > 70_000 { 1 } else { level };
                for window in [None, Some(23)] {
                    let frame = compress_within(&bytes, level, window).expect("compressed");
                    assert_eq!(native(&frame, len).as_ref(), Ok(&bytes));
                    assert_eq!(portable(&frame, len).as_ref(), Ok(&bytes));
                }
            }
        }
        let frame = compress(&[7; 50], 1).expect("compressed");
        assert!(native(&frame, 49).is_err() && portable(&frame, 49).is_err(), "no more than announced");
        assert!(portable(&frame[..9], 50).is_err());
    }

    #[test]
    fn level_1_takes_a_window_above_512_kib_and_is_read_all_the_same() {
        const SINGLE: u8 = 0x20;
        for (len, is_single) in [(1 << 19, true), ((1 << 19) + 1, false), (1 << 21, false)] {
            let bytes = bytes(len);
            let frame = compress(&bytes, 1).expect("compressed");
            assert_eq!(frame[4] & SINGLE != 0, is_single, "{len}");
            assert_eq!(content_size(&frame), Ok(len as u64));
            assert_eq!(decompress(&frame, len).as_ref(), Ok(&bytes));
            let mut read = Vec::new();
            reader(&frame).expect("a frame").read_to_end(&mut read).expect("sound");
            assert_eq!(read, bytes);
        }
    }

    #[test]
    fn a_frame_that_lies_about_its_size_is_refused() {
        let mut frame = compress(&bytes(300), 1).expect("compressed");
        assert_eq!(decompress(&frame, 299), Err(Error::Size { expected: 299, found: 300 }));
        frame[5] += 1;
        assert!(matches!(decompress(&frame, 301), Err(Error::Content(_))), "less comes out");
        frame[5] -= 2;
        assert!(matches!(decompress(&frame, 299), Err(Error::Content(_))), "more comes out");
        frame.push(0);
        assert_eq!(decompress(&frame, 299).expect_err("two").to_string(), "1 bytes follow the frame");
    }
}
