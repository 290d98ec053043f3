//! The rules of files and folders: telling names, readable lengths, formats that stand alone, tests that run.

use std::fs;

use fitment_tests::place::root;
use fitment_tests::source::{assert_none, rust_files, text};

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "helpers", "types", "misc"];

const LINES_PER_FILE: usize = 500;

/// What a comment in the first lines of a longer file has to say, followed by the reason.
const LONG_FILE_MARK: &str = "Over 500 lines: ";

fn explains_its_length(file: &str) -> bool {
    let reason = |line: &str| {
        let comment = line.trim_start_matches(['/', '!', ' ']);
        comment.strip_prefix(LONG_FILE_MARK).is_some_and(|why| why.len() > 10)
    };
    file.lines().count() <= LINES_PER_FILE || file.lines().take(15).any(reason)
}

/// Names the modules of a format folder's file that belong to another format.
fn other_formats<'a>(file: &str, own: &str, formats: &'a [String]) -> Vec<&'a String> {
    let uses = |format: &str| {
        [format!("crate::{format}::"), format!("crate::{format};"), format!("super::super::{format}::")]
            .iter()
            .any(|path| file.contains(path))
    };
    formats.iter().filter(|format| *format != own && uses(format)).collect()
}

#[test]
fn files_and_crates_have_telling_names_and_a_readable_length() {
    let mut faults = Vec::new();
    for path in ["crates", "cli", "tests", "wasm"].iter().flat_map(|folder| rust_files(&root().join(folder)))
    {
        let relative = path.strip_prefix(root()).expect("below the root");
        let mut names = relative.iter().map(|name| name.to_str().unwrap_or_default().trim_end_matches(".rs"));
        if names.any(|name| EMPTY_NAMES.contains(&name.trim_start_matches("fitment-"))) {
            faults.push(format!("{}: a name that says nothing", relative.display()));
        }
        if !explains_its_length(&text(&path)) {
            faults.push(format!(
                "{}: over {LINES_PER_FILE} lines: split it by meaning, or begin it with `// {LONG_FILE_MARK}<why>`",
                relative.display()
            ));
        }
    }
    assert_none(&faults);
}

#[test]
fn the_length_check_rejects_a_long_file_without_a_reason() {
    let long = "let x = 1;\n".repeat(LINES_PER_FILE + 1);
    assert!(!explains_its_length(&long));
    assert!(explains_its_length(&format!(
        "//! Limits.\n//!\n//! {LONG_FILE_MARK}one table of constants\n{long}"
    )));
}

#[test]
fn no_format_folder_uses_another() {
    let source = root().join("crates/fitment-convert/src");
    let mut formats = Vec::new();
    for entry in fs::read_dir(&source).expect("the crate has sources") {
        let name = entry.expect("an entry").file_name().into_string().expect("an ASCII name");
        if source.join(&name).is_dir() && name != "pass" {
            formats.push(name);
        }
    }
    let mut faults = Vec::new();
    for own in &formats {
        for path in rust_files(&source.join(own)) {
            let others = other_formats(&text(&path), own, &formats);
            faults
                .extend(others.iter().map(|other| format!("{} uses the folder of {other}", path.display())));
        }
    }
    assert_none(&faults);
}

#[test]
fn the_format_check_rejects_a_use_of_another_format() {
    let formats = ["peft".to_owned(), "kohya".to_owned()];
    assert_eq!(other_formats("use crate::peft::names;", "kohya", &formats), ["peft"]);
    assert!(other_formats("use crate::kohya::names; use crate::pass::fused;", "kohya", &formats).is_empty());
}

#[test]
fn every_test_file_is_registered() {
    let manifest = text(&root().join("tests/Cargo.toml"));
    let mut faults = Vec::new();
    for entry in fs::read_dir(root().join("tests")).expect("the package has a folder") {
        let name = entry.expect("an entry").file_name().into_string().expect("an ASCII name");
        if name.ends_with(".rs") && !manifest.contains(&format!("\npath = \"{name}\"\n")) {
            faults.push(format!("tests/{name} has no [[test]] in tests/Cargo.toml"));
        }
    }
    assert_none(&faults);
}
