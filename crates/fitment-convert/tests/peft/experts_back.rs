//! Factors of experts that another layout was read from go back to PEFT in that of 0.19.1 and later.

use crate::fixture::{Base, Folder, root, tensors_of};
use crate::formula;
use fitment_convert::{Error, FormatId, Loss, ReadOptions, WriteOptions, read, write};
use fitment_core::Adapter;
use fitment_core::model::{Edit, Lora};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Cases whose factors today's PEFT has the other way round.
pub(crate) const OTHER_LAYOUTS: &[&str] = &[
    "experts_0_17",
    "experts_0_17_square",
    "experts_0_18",
    "experts_0_18_square",
    "experts_0_19_0",
    "experts_0_19_0_gpt_oss",
    "experts_0_19_0_gpt_oss_square",
];

fn case(name: &str) -> (Folder, Base) {
    (Folder::read(&root().join(name).join("adapter")), Base::read(&root().join(name).join("base")))
}

fn options(base: &Base) -> ReadOptions<'_> {
    ReadOptions { base: Some(base), ..ReadOptions::default() }
}

fn results(adapter: &Adapter<'_>, base: &Base) -> BTreeMap<String, Vec<f64>> {
    formula::apply(adapter, base).into_iter().map(|(name, array)| (name, array.values)).collect()
}

fn config(folder: &Folder) -> Value {
    serde_json::from_slice(folder.files().get("adapter_config.json").unwrap()).unwrap()
}

/// What is written, and what is said of it.
fn back(adapter: &Adapter<'_>, base: Option<&Base>) -> (Folder, Vec<&'static str>) {
    let base = base.map(|base| base as &dyn fitment_core::checkpoint::Checkpoint);
    let written = write(adapter, FormatId::Peft, &WriteOptions::on(base)).unwrap();
    (Folder::of(&written), written.losses.iter().map(Loss::id).collect())
}

/// Whether two folders have the same tensors under the same keys.
fn are_equal(a: &Folder, b: &Folder) -> bool {
    let tensors = |folder: &Folder| -> Vec<_> {
        let tensors = tensors_of(folder.files().get("adapter_model.safetensors").unwrap());
        let plain = tensors
            .into_iter()
            .map(|(key, tensor)| (key, tensor.dtype(), tensor.dims().to_vec(), tensor.bytes().to_vec()));
        plain.collect()
    };
    tensors(a) == tensors(b)
}

#[test]
fn older_layouts_become_todays_and_the_version_says_so() {
    for name in OTHER_LAYOUTS {
        let (folder, base) = case(name);
        let files = folder.files();
        let adapter = read(&files, &options(&base)).unwrap().adapter;
        let stop = fitment_core::to_bytes(&adapter).unwrap();
        for (adapter, base) in [(&adapter, None), (&fitment_core::read(&stop).unwrap(), Some(&base))] {
            let (written, losses) = back(adapter, base);
            assert_eq!(losses, ["config_remade"], "{name}");
            assert!(!are_equal(&written, &folder), "{name}");
            let (mut was, is) = (config(&folder), config(&written));
            was["peft_version"] = is["peft_version"].clone();
            assert_eq!(was, is, "{name}");
            assert_eq!(is["peft_version"], json!("0.21.2"), "{name}");
        }
        let (written, _) = back(&adapter, None);
        let files = written.files();
        let again = read(&files, &options(&base)).unwrap();
        assert_eq!((&again.losses[..], &again.findings[..]).1, [], "{name}");
        assert_eq!(results(&again.adapter, &base), results(&adapter, &base), "{name}");
        let (twice, losses) = back(&again.adapter, None);
        assert!(losses.is_empty() && are_equal(&twice, &written), "{name}");
    }
}

#[test]
fn todays_layout_is_that_of_an_export() {
    for name in ["experts_0_19_0", "experts_0_19_0_gpt_oss"] {
        let (folder, base) = case(name);
        let files = folder.files();
        let mut adapter = read(&files, &options(&base)).unwrap().adapter;
        let (restored, _) = back(&adapter, None);
        adapter.source = None;
        assert!(are_equal(&restored, &back(&adapter, Some(&base)).0), "{name}");
    }
}

#[test]
fn columns_of_unsloth_become_those_of_peft() {
    for name in ["experts_mixtral", "experts_stacked", "experts_gpt_oss", "experts_0_18"] {
        let (folder, base) = case(name);
        let files = folder.files();
        let said = ReadOptions { moe_b_layout: Some("expert-major"), ..options(&base) };
        let adapter = read(&files, &said).unwrap().adapter;
        let (written, losses) = back(&adapter, None);
        assert_eq!(losses, ["config_remade"], "{name}");
        assert!(!are_equal(&written, &folder), "{name}");
        let files = written.files();
        let again = read(&files, &options(&base)).unwrap().adapter;
        assert_eq!(results(&again, &base), results(&adapter, &base), "{name}");
    }
}

#[test]
fn an_option_that_the_version_does_not_confirm_becomes_the_version() {
    let (mut folder, base) = case("experts_all_square");
    for version in [json!(null), json!("0.18.1")] {
        folder.change_config(|config| {
            config.insert("peft_version".to_owned(), version.clone());
        });
        let files = folder.files();
        let said = ReadOptions { moe_layout: Some("0.19.1"), ..options(&base) };
        let adapter = read(&files, &said).unwrap().adapter;
        let (written, losses) = back(&adapter, None);
        assert!(are_equal(&written, &folder));
        assert_eq!(
            (losses, config(&written)["peft_version"].clone()),
            (vec!["config_remade"], json!("0.21.2"))
        );
        let files = written.files();
        assert_eq!(results(&read(&files, &options(&base)).unwrap().adapter, &base), results(&adapter, &base));
    }
}

