//! Deltas of other tools: applied to their base they give what the tools themselves make of it, bit for bit, and go back
//! to where they came from.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_core::checkpoint::{Checkpoint, MemoryCheckpoint};
use fitment_core::container::read_foreign;
use fitment_io::{Access, CheckpointDir};
use fitment_tests::place::{fixture, scratch};
use fitment_tests::program::fitment;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Every case of a format, with its facts.
fn cases(format: &str) -> Vec<(PathBuf, Value)> {
    let folders = fs::read_dir(fixture(format)).unwrap().map(|entry| entry.unwrap().path());
    let facts = |folder: PathBuf| {
        let facts = fs::read(folder.join("case.json")).ok()?;
        Some((folder, serde_json::from_slice(&facts).unwrap()))
    };
    let mut cases: Vec<_> = folders.filter_map(facts).collect();
    cases.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(!cases.is_empty());
    cases
}

fn run(command: &mut Command) -> (bool, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (status.success(), text)
}

fn done(command: &mut Command) -> String {
    let (is_done, text) = run(command);
    assert!(is_done, "{text}");
    text
}

fn convert(from: &str, to: &str, base: Option<&Path>, [input, output]: [&Path; 2]) -> Command {
    let mut command = fitment();
    command.args(["convert", "--allow-loss", "--from", from, "--to", to]).arg(input).arg("-o").arg(output);
    if let Some(base) = base {
        command.arg("--base").arg(base);
    }
    command
}

/// Dtype, shape and bytes of every tensor of a checkpoint.
type Tensors = BTreeMap<String, (String, Vec<u64>, Vec<u8>)>;

fn tensors(checkpoint: &dyn Checkpoint) -> Tensors {
    let entry = |(name, info): (&String, &fitment_core::checkpoint::TensorInfo)| {
        let bytes = checkpoint.read(name).unwrap().into_owned();
        (name.clone(), (info.dtype.to_string(), info.shape.dims().to_vec(), bytes))
    };
    checkpoint.tensors().iter().map(entry).collect()
}

fn of_folder(folder: &Path) -> Tensors {
    tensors(&CheckpointDir::open(folder, Access::Map).unwrap())
}

fn of_file(file: &Path) -> Tensors {
    tensors(&MemoryCheckpoint::new(&fs::read(file).unwrap(), None).unwrap())
}

#[test]
fn applied_deltas_have_the_bits_of_their_own_tools() {
    let room = scratch();
    let mut applied = 0;
    for format in ["trl", "fastchat"] {
        for (folder, facts) in cases(format) {
            let name = format!("{format}-{}", folder.file_name().unwrap().to_string_lossy());
            let (adapter, base) = (folder.join("adapter"), folder.join("base"));
            let file = room.path().join(&name).with_extension("fitment.safetensors");
            let (is_done, text) = run(&mut convert(format, "fitment", Some(&base), [&adapter, &file]));
            assert_eq!(is_done, facts["refused"] != true, "{name}: {text}");
            if facts["refused"] == true {
                continue;
            }
            let expected = of_file(&folder.join("result.safetensors"));
            let results = [room.path().join(format!("{name}-a")), room.path().join(format!("{name}-b"))];
            done(fitment().arg("apply").args([&base, &file]).arg("-o").arg(&results[0]));
            done(
                fitment()
                    .arg("apply")
                    .args([&base, &adapter])
                    .args(["--from", format, "-o"])
                    .arg(&results[1]),
            );
            for result in &results {
                let found = of_folder(result);
                assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{name}");
                for (tensor, expected) in &expected {
                    assert!(found[tensor] == *expected, "{name}: {tensor}");
                }
            }
            if let Some(size) = facts["vocab_size"].as_u64() {
                let config = fs::read(results[0].join("config.json")).unwrap();
                let config: Value = serde_json::from_slice(&config).unwrap();
                assert_eq!(config["vocab_size"], size);
            }
            applied += 1;
        }
    }
    assert_eq!(applied, 9);
}

#[test]
fn patches_go_back_tensor_for_tensor() {
    let room = scratch();
    for (folder, _) in cases("trl").into_iter().filter(|(_, facts)| facts["refused"] != true) {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let patch = folder.join("adapter/patch.safetensors");
        let [file, back] =
            ["fitment.safetensors", "safetensors"].map(|end| room.path().join(&name).with_extension(end));
        done(&mut convert("trl", "fitment", None, [&patch, &file]));
        done(&mut convert("fitment", "trl", None, [&file, &back]));
        let [before, after] = [&patch, &back].map(|path| fs::read(path).unwrap());
        let [before, after] = [(&before, read_foreign(&before)), (&after, read_foreign(&after))];
        let listed = |(bytes, container): &(&Vec<u8>, Result<fitment_core::container::Container, _>)| {
            let container =
                container.as_ref().map_err(|error: &fitment_core::Error| error.to_string()).unwrap();
            let entries = container.entries().iter().map(|entry| {
                (entry.name.clone(), (entry.dtype, bytes[container.data_range(entry)].to_vec()))
            });
            (entries.collect::<BTreeMap<_, _>>(), container.metadata().cloned())
        };
        let ((mut expected, of_before), (found, of_after)) = (listed(&before), listed(&after));
        if name == "bare" {
            // Positions of 64 bits are written as TRL does; metadata are made.
            for (_, (dtype, bytes)) in expected.iter_mut().filter(|(key, _)| key.ends_with(".indices")) {
                *dtype = fitment_core::tensor::Dtype::I32;
                *bytes = bytes.as_chunks::<8>().0.iter().flat_map(|chunk| chunk[..4].to_vec()).collect();
            }
        } else {
            assert_eq!(of_before, of_after, "{name}");
        }
        assert!(expected == found, "{name}");
    }
}

