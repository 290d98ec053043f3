//! Digests and the content id (spec section 7).

use crate::model::Digest;
use crate::tensor::{Dtype, Shape};
use sha2::{Digest as _, Sha256};

/// SHA-256 of plain bytes: what base tensors are bound by.
pub fn sha256(bytes: &[u8]) -> Digest {
    Sha256::digest(bytes).into()
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(digit).collect()
}

/// The digest of 64 lower-case hexadecimal digits; `None` for any other text.
pub fn unhex(text: &str) -> Option<Digest> {
    let mut digest = [0u8; 32];
    if text.len() != 64 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(digest)
}

fn digit(nibble: u8) -> char {
    char::from_digit(u32::from(nibble), 16).expect("a nibble is a hexadecimal digit")
}

/// SHA-256 of a stored tensor: domain tag, name, dtype and shape (each with its length), then the bytes.
pub fn tensor_digest(name: &str, dtype: Dtype, shape: &Shape, bytes: &[u8]) -> Digest {
    let mut hash = Sha256::new();
    hash.update(b"fitment1.tensor\n");
    for part in [name, dtype.name()] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash.update((shape.axes() as u64).to_le_bytes());
    for dim in shape.dims() {
        hash.update(dim.to_le_bytes());
    }
    hash.update(bytes);
    hash.finalize().into()
}

/// The content id: digests of the tensors that edits use, in order of their names, then the maths core as RFC 8785 JSON.
pub fn content_id<'d>(digests: impl IntoIterator<Item = &'d Digest>, core: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(b"fitment1.content\n");
    for digest in digests {
        hash.update(digest);
    }
    hash.update(core.as_bytes());
    let digest: Digest = hash.finalize().into();
    format!("fitment1:{}", hex(&digest))
}