#[test]
fn without_a_base_only_what_is_certain_is_turned() {
    // Of 0.19.0 every class has it the other way today; up to 0.18 it is the same for gpt-oss.
    for (name, needs_base) in [
        ("experts_mixtral", false),
        ("experts_0_19_0_gpt_oss", false),
        ("experts_0_18", true),
        ("experts_0_18_gpt_oss", true),
    ] {
        let (folder, base) = case(name);
        let files = folder.files();
        let adapter = read(&files, &ReadOptions::default()).unwrap().adapter;
        match write(&adapter, FormatId::Peft, &WriteOptions::default()) {
            Ok(_) => assert!(!needs_base, "{name}"),
            Err(error) => {
                assert!(matches!(error, Error::Ambiguous { .. }), "{name}: {error}");
                assert!(needs_base && error.hint().unwrap().contains("--base"), "{name}");
            }
        }
        let bound = read(&files, &options(&base)).unwrap().adapter;
        assert!(are_equal(&back(&adapter, Some(&base)).0, &back(&bound, None).0), "{name}");
    }
}

/// PEFT on transformers 5 drops the factors of gate and up in silence where those of `down` are missing, and refuses one of the two.
#[test]
fn what_is_missing_of_single_experts_is_written_as_zeros() {
    let (folder, base) = case("experts_each");
    let files = folder.files();
    let whole = read(&files, &options(&base)).unwrap().adapter;
    for (missing, is_completed) in [(&["w2"][..], true), (&["w2", "w3"], true), (&["w1", "w3"], false)] {
        let mut adapter = whole.clone();
        let is_missing = |edit: &Edit<'_>| {
            let module = edit.target().unwrap().name.as_str().strip_suffix(".weight").unwrap().to_owned();
            missing.iter().any(|word| module.ends_with(&format!(".{word}")))
        };
        adapter.edits.retain(|edit| !is_missing(edit));
        let (written, losses) = back(&adapter, None);
        assert_eq!(losses.contains(&"config_remade"), is_completed, "{missing:?}");
        let files = written.files();
        let tensors = tensors_of(files.get("adapter_model.safetensors").unwrap());
        for word in missing {
            let mut own = tensors.iter().filter(|(key, _)| key.contains(&format!(".{word}."))).peekable();
            assert_eq!(own.peek().is_some(), is_completed, "{word}");
            assert!(own.all(|(_, tensor)| tensor.bytes().iter().all(|byte| *byte == 0)), "{word}");
        }
        let (mut again, wanted) = (read(&files, &options(&base)).unwrap().adapter, results(&adapter, &base));
        again.edits.retain(|edit| !is_missing(edit));
        assert_eq!(results(&again, &base), wanted, "{missing:?}");
    }
}

/// The first column of `up` and the first row of `down`.
fn of_rank_one(lora: &mut Lora<'_>) {
    let &[out, _] = lora.up.dims() else { panic!() };
    let &[_, input] = lora.down.dims() else { panic!() };
    let elements = |tensor: &Tensor<'_>| tensor.bytes().as_chunks::<4>().0.to_vec();
    let rank = lora.rank() as usize;
    let up: Vec<u8> = elements(&lora.up).into_iter().step_by(rank).flatten().collect();
    let down: Vec<u8> = elements(&lora.down).into_iter().take(input as usize).flatten().collect();
    lora.up = Tensor::owned(Dtype::F32, Shape::new(&[out, 1]).unwrap(), up).unwrap();
    lora.down = Tensor::owned(Dtype::F32, Shape::new(&[1, input]).unwrap(), down).unwrap();
}

/// PEFT on transformers 5 stacks modules of experts by one rank and one scale, and refuses layers that lack an expert.
#[test]
fn single_experts_are_written_with_one_rank_and_scale_and_none_is_missing() {
    let (folder, base) = case("experts_each");
    let files = folder.files();
    let mut adapter = read(&files, &options(&base)).unwrap().adapter;
    let is_in = |edit: &Edit<'_>, part: &str| edit.target().unwrap().name.as_str().contains(part);
    adapter.edits.retain(|edit| !is_in(edit, ".experts.1."));
    for edit in &mut adapter.edits {
        if is_in(edit, ".experts.2.w1.")
            && let Edit::Lora(lora) = edit
        {
            of_rank_one(lora);
            lora.scale *= 4.0;
        }
    }
    for source in [adapter.source.clone(), None] {
        let adapter = Adapter { source, ..adapter.clone() };
        let (written, losses) = back(&adapter, Some(&base));
        assert!(losses.contains(&"rank_padded") && !losses.contains(&"rounded"), "{losses:?}");
        let files = written.files();
        let tensors = tensors_of(files.get("adapter_model.safetensors").unwrap());
        let ranks: Vec<u64> = tensors
            .iter()
            .filter(|(key, _)| key.contains(".experts.") && key.ends_with("lora_A.weight"))
            .map(|(_, tensor)| tensor.dims()[0])
            .collect();
        assert_eq!(ranks, [2; 9]);
        let config = config(&written);
        assert_eq!((config["r"].as_u64(), config["lora_alpha"].as_f64()), (Some(2), Some(5.0)));
        let mut again = read(&files, &options(&base)).unwrap().adapter;
        let (twice, losses) = back(&again, Some(&base));
        assert!(losses.is_empty() && are_equal(&twice, &written), "{losses:?}");
        again.edits.retain(|edit| !is_in(edit, ".experts.1."));
        assert!(results(&again, &base) == results(&adapter, &base));
    }
}
