//! Outputs appear whole or not at all, and nothing that was there is lost.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use fitment_core::checkpoint::{Checkpoint, CheckpointSink, OutputTensor, TensorInfo};
use fitment_core::tensor::{Dtype, Shape};
use fitment_io::{
    Access, CheckpointDir, CheckpointOutput, Error, FolderFile, OutputOptions, write_file_atomic,
    write_folder_atomic, write_pieces_atomic,
};
use serde_json::json;
use std::fs;
use std::path::Path;
use support::{copy_all, hf_folder, line, names, pattern, same_tensors, tree, write, write_shard};

fn force() -> OutputOptions {
    OutputOptions { force: true, ..OutputOptions::default() }
}

fn refused(base: &CheckpointDir, target: &Path, options: &OutputOptions, root: &Path) -> String {
    line(&copy_all(base, target, options).expect_err("is refused"), root)
}

#[test]
fn a_folder_has_the_bases_shards_and_small_files() {
    let root = tempfile::tempdir().unwrap();
    let base = CheckpointDir::open(&hf_folder(root.path()), Access::Map).unwrap();
    let target = root.path().join("out");
    let mut tensors = same_tensors(&base);
    let info = |len: u64| TensorInfo { dtype: Dtype::U8, shape: Shape::new(&[len]).unwrap() };
    tensors.push(OutputTensor { name: "use".into(), info: info(3), beside: Some("embed".into()) });
    tensors.push(OutputTensor { name: "new".into(), info: info(2), beside: None });
    let tensors: Vec<&OutputTensor> = tensors.iter().collect();
    let config = [(vec!["tie".to_owned()], json!(false))];
    let output =
        CheckpointOutput::create(&base, &target, (&tensors, &config), &OutputOptions::default()).unwrap();
    assert!(!target.exists());
    for name in base.tensors().keys() {
        output.copy(name, name).unwrap();
    }
    output.write("use", 1, &[2, 3]).unwrap();
    output.write("use", 0, &[1]).unwrap();
    output.write("new", 0, &[8, 9]).unwrap();
    assert!(output.write("new", 1, &[1, 2]).unwrap_err().to_string().contains("beyond its end"));
    assert!(output.copy("new", "embed").is_err());
    let finished = output.finish().unwrap();
    assert_eq!(finished.shards, ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]);
    assert_eq!(finished.carried, ["1_Pooling/config.json", "config.json", "tokenizer.json", "vocab.txt"]);
    assert_eq!(
        finished.left_out,
        [".gitattributes", "consolidated.safetensors", "pytorch_model.bin", "pytorch_model.bin.index.json"]
    );
    assert_eq!(names(root.path()), ["base", "out"]);

    let written = CheckpointDir::open(&target, Access::Read).unwrap();
    assert_eq!(written.read("b").unwrap(), pattern("b", 300_000));
    assert_eq!(
        (&written.read("use").unwrap()[..], &written.read("new").unwrap()[..]),
        (&[1, 2, 3][..], &[8, 9][..])
    );
    let files = tree(&target);
    assert_eq!(files["config.json"], b"{\n  \"vocab_size\": 4,\n  \"tie\":  false\n}\n");
    let index: serde_json::Value = serde_json::from_slice(&files["model.safetensors.index.json"]).unwrap();
    assert_eq!(index["metadata"], json!({"total_size": 5007 + 300_000 + 5, "x": 2}));
    assert_eq!(index["weight_map"]["use"], "model-00001-of-00002.safetensors");
    assert_eq!(index["weight_map"]["new"], "model-00002-of-00002.safetensors");
    let shard = &files["model-00001-of-00002.safetensors"];
    assert!(String::from_utf8_lossy(&shard[8..200]).starts_with(r#"{"__metadata__":{"format":"pt"},"#));
}

#[test]
fn the_same_input_gives_the_same_folder() {
    let root = tempfile::tempdir().unwrap();
    let path = hf_folder(root.path());
    for (access, name) in [(Access::Map, "one"), (Access::Read, "two")] {
        let base = CheckpointDir::open(&path, access).unwrap();
        copy_all(&base, &root.path().join(name), &OutputOptions::default()).unwrap();
    }
    assert_eq!(tree(&root.path().join("one")), tree(&root.path().join("two")));
}

#[test]
fn another_tokenizer_replaces_all_of_the_old_one() {
    let root = tempfile::tempdir().unwrap();
    let base = CheckpointDir::open(&hf_folder(root.path()), Access::Map).unwrap();
    let tokenizer = root.path().join("tokenizer");
    write(&tokenizer.join("tokenizer.json"), "new");
    write(&tokenizer.join("README.md"), "not a tokenizer");
    let options = OutputOptions { tokenizer: Some(tokenizer.clone()), ..OutputOptions::default() };
    copy_all(&base, &root.path().join("out"), &options).unwrap();
    let files = tree(&root.path().join("out"));
    assert_eq!(files["tokenizer.json"], b"new");
    assert!(!files.contains_key("vocab.txt") && !files.contains_key("README.md"));
    fs::remove_file(tokenizer.join("tokenizer.json")).unwrap();
    let text = refused(&base, &root.path().join("other"), &options, root.path());
    assert!(text.starts_with("ROOT/tokenizer: holds no tokenizer"), "{text}");
}

#[test]
fn one_file_becomes_one_file_or_a_folder() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("base.safetensors");
    write_shard(&path, &[("w", 100)], &[("format", "pt")]);
    let base = CheckpointDir::open(&path, Access::Map).unwrap();
    copy_all(&base, &root.path().join("out.safetensors"), &OutputOptions::default()).unwrap();
    copy_all(&base, &root.path().join("folder"), &OutputOptions::default()).unwrap();
    assert_eq!(fs::read(root.path().join("out.safetensors")).unwrap(), fs::read(&path).unwrap());
    assert_eq!(names(&root.path().join("folder")), ["base.safetensors"]);
    let folder = CheckpointDir::open(&hf_folder(root.path()), Access::Map).unwrap();
    let text = refused(&folder, &root.path().join("x.safetensors"), &OutputOptions::default(), root.path());
    assert_eq!(text, "ROOT/x.safetensors: names a file, but the base is a folder: name a folder");
}

