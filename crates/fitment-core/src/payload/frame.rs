//! One zstd frame, from the outside (RFC 8878, section 3.1.1).

use std::ops::Range;

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The largest window: what RFC 8878 (3.1.1.1.2) asks every decoder to support.
const MAX_WINDOW: u64 = 8 << 20;

/// What stands before the blocks.
struct Header {
    /// The content's size.
    size: u64,
    /// `None` for a single segment.
    window: Option<u64>,
    /// Where the blocks begin.
    blocks: usize,
}

/// The content's size of exactly one frame: of a single segment, or with a window of at most 8 MiB.
pub(super) fn size(bytes: &[u8]) -> Result<u64, String> {
    let Header { size, window, blocks } = header(bytes)?;
    if let Some(window) = window.filter(|window| *window > MAX_WINDOW) {
        return Err(format!("the frame has a window of {window} bytes, at most {MAX_WINDOW} are read"));
    }
    end(bytes, blocks)?;
    Ok(size)
}

/// The content's size of exactly one frame, or `None` for no bytes where there must be none.
///
/// `allowed` holds the sizes that the content may have. A single segment is asked for: then the content's size is also
/// the most that a decoder holds.
pub(super) fn check(bytes: &[u8], allowed: Option<Range<u64>>) -> Result<Option<u64>, String> {
    let Some(allowed) = allowed else {
        return match bytes.len() {
            0 => Ok(None),
            len => Err(format!("{len} bytes where nothing changes")),
        };
    };
    let Header { size, window, blocks } = header(bytes)?;
    if window.is_some() {
        return Err("the frame has a window: one segment is asked for".to_owned());
    }
    if !allowed.contains(&size) {
        let (least, most) = (allowed.start, allowed.end - 1);
        let asked = if least == most { least.to_string() } else { format!("{least} to {most}") };
        return Err(format!("the frame holds {size} bytes, {asked} are asked for"));
    }
    end(bytes, blocks)?;
    Ok(Some(size))
}

fn header(bytes: &[u8]) -> Result<Header, String> {
    let cut = || "the frame is cut short".to_owned();
    let rest = bytes.strip_prefix(&MAGIC).ok_or("no zstd frame")?;
    let (descriptor, rest) = rest.split_first().ok_or_else(cut)?;
    if descriptor & 0x08 != 0 || descriptor & 0x03 != 0 {
        return Err("the frame has a dictionary or a reserved bit".to_owned());
    }
    let is_single_segment = descriptor & 0x20 != 0;
    let (window, rest) = match rest.split_first() {
        _ if is_single_segment => (None, rest),
        Some((window, rest)) => (Some(window_size(*window)), rest),
        None => return Err(cut()),
    };
    // RFC 8878, 3.1.1.1.1.1: without a single segment, 0 means that the size is not stated.
    let len = match descriptor >> 6 {
        0 if !is_single_segment => return Err("the frame does not state its content's size".to_owned()),
        flag => 1 << flag,
    };
    let field = rest.get(..len).ok_or_else(cut)?;
    let mut word = [0; 8];
    word[..len].copy_from_slice(field);
    // RFC 8878, 3.1.1.1.4: a field of two bytes counts from 256.
    let size = u64::from_le_bytes(word).checked_add(if len == 2 { 256 } else { 0 });
    let size = size.ok_or("the frame's size does not fit in 64 bits")?;
    Ok(Header { size, window, blocks: bytes.len() - rest.len() + len })
}

/// RFC 8878, 3.1.1.1.2: a power of two from 1 KiB, and eighths of it.
fn window_size(descriptor: u8) -> u64 {
    let base = 1u64 << (10 + (descriptor >> 3));
    base + base / 8 * u64::from(descriptor & 7)
}

/// The blocks, and the checksum behind them if there is one, must end where the bytes end.
fn end(bytes: &[u8], mut at: usize) -> Result<(), String> {
    let has_checksum = bytes[MAGIC.len()] & 0x04 != 0;
    loop {
        let head =
            bytes.get(at..).and_then(|rest| rest.first_chunk::<3>()).ok_or("the frame is cut short")?;
        let head = u32::from_le_bytes([head[0], head[1], head[2], 0]);
        let (is_last, kind, size) = (head & 1 == 1, (head >> 1) & 3, (head >> 3) as usize);
        let stored = match kind {
            1 => 1, // one byte, repeated
            0 | 2 => size,
            _ => return Err("the frame holds a block of a reserved type".to_owned()),
        };
        at = at.checked_add(3 + stored).filter(|end| *end <= bytes.len()).ok_or("the frame is cut short")?;
        if is_last {
            break;
        }
    }
    at += if has_checksum { 4 } else { 0 };
    match bytes.len().cmp(&at) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Less => Err("the frame is cut short".to_owned()),
        std::cmp::Ordering::Greater => Err(format!("{} bytes follow the frame", bytes.len() - at)),
    }
}
