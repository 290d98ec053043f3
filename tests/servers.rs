//! What servers make of every fixture of PEFT. `BLESS=1` rewrites `fixtures/peft/servers.txt`; the diff is to be read.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_convert::{FormatId, ReadOptions};
use fitment_io::{Access, AdapterFiles, CheckpointDir};
use fitment_tests::place::fixture;
use fitment_validate::servers::{SERVERS, Server, find};
use fitment_validate::{Input, Options, Outcome, validate};
use serde_json::Value;
use std::fmt::Write;
use std::fs;
use std::path::Path;

fn judged(folder: &Path, name: Option<&str>, base: Option<&Path>, server: &'static Server) -> Outcome {
    let files = AdapterFiles::load(&folder.join("adapter")).unwrap();
    let files = files.iter().collect();
    let base = base.map(|base| CheckpointDir::open(base, Access::Map).unwrap());
    let base = base.as_ref().map(|base| base as &dyn fitment_core::checkpoint::Checkpoint);
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

#[test]
fn every_fixture_is_judged_for_every_server() {
    let mut text = String::new();
    let mut folders: Vec<_> =
        fs::read_dir(fixture("peft")).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    for folder in folders {
        let Ok(facts) = fs::read(folder.join("case.json")) else { continue };
        let facts: Value = serde_json::from_slice(&facts).unwrap();
        let base = facts["base"].as_str().map(|base| folder.join(base)).filter(|base| base.exists());
        let names: Vec<Option<&str>> = match facts["adapters"].as_object() {
            Some(adapters) => adapters.keys().map(|name| Some(name.as_str())).collect(),
            None => vec![None],
        };
        for name in names {
            let case = folder.file_name().unwrap().to_string_lossy();
            writeln!(text, "{case}{}", name.map(|name| format!(" {name}")).unwrap_or_default()).unwrap();
            for server in SERVERS.iter().filter(|server| server.takes == FormatId::Peft) {
                for line in told(&judged(&folder, name, base.as_deref(), server)) {
                    writeln!(text, "  {line}").unwrap();
                }
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