#[test]
fn an_output_needs_a_place_of_its_own() {
    let root = tempfile::tempdir().unwrap();
    let path = hf_folder(root.path());
    let base = CheckpointDir::open(&path, Access::Map).unwrap();
    let text = |target: &Path| refused(&base, target, &force(), root.path());
    assert_eq!(text(&path), "ROOT/base: is an input: the output needs a place of its own");
    assert_eq!(
        text(&path.join("out")),
        "ROOT/base/out: lies inside an input: the output needs a place of its own"
    );
    assert_eq!(
        text(&root.path().join("base/../base")),
        "ROOT/base/../base: is an input: the output needs a place of its own"
    );
    assert!(text(root.path()).ends_with("contains an input: the output needs a place of its own"));
    assert_eq!(
        text(&root.path().join("no/out")),
        "ROOT/no/out: the folder that it should go in does not exist"
    );
    assert_eq!(text(Path::new("/")), "/: is not a name for an output");
    let link = root.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert_eq!(text(&link), "ROOT/link: is an input: the output needs a place of its own");
    let adapter = root.path().join("adapter");
    write(&adapter.join("adapter_config.json"), "{}");
    let options = OutputOptions { force: true, inputs: vec![adapter.clone()], ..OutputOptions::default() };
    assert!(refused(&base, &adapter, &options, root.path()).contains("is an input"));
}

