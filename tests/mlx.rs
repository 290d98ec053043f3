// Over 500 lines: every test reads the same cases by the same helpers.

//! MLX-LM's adapters: applied they are what mlx-lm fuses, they go back tensor by tensor, and every breach is named.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_convert::mlx::{check, rules};
use fitment_convert::{Error, Files, FormatId, Loss, OutputFile, ReadOptions, WriteOptions, read, write};
use fitment_core::Adapter;
use fitment_core::checkpoint::Checkpoint as _;
use fitment_core::container::{read_foreign, write_container};
use fitment_core::model::Edit;
use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_io::{Access, CheckpointDir};
use fitment_tests::compare::{distance, values};
use fitment_tests::place::{fixture, scratch};
use fitment_tests::program::fitment;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// What converts; `dora_embedding` does not.
const CASES: &[&str] = &[
    "lora",
    "lora_last",
    "lora_absolute",
    "lora_bf16",
    "lora_tied",
    "dora",
    "full",
    "full_experts",
    "experts_mixtral",
    "experts_qwen3_moe",
    OLD,
];
/// With `lora_a` of experts as it was stored until October 2025; goes back as it is stored now.
const OLD: &str = "experts_old";
const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapters.safetensors";

type Folder = BTreeMap<String, Vec<u8>>;
type Tensors = BTreeMap<String, (Dtype, Vec<u64>, Vec<u8>)>;

fn load(folder: &Path) -> Folder {
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.map(|path| (name(&path), fs::read(path).unwrap())).collect()
}

fn adapter_of(case: &str) -> Folder {
    load(&fixture("mlx").join(case).join("adapter"))
}

fn files(folder: &Folder) -> Files<'_> {
    folder.iter().map(|(path, bytes)| (path.as_str(), &bytes[..])).collect()
}

fn tensors(bytes: &[u8]) -> Tensors {
    let container = read_foreign(bytes).unwrap();
    let entry = |entry: &fitment_core::container::Entry| {
        let data = bytes[container.data_range(entry)].to_vec();
        (entry.name.clone(), (entry.dtype, entry.shape.dims().to_vec(), data))
    };
    container.entries().iter().map(entry).collect()
}

