//! What `tests/bench/diff` needs: tuned checkpoints, and the codec alone on one core.

use fitment_core::checkpoint::Checkpoint;
use fitment_core::container::Layout;
use fitment_core::payload::{self, CHUNK, Word};
use fitment_core::tensor::Dtype;
use fitment_io::{Access, CheckpointDir};
use fitment_math::bits;
use std::error::Error;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::make::Noise;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Writes the base with normal changes added whose deviation is `relative` of the weights' own.
pub(crate) fn tuned(base: &Path, folder: &Path, relative: &str) -> Result<()> {
    let relative: f32 = relative.parse()?;
    let checkpoint = CheckpointDir::open(base, Access::Map)?;
    fs::create_dir_all(folder)?;
    let items =
        checkpoint.tensors().iter().map(|(name, info)| (name.clone(), info.dtype, info.shape.clone()));
    let layout = Layout::canonical([("format", "pt")], items);
    let mut out = BufWriter::with_capacity(1 << 20, File::create(folder.join("model.safetensors"))?);
    out.write_all(&layout.head)?;
    for entry in &layout.entries {
        let mut noise = Noise::new(entry.name.bytes().fold(99, |seed, byte| seed * 31 + u64::from(byte)));
        for element in checkpoint.read(&entry.name)?.as_chunks::<2>().0 {
            let value = f32::from_bits(u32::from(u16::from_le_bytes(*element)) << 16);
            let value = half::bf16::from_f32(value + noise.normal(0.02 * relative));
            out.write_all(&value.to_le_bytes())?;
        }
    }
    out.into_inner()?.sync_all()?;
    fs::copy(base.join("config.json"), folder.join("config.json"))?;
    Ok(())
}

/// Prints share of changed elements, layout, size as a share of the raw bytes, and MB of raw bytes a second of encoding
/// and decoding: chunks of every linear tensor of the first layers, one after the other on one core.
pub(crate) fn codec(base: &Path, tuned: &Path) -> Result<()> {
    const WANTED: usize = 64;
    let (base, tuned) = (CheckpointDir::open(base, Access::Map)?, CheckpointDir::open(tuned, Access::Map)?);
    let size = usize::try_from(CHUNK)? * 2;
    let (mut raw, mut stored, mut changed) = (0u64, 0u64, 0u64);
    let (mut encoding, mut decoding) = (Duration::ZERO, Duration::ZERO);
    let mut layouts = Vec::new();
    for name in base.tensors().keys().filter(|name| name.contains("layers.")).cycle().take(1000) {
        let (before, after) = (base.read(name)?, tuned.read(name)?);
        for (before, after) in before.chunks_exact(size).zip(after.chunks_exact(size)) {
            let begin = Instant::now();
            let payload = bits::encode(Dtype::BF16, before, after, bits::LEVEL)?;
            encoding += begin.elapsed();
            let mut result = before.to_vec();
            let begin = Instant::now();
            let parsed = payload::parse(&payload.bytes, Word::of(Dtype::BF16), size as u64)?;
            for chunk in &parsed.chunks {
                bits::decode_chunk(chunk, &payload.bytes, parsed.layout, Word::of(Dtype::BF16), &mut result)?;
            }
            decoding += begin.elapsed();
            if result != after {
                return Err(format!("{name} does not come back").into());
            }
            raw += size as u64;
            stored += payload.bytes.len() as u64;
            changed += payload.changed;
            layouts.push(payload.layout.name());
        }
        if layouts.len() >= WANTED {
            break;
        }
    }
    layouts.sort_unstable();
    layouts.dedup();
    let speed = |time: Duration| raw as f64 / 1e6 / time.as_secs_f64();
    println!(
        "{:.2} {} {:.4} {:.0} {:.0}",
        200.0 * changed as f64 / raw as f64,
        layouts.join("+"),
        stored as f64 / raw as f64,
        speed(encoding),
        speed(decoding)
    );
    Ok(())
}
