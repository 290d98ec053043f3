//! What servers make of every fixture of PEFT. `BLESS=1` rewrites `fixtures/peft/servers.txt`; the diff is to be read.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod applied;

use applied::weights;
use fitment_convert::{Files, FormatId, Loss, OutputFile, Preset, ReadOptions, WriteOptions, read, write};
use fitment_core::Severity;
use fitment_core::checkpoint::Checkpoint;
use fitment_io::{Access, AdapterFiles, CheckpointDir};
use fitment_tests::compare::{Distance, distance};
use fitment_tests::place::fixture;
use fitment_validate::servers::{SERVERS, Server, find};
use fitment_validate::{Input, Options, Outcome, validate};
use serde_json::Value;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

fn judged(folder: &Path, name: Option<&str>, base: Option<&Path>, server: &'static Server) -> Outcome {
    let files = AdapterFiles::load(&folder.join("adapter")).unwrap();
    let files = files.iter().collect();
    let base = base.map(|base| CheckpointDir::open(base, Access::Map).unwrap());
    let base = base.as_ref().map(|base| base as &dyn Checkpoint);
    let options = ReadOptions { from: Some(FormatId::Peft), adapter_name: name, ..ReadOptions::default() };
    let input = Input { name: "adapter", files: &files, options };
    validate(&input, base, &Options { servers: vec![server], ..Options::default() }).unwrap()
}

/// The findings about servers, up to where the reason begins.
fn told(outcome: &Outcome) -> Vec<String> {
    let of_servers = outcome.findings.iter().filter(|finding| finding.code.0.starts_with('V'));
    let line = |finding: &fitment_core::Finding| {
        let what = finding.message.split_once(": ").map_or(&*finding.message, |(what, _)| what);
        format!("{} {} ({})", finding.code, what, finding.place)
    };
    of_servers.map(line).collect()
}

/// Folder, adapter's name and base of every case of PEFT.
fn peft_cases() -> Vec<(PathBuf, Option<String>, Option<PathBuf>)> {
    let mut folders: Vec<_> =
        fs::read_dir(fixture("peft")).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    let mut cases = Vec::new();
    for folder in folders {
        let Ok(facts) = fs::read(folder.join("case.json")) else { continue };
        let facts: Value = serde_json::from_slice(&facts).unwrap();
        let base = facts["base"].as_str().map(|base| folder.join(base)).filter(|base| base.exists());
        let names: Vec<Option<String>> = match facts["adapters"].as_object() {
            Some(adapters) => adapters.keys().cloned().map(Some).collect(),
            None => vec![None],
        };
        cases.extend(names.into_iter().map(|name| (folder.clone(), name, base.clone())));
    }
    cases
}

#[test]
fn every_fixture_is_judged_for_every_server() {
    let mut text = String::new();
    for (folder, name, base) in peft_cases() {
        let case = folder.file_name().unwrap().to_string_lossy();
        let which = name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
        writeln!(text, "{case}{which}").unwrap();
        for server in SERVERS.iter().filter(|server| server.takes == FormatId::Peft) {
            for line in told(&judged(&folder, name.as_deref(), base.as_deref(), server)) {
                writeln!(text, "  {line}").unwrap();
            }
        }
    }
    let golden = fixture("peft").join("servers.txt");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&golden, &text).unwrap();
    }
    assert_eq!(fs::read_to_string(&golden).unwrap_or_default(), text, "BLESS=1 rewrites it; read the diff");
}

/// Where the base is needed to know what an adapter of PEFT does, the files alone say what a server makes of them.
#[test]
fn an_adapter_that_needs_its_base_is_judged_without_it() {
    for (case, server, lines) in
        [("embedding", "vllm", 0), ("lm_head", "sglang", 0), ("lm_head", "mistralrs", 1)]
    {
        let outcome = judged(&fixture("peft").join(case), None, None, find(server).unwrap());
        assert_eq!((told(&outcome).len(), &outcome.checked.servers[..]), (lines, &[server][..]), "{case}");
    }
}

/// What only a base can tell is no refusal of the server's.
#[test]
fn names_of_llama_cpp_are_not_known_without_the_base() {
    let (folder, server) = (fixture("peft/linear"), find("llama.cpp").unwrap());
    let without = judged(&folder, None, None, server);
    assert!(without.checked.servers.is_empty());
    assert_eq!(told(&without), ["V005 nothing was checked for llama.cpp of October 2026 ()"]);
    assert_eq!(told(&judged(&folder, None, Some(&folder.join("base")), server)), [""; 0]);
}

#[test]
fn rules_are_whole_sentences_and_servers_have_names_of_their_own() {
    for server in SERVERS {
        assert_eq!(find(server.name).unwrap().title, server.title);
        assert!(!server.version.is_empty() && !server.source.is_empty());
        for rule in server.rules {
            assert!(!rule.how.ends_with('.') && !rule.how.is_empty(), "{}: {}", server.name, rule.how);
        }
    }
}

/// Files by their paths.
type Folder = Vec<(String, Vec<u8>)>;

