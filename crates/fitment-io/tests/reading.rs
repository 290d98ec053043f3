//! Adapters and checkpoints on disk: read, or refused in one line that names the file.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use fitment_core::checkpoint::Checkpoint;
use fitment_io::{Access, AdapterFiles, CheckpointDir};
use std::fs;
use std::path::Path;
use support::{hf_folder, line, pattern, write, write_shard};

const BOTH: [Access; 2] = [Access::Map, Access::Read];

fn refused(root: &Path, path: &Path) -> String {
    line(&CheckpointDir::open(path, Access::Map).expect_err("is refused"), root)
}

#[test]
fn a_sharded_folder_reads_the_same_by_map_and_by_read() {
    let root = tempfile::tempdir().unwrap();
    let base = hf_folder(root.path());
    for access in BOTH {
        let base = CheckpointDir::open(&base, access).unwrap();
        assert_eq!(base.tensors().keys().collect::<Vec<_>>(), ["a", "b", "embed", "head"]);
        for (name, len) in [("a", 7), ("b", 300_000), ("embed", 5000), ("head", 0)] {
            assert_eq!(base.read(name).unwrap(), pattern(name, len), "{name} by {access:?}");
        }
        assert_eq!(base.config().unwrap()["vocab_size"], 4);
        assert!(base.read("nothing").is_err());
    }
}

#[test]
fn one_file_is_a_base_too() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("ein Möbel.safetensors");
    write_shard(&path, &[("w", 9)], &[]);
    for access in BOTH {
        let base = CheckpointDir::open(&path, access).unwrap();
        assert_eq!((base.is_folder(), &base.read("w").unwrap()[..]), (false, &pattern("w", 9)[..]));
    }
}

#[test]
fn diffusers_names_and_links_are_followed() {
    let root = tempfile::tempdir().unwrap();
    let blob = root.path().join("blobs/abc");
    write_shard(&blob, &[("w", 9)], &[]);
    let folder = root.path().join("snapshot");
    fs::create_dir(&folder).unwrap();
    std::os::unix::fs::symlink(&blob, folder.join("diffusion_pytorch_model.safetensors")).unwrap();
    assert_eq!(CheckpointDir::open(&folder, Access::Map).unwrap().tensors().len(), 1);
}

#[test]
fn the_index_decides_and_must_be_right() {
    let root = tempfile::tempdir().unwrap();
    let base = hf_folder(root.path());
    let index = base.join("model.safetensors.index.json");
    let good = fs::read_to_string(&index).unwrap();
    let with = |from: &str, to: &str| {
        fs::write(&index, good.replace(from, to)).unwrap();
        let text = refused(root.path(), &base);
        fs::write(&index, &good).unwrap();
        text
    };
    let second = "\"b\": \"model-00002-of-00002.safetensors\"";
    let place = "ROOT/base/model.safetensors.index.json";
    assert_eq!(
        with(second, "\"b\": \"../x.safetensors\""),
        format!("{place}: \"b\" lies in \"../x.safetensors\", outside the folder")
    );
    assert_eq!(
        with(second, "\"b\": \"/etc/x.safetensors\""),
        format!("{place}: \"b\" lies in \"/etc/x.safetensors\", outside the folder")
    );
    assert_eq!(with(second, "\"b\": 3"), format!("{place}: the file of \"b\" is not a string"));
    assert_eq!(with("weight_map", "map"), format!("{place}: has no `weight_map` object"));
    assert_eq!(
        with("{\"metadata\"", "{{\"metadata\""),
        format!("{place}: not JSON: key must be a string (line 1, column 2)")
    );
    assert_eq!(
        with(second, "\"b\": \"model-00003.safetensors\""),
        "ROOT/base/model-00003.safetensors: missing: model.safetensors.index.json names this shard"
    );
    assert_eq!(
        with("\"head\"", "\"tail\""),
        "ROOT/base/model-00002-of-00002.safetensors: lacks \"tail\", which the index puts there"
    );
    assert_eq!(
        with(second, "\"b\": \"model-00001-of-00002.safetensors\""),
        "ROOT/base/model-00001-of-00002.safetensors: lacks \"b\", which the index puts there"
    );
    write_shard(&base.join("model-00002-of-00002.safetensors"), &[("b", 3), ("head", 0), ("a", 7)], &[]);
    assert_eq!(
        refused(root.path(), &base),
        "ROOT/base/model-00002-of-00002.safetensors: holds \"a\", which model-00001-of-00002.safetensors holds too"
    );
}

