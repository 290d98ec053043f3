//! The codec of bit-exact changes. With the feature `zstd`; what decodes without C is tested in `bits/zip.rs`.
#![cfg(feature = "zstd")]
#![allow(clippy::unwrap_used, reason = "tests")]

use fitment_core::payload::{CHUNK, Layout, Word};
use fitment_core::tensor::Dtype;
use fitment_math::bits::{self, Error, LEVEL};
use proptest::prelude::*;

const DTYPES: &[Dtype] = &[
    Dtype::BF16,
    Dtype::F16,
    Dtype::F32,
    Dtype::F64,
    Dtype::F8_E4M3,
    Dtype::F8_E8M0,
    Dtype::I64,
    Dtype::I32,
    Dtype::I16,
    Dtype::Bool,
    Dtype::F4,
];

fn there_and_back(layout: Layout, dtype: Dtype, base: &[u8], new: &[u8]) {
    let payload = bits::encode_as(layout, dtype, base, new, LEVEL).unwrap();
    assert_eq!(payload.changed, bits::changed(dtype, base, new).unwrap());
    let mut result = base.to_vec();
    bits::decode(&payload.bytes, dtype, &mut result).unwrap();
    assert!(result == new, "{layout} of {dtype}, {} bytes", base.len());
}

/// All 65,536 bit patterns against zeros, subnormals, ones, infinities and NaN with payloads, both signs.
#[test]
fn every_bf16_against_a_sample_of_bases() {
    let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let bases = [
        0x0000u16, 0x8000, 0x0001, 0x8001, 0x007f, 0x0080, 0x3f80, 0xbf80, 0x3f81, 0x7f7f, 0xff7f, 0x7f80,
        0xff80, 0x7f81, 0x7fc0, 0xffc1, 0x7fff, 0xffff,
    ];
    for base in bases {
        let base: Vec<u8> = base.to_le_bytes().repeat(65_536);
        for layout in Layout::ALL {
            there_and_back(*layout, Dtype::BF16, &base, &all);
            there_and_back(*layout, Dtype::F16, &all, &base);
        }
    }
}

#[test]
fn edges_of_chunks_and_empty_tensors() {
    for elements in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1] {
        let base: Vec<u8> = (0..elements * 2).map(|at| ((at * 131) >> 3) as u8).collect();
        let mut new = base.clone();
        for at in [0, elements.saturating_sub(1)].map(|element| element as usize * 2) {
            new.iter_mut().skip(at).take(2).for_each(|byte| *byte ^= 0x55);
        }
        for layout in Layout::ALL {
            there_and_back(*layout, Dtype::BF16, &base, &new);
            there_and_back(*layout, Dtype::BF16, &base, &base);
        }
    }
}

/// Neighbours in order are one apart, over zero as elsewhere: the low plane says 1 or 2, the high one 0.
#[test]
fn neighbours_are_small_numbers() {
    let raw = |base: u16, new: u16| {
        let payload =
            bits::encode_as(Layout::Planes, Dtype::BF16, &base.to_le_bytes(), &new.to_le_bytes(), LEVEL)
                .unwrap();
        let chunks = fitment_core::payload::parse(&payload.bytes, Word::Float(2), 2).unwrap().chunks;
        let content = |frame: usize| {
            zstd::bulk::decompress(&payload.bytes[chunks[0].frames[frame].range.clone()], 9).unwrap()[0]
        };
        (content(0), content(1))
    };
    assert_eq!(raw(0x3f80, 0x3f81), (2, 0), "one up");
    assert_eq!(raw(0x3f81, 0x3f80), (1, 0), "one down");
    assert_eq!(raw(0x8000, 0x0000), (2, 0), "from -0 to +0");
    assert_eq!(raw(0x8001, 0x8000), (2, 0), "from the largest negative number to -0");
}

#[test]
fn lengths_that_do_not_fit() {
    assert_eq!(
        bits::encode(Dtype::F32, &[0; 8], &[0; 4], LEVEL).unwrap_err().to_string(),
        "a tensor of 8 bytes and one of 4: both must be of one length, whole elements of 4 bytes"
    );
    assert!(matches!(bits::changed(Dtype::F32, &[0; 6], &[0; 6]), Err(Error::Length { .. })));
}

/// Positions that lie: more or fewer than there are changes, beyond the end, in a longer form than needed.
#[test]
fn positions_that_lie() {
    let forge = |layout: Layout, positions: &[u8], changed: u32| {
        let planes = vec![1u8; changed as usize];
        let frames: Vec<Vec<u8>> =
            [positions, &planes].iter().map(|raw| zstd::bulk::compress(raw, 1).unwrap()).collect();
        let mut bytes = vec![layout.code()];
        bytes.extend(changed.to_le_bytes());
        frames.iter().for_each(|frame| bytes.extend((frame.len() as u32).to_le_bytes()));
        frames.iter().for_each(|frame| bytes.extend(frame));
        bits::decode(&bytes, Dtype::U8, &mut [0; 12]).map_err(|error| error.to_string())
    };
    assert_eq!(forge(Layout::Bitmap, &[0x03, 0x08], 3), Ok(()));
    assert!(forge(Layout::Bitmap, &[0x03, 0x00], 3).unwrap_err().contains("2 changes are told, there are 3"));
    assert!(forge(Layout::Bitmap, &[0x03, 0x10], 3).is_err(), "a bit behind the end");
    assert_eq!(forge(Layout::Gaps, &[11], 1), Ok(()));
    assert!(forge(Layout::Gaps, &[12], 1).is_err());
    assert!(forge(Layout::Gaps, &[0x80, 0x00], 1).is_err(), "not the shortest form");
    assert!(forge(Layout::Gaps, &[0x80], 1).is_err(), "no end");
    assert!(forge(Layout::Gaps, &[1, 1], 1).is_err(), "more gaps than changes");
}

proptest! {
    #[test]
    fn any_bytes_in_any_layout(
        dtype in proptest::sample::select(DTYPES),
        layout in proptest::sample::select(Layout::ALL),
        pairs in proptest::collection::vec((any::<u8>(), any::<u8>(), any::<bool>()), 0..400),
    ) {
        let width = Word::of(dtype).width();
        let pairs = &pairs[..pairs.len() / width * width];
        let base: Vec<u8> = pairs.iter().map(|(base, _, _)| *base).collect();
        let new: Vec<u8> = pairs.iter().map(|(base, new, keep)| if *keep { *base } else { *new }).collect();
        there_and_back(layout, dtype, &base, &new);
    }

    /// A flipped bit or a cut is an error or another tensor, never a panic.
    #[test]
    fn damage_never_panics(at in any::<usize>(), bit in 0u8..8, cut in any::<bool>()) {
        let base: Vec<u8> = (0..999u16).flat_map(u16::to_le_bytes).collect();
        let new: Vec<u8> = (0..999u16).flat_map(|n| (n ^ (n % 7)).to_le_bytes()).collect();
        for layout in Layout::ALL {
            let mut bytes = bits::encode_as(*layout, Dtype::BF16, &base, &new, LEVEL).unwrap().bytes;
            let at = at % bytes.len();
            if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
            let _ = bits::decode(&bytes, Dtype::BF16, &mut base.clone());
        }
    }
}
