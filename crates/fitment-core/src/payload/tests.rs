#![allow(clippy::unwrap_used, reason = "tests")]

use super::{CHUNK, Layout, Payload, Word, parse};
use crate::tensor::Dtype;

/// A frame of one raw block, as RFC 8878 has it.
fn frame(content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x28, 0xb5, 0x2f, 0xfd, 0xa0];
    bytes.extend((content.len() as u32).to_le_bytes());
    bytes.extend(&((content.len() as u32) << 3 | 1).to_le_bytes()[..3]);
    bytes.extend(content);
    bytes
}

fn payload(layout: Layout, changed: u32, streams: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![layout.code()];
    bytes.extend(changed.to_le_bytes());
    streams.iter().for_each(|stream| bytes.extend((stream.len() as u32).to_le_bytes()));
    streams.iter().for_each(|stream| bytes.extend(stream));
    bytes
}

const BF16: Word = Word::Float(2);

fn message(bytes: &[u8]) -> String {
    parse(bytes, BF16, 16).unwrap_err().to_string()
}

#[test]
fn sound_payloads() {
    let bitmap = payload(Layout::Bitmap, 2, &[frame(&[0x81]), frame(&[1, 2]), frame(&[0, 0])]);
    let Payload { layout, chunks } = parse(&bitmap, BF16, 16).unwrap();
    assert_eq!(layout, Layout::Bitmap);
    assert_eq!((chunks.len(), chunks[0].changed, chunks[0].frames.len()), (1, 2, 3));
    assert_eq!(chunks[0].frames[0].raw, 1);
    let unchanged = payload(Layout::Gaps, 0, &[vec![], vec![], vec![]]);
    assert!(parse(&unchanged, BF16, 16).unwrap().chunks[0].frames.is_empty());
    assert!(parse(&[0], BF16, 0).unwrap().chunks.is_empty());
    let planes = payload(Layout::Planes, 1, &[frame(&[0; 8]), frame(&[0; 8])]);
    assert_eq!(parse(&planes, BF16, 16).unwrap().chunks[0].frames[1].raw, 8);
}

#[test]
fn lies_are_named() {
    assert_eq!(message(&[]), "layout: no byte, known are 0 to 2");
    assert_eq!(message(&[3]), "layout: layout 3, known are 0 to 2");
    assert_eq!(message(&[2; 9]), "table: 1 chunks need 16 bytes each, 8 are there");
    let many = payload(Layout::Planes, 9, &[frame(&[0; 8]), frame(&[0; 8])]);
    assert_eq!(message(&many), "chunk 0: 9 of 8 elements change");
    let short = payload(Layout::Bitmap, 2, &[frame(&[0x81]), frame(&[1]), frame(&[0, 0])]);
    assert_eq!(message(&short), "chunk 0, stream 1: the frame holds 1 bytes, 2 are asked for");
    let gaps = payload(Layout::Gaps, 2, &[frame(&[1]), frame(&[1, 2]), frame(&[0, 0])]);
    assert_eq!(message(&gaps), "chunk 0, stream 0: the frame holds 1 bytes, 2 to 6 are asked for");
    let idle = payload(Layout::Planes, 0, &[frame(&[0; 8]), vec![]]);
    assert_eq!(message(&idle), "chunk 0, stream 0: 20 bytes where nothing changes");
    let mut long = payload(Layout::Bitmap, 2, &[frame(&[0x81]), frame(&[1, 2]), frame(&[0, 0])]);
    long.push(0);
    assert_eq!(message(&long), "table: 1 bytes follow the last frame");
    long.truncate(long.len() - 2);
    assert_eq!(message(&long), "chunk 0, stream 2: 14 bytes are announced, 13 are left");
    let two = payload(Layout::Planes, 1, &[[frame(&[0; 8]), frame(&[0; 8])].concat(), frame(&[0; 8])]);
    assert_eq!(message(&two), "chunk 0, stream 0: 20 bytes follow the frame");
    let mut windowed = frame(&[0; 8]);
    windowed[4] = 0x80;
    let windowed = payload(Layout::Planes, 1, &[windowed, frame(&[0; 8])]);
    assert!(message(&windowed).contains("one segment is asked for"));
}

#[test]
fn a_lone_frame_states_its_size_with_and_without_a_window() {
    let size = |bytes: &[u8]| super::content_size(bytes).map_err(|fault| fault.message);
    let sound = frame(&[1, 2, 3]);
    assert_eq!(size(&sound), Ok(3));
    // The same content with a window of 512 KiB, as zstd writes it at level 1.
    let windowed = |window: u8| [&sound[..4], &[0x80, window], &sound[5..]].concat();
    assert_eq!(size(&windowed(0x48)), Ok(3));
    assert_eq!(size(&windowed(0x68)), Ok(3));
    assert!(size(&windowed(0x69)).unwrap_err().contains("window of 9437184 bytes"));
    assert!(size(&windowed(0xff)).unwrap_err().contains("window"));
    let unsized_frame = [&sound[..4], &[0x00, 0x48], &sound[9..]].concat();
    assert_eq!(size(&unsized_frame).unwrap_err(), "the frame does not state its content's size");
    assert!((0..sound.len()).all(|len| size(&sound[..len]).is_err()));
    assert_eq!(size(&[&sound[..], &sound].concat()).unwrap_err(), "15 bytes follow the frame");
}

#[test]
fn chunks_cover_the_tensor() {
    let line = [0; 16];
    let bytes = [&[1][..], &line, &line, &line].concat();
    let chunks = parse(&bytes, BF16, 2 * (2 * CHUNK + 1)).unwrap().chunks;
    let covered: Vec<(u64, u64)> = chunks.iter().map(|chunk| (chunk.first, chunk.elements)).collect();
    assert_eq!(covered, [(0, CHUNK), (CHUNK, CHUNK), (2 * CHUNK, 1)]);
    assert!(parse(&bytes[..17], BF16, u64::MAX).is_err());
}

#[test]
fn layouts_by_share_and_name() {
    assert_eq!(
        [99, 100, 849, 850].map(|n| Layout::for_share(n, 1000).name()),
        ["gaps", "bitmap", "bitmap", "planes"]
    );
    assert!(Dtype::ALL.iter().all(|dtype| Word::of(*dtype).width() as u32 * 8 >= dtype.bits()));
}
