//! The rules of the crates that no compiler checks: who may depend on whom, what stays pure, what needs a reason.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use fitment_tests::place::root;
use fitment_tests::source::{assert_none, rust_files, text};
use serde_json::Value;

/// Every crate, and whom of ours it may use: in any section (normal, build, dev), for any target, under any feature.
const EDGES: &[(&str, &[&str])] = &[
    ("fitment-core", &[]),
    ("fitment-math", &["fitment-core"]),
    ("fitment-convert", &["fitment-core", "fitment-math"]),
    ("fitment-validate", &["fitment-core", "fitment-convert", "fitment-math"]),
    ("fitment-merge", &["fitment-core", "fitment-math"]),
    ("fitment-apply", &["fitment-core", "fitment-math"]),
    ("fitment-report", &["fitment-core", "fitment-validate", "fitment-math"]),
    ("fitment-candle", &["fitment-core", "fitment-math", "fitment-apply"]),
    ("fitment-io", &["fitment-core", "fitment-convert"]),
    (
        "fitment-wasm",
        &["fitment-core", "fitment-convert", "fitment-validate", "fitment-math", "fitment-report"],
    ),
    ("fitment", LIBRARIES),
    ("fitment-tests", LIBRARIES),
];

const LIBRARIES: &[&str] = &[
    "fitment-core",
    "fitment-math",
    "fitment-convert",
    "fitment-validate",
    "fitment-merge",
    "fitment-apply",
    "fitment-report",
    "fitment-candle",
    "fitment-io",
];

/// Those that may touch files, threads, clock or environment; all others are pure and build for wasm32.
const IMPURE: &[&str] = &["fitment-io", "fitment-candle", "fitment", "fitment-tests"];

/// Those that may hold unsafe code, and in how many files.
const UNSAFE_FILES: &[(&str, usize)] = &[("fitment-io", usize::MAX), ("fitment-math", 1)];

struct Package {
    name: String,
    folder: PathBuf,
    dependencies: Vec<Dependency>,
}

struct Dependency {
    name: String,
    optional: bool,
}

/// The packages of the workspace, as cargo reads their manifests.
fn packages() -> Vec<Package> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    metadata["packages"].as_array().expect("a list of packages").iter().map(package).collect()
}

fn package(value: &Value) -> Package {
    let manifest = PathBuf::from(value["manifest_path"].as_str().expect("a path"));
    let dependencies = value["dependencies"].as_array().expect("a list of dependencies");
    let dependency = |value: &Value| Dependency {
        name: value["name"].as_str().expect("a name").to_owned(),
        optional: value["optional"] == true,
    };
    Package {
        name: value["name"].as_str().expect("a name").to_owned(),
        folder: manifest.parent().expect("a manifest lies in a folder").to_owned(),
        dependencies: dependencies.iter().map(dependency).collect(),
    }
}

/// The text of a crate's first file, and its name.
fn crate_root(package: &Package) -> (PathBuf, String) {
    let path = ["src/lib.rs", "src/main.rs"].map(|file| package.folder.join(file));
    let path = path.into_iter().find(|path| path.exists()).expect("a crate has a first file");
    let text = text(&path);
    (path, text)
}

fn may_depend(from: &str, on: &Dependency) -> Result<(), String> {
    let (_, allowed) = EDGES.iter().find(|(name, _)| *name == from).ok_or_else(|| {
        format!("{from} is not in the table of edges: give it a line there and in the design")
    })?;
    if on.name.starts_with("fitment") && !allowed.contains(&on.name.as_str()) {
        return Err(format!("{from} depends on {}; it may use only: {}", on.name, allowed.join(", ")));
    }
    if on.name == "fitment-candle" && !on.optional {
        return Err(format!("{from} depends on {} without a feature that switches it on", on.name));
    }
    if on.name == "rayon" && !on.optional && !IMPURE.contains(&from) {
        return Err(format!(
            "{from} is pure: rayon only as an optional dependency of the feature `parallel`"
        ));
    }
    Ok(())
}

/// The lines of a manifest's dependency sections, each with its section.
fn dependency_lines(manifest: &str) -> Vec<(&str, &str)> {
    let mut section = "";
    let mut lines = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']);
        } else if section.ends_with("dependencies") && !line.is_empty() && !line.starts_with('#') {
            lines.push((section, line));
        }
    }
    lines
}

