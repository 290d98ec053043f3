//! A chunk's change as streams of bytes, before compression.

use super::word::{Change, Unsigned};
use fitment_core::payload::Layout;

/// Streams of one chunk, in the order of the payload; all empty when nothing changes.
#[derive(Debug, Default)]
pub(super) struct Streams {
    pub(super) changed: usize,
    pub(super) streams: Vec<Vec<u8>>,
}

/// Elements whose bits differ.
pub(super) fn count<C: Change>(base: &[u8], new: &[u8]) -> usize {
    words::<C>(base, new).map(|(base, new)| usize::from(base != new)).sum()
}

fn words<'b, C: Change>(base: &'b [u8], new: &'b [u8]) -> impl Iterator<Item = (C::Word, C::Word)> + 'b {
    let width = C::Word::WIDTH;
    base.chunks_exact(width).zip(new.chunks_exact(width)).map(|(b, n)| (C::Word::load(b), C::Word::load(n)))
}

/// The streams of a chunk.
pub(super) fn split<C: Change>(base: &[u8], new: &[u8], layout: Layout) -> Streams {
    let changes: Vec<C::Word> = words::<C>(base, new).map(|(base, new)| C::between(base, new)).collect();
    let changed = changes.iter().filter(|change| !change.is_zero()).count();
    if changed == 0 {
        return Streams { changed, streams: vec![Vec::new(); layout.streams(C::Word::WIDTH)] };
    }
    let mut streams = Vec::new();
    let planes = match layout {
        Layout::Planes => planes(&changes),
        Layout::Bitmap => {
            streams.push(bitmap(&changes));
            planes(&nonzero(&changes, changed))
        }
        Layout::Gaps => {
            streams.push(gaps(&changes, changed));
            planes(&nonzero(&changes, changed))
        }
    };
    streams.extend(planes);
    Streams { changed, streams }
}

fn planes<U: Unsigned>(words: &[U]) -> Vec<Vec<u8>> {
    (0..U::WIDTH).map(|number| words.iter().map(|word| word.byte(number)).collect()).collect()
}

fn nonzero<U: Unsigned>(words: &[U], count: usize) -> Vec<U> {
    // One place more: the last write of a zero lands behind the end.
    let mut kept = vec![U::default(); count + 1];
    let mut at = 0;
    for word in words {
        kept[at] = *word;
        at += usize::from(!word.is_zero());
    }
    kept.truncate(count);
    kept
}

fn bitmap<U: Unsigned>(words: &[U]) -> Vec<u8> {
    let byte = |eight: &[U]| {
        eight.iter().enumerate().fold(0u8, |byte, (bit, word)| byte | u8::from(!word.is_zero()) << bit)
    };
    words.chunks(8).map(byte).collect()
}

/// LEB128 of the number of unchanged elements before each that changes.
fn gaps<U: Unsigned>(words: &[U], count: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count + count / 8);
    let mut gap = 0usize;
    for word in words {
        if word.is_zero() {
            gap += 1;
            continue;
        }
        while gap >= 0x80 {
            bytes.push((gap & 0x7f) as u8 | 0x80);
            gap >>= 7;
        }
        bytes.push(gap as u8);
        gap = 0;
    }
    bytes
}
