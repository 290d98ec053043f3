#![allow(clippy::unwrap_used, reason = "tests")]

use super::{CHUNK, Layout, Word, parse};
use crate::tensor::Dtype;

/// A frame of one raw block, as RFC 8878 has it.
fn frame(content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x28, 0xb5, 0x2f, 0xfd, 0xa0];
    bytes.extend((content.len() as u32).to_le_bytes());
    bytes.extend(&((content.len() as u32) << 3 | 1).to_le_bytes()[..3]);
    bytes.extend(content);
    bytes
}

fn payload(changed: u32, streams: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = changed.to_le_bytes().to_vec();
    streams.iter().for_each(|stream| bytes.extend((stream.len() as u32).to_le_bytes()));
    streams.iter().for_each(|stream| bytes.extend(stream));
    bytes
}

const BF16: Word = Word::Float(2);

fn message(bytes: &[u8], layout: Layout) -> String {
    parse(bytes, layout, BF16, 16).unwrap_err().to_string()
}

#[test]
fn sound_payloads() {
    let bitmap = payload(2, &[frame(&[0x81]), frame(&[1, 2]), frame(&[0, 0])]);
    let chunks = parse(&bitmap, Layout::Bitmap, BF16, 16).unwrap();
    assert_eq!((chunks.len(), chunks[0].changed, chunks[0].frames.len()), (1, 2, 3));
    assert_eq!(chunks[0].frames[0].raw, 1);
    let unchanged = payload(0, &[vec![], vec![], vec![]]);
    assert!(parse(&unchanged, Layout::Gaps, BF16, 16).unwrap()[0].frames.is_empty());
    assert!(parse(&[], Layout::Planes, BF16, 0).unwrap().is_empty());
    let planes = payload(1, &[frame(&[0; 8]), frame(&[0; 8])]);
    assert_eq!(parse(&planes, Layout::Planes, BF16, 16).unwrap()[0].frames[1].raw, 8);
}

#[test]
fn lies_are_named() {
    assert_eq!(message(&[0; 8], Layout::Gaps), "table: 1 chunks need 16 bytes each, the payload has 8");
    let many = payload(9, &[frame(&[0; 8]), frame(&[0; 8])]);
    assert_eq!(message(&many, Layout::Planes), "chunk 0: 9 of 8 elements change");
    let short = payload(2, &[frame(&[0x81]), frame(&[1]), frame(&[0, 0])]);
    assert_eq!(
        message(&short, Layout::Bitmap),
        "chunk 0, stream 1: the frame holds 1 bytes, 2 are asked for"
    );
    let gaps = payload(2, &[frame(&[1]), frame(&[1, 2]), frame(&[0, 0])]);
    assert_eq!(
        message(&gaps, Layout::Gaps),
        "chunk 0, stream 0: the frame holds 1 bytes, 2 to 6 are asked for"
    );
    let idle = payload(0, &[frame(&[0; 8]), vec![]]);
    assert_eq!(message(&idle, Layout::Planes), "chunk 0, stream 0: 20 bytes where nothing changes");
    let mut long = payload(2, &[frame(&[0x81]), frame(&[1, 2]), frame(&[0, 0])]);
    long.push(0);
    assert_eq!(message(&long, Layout::Bitmap), "table: 1 bytes follow the last frame");
    long.truncate(long.len() - 2);
    assert_eq!(message(&long, Layout::Bitmap), "chunk 0, stream 2: 14 bytes are announced, 13 are left");
    let two = payload(1, &[[frame(&[0; 8]), frame(&[0; 8])].concat(), frame(&[0; 8])]);
    assert_eq!(message(&two, Layout::Planes), "chunk 0, stream 0: 20 bytes follow the frame");
    let mut windowed = frame(&[0; 8]);
    windowed[4] = 0x80;
    let windowed = payload(1, &[windowed, frame(&[0; 8])]);
    assert!(message(&windowed, Layout::Planes).contains("one segment is asked for"));
}

#[test]
fn chunks_cover_the_tensor() {
    let line = payload(0, &[vec![], vec![], vec![]]);
    let bytes = [&line[..], &line, &line].concat();
    let chunks = parse(&bytes, Layout::Bitmap, BF16, 2 * (2 * CHUNK + 1)).unwrap();
    let covered: Vec<(u64, u64)> = chunks.iter().map(|chunk| (chunk.first, chunk.elements)).collect();
    assert_eq!(covered, [(0, CHUNK), (CHUNK, CHUNK), (2 * CHUNK, 1)]);
    assert!(parse(&bytes[..16], Layout::Bitmap, BF16, u64::MAX).is_err());
}

#[test]
fn layouts_by_share_and_name() {
    assert_eq!(
        [99, 100, 849, 850].map(|n| Layout::for_share(n, 1000).name()),
        ["gaps", "bitmap", "bitmap", "planes"]
    );
    assert!(Layout::ALL.iter().all(|layout| Layout::from_name(layout.name()) == Some(*layout)));
    assert!(Dtype::ALL.iter().all(|dtype| Word::of(*dtype).width() as u32 * 8 >= dtype.bits()));
}