#[test]
fn a_sparse_diff_becomes_a_patch_with_the_checksum_of_its_model() {
    let room = scratch();
    let folder = fixture("trl").join("pr5417");
    let path = |name: &str| room.path().join(name);
    let tuned = path("tuned");
    fs::create_dir(&tuned).unwrap();
    fs::copy(folder.join("result.safetensors"), tuned.join("model.safetensors")).unwrap();
    let base = folder.join("base");
    done(
        fitment().arg("diff").args([&base, &tuned]).args(["--as", "sparse", "-o"]).arg(path("d.safetensors")),
    );
    done(&mut convert("fitment", "trl", Some(&base), [&path("d.safetensors"), &path("patch.safetensors")]));
    let metadata = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        let metadata = read_foreign(&bytes).unwrap().metadata().unwrap().clone();
        ["checksum_sha256", "changed_params", "total_elements", "num_changed_params"]
            .map(|key| metadata[key].clone())
    };
    let theirs = metadata(&folder.join("adapter/patch.safetensors"));
    let ours = metadata(&path("patch.safetensors"));
    assert_eq!(ours[0], theirs[0]);
    // Theirs is written by json.dumps, with blanks.
    assert_eq!(ours[1].as_str().unwrap(), theirs[1].as_str().unwrap().replace(", ", ","));
    assert_eq!(ours[2..], theirs[2..]);
}

/// A tensor of which most changes is no shorter as positions and values; a patch can hold it all the same.
#[test]
fn a_dense_change_becomes_a_patch_too() {
    let room = scratch();
    let folder = fixture("peft").join("linear_bf16");
    let [tuned, diff, patch, again] =
        ["tuned", "d.safetensors", "patch.safetensors", "again"].map(|name| room.path().join(name));
    let base = folder.join("base");
    done(fitment().arg("apply").args([&base, &folder.join("adapter")]).arg("-o").arg(&tuned));
    done(fitment().arg("diff").args([&base, &tuned]).args(["--as", "sparse", "-o"]).arg(&diff));
    done(&mut convert("fitment", "trl", Some(&base), [&diff, &patch]));
    done(fitment().arg("apply").args([&base, &patch]).arg("-o").arg(&again));
    assert!(of_folder(&tuned) == of_folder(&again));
}

#[test]
fn fastchat_folders_go_back_tensor_for_tensor() {
    let room = scratch();
    for name in ["whole", "sharded", "low_cpu_mem"] {
        let folder = fixture("fastchat").join(name);
        let [file, back] = ["f.safetensors", "back"].map(|end| room.path().join(format!("{name}-{end}")));
        let adapter = folder.join("adapter");
        done(&mut convert("fastchat", "fitment", None, [&adapter, &file]));
        let text = done(&mut convert("fitment", "fastchat", Some(&folder.join("base")), [&file, &back]));
        assert!(text.contains("the tokenizer"), "{text}");
        let shards = fs::read_dir(&adapter).unwrap().map(|entry| entry.unwrap().path());
        let of_weights = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "safetensors");
        let mut expected = Tensors::new();
        for shard in shards.filter(of_weights) {
            expected.extend(of_file(&shard));
        }
        let found = of_file(&back.join("model.safetensors"));
        // A torch file of the same delta holds the same tensors as the result minus the base says; its bits are tried above.
        if name != "low_cpu_mem" {
            assert!(expected == found, "{name}");
        }
        let config: Value = serde_json::from_slice(&fs::read(back.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["dtype"], "float16");
    }
}

#[test]
fn a_delta_of_another_shape_or_dtype_names_both_sides() {
    let room = scratch();
    let output = room.path().join("x.safetensors");
    let trl = fixture("trl");
    let refused = |format: &str, base: &Path, adapter: &Path| {
        let (is_done, text) = run(&mut convert(format, "fitment", Some(base), [adapter, &output]));
        assert!(!is_done && !output.exists(), "{text}");
        text
    };
    let text = refused("trl", &fixture("fastchat/whole/base"), &trl.join("bare/adapter"));
    assert!(text.contains("the adapter asks for elements of BF16, the base has F16 [12, 8]"), "{text}");
    let text = refused("trl", &trl.join("pr5417_other_base/base"), &trl.join("pr5417_other_base/adapter"));
    assert!(text.contains("L009") && text.contains("the base with the patch applied has"), "{text}");
    let text = refused("trl", &trl.join("pr5937_nvcomp/base"), &trl.join("pr5937_nvcomp/adapter"));
    assert!(text.contains("nvcomp_cascaded") && text.contains("gap_delta"), "{text}");
    let text = refused("fastchat", &fixture("fastchat/grown/base"), &fixture("fastchat/tied/adapter"));
    assert!(
        text.contains("tie_word_embeddings: FastChat subtracts the base from tied embeddings twice"),
        "{text}"
    );
    let text = refused("fastchat", &fixture("peft/linear/base"), &fixture("fastchat/whole/adapter"));
    assert!(text.contains("fitment diff") || text.contains("the base"), "{text}");
}
