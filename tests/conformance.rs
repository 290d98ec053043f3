//! The conformance vectors of the spec: each valid file reads, dumps and comes back unchanged; each invalid one raises
//! the finding in its name, and no other. `BLESS=1` writes the vectors again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use fitment_core::finding::rules;
use fitment_core::model::dump;
use fitment_core::{Depth, Severity, check, read, to_bytes};
use fitment_tests::conformance::{Vector, large_vectors, vectors};
use fitment_tests::place::root;
use fitment_tests::source::assert_none;
use safetensors::SafeTensors;

fn folder(name: &str) -> PathBuf {
    root().join("spec/conformance").join(name)
}

fn readable(vectors: &[Vector]) -> impl Iterator<Item = &Vector> {
    vectors.iter().filter(|vector| vector.folder != "invalid")
}

/// What the folders should hold: path and content.
fn committed(vectors: &[Vector]) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for vector in vectors {
        let path = folder(vector.folder).join(vector.file_name());
        assert!(files.insert(path, vector.bytes.clone()).is_none(), "two vectors are {}", vector.file_name());
    }
    for vector in readable(vectors) {
        let adapter = read(&vector.bytes).unwrap_or_else(|error| panic!("{}: {error}", vector.name));
        let path = folder(vector.folder).join(format!("{}.dump.txt", vector.name));
        files.insert(path, dump(&adapter).into_bytes());
    }
    files
}

#[test]
fn the_committed_vectors_are_those_that_are_made_here() {
    let wanted = committed(&vectors());
    if std::env::var_os("BLESS").is_some() {
        for name in ["valid", "warned", "invalid"] {
            let _ = fs::remove_dir_all(folder(name));
            fs::create_dir_all(folder(name)).expect("the spec's folder can be written");
        }
        for (path, content) in &wanted {
            fs::write(path, content).expect("the spec's folder can be written");
        }
        return;
    }
    let mut faults = Vec::new();
    for (path, content) in &wanted {
        if fs::read(path).ok().as_ref() != Some(content) {
            faults.push(format!("{}: missing or another; BLESS=1 writes it again", path.display()));
        }
    }
    for name in ["valid", "warned", "invalid"] {
        for entry in fs::read_dir(folder(name)).expect("the folder is committed") {
            let path = entry.expect("an entry").path();
            if !wanted.contains_key(&path) {
                faults.push(format!("{}: no vector of this name is made", path.display()));
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn every_vector_raises_its_finding_and_no_other() {
    let mut faults = Vec::new();
    for vector in vectors().into_iter().chain(large_vectors()) {
        let report = check(&vector.bytes, Depth::Values);
        let found: BTreeSet<&str> = report.findings.iter().map(|finding| finding.code.0).collect();
        let wanted: BTreeSet<&str> = vector.code.into_iter().collect();
        if found != wanted {
            let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
            faults.push(format!("{}: found {}", vector.name, findings.join("; ")));
        }
        let errors = report.findings.iter().any(|finding| finding.severity == Severity::Error);
        if errors != (vector.folder == "invalid") {
            faults.push(format!("{}: lies in {}", vector.name, vector.folder));
        }
    }
    assert_none(&faults);
}

#[test]
fn readable_vectors_come_back_unchanged() {
    for vector in readable(&vectors()) {
        let adapter = read(&vector.bytes).unwrap_or_else(|error| panic!("{}: {error}", vector.name));
        assert!(to_bytes(&adapter).expect("can be written") == vector.bytes, "{} changes", vector.name);
    }
}

#[test]
fn invalid_vectors_are_refused_by_read_or_by_their_values() {
    for vector in vectors().iter().filter(|vector| vector.folder == "invalid") {
        // These need every byte of the data, which `read` leaves to the check.
        let by_value = ["M014", "M015", "E012", "E020"].contains(&vector.code.unwrap_or_default());
        assert_eq!(read(&vector.bytes).is_ok(), by_value, "{}", vector.name);
    }
}

#[test]
fn every_rule_has_a_vector() {
    let vectors = vectors();
    let large = large_vectors();
    let covered: BTreeSet<&str> = vectors.iter().chain(&large).filter_map(|vector| vector.code).collect();
    let all: BTreeSet<&str> = rules::ALL.iter().map(|rule| rule.code.0).collect();
    assert_eq!(all, covered);
    let count = |folder| vectors.iter().filter(|vector| vector.folder == folder).count();
    assert!(count("valid") >= 15 && count("invalid") >= 60);
}

/// Vectors with a broken container that the `safetensors` crate reads all the same, as of 0.8.
const SAFETENSORS_ACCEPTS: &[&str] = &[
    "C002-header-over-the-limit",
    "C004-header-starts-with-a-space",
    "C006-metadata-key-twice",
    "C006-tensor-twice",
    "C007-unknown-field",
    "C009-nine-axes",
    "C015-f32-behind-five-bytes",
    "C015-header-length-is-no-multiple-of-8",
    "C016-eight-spaces-too-many",
    "C016-padded-with-a-line-feed",
    "C016-padded-with-a-tab",
    "C017-a-key-beside-the-manifest",
    "C017-metadata-is-null",
    "C017-metadata-of-another-tool",
    "C017-no-metadata",
    "C018-bytes-before-f32",
    "C018-data-out-of-name-order",
    "C019-listed-out-of-data-order",
    "C019-metadata-last",
    "C020-escaped-slash",
    "C020-needless-escape",
    "C020-shape-before-dtype",
    "C020-space-behind-a-colon",
    "C021-c1-control-in-a-name",
    "C021-control-character-in-a-name",
    "C021-empty-name",
    "C021-name-of-513-bytes",
];

#[test]
fn safetensors_opens_what_is_valid() {
    for vector in readable(&vectors()) {
        let theirs = SafeTensors::deserialize(&vector.bytes)
            .unwrap_or_else(|error| panic!("safetensors refuses {}: {error}", vector.name));
        let report = check(&vector.bytes, Depth::Structure);
        let container = report.container.expect("a valid file has a header");
        assert_eq!(theirs.len(), container.entries().len(), "{}", vector.name);
        for entry in container.entries() {
            let tensor = theirs.tensor(&entry.name).expect("safetensors sees the tensor");
            let dims: Vec<u64> = tensor.shape().iter().map(|dim| *dim as u64).collect();
            assert_eq!(dims, entry.shape.dims(), "{} {}", vector.name, entry.name);
            assert_eq!(
                tensor.data(),
                &vector.bytes[container.data_range(entry)],
                "{} {}",
                vector.name,
                entry.name
            );
        }
    }
}

#[test]
fn what_safetensors_accepts_beyond_the_spec_is_known() {
    let (vectors, large) = (vectors(), large_vectors());
    let accepted: BTreeSet<&str> = vectors
        .iter()
        .chain(&large)
        .filter(|vector| vector.code.is_some_and(|code| code.starts_with('C')))
        .filter(|vector| SafeTensors::deserialize(&vector.bytes).is_ok())
        .map(|vector| vector.name.as_str())
        .collect();
    assert_eq!(accepted, SAFETENSORS_ACCEPTS.iter().copied().collect());
}
