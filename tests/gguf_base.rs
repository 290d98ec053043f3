//! GGUF models as bases: the same tensors as the Hugging Face folder that they were made from, quantised ones for reading only.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_apply::{Input, Options, Plan, execute};
use fitment_convert::gguf::Model;
use fitment_convert::{FormatId, ReadOptions, WriteOptions, read, write};
use fitment_core::checkpoint::Checkpoint;
use fitment_core::tensor::Dtype;
use fitment_io::{Access, AdapterFiles, CheckpointDir};
use fitment_tests::compare::{distance, values};
use fitment_tests::oracle;
use fitment_tests::place::{fixture, scratch};
use fitment_tests::program::fitment;
use fitment_tests::sink::Sink;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

fn open(path: &Path) -> CheckpointDir {
    CheckpointDir::open(path, Access::Map).unwrap()
}

fn cases() -> Vec<PathBuf> {
    let folders = fs::read_dir(fixture("gguf-lora")).unwrap().map(|entry| entry.unwrap().path());
    folders.filter(|path| path.join("base.gguf").exists()).collect()
}

fn run(arguments: &[&Path]) -> (Option<i32>, String) {
    let output = fitment().args(arguments).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_model_has_the_tensors_of_its_folder() {
    for case in cases() {
        let (folder, file) = (open(&case.join("base")), open(&case.join("base.gguf")));
        let is_gemma = case.file_name().unwrap().to_str().unwrap().starts_with("gemma");
        assert_eq!(
            folder.tensors().keys().collect::<Vec<_>>(),
            file.tensors().keys().collect::<Vec<_>>(),
            "{}",
            case.display()
        );
        for (name, info) in folder.tensors() {
            let (theirs, ours) = (folder.read(name).unwrap(), file.read(name).unwrap());
            assert_eq!(info.shape, file.tensors()[name].shape, "{name}");
            let found = file.tensors()[name].dtype;
            // Norms are F32 there; those of Gemma are one more, which is rounded.
            let (a, b) = (values(info.dtype, &theirs), values(found, &ours));
            let limit = if is_gemma && name.contains("norm") { 1.3e-7 } else { 0.0 };
            let far = a.iter().zip(&b).any(|(a, b)| (a - b).abs() > limit);
            assert!(!far, "{}: {name}", case.display());
        }
        for key in ["num_attention_heads", "hidden_size", "vocab_size", "num_hidden_layers"] {
            let (theirs, ours) = (&folder.config().unwrap().get(key), &file.config().unwrap()[key]);
            assert!(theirs.is_none_or(|theirs| theirs == ours), "{}: {key}", case.display());
        }
    }
}

#[test]
fn applied_to_a_model_it_is_what_export_lora_merges() {
    for case in cases() {
        let (base, merged) = (open(&case.join("base.gguf")), open(&case.join("merged.gguf")));
        let files = AdapterFiles::load(&case.join("lora.gguf")).unwrap();
        let options = ReadOptions { base: Some(&base), ..ReadOptions::default() };
        let adapter = read(&files.iter().collect(), &options).unwrap().adapter;
        let inputs = [Input { adapter: &adapter, weight: 1.0, name: "a".to_owned() }];
        let plan = Plan::new(&inputs, &base, &Options::default()).unwrap();
        let sink = Sink::new(&base);
        execute(&plan, &base, &sink, &|_| (), &AtomicBool::new(false)).unwrap();
        let mut changed = 0;
        for (name, ours) in sink.into_written() {
            let info = &merged.tensors()[&name];
            let theirs = merged.read(&name).unwrap();
            let ours_wide = values(base.tensors()[&name].dtype, &ours);
            if info.dtype == Dtype::F32 {
                let far = distance(Dtype::F32, &ours, &theirs, None);
                assert!(far.relative <= 2e-6, "{}: {name}: {far:?}", case.display());
            } else {
                // It writes what it merged of other types as F16.
                let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 0.01 * a.abs() + 1e-3;
                assert!(ours_wide.iter().zip(&values(info.dtype, &theirs)).all(near), "{name}");
            }
            changed += usize::from(*base.read(&name).unwrap() != *ours);
        }
        assert_eq!(changed, adapter.base.tensors.iter().map(|t| t.digests.len()).sum::<usize>());
    }
}

#[test]
fn either_base_gives_the_same_file() {
    for case in cases() {
        let (folder, file) = (open(&case.join("base")), open(&case.join("base.gguf")));
        let files = AdapterFiles::load(&case.join("peft")).unwrap();
        let [by_folder, by_file] = [&folder, &file].map(|base| {
            let options = ReadOptions { base: Some(base), ..ReadOptions::default() };
            let adapter = read(&files.iter().collect(), &options).unwrap().adapter;
            let written = write(
                &adapter,
                FormatId::Gguf,
                &WriteOptions { base: Some(base), ..WriteOptions::default() },
            )
            .unwrap();
            let mut bytes = Vec::new();
            written.files[0].write_to(&mut bytes).unwrap();
            let parsed = fitment_convert::gguf::Container::parse(&bytes).unwrap();
            let tensor =
                |entry: &fitment_convert::gguf::Entry<'_>| (entry.name.clone(), entry.bytes.to_vec());
            parsed.tensors.iter().map(tensor).collect::<Vec<_>>()
        });
        assert!(by_folder == by_file, "{}", case.display());
    }
}

#[test]
fn blocks_are_dequantised_bit_for_bit_and_never_written_to() {
    let base = open(&fixture("gguf-base/quantised.gguf"));
    let expected = fs::read(fixture("gguf-base/dequantised.f32")).unwrap();
    let modules = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"];
    let modules = modules.into_iter().chain(["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]);
    let first = modules.map(|module| format!("model.layers.0.{module}.weight"));
    let names: Vec<String> = first.chain(["model.layers.1.self_attn.q_proj.weight".to_owned()]).collect();
    let kinds = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"];
    for ((name, kind), expected) in names.iter().zip(kinds).zip(expected.chunks(3 * 256 * 4)) {
        assert_eq!((base.quantised(name), base.tensors()[name].dtype), (Some(kind), Dtype::F32));
        assert!(&*base.read(name).unwrap() == expected, "{kind}");
    }
    assert_eq!(base.quantised("model.embed_tokens.weight"), None);
}

#[test]
fn apply_writes_one_file_and_refuses_blocks_by_name() {
    let (case, room) = (fixture("gguf-lora/llama"), scratch());
    let [out, folder] = ["out.safetensors", "out"].map(|name| room.path().join(name));
    let (base, adapter) = (case.join("base.gguf"), case.join("lora.gguf"));
    let (code, text) = run(&["apply".as_ref(), &base, &adapter, "-o".as_ref(), &folder]);
    assert!(code == Some(2) && text.contains("no config.json"), "{text}");
    let (code, text) = run(&["apply".as_ref(), &base, &adapter, "-o".as_ref(), &out]);
    assert_eq!(code, Some(0), "{text}");
    let whole = room.path().join("whole");
    assert_eq!(run(&["apply".as_ref(), &case.join("base"), &adapter, "-o".as_ref(), &whole]).0, Some(0));
    let (file, folder) = (open(&out), open(&whole));
    assert_eq!(file.tensors(), folder.tensors());
    assert!(file.tensors().keys().all(|name| file.read(name).unwrap() == folder.read(name).unwrap()));
    // An adapter of the quantised model.
    let lora = room.path().join("q.gguf");
    let quantised = fixture("gguf-base/quantised.gguf");
    fs::write(&lora, fitting(&quantised)).unwrap();
    let (code, text) =
        run(&["apply".as_ref(), &quantised, &lora, "-o".as_ref(), &room.path().join("x.safetensors")]);
    assert!(
        code == Some(2) && text.contains("model.layers.0.self_attn.q_proj.weight is Q4_0"),
        "{code:?} {text}"
    );
    let (code, text) = run(&["validate".as_ref(), &lora, "--base".as_ref(), &quantised]);
    assert_eq!(code, Some(0), "{text}");
}

/// A LoRA of `blk.0.attn_q` of the quantised model.
fn fitting(base: &Path) -> Vec<u8> {
    use fitment_core::model::{Base, Edit, Lora, LoraForm, Origin, Target, TensorName};
    use fitment_core::tensor::{Shape, Tensor};
    let base = open(base);
    let tensor = |dims: &[u64], value: f32| {
        let count = dims.iter().product::<u64>() as usize;
        Tensor::owned(Dtype::F32, Shape::new(dims).unwrap(), value.to_le_bytes().repeat(count)).unwrap()
    };
    let lora = Lora {
        target: Target::whole(TensorName::new("model.layers.0.self_attn.q_proj.weight").unwrap()),
        form: LoraForm::Matrix,
        transposed: false,
        scale: 1.0,
        up: tensor(&[3, 2], 0.5),
        down: tensor(&[2, 256], 0.25),
        mid: None,
        magnitude: None,
        origin: Origin::default(),
    };
    let adapter =
        fitment_core::Adapter { base: Base::default(), edits: vec![Edit::Lora(lora)], ..Default::default() };
    let written =
        write(&adapter, FormatId::Gguf, &WriteOptions { base: Some(&base), ..WriteOptions::default() })
            .unwrap();
    let mut bytes = Vec::new();
    written.files[0].write_to(&mut bytes).unwrap();
    bytes
}

#[test]
fn damaged_models_end_in_a_result() {
    let whole = fs::read(fixture("gguf-lora/mixtral/base.gguf")).unwrap();
    let end = whole.len() as u64;
    for part in 0..64 {
        assert!(Model::read(&whole[..whole.len() * part / 64], end * part as u64 / 64).is_err());
    }
    // A bit of each byte of the header.
    for at in 0..3000 {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        oracle::gguf_model(&bytes);
    }
    oracle::gguf_model(&fs::read(fixture("gguf-base/quantised.gguf")).unwrap());
    let adapter = fs::read(fixture("gguf-lora/llama/lora.gguf")).unwrap();
    let error = Model::read(&adapter, adapter.len() as u64).unwrap_err();
    assert!(error.to_string().contains("is of type adapter"), "{error}");
}