/// The adapter of a case as it is written for servers, and how far it is then from itself.
fn servable(folder: &Path, name: Option<&str>, base: &dyn Checkpoint) -> Option<(Folder, Distance)> {
    let files = AdapterFiles::load(&folder.join("adapter")).unwrap();
    let options = ReadOptions { base: Some(base), adapter_name: name, ..ReadOptions::default() };
    let adapter = read(&files.iter().collect(), &options).ok()?.adapter;
    let preset = Some(Preset::Servable);
    let written = write(&adapter, FormatId::Peft, &WriteOptions { base: Some(base), preset }).ok()?;
    if written.losses.iter().any(Loss::changes_function) {
        return None;
    }
    let bytes = |file: &OutputFile<'_>| {
        let mut bytes = Vec::new();
        file.write_to(&mut bytes).unwrap();
        (file.path.clone(), bytes)
    };
    let folder: Folder = written.files.iter().map(bytes).collect();
    let files: Files<'_> = folder.iter().map(|(path, bytes)| (path.as_str(), &bytes[..])).collect();
    let options = ReadOptions { base: Some(base), refit: true, ..ReadOptions::default() };
    let back = read(&files, &options).unwrap().adapter;
    let (wanted, found) = (weights(&adapter, base), weights(&back, base));
    assert_eq!(wanted.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
    let mut farthest = Distance::default();
    for (name, bytes) in &wanted {
        let found =
            distance(base.tensors()[name].dtype, &found[name], bytes, Some(&base.read(name).unwrap()));
        farthest.relative = farthest.relative.max(found.relative);
        farthest.ulps = farthest.ulps.max(found.ulps);
    }
    Some((folder, farthest))
}

#[test]
fn what_is_written_for_servers_is_loaded_by_all_and_computes_the_same() {
    let mut cases = Vec::new();
    for (folder, name, base) in peft_cases() {
        let Some(base) = base.map(|base| CheckpointDir::open(&base, Access::Map).unwrap()) else { continue };
        let Some((files, far)) = servable(&folder, name.as_deref(), &base) else { continue };
        let case = folder.file_name().unwrap().to_string_lossy().into_owned();
        // A scale that is no power of two is rounded into the factors, once to F32.
        assert!(far.relative <= 5e-7 || far.ulps <= 1.0, "{case}: {far:?}");
        let files: Files<'_> = files.iter().map(|(path, bytes)| (path.as_str(), &bytes[..])).collect();
        // Stacks of experts come apart into matrices that such a base has not by name.
        let has_stacks = base.tensors().keys().any(|name| name.ends_with(".experts.gate_up_proj"));
        let at_hand = Some(&base as &dyn Checkpoint).filter(|_| !has_stacks);
        for server in SERVERS.iter().filter(|server| server.takes == FormatId::Peft) {
            let input = Input { name: "a", files: &files, options: ReadOptions::default() };
            let options = Options { servers: vec![server], ..Options::default() };
            let outcome = validate(&input, at_hand, &options).unwrap();
            assert_eq!(told(&outcome), [""; 0], "{case}");
            assert!(outcome.findings.iter().all(|found| found.severity < Severity::Error), "{case}");
        }
        cases.push(case);
    }
    assert!(cases.len() >= 15, "{cases:?}");
    for case in [
        "experts_stacked",
        "experts_mixtral",
        "experts_square",
        "experts_each",
        "experts_0_17",
        "experts_0_19_0",
    ] {
        assert!(cases.iter().any(|known| known == case), "{case}: {cases:?}");
    }
}

/// Of models that vLLM takes with stacks alone, and of unknown ones, the loss says what to do.
#[test]
fn stacks_that_no_form_is_for_are_a_loss_with_a_way_out() {
    for (case, has_base, way) in [
        ("experts_gpt_oss", true, "fitment apply"),
        ("experts_gpt_oss", false, "--base"),
        ("experts_stacked", false, "--base"),
    ] {
        let folder = fixture("peft").join(case);
        let files = AdapterFiles::load(&folder.join("adapter")).unwrap();
        let base = CheckpointDir::open(&folder.join("base"), Access::Map).unwrap();
        let base = Some(&base as &dyn Checkpoint).filter(|_| has_base);
        let files: Files<'_> = files.iter().collect();
        let Ok(adapter) = read(&files, &ReadOptions { base, ..ReadOptions::default() }) else {
            panic!("{case}")
        };
        let options = WriteOptions { base, preset: Some(Preset::Servable) };
        let told = match write(&adapter.adapter, FormatId::Peft, &options) {
            Ok(written) => written.losses.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
            Err(error) => error.to_string(),
        };
        assert!(told.contains("experts") && told.contains(way), "{case}: {told}");
    }
}

/// A file is judged as it lies there, not as it would be written today.
#[test]
fn older_layouts_of_experts_are_judged_as_they_are() {
    for (case, is_old) in [
        ("experts_0_17", true),
        ("experts_0_18_square", true),
        ("experts_0_18_gpt_oss", false),
        ("experts_0_19_0_gpt_oss", true),
        ("experts_mixtral", false),
    ] {
        let folder = fixture("peft").join(case);
        for server in ["vllm", "mistralrs"] {
            let outcome = judged(&folder, None, Some(&folder.join("base")), find(server).unwrap());
            let is_told =
                outcome.findings.iter().any(|found| found.message.contains("layout of an older PEFT"));
            assert_eq!(is_told, is_old, "{case}, {server}: {:?}", outcome.findings);
        }
    }
}
