//! The payload of a `bits` edit: its layout, its table and its frames, without decompressing anything (spec appendix D).
//!
//! The arithmetic on elements is `fitment-math`'s. Here stand the facts that a reader checks before it allocates: with
//! them a hostile payload costs no more than the tensor that it claims to change.

mod frame;

use crate::tensor::Dtype;
use std::fmt;
use std::ops::Range;

/// Elements of a chunk; the last one of a tensor has what is left.
pub const CHUNK: u64 = 1 << 20;

/// How the elements that change are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layout {
    /// The difference of every element.
    Planes,
    /// One bit for each element, then the differences that are not 0.
    Bitmap,
    /// How many elements to skip before each that changes, then the differences.
    Gaps,
}

impl Layout {
    /// Every layout.
    pub const ALL: &[Layout] = &[Layout::Planes, Layout::Bitmap, Layout::Gaps];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Layout::Planes => "planes",
            Layout::Bitmap => "bitmap",
            Layout::Gaps => "gaps",
        }
    }

    /// The first byte of a payload.
    pub fn code(self) -> u8 {
        match self {
            Layout::Planes => 0,
            Layout::Bitmap => 1,
            Layout::Gaps => 2,
        }
    }

    /// The layout that a writer takes: under 10 % of changed elements gaps, under 85 % a bitmap, else planes.
    ///
    /// Measured on normal changes of normal weights under zstd level 1; near a threshold both are of one size.
    pub fn for_share(changed: u64, elements: u64) -> Layout {
        let (changed, elements) = (u128::from(changed), u128::from(elements));
        if changed * 10 < elements {
            Layout::Gaps
        } else if changed * 100 < elements * 85 {
            Layout::Bitmap
        } else {
            Layout::Planes
        }
    }

    /// Streams before the planes of differences.
    fn positions(self) -> usize {
        match self {
            Layout::Planes => 0,
            Layout::Bitmap | Layout::Gaps => 1,
        }
    }

    /// Streams of a chunk of elements of `width` bytes.
    pub fn streams(self, width: usize) -> usize {
        self.positions() + width
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an element is, and how two of them differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Word {
    /// A float of 1, 2, 4 or 8 bytes: the difference of order-preserving integers.
    Float(usize),
    /// Anything else, in words of 1, 2, 4 or 8 bytes: exclusive or.
    Plain(usize),
}

impl Word {
    /// The words of a dtype; types of less than a byte are taken as bytes.
    pub fn of(dtype: Dtype) -> Word {
        match dtype {
            Dtype::F64 => Word::Float(8),
            Dtype::F32 => Word::Float(4),
            Dtype::F16 | Dtype::BF16 => Word::Float(2),
            Dtype::F8_E4M3 | Dtype::F8_E5M2 | Dtype::F8_E4M3FNUZ | Dtype::F8_E5M2FNUZ => Word::Float(1),
            Dtype::I64 | Dtype::U64 | Dtype::C64 => Word::Plain(8),
            Dtype::I32 | Dtype::U32 => Word::Plain(4),
            Dtype::I16 | Dtype::U16 => Word::Plain(2),
            Dtype::F8_E8M0
            | Dtype::I8
            | Dtype::U8
            | Dtype::Bool
            | Dtype::F6_E2M3
            | Dtype::F6_E3M2
            | Dtype::F4 => Word::Plain(1),
        }
    }

    /// Bytes of one.
    pub fn width(self) -> usize {
        match self {
            Word::Float(width) | Word::Plain(width) => width,
        }
    }
}

/// One chunk: which elements it is about, and where its frames lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Number of its first element in the tensor.
    pub first: u64,
    /// How many elements it has.
    pub elements: u64,
    /// How many of them change; with 0 there are no frames.
    pub changed: u64,
    /// Its frames in the payload, in order: positions, then planes from the lowest byte up. Empty when nothing changes.
    pub frames: Vec<Frame>,
}

/// One compressed stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where it lies in the payload.
    pub range: Range<usize>,
    /// Bytes that it decompresses to.
    pub raw: u64,
}

/// Why a payload is none: what stands where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct PayloadFault {
    /// `table`, or chunk and stream.
    pub place: String,
    /// Expected and found.
    pub message: String,
}