fn stored(tensors: &Tensors) -> Vec<u8> {
    let one = |(name, (dtype, dims, bytes)): (&String, &(Dtype, Vec<u64>, Vec<u8>))| {
        (name.clone(), Tensor::borrowed(*dtype, Shape::new(dims).unwrap(), bytes).unwrap().into_owned())
    };
    let list: Vec<(String, Tensor<'static>)> = tensors.iter().map(one).collect();
    let mut bytes = Vec::new();
    write_container(&BTreeMap::new(), list.iter().map(|(name, tensor)| (name.clone(), tensor)), &mut bytes)
        .unwrap();
    bytes
}

fn run(arguments: &[&Path]) -> (Option<i32>, String) {
    let output = fitment().args(arguments).output().unwrap();
    (
        output.status.code(),
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat(),
    )
}

fn done(arguments: &[&Path]) {
    let (code, text) = run(arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {text}");
}

fn written(adapter: &Adapter<'_>) -> (Folder, Vec<Loss>) {
    let written = write(adapter, FormatId::Mlx, &WriteOptions::default()).unwrap();
    let bytes = |file: &OutputFile<'_>| {
        let mut bytes = Vec::new();
        file.write_to(&mut bytes).unwrap();
        bytes
    };
    (written.files.iter().map(|file| (file.path.clone(), bytes(file))).collect(), written.losses)
}

#[test]
fn applied_it_is_what_mlx_lm_fuses() {
    for case in CASES {
        let (folder, room) = (fixture("mlx").join(case), scratch());
        let (base, out) = (folder.join("base"), room.path().join("out"));
        done(&["apply".as_ref(), &base, &folder.join("adapter"), "-o".as_ref(), &out]);
        let fused = tensors(&fs::read(folder.join("fused.safetensors")).unwrap());
        let [base, out] = [base, out].map(|path| CheckpointDir::open(&path, Access::Map).unwrap());
        assert_eq!(out.tensors().keys().collect::<Vec<_>>(), base.tensors().keys().collect::<Vec<_>>());
        let mut changed = 0;
        for (name, (dtype, _, theirs)) in &fused {
            let (ours, old) = (out.read(name).unwrap(), base.read(name).unwrap());
            assert_eq!(*dtype, out.tensors()[name].dtype, "{case}: {name}");
            let far = distance(*dtype, &ours, theirs, Some(&old));
            match dtype {
                Dtype::F32 => assert!(far.relative <= 1e-6, "{case}: {name}: {far:?}"),
                // mlx-lm rounds the factors' product and then the sum, this once: see the test on doubles.
                _ => assert!(far.relative <= 0.01, "{case}: {name}: {far:?}"),
            }
            changed += usize::from(*ours != *old);
        }
        assert!(changed >= 3, "{case}: {changed}");
        assert_eq!(fused.len(), base.tensors().len(), "{case}");
    }
}

#[test]
fn on_a_bf16_base_it_is_rounded_once_from_exact_values() {
    let (folder, room) = (fixture("mlx").join("lora_bf16"), scratch());
    let (base, out) = (folder.join("base"), room.path().join("out"));
    done(&["apply".as_ref(), &base, &folder.join("adapter"), "-o".as_ref(), &out]);
    let [base, out] = [base, out].map(|path| CheckpointDir::open(&path, Access::Map).unwrap());
    let factors = tensors(&adapter_of("lora_bf16")[WEIGHTS]);
    let config: Value = serde_json::from_slice(&adapter_of("lora_bf16")[CONFIG]).unwrap();
    let scale = config["lora_parameters"]["scale"].as_f64().unwrap();
    let mut count = 0;
    for (key, (dtype, dims, a)) in &factors {
        let Some(module) = key.strip_suffix(".lora_a") else { continue };
        let (b_dtype, b_dims, b) = &factors[&format!("{module}.lora_b")];
        let (a, b) = (values(*dtype, a), values(*b_dtype, b));
        let (inputs, rank, outputs) = (dims[0] as usize, dims[1] as usize, b_dims[1] as usize);
        let name = format!("{module}.weight");
        let (old, new) = (base.read(&name).unwrap(), out.read(&name).unwrap());
        let (old, new) = (values(Dtype::BF16, &old), values(Dtype::BF16, &new));
        for o in 0..outputs {
            for i in 0..inputs {
                let sum: f64 = (0..rank).map(|r| a[i * rank + r] * b[r * outputs + o]).sum();
                let exact = old[o * inputs + i] + scale * sum;
                let found = new[o * inputs + i];
                // Half a unit, and the last bits of f32.
                let unit = 2f64.powi(exact.abs().log2().floor() as i32 - 7);
                assert!(
                    (found - exact).abs() <= unit * 0.51 + 1e-7,
                    "{name} [{o}, {i}]: {found} for {exact}"
                );
                count += 1;
            }
        }
    }
    assert!(count > 1000, "{count}");
}

#[test]
fn every_adapter_goes_back_tensor_by_tensor_with_and_without_a_base() {
    for case in CASES {
        let (folder, room) = (fixture("mlx").join(case), scratch());
        let (adapter, base) = (folder.join("adapter"), folder.join("base"));
        for with_base in [true, false] {
            let [file, back] =
                ["a.fitment.safetensors", "back"].map(|name| room.path().join(format!("{with_base}{name}")));
            let mut arguments: Vec<&Path> = vec!["convert".as_ref(), &adapter, "-o".as_ref(), &file];
            if with_base {
                arguments.extend(["--base".as_ref(), &*base]);
            }
            done(&arguments);
            done(&["convert".as_ref(), &file, "--to".as_ref(), "mlx".as_ref(), "-o".as_ref(), &back]);
            let (old, new) = (load(&adapter), load(&back));
            let wanted = if *case == OLD { adapter_of("experts_qwen3_moe") } else { old.clone() };
            assert_eq!(tensors(&wanted[WEIGHTS]), tensors(&new[WEIGHTS]), "{case}");
            assert_eq!(old[CONFIG], new[CONFIG], "{case}");
        }
    }
}

#[test]
fn what_comes_from_mlx_says_the_same_as_peft_and_comes_back() {
    for case in
        ["lora", "lora_last", "lora_absolute", "lora_bf16", "dora", "experts_mixtral", "experts_qwen3_moe"]
    {
        let (folder, room) = (fixture("mlx").join(case), scratch());
        let [file, peft, back, direct, around] =
            ["x.fitment.safetensors", "peft", "back", "direct", "around"].map(|name| room.path().join(name));
        let (adapter, base) = (folder.join("adapter"), folder.join("base"));
        let based = |input: &Path, output: &Path, to: &str| {
            done(&[
                "convert".as_ref(),
                input,
                "--to".as_ref(),
                to.as_ref(),
                "-o".as_ref(),
                output,
                "--base".as_ref(),
                &base,
                "--allow-loss".as_ref(),
            ]);
        };
        based(&adapter, &file, "fitment");
        based(&file, &peft, "peft");
        based(&peft, &back, "mlx");
        // PEFT asks for gate, up and down: what is missing goes there as zeros.
        let (there, mut back_again) = (tensors(&load(&adapter)[WEIGHTS]), tensors(&load(&back)[WEIGHTS]));
        let added = |(name, (_, _, bytes)): (&String, &(Dtype, Vec<u64>, Vec<u8>))| {
            there.contains_key(name) || bytes.iter().any(|byte| *byte != 0)
        };
        back_again.retain(|name, tensor| added((name, tensor)));
        assert_eq!(there, back_again, "{case}");
        let parameters = |folder: &Path| {
            let config: Value = serde_json::from_slice(&load(folder)[CONFIG]).unwrap();
            let of = |name: &str| config["lora_parameters"][name].clone();
            (config["fine_tune_type"].clone(), of("rank"), of("scale"))
        };
        assert_eq!(parameters(&adapter), parameters(&back), "{case}");
        done(&["apply".as_ref(), &base, &adapter, "-o".as_ref(), &direct]);
        done(&["apply".as_ref(), &base, &peft, "-o".as_ref(), &around]);
        let [direct, around] = [direct, around].map(|path| CheckpointDir::open(&path, Access::Map).unwrap());
        for name in direct.tensors().keys() {
            assert!(direct.read(name).unwrap() == around.read(name).unwrap(), "{case}: {name}");
        }
    }
}

#[test]
fn other_ranks_are_padded_and_other_scales_go_into_b() {
    let folder = adapter_of("lora_last");
    let mut adapter = read(&files(&folder), &ReadOptions::default()).unwrap().adapter;
    let old = tensors(&folder[WEIGHTS]);
    let Edit::Lora(first) = &mut adapter.edits[0] else { panic!() };
    let module = first.target.name.as_str().strip_suffix(".weight").unwrap().to_owned();
    first.scale *= 4.0;
    let [out, _] = *first.up.dims() else { panic!() };
    let [_, inputs] = *first.down.dims() else { panic!() };
    let short = |tensor: &Tensor<'_>, dims: [u64; 2], keep: &dyn Fn(usize) -> bool| {
        let chunks = tensor.bytes().as_chunks::<4>().0;
        let kept: Vec<u8> =
            chunks.iter().enumerate().filter(|(at, _)| keep(*at)).flat_map(|(_, bytes)| *bytes).collect();
        Tensor::owned(Dtype::F32, Shape::new(&dims).unwrap(), kept).unwrap()
    };
    first.up = short(&first.up, [out, 2], &|at| at % 3 < 2);
    first.down = short(&first.down, [2, inputs], &|at| (at as u64) < 2 * inputs);
    let (written, losses) = written(&adapter);
    assert!(losses.iter().any(|loss| matches!(loss, Loss::RankPadded { from: 2, to: 3, .. })), "{losses:?}");
    let new = tensors(&written[WEIGHTS]);
    assert_eq!(old.len(), new.len());
    let config: Value = serde_json::from_slice(&written[CONFIG]).unwrap();
    let scale = config["lora_parameters"]["scale"].as_f64().unwrap();
    for (key, (dtype, dims, theirs)) in &old {
        let (_, new_dims, ours) = &new[key];
        assert_eq!(dims, new_dims);
        let (theirs, ours) = (values(*dtype, theirs), values(*dtype, ours));
        let factor = match (key.starts_with(&module), key.ends_with("lora_b")) {
            (true, true) => 80.0 / scale,
            (false, true) => 20.0 / scale,
            _ => 1.0,
        };
        for (at, (theirs, ours)) in theirs.iter().zip(&ours).enumerate() {
            let column = if key.ends_with("lora_a") { at % 3 } else { at / dims[1] as usize };
            let wanted = if key.starts_with(&module) && column == 2 { 0.0 } else { theirs * factor };
            assert!((wanted - ours).abs() <= wanted.abs() * 1e-7, "{key} {at}: {wanted} {ours}");
        }
    }
}

