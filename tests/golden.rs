//! Golden dumps: what every fixture means, once read on its base, with all losses and findings and what each writer
//! loses of it. `BLESS=1` rewrites `expected.txt`; the diff is to be read.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_convert::{Ask, FORMATS, FormatId, ReadOptions, WriteOptions};
use fitment_core::model::dump;
use fitment_io::{Access, AdapterFiles, CheckpointDir};
use fitment_tests::place::fixture;
use serde_json::Value;
use std::fs;
use std::path::Path;

#[test]
fn every_fixture_means_what_its_dump_says() {
    let mut stale = Vec::new();
    let mut count = 0;
    // The format of this project has its own vectors.
    let foreign = FORMATS.iter().filter(|format| format.checks.is_some());
    let folders = foreign
        .map(|format| (format.id, format.name))
        .chain([(FormatId::Gguf, "gguf-lora"), (FormatId::Peft, "mergekit-extract")]);
    let cases =
        folders.flat_map(|(id, folder)| fs::read_dir(fixture(folder)).unwrap().map(move |entry| (id, entry)));
    for (format, entry) in cases {
        let folder = entry.unwrap().path();
        let Ok(facts) = fs::read(folder.join("case.json")) else { continue };
        let facts: Value = serde_json::from_slice(&facts).unwrap();
        let golden = folder.join("expected.txt");
        let found = describe(format, &folder, &facts);
        if std::env::var_os("BLESS").is_some() {
            fs::write(&golden, &found).unwrap();
        }
        if fs::read_to_string(&golden).ok().as_deref() != Some(found.as_str()) {
            stale.push(folder.file_name().unwrap().to_string_lossy().into_owned());
        }
        count += 1;
    }
    assert!(count >= 113, "{count} fixtures");
    assert!(stale.is_empty(), "BLESS=1 rewrites the dumps of {stale:?}; read the diff");
}

fn describe(format: FormatId, folder: &Path, facts: &Value) -> String {
    let adapter = ["adapter", "vector.gguf", "lora.gguf"]
        .iter()
        .map(|name| folder.join(name))
        .find(|path| path.exists());
    let files = AdapterFiles::load(&adapter.unwrap()).unwrap();
    let blobs = files.iter().collect();
    let base = facts["base"].as_str().map(|base| folder.join(base)).filter(|base| base.exists());
    let base = base.map(|base| CheckpointDir::open(&base, Access::Map).unwrap());
    let names: Vec<Option<&str>> = match facts["adapters"].as_object() {
        Some(adapters) => adapters.keys().map(|name| Some(name.as_str())).collect(),
        None => vec![None],
    };
    let mut text = String::new();
    for adapter_name in names {
        if let Some(name) = adapter_name {
            text.push_str(&format!("adapter {name}\n"));
        }
        let base = base.as_ref().map(|base| base as &dyn fitment_core::checkpoint::Checkpoint);
        // Interventions do not say all that they do; the case does.
        let formula = facts["kind"].as_str();
        let asked = |ask, said| formula.filter(|_| format.format().asks.contains(&ask)).map(|_| said);
        let options = ReadOptions {
            from: Some(format),
            base,
            adapter_name,
            positions: asked(Ask::Positions, "f3+l2"),
            activation: asked(Ask::Activation, facts["activation"].as_str().unwrap_or("none")),
            formula,
            alpha: facts["alpha"].as_str(),
            ..ReadOptions::default()
        };
        match fitment_convert::read(&blobs, &options) {
            Err(error) => {
                text.push_str(&format!("refused: {error}\n"));
                text.push_str(&error.hint().map(|hint| format!("hint: {hint}\n")).unwrap_or_default());
            }
            Ok(converted) => {
                converted.findings.iter().for_each(|finding| text.push_str(&format!("{finding}\n")));
                converted
                    .losses
                    .iter()
                    .for_each(|loss| text.push_str(&format!("loss {}: {loss}\n", loss.id())));
                for format in FORMATS.iter().filter(|format| format.write.is_some()) {
                    let written =
                        fitment_convert::write(&converted.adapter, format.id, &WriteOptions::on(base));
                    let losses = match written {
                        Ok(written) => written.losses.iter().map(ToString::to_string).collect(),
                        Err(error) => vec![format!("refused: {error}")],
                    };
                    for loss in losses {
                        text.push_str(&format!("to {}: {loss}\n", format.name));
                    }
                }
                text.push_str(&dump(&converted.adapter));
            }
        }
    }
    text
}
