//! Runs a command and says what it took: seconds of wall and processor time, peak memory.

use std::error::Error;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Prints `wall cpu rss anon` (seconds, seconds, MB, MB) of a command; rss counts mapped files, anon does not.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<(), Box<dyn Error>> {
    let begin = Instant::now();
    let mut child = Command::new(program).args(arguments).stdout(Stdio::null()).spawn()?;
    let status = format!("/proc/{}/status", child.id());
    let (mut rss, mut anon) = (0, 0);
    let finished = loop {
        if let Ok(text) = std::fs::read_to_string(&status) {
            rss = rss.max(kilobytes(&text, "VmHWM:"));
            anon = anon.max(kilobytes(&text, "RssAnon:"));
        }
        if let Some(finished) = child.try_wait()? {
            break finished;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let wall = begin.elapsed().as_secs_f64();
    if !finished.success() {
        return Err(format!("{program} failed: {finished}").into());
    }
    println!("{wall:.3} {:.2} {} {}", cpu_of_children()?, rss / 1024, anon / 1024);
    Ok(())
}

/// Prints the median wall time, the fastest and the slowest run, and the mean processor time, in milliseconds. Nothing
/// is sampled while a command runs, so that short ones can be measured.
pub(crate) fn median(runs: &str, program: &str, arguments: &[&str]) -> Result<(), Box<dyn Error>> {
    let runs: usize = runs.parse()?;
    let mut walls = Vec::new();
    for _ in 0..runs {
        let begin = Instant::now();
        let finished = Command::new(program).args(arguments).stdout(Stdio::null()).status()?;
        walls.push(begin.elapsed().as_secs_f64() * 1e3);
        if !finished.success() {
            return Err(format!("{program} failed: {finished}").into());
        }
    }
    walls.sort_by(f64::total_cmp);
    let (Some(first), Some(last)) = (walls.first(), walls.last()) else { return Err("no runs".into()) };
    let cpu = cpu_of_children()? * 1e3 / runs as f64;
    println!("{:.1} {first:.1} {last:.1} {cpu:.1}", walls[runs / 2]);
    Ok(())
}

/// Seconds of processor time of the children that were waited for: this process has no others.
fn cpu_of_children() -> Result<f64, Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    // Fields 16 and 17 of proc(5), counted from behind the command's name; a tick is 10 ms on Linux.
    Ok((ticks(13) + ticks(14)) / 100.0)
}

fn kilobytes(status: &str, field: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0)
}
