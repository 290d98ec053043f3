//! A chunk's streams put back on its base.

use super::Error;
use super::word::{Change, Unsigned};
use fitment_core::payload::Layout;

/// Changes `out`, which holds the base's elements, by the streams.
///
/// The streams have the lengths that the payload's table asks for.
pub(super) fn join<C: Change>(streams: &[Vec<u8>], layout: Layout, out: &mut [u8]) -> Result<(), Error> {
    let [positions @ .., _] = &streams[..streams.len() - C::Word::WIDTH + 1] else { return Ok(()) };
    let planes = &streams[positions.len()..];
    match (layout, positions) {
        (Layout::Planes, []) => {
            dense::<C>(planes, out);
            Ok(())
        }
        (Layout::Bitmap, [bitmap]) => by_bitmap::<C>(bitmap, planes, out),
        (Layout::Gaps, [gaps]) => by_gaps::<C>(gaps, planes, out),
        _ => Err(Error::Streams { found: streams.len() }),
    }
}

#[inline(always)]
fn change<U: Unsigned>(planes: &[Vec<u8>], at: usize) -> U {
    (0..U::WIDTH).fold(U::default(), |word, number| word.with_byte(number, planes[number][at]))
}

#[inline(always)]
fn patch<C: Change>(element: &mut [u8], change: C::Word) {
    C::apply(C::Word::load(element), change).store(element);
}

fn dense<C: Change>(planes: &[Vec<u8>], out: &mut [u8]) {
    let width = C::Word::WIDTH;
    if let [low, high] = planes {
        // The common width, without an index per byte.
        for ((element, low), high) in out.chunks_exact_mut(width).zip(low).zip(high) {
            patch::<C>(element, C::Word::default().with_byte(0, *low).with_byte(1, *high));
        }
        return;
    }
    for (at, element) in out.chunks_exact_mut(width).enumerate() {
        patch::<C>(element, change(planes, at));
    }
}

fn by_bitmap<C: Change>(bitmap: &[u8], planes: &[Vec<u8>], out: &mut [u8]) -> Result<(), Error> {
    let width = C::Word::WIDTH;
    let expected = planes[0].len();
    let set: usize = bitmap.iter().map(|byte| byte.count_ones() as usize).sum();
    let spare = bitmap.len() * 8 - out.len() / width;
    let last = bitmap.last().copied().unwrap_or_default();
    if set != expected || spare > 7 || u32::from(last).leading_zeros() < 24 + spare as u32 {
        return Err(Error::Positions { expected, found: set });
    }
    let mut at = 0;
    for (elements, bits) in out.chunks_mut(8 * width).zip(bitmap) {
        let mut bits = *bits;
        while bits != 0 {
            let place = bits.trailing_zeros() as usize * width;
            patch::<C>(&mut elements[place..place + width], change(planes, at));
            at += 1;
            bits &= bits - 1;
        }
    }
    Ok(())
}

fn by_gaps<C: Change>(gaps: &[u8], planes: &[Vec<u8>], out: &mut [u8]) -> Result<(), Error> {
    let width = C::Word::WIDTH;
    let (expected, elements) = (planes[0].len(), out.len() / width);
    let mut gaps = gaps.iter();
    let mut place = 0usize;
    for at in 0..expected {
        let found = || Error::Positions { expected, found: at };
        let mut gap = 0usize;
        let mut shift = 0;
        loop {
            let byte = *gaps.next().ok_or_else(found)?;
            gap |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                // The shortest form only: one payload for one change.
                if (byte == 0 && shift > 7) || shift > 21 {
                    return Err(found());
                }
                break;
            }
            if shift > 14 {
                return Err(found());
            }
        }
        place += gap;
        if place >= elements {
            return Err(found());
        }
        patch::<C>(&mut out[place * width..(place + 1) * width], change(planes, at));
        place += 1;
    }
    if gaps.next().is_some() {
        return Err(Error::Positions { expected, found: expected + 1 });
    }
    Ok(())
}