/// Names the dependencies of the root manifest that do not say why they are there. Our own crates need no reason.
fn without_reason(manifest: &str) -> Vec<&str> {
    let has_reason = |line: &str| line.rsplit_once('#').is_some_and(|(_, reason)| reason.trim().len() > 10);
    let lines = dependency_lines(manifest).into_iter().map(|(_, line)| line);
    lines.filter(|line| !line.starts_with("fitment") && !has_reason(line)).collect()
}

#[test]
fn no_crate_uses_one_that_the_table_does_not_allow() {
    let mut faults = Vec::new();
    for package in packages() {
        faults.extend(package.dependencies.iter().filter_map(|on| may_depend(&package.name, on).err()));
    }
    assert_none(&faults);
}

#[test]
fn the_edge_check_rejects_made_up_edges() {
    let on = |name: &str| Dependency { name: name.to_owned(), optional: false };
    assert!(may_depend("fitment-convert", &on("fitment-core")).is_ok());
    assert!(may_depend("fitment-core", &on("serde")).is_ok());
    for (from, to) in [
        ("fitment-core", "fitment-math"),
        ("fitment-apply", "fitment-io"),
        ("fitment-wasm", "fitment-io"),
        ("fitment-convert", "fitment-tests"),
        ("fitment", "fitment-candle"),
        ("fitment-math", "rayon"),
        ("fitment-new", "fitment-core"),
    ] {
        assert!(may_depend(from, &on(to)).is_err(), "{from} -> {to}");
    }
}

#[test]
fn every_dependency_says_why_it_is_there() {
    assert_eq!(without_reason(&text(&root().join("Cargo.toml"))), [""; 0]);
}

#[test]
fn the_reason_check_rejects_a_bare_dependency() {
    let manifest =
        "[workspace.dependencies]\nhalf = \"2\" # f16 conversions\nserde = \"1\"\nrand = \"1\" # x\n";
    assert_eq!(without_reason(manifest), ["serde = \"1\"", "rand = \"1\" # x"]);
}

#[test]
fn versions_stand_only_in_the_root_manifest() {
    let mut faults = Vec::new();
    for package in packages() {
        let manifest = text(&package.folder.join("Cargo.toml"));
        let own_version =
            dependency_lines(&manifest).into_iter().filter(|(_, line)| !line.contains("workspace = true"));
        faults.extend(own_version.map(|(section, line)| format!("{}, [{section}]: {line}", package.name)));
    }
    assert_none(&faults);
}

#[test]
fn every_crate_keeps_the_lints_of_the_workspace() {
    let mut faults = Vec::new();
    for package in packages() {
        if !text(&package.folder.join("Cargo.toml")).contains("\n[lints]\nworkspace = true") {
            faults.push(format!("{}: its manifest lacks `[lints] workspace = true`", package.name));
        }
        let (path, first_file) = crate_root(&package);
        // rustfmt may break the attribute over lines.
        let attributes: String = first_file.split_whitespace().collect();
        let warns = attributes.contains("#![warn(clippy::disallowed_methods,reason=");
        if warns == IMPURE.contains(&package.name.as_str()) {
            faults.push(format!(
                "{}: pure crates, and no others, warn of clippy::disallowed_methods",
                path.display()
            ));
        }
    }
    assert_none(&faults);
}

#[test]
fn unsafe_code_lies_only_where_the_design_puts_it() {
    let allowed: BTreeMap<_, _> = UNSAFE_FILES.iter().copied().collect();
    let mut faults = Vec::new();
    for package in packages() {
        let Some(&limit) = allowed.get(package.name.as_str()) else {
            let (path, first_file) = crate_root(&package);
            if !first_file.contains("\n#![forbid(unsafe_code)]") {
                faults.push(format!("{}: lacks #![forbid(unsafe_code)]", path.display()));
            }
            continue;
        };
        let lifts = |path: &PathBuf| text(path).contains("unsafe_code");
        let files: Vec<_> = rust_files(&package.folder.join("src")).into_iter().filter(lifts).collect();
        if files.len() > limit {
            faults.push(format!("{}: unsafe code in {files:?}, allowed in {limit}", package.name));
        }
    }
    assert_none(&faults);
}