#[test]
fn what_mlx_does_not_have_is_named() {
    let folder = adapter_of("dora_embedding");
    let refused = read(&files(&folder), &ReadOptions::default()).unwrap_err();
    assert!(matches!(&refused, Error::Unsupported { what, .. } if what == "model.embed_tokens"), "{refused}");
    let mut old = adapter_of("lora");
    old.insert("adapters.npz".to_owned(), Vec::new());
    old.remove(WEIGHTS);
    let refused = read(&files(&old), &ReadOptions::default()).unwrap_err();
    assert!(refused.to_string().contains("2024"), "{refused}");
}

#[test]
fn experts_that_do_not_fit_are_named() {
    let with = |change: &dyn Fn(&mut Tensors)| {
        let mut folder = adapter_of("experts_qwen3_moe");
        let mut all = tensors(&folder[WEIGHTS]);
        change(&mut all);
        folder.insert(WEIGHTS.to_owned(), stored(&all));
        check(&files(&folder), None).unwrap().into_iter().map(|finding| finding.code.0).collect::<Vec<_>>()
    };
    let a = "model.layers.0.mlp.switch_mlp.gate_proj.lora_a";
    assert_eq!(with(&|_| ()), [] as [&str; 0]);
    // [4, 3, 16] as other extents of the same length.
    assert_eq!(with(&|all| all.get_mut(a).unwrap().1 = vec![3, 4, 16]), ["X008"]);
    assert_eq!(with(&|all| all.get_mut(a).unwrap().1 = vec![6, 32]), ["X008"]);
    let moved = |all: &mut Tensors| {
        for part in ["lora_a", "lora_b"] {
            let tensor = all.remove(&format!("model.layers.0.mlp.switch_mlp.gate_proj.{part}")).unwrap();
            all.insert(format!("model.layers.0.mlp.mixture.gate_proj.{part}"), tensor);
        }
    };
    assert_eq!(with(&moved), ["X005"]);
    let folder = adapter_of("experts_qwen3_moe");
    let other = CheckpointDir::open(&fixture("mlx").join("experts_mixtral/base"), Access::Map).unwrap();
    let refused = read(&files(&folder), &ReadOptions { base: Some(&other), ..ReadOptions::default() });
    assert!(refused.unwrap_err().to_string().contains("model.layers.0.mlp"));
}

