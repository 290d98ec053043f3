//! The rules of the crates that no compiler checks: who may depend on whom, what stays pure, what needs a reason.

use std::path::PathBuf;
use std::process::Command;

use fitment_tests::place::root;
use fitment_tests::source::{assert_none, rust_files, text};
use serde_json::Value;

/// Every crate, and whom of ours it may use: in any section (normal, build, dev), for any target, under any feature.
const EDGES: &[(&str, &[&str])] = &[
    ("fitment-core", &[]),
    ("fitment-math", &["fitment-core"]),
    ("fitment-torch", &["fitment-core"]),
    ("fitment-convert", &["fitment-core", "fitment-math", "fitment-torch"]),
    ("fitment-validate", &["fitment-core", "fitment-convert", "fitment-math"]),
    ("fitment-merge", &["fitment-core", "fitment-math"]),
    ("fitment-apply", &["fitment-core", "fitment-math"]),
    ("fitment-diff", &["fitment-core", "fitment-math"]),
    ("fitment-report", &["fitment-core", "fitment-convert", "fitment-validate", "fitment-math"]),
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
    "fitment-torch",
    "fitment-convert",
    "fitment-validate",
    "fitment-merge",
    "fitment-apply",
    "fitment-diff",
    "fitment-report",
    "fitment-candle",
    "fitment-io",
];

/// Those that may touch files, threads, clock or environment; all others are pure and build for wasm32.
const IMPURE: &[&str] = &["fitment-io", "fitment-candle", "fitment", "fitment-tests"];

/// Those that may hold unsafe code, and in how many files.
const UNSAFE_FILES: &[(&str, usize)] =
    &[("fitment-io", usize::MAX), ("fitment-math", 1), ("fitment-wasm", 1)];

