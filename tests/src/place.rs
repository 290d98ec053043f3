//! Where the tests find their inputs. Outputs go to [`scratch`] only.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the repository")
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
