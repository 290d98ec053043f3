//! What the scripts of `tests/bench` need beside the program under test: makes its input, measures processes, compares results.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program whose result is what it prints")]

mod apply;
#[cfg(feature = "candle")]
mod devices;
mod diff;
mod exact;
mod header;
mod make;
mod measure;
mod model;

use std::path::Path;
use std::process::ExitCode;

const USAGE: &str =
    "usage: bench-tool base DIR | adapter BASE PEFT_DIR FITMENT_FILE [SEED [RANK]] | apply BASE FITMENT_FILE -o OUT
       bench-tool tuned BASE DIR RELATIVE | codec BASE TUNED
       bench-tool exact BASE FITMENT_FILE MERGED | header KIB FITMENT_FILE
       bench-tool measure COMMAND... | median RUNS COMMAND...
       bench-tool devices DEVICE DIR [quick]   (in a build with the feature candle)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["base", folder] => make::base(Path::new(folder)),
        ["adapter", base, peft, file] => adapter([base, peft, file], "0", model::RANK),
        ["adapter", base, peft, file, seed] => adapter([base, peft, file], seed, model::RANK),
        ["adapter", base, peft, file, seed, rank] => match rank.parse() {
            Ok(rank) => adapter([base, peft, file], seed, rank),
            Err(error) => Err(format!("{rank}: {error}").into()),
        },
        ["apply", base, adapter, "-o", out] => {
            apply::run(Path::new(base), Path::new(adapter), Path::new(out))
        }
        ["exact", base, adapter, merged] => {
            exact::run(Path::new(base), Path::new(adapter), Path::new(merged))
        }
        ["tuned", base, folder, relative] => diff::tuned(Path::new(base), Path::new(folder), relative),
        ["codec", base, tuned] => diff::codec(Path::new(base), Path::new(tuned)),
        #[cfg(feature = "candle")]
        ["devices", device, folder, quick @ ..] if matches!(quick, [] | ["quick"]) => {
            devices::run(device, Path::new(folder), !quick.is_empty())
        }
        ["header", kib, file] => header::make(kib, Path::new(file)),
        ["median", runs, program, rest @ ..] => measure::median(runs, program, rest),
        ["measure", program, rest @ ..] => measure::run(program, rest),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn adapter(paths: [&str; 3], seed: &str, rank: u64) -> Result<(), Box<dyn std::error::Error>> {
    let [base, peft, file] = paths.map(Path::new);
    let seed = seed.parse().map_err(|error| format!("{seed}: {error}"))?;
    make::adapter(base, peft, file, (seed, rank))
}