struct Package {
    name: String,
    /// Whether it goes to the registry.
    is_published: bool,
    /// What its manifest names as its readme.
    readme: Option<PathBuf>,
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
        // No list of registries means all of them; an empty one, none.
        is_published: value["publish"].is_null(),
        readme: value["readme"].as_str().map(PathBuf::from),
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

/// Names the dependencies of a crate's manifest that do not take their version from the root.
fn own_versions(manifest: &str) -> Vec<(&str, &str)> {
    let lines = dependency_lines(manifest).into_iter();
    lines.filter(|(_, line)| !line.contains("workspace = true")).collect()
}

#[test]
fn versions_stand_only_in_the_root_manifest() {
    let mut faults = Vec::new();
    for package in packages() {
        let manifest = text(&package.folder.join("Cargo.toml"));
        let lines = own_versions(&manifest).into_iter();
        faults.extend(lines.map(|(section, line)| format!("{}, [{section}]: {line}", package.name)));
    }
    assert_none(&faults);
}

#[test]
fn the_version_check_rejects_a_version_in_any_section() {
    let manifest = "[package]\nversion = \"1\"\n[dependencies]\nserde.workspace = true\nhalf = \"2\"\n
[target.'cfg(unix)'.dev-dependencies]\nlibc = { version = \"0.2\" }\nrayon = { workspace = true }\n";
    let wanted = [
        ("dependencies", "half = \"2\""),
        ("target.'cfg(unix)'.dev-dependencies", "libc = { version = \"0.2\" }"),
    ];
    assert_eq!(own_versions(manifest), wanted);
}

/// What of the workspace's lints a crate does not keep, by its manifest and its first file.
fn lint_faults(name: &str, manifest: &str, first_file: &str) -> Vec<&'static str> {
    // rustfmt may break the attribute over lines.
    let attributes: String = first_file.split_whitespace().collect();
    let warns = attributes.contains("#![warn(clippy::disallowed_methods,reason=");
    let faults = [
        (!manifest.contains("\n[lints]\nworkspace = true"), "its manifest lacks `[lints] workspace = true`"),
        (
            warns == IMPURE.contains(&name),
            "pure crates, and no others, warn of clippy::disallowed_methods in their first file",
        ),
    ];
    faults.into_iter().filter(|(is_fault, _)| *is_fault).map(|(_, fault)| fault).collect()
}

#[test]
fn every_crate_keeps_the_lints_of_the_workspace() {
    let mut faults = Vec::new();
    for package in packages() {
        let (_, first_file) = crate_root(&package);
        let found = lint_faults(&package.name, &text(&package.folder.join("Cargo.toml")), &first_file);
        faults.extend(found.into_iter().map(|fault| format!("{}: {fault}", package.name)));
    }
    assert_none(&faults);
}

#[test]
fn the_lint_check_rejects_a_crate_that_keeps_none() {
    let manifest = "[package]\n\n[lints]\nworkspace = true\n";
    let warns = "#![warn(\n    clippy::disallowed_methods,\n    reason = \"pure\"\n)]\n";
    assert_eq!(lint_faults("fitment-core", manifest, warns), [""; 0]);
    assert_eq!(lint_faults("fitment-io", manifest, ""), [""; 0]);
    assert_eq!(lint_faults("fitment-core", "[package]\n", "").len(), 2);
    assert_eq!(lint_faults("fitment-core", manifest, "#![warn(clippy::disallowed_methods)]").len(), 1);
    assert_eq!(lint_faults("fitment-io", manifest, warns).len(), 1);
}

/// Why a crate with these files (the first of them its root) may not hold the unsafe code that it could.
fn unsafe_fault(name: &str, files: &[(PathBuf, String)]) -> Option<String> {
    let Some((_, limit)) = UNSAFE_FILES.iter().find(|(allowed, _)| *allowed == name) else {
        let forbids = files.first().is_some_and(|(_, text)| text.contains("\n#![forbid(unsafe_code)]"));
        return (!forbids).then(|| format!("{name}: its first file lacks #![forbid(unsafe_code)]"));
    };
    let lifting = files.iter().filter(|(_, text)| text.contains("unsafe_code")).map(|(path, _)| path);
    let lifting: Vec<_> = lifting.collect();
    (lifting.len() > *limit).then(|| format!("{name}: unsafe code in {lifting:?}, allowed in {limit}"))
}

#[test]
fn unsafe_code_lies_only_where_the_design_puts_it() {
    let mut faults = Vec::new();
    for package in packages() {
        let (root, first_file) = crate_root(&package);
        let others = rust_files(&package.folder.join("src")).into_iter().filter(|path| *path != root);
        let others = others.map(|path| (path.clone(), text(&path)));
        let files: Vec<_> = [(root.clone(), first_file)].into_iter().chain(others).collect();
        faults.extend(unsafe_fault(&package.name, &files));
    }
    assert_none(&faults);
}

#[test]
fn the_unsafe_check_rejects_a_crate_that_does_not_forbid_it_and_a_second_file_that_lifts_it() {
    let file = |name: &str, text: &str| (PathBuf::from(name), text.to_owned());
    let forbids = file("lib.rs", "//! Docs.\n\n#![forbid(unsafe_code)]\n");
    let (plain, lifts) = (file("lib.rs", "//! Docs.\n"), "#![allow(unsafe_code, reason = \"a map\")]\n");
    assert_eq!(unsafe_fault("fitment-core", &[forbids]), None);
    assert!(
        unsafe_fault("fitment-core", &[plain.clone(), file("b.rs", "#![forbid(unsafe_code)]\n")]).is_some()
    );
    assert_eq!(unsafe_fault("fitment-math", &[plain.clone(), file("a.rs", lifts)]), None);
    assert!(unsafe_fault("fitment-math", &[plain, file("a.rs", lifts), file("b.rs", lifts)]).is_some());
}

/// What a published crate would lack in the registry: cargo packs only what lies in its folder, and the readme.
fn packing_faults(package: &Package) -> Vec<String> {
    let mut faults = Vec::new();
    for name in ["LICENSE-APACHE", "LICENSE-MIT"] {
        let same = std::fs::read(package.folder.join(name)).ok() == std::fs::read(root().join(name)).ok();
        if !same {
            faults.push(format!("{}: no {name} in its folder: link the one of the root", package.name));
        }
    }
    if !package.readme.as_ref().is_some_and(|path| package.folder.join(path).is_file()) {
        faults.push(format!("{}: its manifest names no readme that is there", package.name));
    }
    faults
}

#[test]
fn every_published_crate_carries_its_licences_and_a_readme() {
    let published = packages().into_iter().filter(|package| package.is_published);
    let faults: Vec<String> = published.flat_map(|package| packing_faults(&package)).collect();
    assert_none(&faults);
}

#[test]
fn the_packing_check_rejects_a_crate_with_neither() {
    let bare = |readme: Option<&str>| Package {
        name: "fitment-new".to_owned(),
        is_published: true,
        readme: readme.map(PathBuf::from),
        folder: root().join("tests"),
        dependencies: Vec::new(),
    };
    assert_eq!(packing_faults(&bare(None)).len(), 3);
    assert_eq!(packing_faults(&bare(Some("nowhere.md"))).len(), 3);
    assert_eq!(packing_faults(&bare(Some("../README.md"))).len(), 2);
}
