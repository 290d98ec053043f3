//! What can be copied at all.

use super::{Place, Result, speed};
use candle_core::{DType, Tensor};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Instant;

/// Prints the speed of copies on the device, to and from it, in memory and to the disk.
pub(super) fn report(place: &Place, folder: &Path, quick: bool) -> Result<()> {
    let len = if quick { 64 << 20 } else { 1 << 30_usize };
    let bytes = vec![1_u8; len];
    let there = Tensor::zeros(len / 4, DType::F32, &place.device)?;
    let mut copied = vec![0_u8; len];
    let memory = place.seconds(|| {
        copied.copy_from_slice(&bytes);
        Ok(())
    })?;
    let device = place.seconds(|| {
        there.copy()?;
        Ok(())
    })?;
    let up = place.seconds(|| {
        Tensor::from_raw_buffer(&bytes, DType::F32, &[len / 4], &place.device)?;
        Ok(())
    })?;
    let down = place.seconds(|| {
        there.to_vec1::<f32>()?;
        Ok(())
    })?;
    let len = len as u64;
    println!("\ncopies of {} MiB (GB/s, read and written bytes both counted)", len >> 20);
    println!("  {:<24} {:>8.1}", "in memory", speed(2 * len, memory));
    println!("  {:<24} {:>8.1}", "on the device", speed(2 * len, device));
    println!("(GB/s, bytes counted once)");
    println!("  {:<24} {:>8.1}", "to the device", speed(len, up));
    println!("  {:<24} {:>8.1}", "from the device", speed(len, down));
    println!("  {:<24} {:>8.2}", "to the disk, synced", disk(folder, &bytes)?);
    Ok(())
}

fn disk(folder: &Path, bytes: &[u8]) -> Result<f64> {
    fs::create_dir_all(folder)?;
    let path = folder.join("copy");
    let begin = Instant::now();
    let mut file = File::create(&path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    let seconds = begin.elapsed().as_secs_f64();
    fs::remove_file(&path)?;
    Ok(speed(bytes.len() as u64, seconds))
}
