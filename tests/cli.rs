//! The command line as files: each `cli/*.trycmd` holds command lines, with the expected output and exit code below them.
//!
//! A case runs in a folder of its own that has `fixtures/`; what it writes stays there, so a later line may read it.
//! `TRYCMD=overwrite cargo nextest run -p fitment-tests --test cli` writes what the program says now: read the diff.
#![cfg(unix)] // `fixtures` is a link

use std::env;
use std::os::unix::fs::symlink;
use std::panic::catch_unwind;

use fitment_tests::source::{assert_none, text};
use fitment_tests::{place, program};
use trycmd::TestCases;

#[test]
fn the_program_prints_what_the_cases_say() {
    let entries = place::root().join("tests/cli").read_dir().expect("a folder of cases");
    let mut cases: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    cases.retain(|path| path.extension().is_some_and(|extension| extension == "trycmd"));
    cases.sort();
    assert!(!cases.is_empty(), "tests/cli has no case");
    let program = program::path();
    let mut failed = Vec::new();
    for case in cases {
        // trycmd passes a file that runs nothing.
        assert!(text(&case).contains("\n```console\n$ fitment "), "{} runs nothing", case.display());
        let scratch = place::scratch();
        symlink(place::root().join("fixtures"), scratch.path().join("fixtures")).expect("a new link");
        env::set_current_dir(scratch.path()).expect("the new folder");
        let run = || {
            TestCases::new().register_bin("fitment", program).env("NO_COLOR", "1").case(&case).run();
        };
        if catch_unwind(run).is_err() {
            failed.push(format!("{}: see above", case.display()));
        }
    }
    assert_none(&failed);
}
