//! zstd: the C library where it is built in, ruzstd elsewhere.

use super::Error;

/// One frame of a single segment that states its content's size; nothing for nothing.
#[cfg(feature = "zstd")]
pub(super) fn compress(bytes: &[u8], level: i32) -> Result<Vec<u8>, Error> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let failed = |error: std::io::Error| Error::Compress(error.to_string());
    let mut compressor = zstd::bulk::Compressor::new(level).map_err(failed)?;
    compressor.include_contentsize(true).map_err(failed)?;
    // A window above a chunk's largest stream: libzstd then writes one segment.
    compressor.window_log(23).map_err(failed)?;
    let mut frame = compressor.compress(bytes).map_err(failed)?;
    // Its room is that of the worst case, and all frames of a tensor wait for each other.
    frame.shrink_to_fit();
    Ok(frame)
}

#[cfg(not(feature = "zstd"))]
pub(super) fn compress(bytes: &[u8], _: i32) -> Result<Vec<u8>, Error> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    Err(Error::Compress("fitment-math was built without its feature `zstd`".to_owned()))
}

/// The content of a frame, `len` bytes.
pub(super) fn decompress(frame: &[u8], len: usize) -> Result<Vec<u8>, String> {
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
pub(super) fn portable(frame: &[u8], len: usize) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; len];
    let found = ruzstd::decoding::FrameDecoder::new()
        .decode_all(frame, &mut bytes)
        .map_err(|error| error.to_string())?;
    bytes.truncate(found);
    Ok(bytes)
}

#[cfg(all(test, feature = "zstd"))]
mod tests {
    use super::{compress, native, portable};

    #[test]
    fn both_decoders_give_the_same_bytes() {
        for len in [1usize, 100, 70_000, 1 << 20] {
            for level in [1, 3, 19] {
                let bytes: Vec<u8> = (0..len).map(|at| (at * at % 251 / (1 + at % 5)) as u8).collect();
                let frame = compress(&bytes, if len > 70_000 { 1 } else { level }).expect("compressed");
                assert_eq!(native(&frame, len).as_ref(), Ok(&bytes));
                assert_eq!(portable(&frame, len).as_ref(), Ok(&bytes));
            }
        }
        let frame = compress(&[7; 50], 1).expect("compressed");
        assert!(native(&frame, 49).is_err() && portable(&frame, 49).is_err(), "no more than announced");
        assert!(portable(&frame[..9], 50).is_err());
    }
}
