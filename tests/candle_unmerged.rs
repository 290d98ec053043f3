//! A small Llama with adapters beside its weights, against the original tools and against merged weights.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(clippy::print_stdout, reason = "how far results are apart is part of the report")]

#[path = "unmerged/family.rs"]
#[allow(dead_code, reason = "the real model needs all of it")]
mod family;
#[path = "examples/generate/main.rs"]
#[allow(dead_code, unreachable_pub, reason = "its `main`")]
mod generate;

use family::{Family, weights_and_mixes};
use fitment_apply::Input;
use fitment_candle::hooks::Interventions;
use fitment_io::{Access, CheckpointDir};
use fitment_tests::place::fixture;

fn with_tiny(then: impl FnOnce(&Family<'_>)) {
    let folder = fixture("unmerged/tiny");
    let base = CheckpointDir::open(&folder.join("base"), Access::Map).unwrap();
    then(&Family { folder, base: &base });
}

#[test]
fn logits_and_words_are_those_of_peft() {
    with_tiny(|family| {
        family.says_the_same("base", &family.model(&[]).0, None, 1e-5);
        for name in ["lora", "dora", "trained"] {
            family.with_adapter(&family.folder.join(name), |adapter| {
                family.says_the_same(name, &family.model(&[(adapter, 1.0)]).0, None, 1e-5);
                family.says_the_same(name, &family.merged(&[(adapter, 1.0)]), None, 1e-5);
            });
        }
    });
}

#[test]
fn interventions_give_pyrefts_logits_in_prompt_and_decoding() {
    with_tiny(|family| {
        family.with_adapter(&family.folder.join("loreft"), |adapter| {
            let hook = Interventions::new(&[Input { adapter, weight: 1.0, name: "loreft".to_owned() }]);
            family.says_the_same("loreft", &family.model(&[(adapter, 1.0)]).0, Some(&hook), 1e-5);
            hook.check_all_met().unwrap();
        });
    });
}

#[test]
fn adapters_mix_for_all_rows_and_row_by_row() {
    with_tiny(|family| {
        family.with_adapter(&family.folder.join("lora"), |lora| {
            family.with_adapter(&family.folder.join("dora"), |dora| {
                family.with_adapter(&family.folder.join("trained"), |trained| {
                    let prompts: [&[u32]; 2] = [&[3, 17, 29, 5, 11], &[8, 2]];
                    weights_and_mixes(family, &[lora, dora, trained], prompts, 1e-5);
                });
            });
        });
    });
}

#[test]
fn the_readmes_example_counts_down() {
    let base = fixture("example/base");
    let adapter = fixture("example/adapter").to_str().unwrap().to_owned();
    let say = |adapters: &[(String, f64)]| {
        generate::go_on(&base, adapters, "<s> twelve", 5, &family::device()).unwrap()
    };
    assert_eq!(say(&[]), "thirteen fourteen fifteen sixteen seventeen");
    assert_eq!(say(&[(adapter.clone(), 1.0)]), "eleven ten nine eight seven");
    assert_eq!(say(&[(adapter, 0.0)]), "thirteen fourteen fifteen sixteen seventeen");
}