#[test]
fn folders_without_safetensors_are_named_for_what_they_are() {
    let root = tempfile::tempdir().unwrap();
    let case = |files: &[&str]| {
        let folder = tempfile::tempdir_in(root.path()).unwrap();
        for file in files {
            write(&folder.path().join(file), "x");
        }
        refused(folder.path(), folder.path())
    };
    assert_eq!(
        case(&["config.json", "pytorch_model.bin"]),
        "ROOT/pytorch_model.bin: a PyTorch pickle (.bin) is not read as a base, safetensors is"
    );
    assert!(case(&["model-q4.gguf"]).contains("name the GGUF file itself"));
    assert_eq!(
        case(&["adapter_config.json", "adapter_model.safetensors"]),
        "ROOT: is an adapter's folder, not a base checkpoint"
    );
    assert!(case(&["model_index.json"]).contains("name the folder of one component"));
    assert!(case(&["other.safetensors"]).contains("name the safetensors file that is the base"));
    assert!(case(&["readme.txt"]).contains("has no weights"));
    let gguf = root.path().join("q.gguf");
    write(&gguf, "GGUF");
    assert_eq!(
        refused(root.path(), &gguf),
        "ROOT/q.gguf: error[G001]: 4 bytes are announced at byte 4, 0 are left"
    );
}

#[test]
fn two_sets_of_weights_are_ambiguous() {
    let root = tempfile::tempdir().unwrap();
    let base = hf_folder(root.path());
    write_shard(&base.join("model.safetensors"), &[("w", 1)], &[]);
    assert_eq!(
        refused(root.path(), &base),
        "ROOT/base: holds both model.safetensors.index.json and model.safetensors: remove the one that is not meant"
    );
}

#[test]
fn damaged_shards_are_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let base = hf_folder(root.path());
    let shard = base.join("model-00002-of-00002.safetensors");
    let good = fs::read(&shard).unwrap();
    let place = "ROOT/base/model-00002-of-00002.safetensors";
    let with = |bytes: &[u8]| {
        fs::write(&shard, bytes).unwrap();
        for access in BOTH {
            assert!(CheckpointDir::open(&base, access).is_err());
        }
        refused(root.path(), &base)
    };
    assert!(
        with(&good[..good.len() - 1]).starts_with(&format!("{place}: error[C013] b: its data end at byte"))
    );
    assert!(with(&good[..100]).starts_with(&format!("{place}: error[C001]")));
    assert!(with(b"").starts_with(&format!("{place}: error[C001]")));
    assert!(with(&[255; 64]).starts_with(&format!("{place}: error[C002]")));
    assert_eq!(
        with(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"),
        format!("{place}: is a git-lfs pointer, not the file itself")
    );
    fs::remove_file(&shard).unwrap();
    fs::create_dir(&shard).unwrap();
    assert_eq!(refused(root.path(), &base), format!("{place}: is a folder, expected a file"));
}

#[test]
fn a_fitment_file_and_a_missing_path_are_no_bases() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("x.safetensors");
    write_shard(&path, &[("w", 1)], &[("fitment", "{}")]);
    assert_eq!(
        refused(root.path(), &path),
        "ROOT/x.safetensors: is a Fitment adapter, not a base checkpoint"
    );
    assert_eq!(refused(root.path(), &root.path().join("nö")), "ROOT/nö: no such file or folder");
}

#[test]
fn broken_configs_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let base = hf_folder(root.path());
    for (text, expected) in [
        ("[1]", "not a JSON object"),
        ("{\"a\": 1, \"a\": 2}", "not JSON: key \"a\" stands twice in $"),
        ("", "not JSON: EOF while parsing a value (line 1, column 0)"),
    ] {
        write(&base.join("config.json"), text);
        assert_eq!(refused(root.path(), &base), format!("ROOT/base/config.json: {expected}"));
    }
    fs::write(base.join("config.json"), [b'{', 0xff, b'}']).unwrap();
    assert_eq!(refused(root.path(), &base), "ROOT/base/config.json: not UTF-8");
}

#[test]
fn an_adapter_folder_is_named_bytes() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("adapter");
    write(&folder.join("adapter_config.json"), "{}");
    write(&folder.join("ü/adapter_config.json"), "{\"x\": 1}");
    write(&folder.join(".git/config"), "hidden");
    let big = "x".repeat(600_000);
    write(&folder.join("big.bin"), &big);
    let files = AdapterFiles::load(&folder).unwrap();
    let found: Vec<(&str, usize)> = files.iter().map(|(name, bytes)| (name, bytes.len())).collect();
    assert_eq!(found, [("adapter_config.json", 2), ("big.bin", 600_000), ("ü/adapter_config.json", 8)]);
    assert!(files.single().is_none());
    let one = AdapterFiles::load(&folder.join("big.bin")).unwrap();
    assert_eq!(one.single(), Some(big.as_bytes()));
}

#[test]
fn what_cannot_be_an_adapter_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("adapter");
    let refused = |path: &Path| line(&AdapterFiles::load(path).expect_err("is refused"), root.path());
    assert_eq!(refused(&folder), "ROOT/adapter: no such file or folder");
    write(&folder.join("adapter_config.json/x"), "x");
    assert_eq!(refused(&folder), "ROOT/adapter/adapter_config.json: is a folder, expected a file");
    fs::remove_dir_all(folder.join("adapter_config.json")).unwrap();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n";
    write(&folder.join("adapter_model.safetensors"), pointer);
    assert_eq!(
        refused(&folder),
        "ROOT/adapter/adapter_model.safetensors: is a git-lfs pointer, not the file itself"
    );
    let socket = root.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    assert_eq!(refused(&socket), "ROOT/socket: is a pipe or device, expected a file");
}