#[test]
fn what_exists_is_replaced_only_by_force_and_only_if_all_of_it_is_a_model() {
    let root = tempfile::tempdir().unwrap();
    let base = CheckpointDir::open(&hf_folder(root.path()), Access::Map).unwrap();
    let target = root.path().join("out");
    write(&target.join("config.json"), "old");
    write(&target.join("model-00009-of-00009.safetensors"), "old");
    write(&target.join("merges.txt"), "old");
    write(&target.join("vocab.txt"), "old");
    let error = copy_all(&base, &target, &OutputOptions::default()).unwrap_err();
    assert!(matches!(&error, Error::Exists { .. }) && error.hint().unwrap().contains("--force"));
    assert_eq!(fs::read(target.join("merges.txt")).unwrap(), b"old");
    copy_all(&base, &target, &force()).unwrap();
    assert!(!target.join("merges.txt").exists() && target.join("vocab.txt").exists());
    assert_eq!(names(root.path()), ["base", "out"]);
    copy_all(&base, &target, &force()).unwrap();

    write(&target.join("notes/a.md"), "mine");
    write(&target.join("thesis.txt"), "mine");
    let error = copy_all(&base, &target, &force()).unwrap_err();
    assert!(matches!(&error, Error::Stranger { file, .. } if file == "notes/a.md") && error.hint().is_some());
    assert_eq!(fs::read(target.join("thesis.txt")).unwrap(), b"mine");

    let home = root.path().join("home");
    write(&home.join("thesis.txt"), "years of work");
    assert!(refused(&base, &home, &force(), root.path()).contains("thesis.txt in it is no part"));
    assert_eq!(fs::read(home.join("thesis.txt")).unwrap(), b"years of work");
    fs::create_dir(root.path().join("empty")).unwrap();
    copy_all(&base, &root.path().join("empty"), &force()).unwrap();
    write(&root.path().join("file"), "x");
    assert_eq!(
        refused(&base, &root.path().join("file"), &force(), root.path()),
        "ROOT/file: is a file, expected a folder to replace"
    );
}

#[test]
fn an_output_that_is_given_up_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let base = CheckpointDir::open(&hf_folder(root.path()), Access::Map).unwrap();
    let tensors = same_tensors(&base);
    let tensors: Vec<&OutputTensor> = tensors.iter().collect();
    let target = root.path().join("out");
    let output =
        CheckpointOutput::create(&base, &target, (&tensors, &[]), &OutputOptions::default()).unwrap();
    assert!(names(root.path())[0].starts_with(".out.partial-"));
    drop(output);
    assert_eq!(names(root.path()), ["base"]);
}

#[test]
fn what_appears_meanwhile_is_not_overwritten() {
    let root = tempfile::tempdir().unwrap();
    let base = CheckpointDir::open(&hf_folder(root.path()), Access::Map).unwrap();
    let tensors = same_tensors(&base);
    let tensors: Vec<&OutputTensor> = tensors.iter().collect();
    let target = root.path().join("out");
    let output =
        CheckpointOutput::create(&base, &target, (&tensors, &[]), &OutputOptions::default()).unwrap();
    fs::create_dir(&target).unwrap();
    assert!(matches!(output.finish().unwrap_err(), Error::Exists { .. }));
    assert_eq!(names(root.path()), ["base", "out"]);
    assert!(names(&target).is_empty());
}

#[test]
fn temporaries_of_dead_runs_are_removed_and_those_of_living_ones_kept() {
    let root = tempfile::tempdir().unwrap();
    let base = CheckpointDir::open(&hf_folder(root.path()), Access::Map).unwrap();
    write(&root.path().join(".out.partial-999999-0/model.safetensors"), "half");
    write(&root.path().join(".out.partial-notes/mine"), "not ours");
    let tensors = same_tensors(&base);
    let tensors: Vec<&OutputTensor> = tensors.iter().collect();
    let target = root.path().join("out");
    let living =
        CheckpointOutput::create(&base, &target, (&tensors, &[]), &OutputOptions::default()).unwrap();
    copy_all(&base, &target, &OutputOptions::default()).unwrap();
    let found = names(root.path());
    assert!(!found.contains(&".out.partial-999999-0".to_owned()));
    assert!(found.contains(&".out.partial-notes".to_owned()));
    assert_eq!(found.len(), 4, "{found:?}");
    drop(living);
}

