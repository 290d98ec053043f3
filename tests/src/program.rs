//! The `fitment` program under test.
//!
//! Cargo names a package's own programs to its tests, but not those of another package. So the path comes from
//! `FITMENT_BIN` where the caller has built the program (as `tests/run` has), and otherwise from a build here, which
//! is a moment's work when nothing changed and never tests a stale program.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// The path of the program.
///
/// # Panics
/// If it does not build.
pub fn path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| env::var_os("FITMENT_BIN").map_or_else(build, PathBuf::from))
}

/// The path of the program in a build with the feature `candle`: `$FITMENT_CANDLE_BIN`, which `tests/run` sets.
///
/// # Panics
/// If it is not set.
pub fn with_candle() -> PathBuf {
    let path = env::var_os("FITMENT_CANDLE_BIN");
    let hint = "`cargo build --workspace --features fitment/candle` makes it; copy it, as the next build replaces it";
    path.map(PathBuf::from).unwrap_or_else(|| panic!("FITMENT_CANDLE_BIN is not set: {hint}"))
}

/// A command that runs the program, without the terminal's and the user's settings.
pub fn fitment() -> Command {
    let mut command = Command::new(path());
    command.env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE").stdin(Stdio::null());
    command
}

fn build() -> PathBuf {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--quiet", "--package", "fitment", "--message-format", "json-render-diagnostics"])
        .current_dir(crate::place::root())
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "`cargo build --package fitment` failed");
    String::from_utf8_lossy(&output.stdout).lines().find_map(executable).expect("cargo names what it built")
}

/// The path in cargo's message about the program, if `message` is that one.
fn executable(message: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let ours = message["target"]["name"] == "fitment" && message["target"]["kind"][0] == "bin";
    message["executable"].as_str().filter(|_| ours).map(PathBuf::from)
}
