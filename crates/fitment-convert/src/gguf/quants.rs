//! Blocks of quantised numbers as F32, bit for bit as `gguf.quants` 0.19 and ggml compute them: products and sums each rounded once.

use super::ggml::TensorType;
use fitment_math::round::f16_to_f32;

/// Whether blocks of a type are read here.
pub(super) fn is_known(kind: TensorType) -> bool {
    decoder(kind).is_some()
}

/// The elements of whole blocks as little-endian F32. `None` for a type that is not read here, or for part of a block.
pub(super) fn dequantised(kind: TensorType, bytes: &[u8]) -> Option<Vec<u8>> {
    let decode = decoder(kind)?;
    let (size, block) = (usize::try_from(kind.bytes).ok()?, usize::try_from(kind.block).ok()?);
    let chunks = bytes.chunks_exact(size);
    if !chunks.remainder().is_empty() {
        return None;
    }
    let mut out = Vec::with_capacity(chunks.len().checked_mul(block)?.checked_mul(4)?);
    let mut values = [0f32; 256];
    for chunk in chunks {
        decode(chunk, values.get_mut(..block)?);
        values.iter().take(block).for_each(|value| out.extend(value.to_le_bytes()));
    }
    Some(out)
}

/// From a block's bytes to its elements; both have the lengths of the type.
type Decoder = fn(&[u8], &mut [f32]);

fn decoder(kind: TensorType) -> Option<Decoder> {
    Some(match kind.name {
        "Q4_0" => |block, out| small(block, out, Small { high: false, min: false }),
        "Q4_1" => |block, out| small(block, out, Small { high: false, min: true }),
        "Q5_0" => |block, out| small(block, out, Small { high: true, min: false }),
        "Q5_1" => |block, out| small(block, out, Small { high: true, min: true }),
        "Q8_0" => q8_0,
        "Q4_K" => |block, out| k_mins(block, out, false),
        "Q5_K" => |block, out| k_mins(block, out, true),
        "Q6_K" => q6_k,
        _ => return None,
    })
}

fn half(block: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// Parts of the blocks of 32: a fifth bit for each element, a minimum instead of a middle.
#[derive(Clone, Copy)]
struct Small {
    high: bool,
    min: bool,
}

/// `d`, where there is one `m`, where there are five bits 32 high ones, then the low four of elements `i` and `i + 16` in byte `i`.
fn small(block: &[u8], out: &mut [f32], Small { high, min }: Small) {
    let d = half(block, 0);
    let m = if min { half(block, 2) } else { 0.0 };
    let at = if min { 4 } else { 2 };
    let highs =
        if high { u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]) } else { 0 };
    let low = &block[if high { at + 4 } else { at }..];
    let middle = if high { 16.0 } else { 8.0 };
    for (number, value) in out.iter_mut().enumerate() {
        let bits = (low[number % 16] >> (4 * (number / 16))) & 15;
        let q = f32::from(bits | (u8::from(highs >> number & 1 == 1) << 4));
        *value = if min { d * q + m } else { d * (q - middle) };
    }
}

/// `d`, then a byte for each of 32.
fn q8_0(block: &[u8], out: &mut [f32]) {
    let d = half(block, 0);
    for (value, byte) in out.iter_mut().zip(&block[2..]) {
        *value = f32::from(byte.cast_signed()) * d;
    }
}

/// `d`, `dmin`, 6 bits of scale and of minimum for each of 8 groups of 32, where there are five bits the high ones, then the low four:
/// those of groups `2g` and `2g + 1` in 32 bytes.
fn k_mins(block: &[u8], out: &mut [f32], high: bool) {
    let (d, dmin) = (half(block, 0), half(block, 2));
    let packed = &block[4..16];
    let (highs, low) = if high { (&block[16..48], &block[48..]) } else { (&block[..0], &block[16..]) };
    for (group, values) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = match group {
            0..4 => (packed[group] & 63, packed[group + 4] & 63),
            _ => (
                (packed[group + 4] & 15) | (packed[group - 4] >> 2 & 48),
                (packed[group + 4] >> 4) | (packed[group] >> 2 & 48),
            ),
        };
        let (d, dm) = (d * f32::from(scale), dmin * f32::from(min));
        for (number, value) in values.iter_mut().enumerate() {
            let bits = (low[32 * (group / 2) + number] >> (4 * (group % 2))) & 15;
            let fifth = highs.get(number).map_or(0, |byte| (byte >> group & 1) << 4);
            *value = d * f32::from(bits | fifth) - dm;
        }
    }
}

/// 128 bytes of low four bits, 64 of high two, 16 signed scales, `d`. Each half of 128 elements has 64 and 32 bytes of its own.
fn q6_k(block: &[u8], out: &mut [f32]) {
    let d = half(block, 208);
    for (number, value) in out.iter_mut().enumerate() {
        let (side, inside) = (number / 128, number % 128);
        let low = (block[64 * side + inside % 64] >> (4 * (inside / 64))) & 15;
        let high = (block[128 + 32 * side + inside % 32] >> (2 * (inside / 32))) & 3;
        let scale = d * f32::from(block[192 + number / 16].cast_signed());
        *value = scale * (f32::from(low | high << 4) - 32.0);
    }
}
