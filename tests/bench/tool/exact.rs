//! A merged checkpoint against `W + s·up·down` in f64, rounded once.

use fitment_core::checkpoint::Checkpoint;
use fitment_core::model::{Edit, Lora};
use fitment_io::{Access, AdapterFiles, CheckpointDir};
use std::error::Error;
use std::path::Path;

#[derive(Default)]
struct Tally {
    elements: u64,
    different: u64,
    /// In units of the last place of the larger of `|W|` and `|W'|`.
    worst: f64,
}

/// Prints how many elements are not the nearest bf16, and how far off the worst is.
pub(crate) fn run(base: &Path, adapter: &Path, merged: &Path) -> Result<(), Box<dyn Error>> {
    let base = CheckpointDir::open(base, Access::Map)?;
    let merged = CheckpointDir::open(merged, Access::Map)?;
    let files = AdapterFiles::load(adapter)?;
    let adapter = fitment_core::read(files.single().ok_or("not a file")?)?;
    let mut tally = Tally::default();
    let halves = adapter.edits.chunks(adapter.edits.len().div_ceil(2));
    let parts: Vec<Result<Tally, String>> = std::thread::scope(|scope| {
        let spawned: Vec<_> = halves.map(|edits| scope.spawn(|| part(edits, &base, &merged))).collect();
        spawned.into_iter().map(|part| part.join().unwrap_or_else(|_| Err("panicked".to_owned()))).collect()
    });
    for part in parts {
        let part = part?;
        tally.elements += part.elements;
        tally.different += part.different;
        tally.worst = tally.worst.max(part.worst);
    }
    untouched(&adapter.edits, &base, &merged)?;
    let share = tally.different as f64 / tally.elements as f64 * 100.0;
    println!(
        "{} elements changed by the adapter: {} ({share:.5} %) are not the nearest bf16, the worst {:.2} units off",
        tally.elements, tally.different, tally.worst
    );
    Ok(())
}

fn untouched(edits: &[Edit<'_>], base: &CheckpointDir, merged: &CheckpointDir) -> Result<(), Box<dyn Error>> {
    let touched: Vec<&str> =
        edits.iter().filter_map(Edit::target).map(|target| target.name.as_str()).collect();
    for name in base.tensors().keys().filter(|name| !touched.contains(&name.as_str())) {
        if base.read(name)? != merged.read(name)? {
            return Err(format!("{name} was not to be changed").into());
        }
    }
    Ok(())
}

fn part(edits: &[Edit<'_>], base: &CheckpointDir, merged: &CheckpointDir) -> Result<Tally, String> {
    let mut tally = Tally::default();
    for edit in edits {
        let Edit::Lora(lora) = edit else { return Err("not a low-rank update".to_owned()) };
        let name = lora.target.name.as_str();
        let read = |checkpoint: &CheckpointDir| {
            checkpoint.read(name).map(|bytes| bytes.into_owned()).map_err(|error| error.to_string())
        };
        compare(lora, &bf16s(&read(base)?), &bf16s(&read(merged)?), &mut tally);
    }
    Ok(tally)
}

fn bf16s(bytes: &[u8]) -> Vec<u16> {
    bytes.as_chunks::<2>().0.iter().map(|chunk| u16::from_le_bytes(*chunk)).collect()
}

fn floats(bytes: &[u8]) -> Vec<f64> {
    bytes.as_chunks::<4>().0.iter().map(|chunk| f64::from(f32::from_le_bytes(*chunk))).collect()
}

fn compare(lora: &Lora<'_>, base: &[u16], merged: &[u16], tally: &mut Tally) {
    let (up, down) = (floats(lora.up.bytes()), floats(lora.down.bytes()));
    let rank = lora.rank() as usize;
    let columns = down.len() / rank;
    let mut row = vec![0.0; columns];
    for ((up, base), merged) in
        up.chunks_exact(rank).zip(base.chunks_exact(columns)).zip(merged.chunks_exact(columns))
    {
        row.fill(0.0);
        for (factor, down) in up.iter().zip(down.chunks_exact(columns)) {
            for (sum, down) in row.iter_mut().zip(down) {
                *sum += factor * down;
            }
        }
        for ((sum, base), merged) in row.iter().zip(base).zip(merged) {
            let w = value(*base);
            let wanted = w + lora.scale * sum;
            tally.elements += 1;
            if nearest(wanted) != *merged {
                tally.different += 1;
                let largest = w.abs().max(wanted.abs());
                let unit = 2f64.powi((largest.log2().floor() as i32).max(-126) - 7);
                tally.worst = tally.worst.max((value(*merged) - wanted).abs() / unit);
            }
        }
    }
}

fn value(bits: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(bits) << 16))
}

/// The nearest bf16, ties to even, from the f64 itself: the two neighbours are compared, nothing is rounded on the way.
fn nearest(wanted: f64) -> u16 {
    let down = ((wanted as f32).to_bits() >> 16) as u16;
    // The conversion to f32 may have gone up over a bf16: look one below too.
    let candidates = [down.wrapping_sub(1), down, down.wrapping_add(1)];
    let distance = |bits: &u16| (value(*bits) - wanted).abs();
    let best = candidates.iter().copied().reduce(|best, next| {
        let (a, b) = (distance(&best), distance(&next));
        if b < a || (b == a && next.is_multiple_of(2)) { next } else { best }
    });
    best.unwrap_or(down)
}
