//! Where the tests find their inputs. Outputs go to [`scratch`] only.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tempfile::TempDir;

/// The root of the repository: `$FITMENT_ROOT`, for tests that were built on another machine, or where they were built.
pub fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    let built =
        || Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the repository");
    ROOT.get_or_init(|| std::env::var_os("FITMENT_ROOT").map_or_else(|| built().to_owned(), PathBuf::from))
}

/// The candle device that tests compute on: the processor, or what `$FITMENT_TEST_DEVICE` names.
pub fn device() -> String {
    std::env::var("FITMENT_TEST_DEVICE").unwrap_or_else(|_| "cpu-candle".to_owned())
}

/// `fixtures/<name>`.
///
/// # Panics
/// If there is no such file or folder.
pub fn fixture(name: &str) -> PathBuf {
    existing(root().join("fixtures").join(name), "a fixture is committed with the test that reads it")
}

/// `target/real/<package>/<name>`: a file or folder of a Python package that `tests/run` fetches.
///
/// # Panics
/// If it was not fetched.
pub fn real(package: &str, name: &str) -> PathBuf {
    let path = root().join("target/real").join(package).join(name);
    existing(path, "`tests/run --fetch` gets the real input")
}

/// The Python of the environment with the original tools: of `$FITMENT_PEERS`, or of `target/peers`.
///
/// # Panics
/// If there is no such environment.
pub fn peers_python() -> PathBuf {
    let folder = std::env::var_os("FITMENT_PEERS").map_or_else(|| root().join("target/peers"), PathBuf::from);
    existing(folder.join("bin/python"), "`tests/peers` installs the original tools")
}

/// The Python of the environment with AdapterHub's `adapters`, which wants an older transformers: of `$FITMENT_ADAPTERS`, or of
/// `target/peers-adapters`.
///
/// # Panics
/// If there is no such environment.
pub fn adapters_python() -> PathBuf {
    let folder = std::env::var_os("FITMENT_ADAPTERS")
        .map_or_else(|| root().join("target/peers-adapters"), PathBuf::from);
    existing(folder.join("bin/python"), "`tests/peers` installs the original tools")
}

/// A folder that disappears with the returned value.
///
/// # Panics
/// If the system's folder for temporaries takes no new one.
pub fn scratch() -> TempDir {
    tempfile::Builder::new().prefix("fitment-test-").tempdir().expect("a place for temporaries")
}

fn existing(path: PathBuf, hint: &str) -> PathBuf {
    assert!(path.exists(), "{} is missing: {hint}", path.display());
    path
}
