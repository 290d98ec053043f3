//! Bit-exact changes of tensors: the codec of `bits` payloads (spec appendix D).
//!
//! A float of `k` bits becomes an integer in its order (negative numbers with all bits flipped, others with the sign bit
//! flipped); the change is the wrapping difference of two such integers, zigzag coded, so that small changes of weights
//! are small numbers and every pair of bit patterns has one, NaN and −0 included. Elements of other types are changed by
//! exclusive or. Changes are split into planes of bytes, each a zstd frame.
//!
//! ```
//! use fitment_core::payload::Layout;
//! use fitment_core::tensor::Dtype;
//! use fitment_math::bits;
//!
//! let base = [0x80, 0x3f, 0x00, 0x40]; // 1, 2 in bf16
//! # #[cfg(feature = "zstd")] {
//! let tuned = [0x81, 0x3f, 0x00, 0x40]; // 1.0078125, 2
//! let payload = bits::encode(Dtype::BF16, &base, &tuned, bits::LEVEL)?;
//! assert_eq!((payload.layout, payload.changed), (Layout::Bitmap, 1));
//!
//! let mut result = base;
//! bits::decode(&payload.bytes, Dtype::BF16, &mut result)?;
//! assert_eq!(result, tuned);
//! # }
//! # Ok::<(), bits::Error>(())
//! ```
//!
//! Decoding needs no C: without the feature `zstd` it goes through ruzstd. Encoding needs the feature.

mod join;
mod split;
mod word;

use crate::{frame, parallel};
use fitment_core::payload::{self, Chunk, Layout, PayloadFault, Word};
use fitment_core::tensor::Dtype;
use word::with_change;

/// The zstd level that writers take by default: 19 takes a hundred times as long for a quarter less at most.
pub const LEVEL: i32 = 1;

/// Why a payload cannot be made or taken apart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Both tensors must have one length, a multiple of the element's.
    #[error(
        "a tensor of {base} bytes and one of {new}: both must be of one length, whole elements of {width} bytes"
    )]
    Length {
        /// The base's.
        base: usize,
        /// The new tensor's.
        new: usize,
        /// The element's.
        width: usize,
    },
    /// The table or a frame is at fault.
    #[error(transparent)]
    Payload(#[from] PayloadFault),
    /// A frame's content cannot be restored.
    #[error("chunk {chunk}, stream {stream}: {message}")]
    Frame {
        /// Number of the chunk.
        chunk: usize,
        /// Number of the stream.
        stream: usize,
        /// What the decoder said.
        message: String,
    },
    /// The positions do not go with the number of changes.
    #[error("the positions of {found} changes are told, there are {expected}")]
    Positions {
        /// By the table.
        expected: usize,
        /// By the stream.
        found: usize,
    },
    /// A chunk has another number of streams than its layout.
    #[error("{found} streams do not go with the layout")]
    Streams {
        /// How many there are.
        found: usize,
    },
    /// The compressor failed, or is not built in.
    #[error("cannot compress: {0}")]
    Compress(String),
}

/// An encoded change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Its layout.
    pub layout: Layout,
    /// How many elements change.
    pub changed: u64,
    /// Layout, table and frames.
    pub bytes: Vec<u8>,
}

/// An encoded change whose frames are not yet joined: large ones are written out one by one, without a copy of the whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pieces {
    /// How many elements change.
    pub changed: u64,
    /// Layout and table.
    pub head: Vec<u8>,
    /// The frames, in their order.
    pub frames: Vec<Vec<u8>>,
}

impl Pieces {
    /// Bytes of the payload that they make.
    pub fn byte_len(&self) -> u64 {
        self.iter().map(|piece| piece.len() as u64).sum()
    }

    /// What makes the payload, one after the other.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(&self.head).chain(&self.frames).map(Vec::as_slice)
    }
}

/// How many elements differ in their bits.
///
/// # Errors
/// [`Error::Length`].
pub fn changed(dtype: Dtype, base: &[u8], new: &[u8]) -> Result<u64, Error> {
    let (_, pieces) = pieces(dtype, base, new)?;
    let word = Word::of(dtype);
    let counts =
        parallel::map(
            pieces,
            |(base, new)| {
                if base == new { 0 } else { with_change!(word, count_of(base, new)) as u64 }
            },
        );
    Ok(counts.iter().sum())
}

use split::count as count_of;
use split::split as split_into;

type Piece<'t> = (&'t [u8], &'t [u8]);

fn pieces<'t>(dtype: Dtype, base: &'t [u8], new: &'t [u8]) -> Result<(usize, Vec<Piece<'t>>), Error> {
    let width = Word::of(dtype).width();
    if base.len() != new.len() || !base.len().is_multiple_of(width) {
        return Err(Error::Length { base: base.len(), new: new.len(), width });
    }
    let chunk = payload::CHUNK as usize * width;
    Ok((width, base.chunks(chunk).zip(new.chunks(chunk)).collect()))
}

