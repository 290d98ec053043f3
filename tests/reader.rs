//! `spec/reader.py`, which was written from the spec's text alone, against the model dump of this implementation.

use std::process::{Command, Output};

use fitment_core::model::dump;
use fitment_core::read;
use fitment_tests::conformance::vectors;
use fitment_tests::place::{root, scratch};

fn run(bytes: &[u8]) -> Output {
    let folder = scratch();
    let file = folder.path().join("x.fitment.safetensors");
    std::fs::write(&file, bytes).expect("the folder takes a file");
    let reader = root().join("spec/reader.py");
    Command::new("python3").arg(reader).arg(file).output().expect("python3 runs")
}

#[test]
fn both_readers_print_the_same_dump() {
    let vectors = vectors();
    let readable = vectors.iter().filter(|vector| vector.folder != "invalid");
    for vector in readable {
        let output = run(&vector.bytes);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {message}", vector.name);
        let adapter = read(&vector.bytes).expect("a readable vector");
        assert_eq!(String::from_utf8_lossy(&output.stdout), dump(&adapter), "{}", vector.name);
    }
}

#[test]
fn the_reader_refuses_what_it_would_misread() {
    let vectors = vectors();
    let misread = ["C006", "M002", "M005", "M006", "M013", "M014", "M015"];
    let refused = vectors.iter().filter(|vector| misread.contains(&vector.code.unwrap_or_default()));
    for vector in refused {
        let output = run(&vector.bytes);
        assert!(!output.status.success(), "{}: not refused", vector.name);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.starts_with("error: ") && message.lines().count() == 1, "{}: {message}", vector.name);
    }
}

#[test]
fn the_reader_is_short_and_needs_no_package() {
    let source = std::fs::read_to_string(root().join("spec/reader.py")).expect("the reader is there");
    assert!(source.lines().count() < 200);
    let imports: Vec<&str> = source.lines().filter(|line| line.starts_with("import ")).collect();
    assert_eq!(imports, ["import hashlib", "import json", "import re", "import struct", "import sys"]);
}