#[test]
fn pieces_of_any_order_make_a_whole_file_or_none() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("x.fitment.safetensors");
    write_pieces_atomic(&file, 5, (false, &[]), &|sink| {
        sink(3, b"lo")?;
        Ok(sink(0, b"hel")?)
    })
    .unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"hello");
    let broken = write_pieces_atomic(&file, 5, (true, &[]), &|sink| {
        sink(0, b"new")?;
        Err("the source is broken".into())
    });
    assert_eq!(line(&broken.unwrap_err(), root.path()).rsplit(": ").next(), Some("the source is broken"));
    assert_eq!(fs::read(&file).unwrap(), b"hello");
    let beyond = write_pieces_atomic(&file, 5, (true, &[]), &|sink| Ok(sink(u64::MAX - 1, b"new")?));
    assert!(matches!(beyond.unwrap_err(), Error::Io { .. } | Error::Source { .. }));
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
}

#[test]
fn files_and_folders_are_written_whole() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("x.fitment.safetensors");
    write_file_atomic(&file, 5, (false, &[]), &|out| Ok(out.write_all(b"hello")?)).unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"hello");
    let again = write_file_atomic(&file, 3, (false, &[]), &|out| Ok(out.write_all(b"new")?));
    assert!(matches!(again.unwrap_err(), Error::Exists { .. }));
    let broken = write_file_atomic(&file, 3, (true, &[]), &|out| {
        out.write_all(b"ne")?;
        Err("the source is broken".into())
    });
    assert_eq!(line(&broken.unwrap_err(), root.path()).rsplit(": ").next(), Some("the source is broken"));
    assert_eq!(fs::read(&file).unwrap(), b"hello");
    write_file_atomic(&file, 3, (true, &[]), &|out| Ok(out.write_all(b"new")?)).unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"new");

    let folder = root.path().join("peft");
    let files = |path: &str| {
        [FolderFile { path: path.to_owned(), len: 2, write: Box::new(|out| Ok(out.write_all(b"{}")?)) }]
    };
    write_folder_atomic(&folder, &files("sub/adapter_config.json"), (false, &[])).unwrap();
    assert_eq!(tree(&folder).keys().collect::<Vec<_>>(), ["sub/adapter_config.json"]);
    for path in ["../x", "/x", "a//b", "", "a\\b"] {
        assert!(
            write_folder_atomic(&root.path().join("other"), &files(path), (false, &[])).is_err(),
            "{path}"
        );
    }
    assert_eq!(names(root.path()), ["peft", "x.fitment.safetensors"]);
}

#[test]
fn a_disk_that_is_too_small_is_noticed_first() {
    let root = tempfile::tempdir().unwrap();
    let error =
        write_file_atomic(&root.path().join("x"), u64::MAX / 2, (false, &[]), &|_| Ok(())).unwrap_err();
    assert!(matches!(&error, Error::NoSpace { .. }) && error.hint().is_some(), "{error}");
    assert!(names(root.path()).is_empty());
}

#[test]
fn an_input_is_never_replaced_whatever_force_says() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("k");
    fs::create_dir(&folder).unwrap();
    let source = folder.join("adapter_model.safetensors");
    fs::write(&source, "weights").unwrap();
    let files =
        [FolderFile { path: "x".to_owned(), len: 1, write: Box::new(|out| Ok(out.write_all(b"x")?)) }];
    let error = write_folder_atomic(&folder, &files, (true, &[&source])).unwrap_err();
    assert!(error.to_string().contains("contains an input"), "{error}");
    let error =
        write_file_atomic(&source, 1, (true, &[&source]), &|out| Ok(out.write_all(b"x")?)).unwrap_err();
    assert!(error.to_string().contains("is an input"), "{error}");
    assert_eq!(fs::read(&source).unwrap(), b"weights");
}