/// Encodes the change of a tensor in the layout that its share of changed elements asks for.
///
/// The bytes are the same for every number of threads, and for one version of zstd.
///
/// # Errors
/// [`Error::Length`]; [`Error::Compress`].
pub fn encode(dtype: Dtype, base: &[u8], new: &[u8], level: i32) -> Result<Payload, Error> {
    let changed = changed(dtype, base, new)?;
    let elements = base.len() / Word::of(dtype).width();
    encode_as(Layout::for_share(changed, elements as u64), dtype, base, new, level)
}

/// Encodes the change of a tensor in a layout.
///
/// # Errors
/// [`Error::Length`]; [`Error::Compress`].
pub fn encode_as(
    layout: Layout,
    dtype: Dtype,
    base: &[u8],
    new: &[u8],
    level: i32,
) -> Result<Payload, Error> {
    let pieces = encode_pieces(layout, dtype, base, new, level)?;
    let bytes = pieces.iter().collect::<Vec<_>>().concat();
    Ok(Payload { layout, changed: pieces.changed, bytes })
}

/// As [`encode_as`], with the frames apart.
///
/// # Errors
/// [`Error::Length`]; [`Error::Compress`].
pub fn encode_pieces(
    layout: Layout,
    dtype: Dtype,
    base: &[u8],
    new: &[u8],
    level: i32,
) -> Result<Pieces, Error> {
    let (_, chunks) = pieces(dtype, base, new)?;
    let word = Word::of(dtype);
    let chunks = parallel::map(chunks, |(base, new)| {
        let split = with_change!(word, split_into(base, new, layout));
        let frames =
            split.streams.iter().map(|stream| compress(stream, level)).collect::<Result<Vec<_>, _>>();
        frames.map(|frames| (split.changed, frames))
    });
    let chunks = chunks.into_iter().collect::<Result<Vec<_>, _>>()?;
    let mut head = vec![layout.code()];
    let size = |len: usize| u32::try_from(len).map_err(|_| Error::Compress("a frame above 4 GiB".to_owned()));
    for (changed, frames) in &chunks {
        head.extend(size(*changed)?.to_le_bytes());
        for frame in frames {
            head.extend(size(frame.len())?.to_le_bytes());
        }
    }
    let changed = chunks.iter().map(|(changed, _)| *changed as u64).sum();
    Ok(Pieces { changed, head, frames: chunks.into_iter().flat_map(|(_, frames)| frames).collect() })
}

/// One frame of a single segment; nothing for nothing.
fn compress(stream: &[u8], level: i32) -> Result<Vec<u8>, Error> {
    // A window above a chunk's largest stream: libzstd then writes one segment.
    const WINDOW_BITS: u32 = 23;
    if stream.is_empty() {
        return Ok(Vec::new());
    }
    frame::compress_within(stream, level, Some(WINDOW_BITS)).map_err(Error::Compress)
}

/// Changes a tensor in place: `tensor` holds the base's elements before and the new ones after.
///
/// # Errors
/// When the payload does not keep its rules; the tensor is then partly changed and of no use.
pub fn decode(payload: &[u8], dtype: Dtype, tensor: &mut [u8]) -> Result<(), Error> {
    let word = Word::of(dtype);
    let width = word.width();
    if !tensor.len().is_multiple_of(width) {
        return Err(Error::Length { base: tensor.len(), new: tensor.len(), width });
    }
    let payload::Payload { layout, chunks } = payload::parse(payload, word, tensor.len() as u64)?;
    let work: Vec<(Chunk, &mut [u8])> =
        chunks.into_iter().zip(tensor.chunks_mut(payload::CHUNK as usize * width)).collect();
    let done = parallel::map(work, |(chunk, elements)| decode_chunk(&chunk, payload, layout, word, elements));
    done.into_iter().collect()
}

/// Changes the elements of one chunk in place; `payload` is the whole that [`payload::parse`] took apart.
///
/// # Errors
/// As [`decode`].
pub fn decode_chunk(
    chunk: &Chunk,
    payload: &[u8],
    layout: Layout,
    word: Word,
    elements: &mut [u8],
) -> Result<(), Error> {
    if chunk.changed == 0 {
        return Ok(());
    }
    if elements.len() as u64 != chunk.elements * word.width() as u64 {
        let base = elements.len();
        return Err(Error::Length { base, new: chunk.elements as usize * word.width(), width: word.width() });
    }
    let number = (chunk.first / payload::CHUNK) as usize;
    let streams = chunk.frames.iter().enumerate().map(|(stream, frame)| {
        let failed = |message| Error::Frame { chunk: number, stream, message };
        let bytes =
            payload.get(frame.range.clone()).ok_or_else(|| failed("outside of the payload".to_owned()))?;
        frame::content(bytes, frame.raw as usize).map_err(failed)
    });
    let streams = streams.collect::<Result<Vec<_>, _>>()?;
    if streams.len() != layout.streams(word.width()) {
        return Err(Error::Streams { found: streams.len() });
    }
    with_change!(word, joined(&streams, layout, elements))
}

use join::join as joined;