fn fault(place: impl Into<String>, message: impl Into<String>) -> PayloadFault {
    PayloadFault { place: place.into(), message: message.into() }
}

/// A payload whose structure was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Its layout, from its first byte.
    pub layout: Layout,
    /// Its chunks.
    pub chunks: Vec<Chunk>,
}

impl Payload {
    /// How many elements change.
    pub fn changed(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.changed).sum()
    }
}

/// The layout, the table and the frames of a payload.
///
/// `bytes` is the tensor's length; it is a multiple of the word's width.
///
/// # Errors
/// The first fault: a table that is cut short, a count above the chunk's elements, sizes that do not add up to the
/// payload's length, a frame that is not exactly one zstd frame of a single segment that states its content's size, or
/// states one that does not fit.
pub fn parse(payload: &[u8], word: Word, bytes: u64) -> Result<Payload, PayloadFault> {
    let code = payload.first().copied();
    let layout = Layout::ALL.iter().copied().find(|layout| Some(layout.code()) == code).ok_or_else(|| {
        let found = code.map_or("no byte".to_owned(), |code| format!("layout {code}"));
        fault("layout", format!("{found}, known are 0 to 2"))
    })?;
    let width = word.width();
    let elements = bytes / width as u64;
    let count = elements.div_ceil(CHUNK);
    let streams = layout.streams(width);
    let line = 4 * (1 + streams) as u64;
    let rest = payload.len() - 1;
    let table = count
        .checked_mul(line)
        .filter(|len| *len <= rest as u64)
        .ok_or_else(|| fault("table", format!("{count} chunks need {line} bytes each, {rest} are there")))?;
    let mut at = 1 + usize::try_from(table).expect("at most the payload's length");
    let mut chunks = Vec::new();
    for (number, line) in (0..count).zip(payload[1..at].chunks_exact(line as usize)) {
        let first = number * CHUNK;
        let mut fields = line.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let mut chunk = Chunk {
            first,
            elements: CHUNK.min(elements - first),
            changed: fields.next().unwrap_or_default().into(),
            frames: Vec::new(),
        };
        if chunk.changed > chunk.elements {
            let message = format!("{} of {} elements change", chunk.changed, chunk.elements);
            return Err(fault(format!("chunk {number}"), message));
        }
        for (stream, size) in fields.enumerate() {
            let place = || format!("chunk {number}, stream {stream}");
            let end = usize::try_from(size).ok().and_then(|size| at.checked_add(size));
            let end = end.filter(|end| *end <= payload.len()).ok_or_else(|| {
                fault(place(), format!("{size} bytes are announced, {} are left", payload.len() - at))
            })?;
            let frame = frame::check(&payload[at..end], allowed(&chunk, layout, stream));
            if let Some(raw) = frame.map_err(|message| fault(place(), message))? {
                chunk.frames.push(Frame { range: at..end, raw });
            }
            at = end;
        }
        chunks.push(chunk);
    }
    if at != payload.len() {
        return Err(fault("table", format!("{} bytes follow the last frame", payload.len() - at)));
    }
    Ok(Payload { layout, chunks })
}

/// The size of the content of a zstd frame, as its header states it. Nothing is decompressed.
///
/// The bytes are exactly one frame, without a dictionary, of a single segment or with a window of at most 8 MiB.
///
/// # Errors
/// Whatever else they are, and a frame that does not state its content's size.
pub fn content_size(frame: &[u8]) -> Result<u64, PayloadFault> {
    frame::size(frame).map_err(|message| fault("frame", message))
}

/// The sizes that a stream may have before compression; `None` when it must be absent.
fn allowed(chunk: &Chunk, layout: Layout, stream: usize) -> Option<Range<u64>> {
    let exactly = |size: u64| Some(size..size + 1);
    match (chunk.changed, layout, stream) {
        (0, _, _) => None,
        (_, Layout::Planes, _) => exactly(chunk.elements),
        (_, Layout::Bitmap, 0) => exactly(chunk.elements.div_ceil(8)),
        // A gap is below 2²⁰: one to three bytes of seven bits.
        (changed, Layout::Gaps, 0) => Some(changed..3 * changed + 1),
        (changed, Layout::Bitmap | Layout::Gaps, _) => exactly(changed),
    }
}

#[cfg(test)]
mod tests;