/// The base of a Mixtral with its experts as transformers 5 has them in memory.
fn stacked_base(base: &Path, folder: &Path) {
    let old = tensors(&fs::read(base.join("model.safetensors")).unwrap());
    let (experts, mut new): (Vec<_>, Tensors) = {
        let (experts, rest): (Tensors, Tensors) =
            old.into_iter().partition(|(name, _)| name.contains(".experts."));
        (experts.into_iter().collect(), rest)
    };
    let of = |word: &str| -> Vec<&(Dtype, Vec<u64>, Vec<u8>)> {
        experts
            .iter()
            .filter(|(name, _)| name.ends_with(&format!(".{word}.weight")))
            .map(|(_, tensor)| tensor)
            .collect()
    };
    let (gates, ups, downs) = (of("w1"), of("w3"), of("w2"));
    let count = gates.len() as u64;
    let both: Vec<u8> =
        gates.iter().zip(&ups).flat_map(|(gate, up)| [&gate.2[..], &up.2[..]].concat()).collect();
    let down: Vec<u8> = downs.iter().flat_map(|down| down.2.clone()).collect();
    let name = |word: &str| format!("model.layers.0.mlp.experts.{word}");
    new.insert(name("gate_up_proj"), (Dtype::F32, vec![count, 2 * gates[0].1[0], gates[0].1[1]], both));
    new.insert(name("down_proj"), (Dtype::F32, vec![count, downs[0].1[0], downs[0].1[1]], down));
    let router = new.remove("model.layers.0.block_sparse_moe.gate.weight").unwrap();
    new.insert("model.layers.0.mlp.gate.weight".to_owned(), router);
    fs::create_dir(folder).unwrap();
    fs::copy(base.join("config.json"), folder.join("config.json")).unwrap();
    fs::write(folder.join("model.safetensors"), stored(&new)).unwrap();
}

#[test]
fn whole_weights_of_experts_fit_a_base_of_stacks_and_one_of_single_matrices() {
    let (folder, room) = (fixture("mlx/full_experts"), scratch());
    let adapter = folder.join("adapter");
    let [fused_each, base, fused, file, bound, back] =
        ["each", "base", "fused", "x.fitment.safetensors", "bound.fitment.safetensors", "back"]
            .map(|name| room.path().join(name));
    fs::create_dir(&fused_each).unwrap();
    fs::copy(folder.join("fused.safetensors"), fused_each.join("model.safetensors")).unwrap();
    fs::copy(folder.join("base/config.json"), fused_each.join("config.json")).unwrap();
    stacked_base(&folder.join("base"), &base);
    stacked_base(&fused_each, &fused);
    let theirs = tensors(&fs::read(fused.join("model.safetensors")).unwrap());
    done(&["convert".as_ref(), &adapter, "-o".as_ref(), &file]);
    done(&["convert".as_ref(), &adapter, "-o".as_ref(), &bound, "--base".as_ref(), &base]);
    // By itself, as a file that knew of no base, and as one that was bound to the stacks.
    for (at, adapter) in [&adapter, &file, &bound].into_iter().enumerate() {
        let out = room.path().join(format!("out{at}"));
        done(&["apply".as_ref(), &base, adapter, "-o".as_ref(), &out]);
        let out = CheckpointDir::open(&out, Access::Map).unwrap();
        assert_eq!(out.tensors().len(), theirs.len());
        for (name, (_, _, theirs)) in &theirs {
            assert!(out.read(name).unwrap() == &theirs[..], "{at}: {name}");
        }
    }
    done(&["convert".as_ref(), &bound, "--to".as_ref(), "mlx".as_ref(), "-o".as_ref(), &back]);
    let [wanted, back] = [&adapter, &back].map(|folder| tensors(&load(folder)[WEIGHTS]));
    let values = |tensors: &Tensors| {
        tensors
            .iter()
            .map(|(name, tensor)| (name.replace("block_sparse_moe", "mlp"), tensor.clone()))
            .collect::<Tensors>()
    };
    assert_eq!(values(&wanted), values(&back));
}

#[test]
fn factors_under_the_name_of_whole_weights_are_refused() {
    let mut folder = adapter_of("lora");
    let mut config: Value = serde_json::from_slice(&folder[CONFIG]).unwrap();
    config["fine_tune_type"] = json!("full");
    folder.insert(CONFIG.to_owned(), config.to_string().into_bytes());
    let refused = read(&files(&folder), &ReadOptions::default()).unwrap_err().to_string();
    assert!(refused.contains("X006") && refused.contains("is a factor of LoRA"), "{refused}");
}

/// Adapters of PEFT on experts, whose bases store them in every way.
#[test]
fn experts_of_peft_compute_the_same_in_mlx_and_gguf() {
    for case in [
        "experts_mixtral",
        "experts_square",
        "experts_stacked",
        "experts_down",
        "experts_router",
        "experts_gpt_oss",
        "experts_each",
        "experts_0_17",
        "experts_0_18_square",
        "experts_0_19_0",
        "experts_0_19_0_gpt_oss",
    ] {
        let (folder, room) = (fixture("peft").join(case), scratch());
        let (adapter, base) = (folder.join("adapter"), folder.join("base"));
        let direct = room.path().join("direct");
        done(&["apply".as_ref(), &base, &adapter, "-o".as_ref(), &direct]);
        let direct = CheckpointDir::open(&direct, Access::Map).unwrap();
        for to in ["mlx", "gguf", "peft", "fitment"] {
            // llama.cpp's names of gpt-oss are not known here.
            if to == "gguf" && case.contains("gpt_oss") {
                continue;
            }
            let [there, around] = ["there", "around"].map(|name| room.path().join(format!("{to}-{name}")));
            // Where scales differ, one alpha or scale for all rounds some elements, which the comparison bounds.
            let arguments: [&Path; 9] = [
                "convert".as_ref(),
                &adapter,
                "--to".as_ref(),
                to.as_ref(),
                "-o".as_ref(),
                &there,
                "--base".as_ref(),
                &base,
                "--allow-loss".as_ref(),
            ];
            done(&arguments);
            done(&["apply".as_ref(), &base, &there, "-o".as_ref(), &around]);
            let around = CheckpointDir::open(&around, Access::Map).unwrap();
            for (name, info) in direct.tensors() {
                let (ours, theirs) = (direct.read(name).unwrap(), around.read(name).unwrap());
                let far = distance(info.dtype, &ours, &theirs, None);
                assert!(far.relative <= 1e-6, "{case} {to}: {name}: {far:?}");
            }
        }
    }
}

#[test]
fn every_rule_is_broken_by_a_file() {
    let mut broken: BTreeSet<&str> = BTreeSet::new();
    let mut expect = |code: &'static str, change: &dyn Fn(&mut Folder)| {
        let case = if code == "X007" { "dora" } else { "lora_last" };
        let mut folder = adapter_of(case);
        assert!(check(&files(&folder), None).unwrap().is_empty(), "{case}");
        change(&mut folder);
        let findings = check(&files(&folder), None).unwrap();
        assert!(findings.iter().any(|finding| finding.code.0 == code), "{code}: {findings:?}");
        if !matches!(code, "X010" | "X012") {
            assert!(read(&files(&folder), &ReadOptions::default()).is_err(), "{code}");
        }
        broken.insert(code);
    };
    fn config(folder: &mut Folder, change: impl FnOnce(&mut Value)) {
        let mut value: Value = serde_json::from_slice(&folder[CONFIG]).unwrap();
        change(&mut value);
        folder.insert(CONFIG.to_owned(), value.to_string().into_bytes());
    }
    fn weights(folder: &mut Folder, change: impl FnOnce(&mut Tensors)) {
        let mut all = tensors(&folder[WEIGHTS]);
        change(&mut all);
        folder.insert(WEIGHTS.to_owned(), stored(&all));
    }
    fn first(all: &Tensors, end: &str) -> String {
        all.keys().find(|key| key.ends_with(end)).unwrap().clone()
    }
    expect("X001", &|folder| drop(folder.remove(CONFIG)));
    expect("X002", &|folder| config(folder, |config| config["fine_tune_type"] = json!("qlora")));
    expect("X002", &|folder| config(folder, |config| config["lora_parameters"]["scale"] = json!("20")));
    for rank in [json!(0), json!(-4), json!("8")] {
        expect("X002", &|folder| config(folder, |config| config["lora_parameters"]["rank"] = rank.clone()));
    }
    expect("X003", &|folder| drop(folder.remove(WEIGHTS)));
    expect("X004", &|folder| {
        folder.insert(WEIGHTS.to_owned(), b"version https://git-lfs.github.com/spec/v1".to_vec());
    });
    expect("X005", &|folder| config(folder, |config| config["lora_parameters"]["alpha"] = json!(16)));
    expect("X006", &|folder| {
        weights(folder, |all| {
            let key = first(all, "lora_a");
            let tensor = all[&key].clone();
            all.insert("model.layers.1.self_attn.q_proj.lora_c".to_owned(), tensor);
        });
    });
    expect("X007", &|folder| {
        weights(folder, |all| {
            let key = first(all, ".m");
            all.remove(&key);
        });
    });
    expect("X007", &|folder| {
        weights(folder, |all| {
            let key = first(all, ".lora_b");
            all.remove(&key);
        });
    });
    expect("X008", &|folder| {
        weights(folder, |all| {
            let key = first(all, ".lora_a");
            let dims = &mut all.get_mut(&key).unwrap().1;
            dims.swap(0, 1);
        });
    });
    expect("X009", &|folder| {
        weights(folder, |all| {
            let key = first(all, ".lora_a");
            all.get_mut(&key).unwrap().2[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        });
    });
    let old = check(&files(&adapter_of(OLD)), None).unwrap();
    assert!(old.len() == 2 && old.iter().all(|finding| finding.code.0 == "X011"), "{old:?}");
    expect("X010", &|folder| config(folder, |config| config["lora_parameters"]["rank"] = json!(8)));
    expect("X012", &|folder| config(folder, |config| config["lora_parameters"]["scale"] = json!(0)));
    broken.insert("X011");
    let all: BTreeSet<&str> = rules::ALL.iter().map(|rule| rule.code.0).collect();
    assert_eq!(broken, all);
}
