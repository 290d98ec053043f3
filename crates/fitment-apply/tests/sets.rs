//! Replaced, created, removed and growing tensors; tied ones; config.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use fitment_apply::plan::Job;
use fitment_apply::{Culprit, Note, Options, Plan};
use fitment_core::checkpoint::{Checkpoint, MemoryCheckpoint};
use fitment_core::identity::sha256;
use fitment_core::model::{BaseTensor, ConfigValue, Edit, SetDtype};
use fitment_core::tensor::Dtype;
use serde_json::json;
use support::{
    adapter, add, apply_one, base_bytes, checkpoint, config, config_edit, input, lora, name, noise, remove,
    set, tensor,
};

/// A name that has a row for each token.
const EMBED: &str = "embed_tokens.weight";

fn rows(text: &str, numbers: &[f64], value: fitment_core::tensor::Tensor<'static>) -> Edit<'static> {
    let mut edit = set(text, SetDtype::Base, value);
    edit.rows = Some(tensor(Dtype::I64, &[numbers.len() as u64], numbers));
    Edit::Set(edit)
}

#[test]
fn a_replaced_tensor_has_the_stored_bits_and_dtype() {
    let bytes = base_bytes(&[("a", noise(Dtype::BF16, &[2, 3], 1)), ("b", noise(Dtype::BF16, &[4], 2))]);
    let value = noise(Dtype::F32, &[2, 3], 3);
    let adapter = adapter(vec![Edit::Set(set("a", SetDtype::Stored, value.clone()))]);
    let written = apply_one(&adapter, &checkpoint(&bytes));
    assert_eq!((written["a"].info.dtype, &written["a"].bytes[..]), (Dtype::F32, value.bytes()));
    assert_eq!(written["b"].bytes, checkpoint(&bytes).read("b").unwrap()[..]);
}

#[test]
fn replacing_in_the_base_dtype_rounds_once() {
    // Just above the tie of 1 and 1 + 2^-7: by way of f32 it would become the tie, and round to even.
    let above = 1.0 + 2f64.powi(-8) + 2f64.powi(-40);
    let bytes = base_bytes(&[("a", noise(Dtype::BF16, &[2], 1))]);
    let value = tensor(Dtype::F64, &[2], &[above, 0.1]);
    let written = apply_one(&adapter(vec![Edit::Set(set("a", SetDtype::Base, value))]), &checkpoint(&bytes));
    assert_eq!(written["a"].info.dtype, Dtype::BF16);
    assert_eq!(written["a"].values(), [1.0 + 2f64.powi(-7), 0.10009765625]);
}

#[test]
fn rows_keep_every_bit_of_the_others() {
    // Signalling NaN, negative zero, a subnormal: arithmetic would not keep the first.
    let odd = [0x7f81u16, 0x8000, 0x0001, 0x3f80];
    let odd: Vec<u8> = odd.iter().flat_map(|bits| bits.to_le_bytes()).collect();
    let shape = fitment_core::tensor::Shape::new(&[2, 2]).unwrap();
    let base = fitment_core::tensor::Tensor::owned(Dtype::BF16, shape, odd.clone()).unwrap();
    let bytes = base_bytes(&[("a", base)]);
    let adapter = adapter(vec![rows("a", &[1.0], tensor(Dtype::BF16, &[1, 2], &[5.0, 6.0]))]);
    let written = apply_one(&adapter, &checkpoint(&bytes));
    assert_eq!(written["a"].bytes[..4], odd[..4]);
    assert_eq!(written["a"].values()[2..], [5.0, 6.0]);
}

#[test]
fn appended_rows_grow_the_tensor_and_the_vocabulary() {
    let bytes = base_bytes(&[(EMBED, noise(Dtype::F16, &[4, 3], 1))]);
    let base = MemoryCheckpoint::new(&bytes, Some(config(json!({"vocab_size": 4})))).unwrap();
    let value = noise(Dtype::F16, &[3, 3], 2);
    let adapter = adapter(vec![rows(EMBED, &[2.0, 4.0, 5.0], value.clone())]);
    let plan = Plan::new(&[input(&adapter, 1.0)], &base, &Options::default()).unwrap();
    assert_eq!(plan.config[0].path, ["vocab_size"]);
    assert_eq!((plan.config[0].from.clone(), plan.config[0].to.clone()), (Some(json!(4)), json!(6)));
    let (written, _) = support::run(&plan, &base);
    let embed = &written[EMBED];
    assert_eq!(embed.dims(), [6, 3]);
    let old = base.read(EMBED).unwrap();
    assert_eq!(embed.bytes, [&old[..12], &value.bytes()[..6], &old[18..24], &value.bytes()[6..]].concat());
}

#[test]
fn a_replacement_may_have_another_number_of_rows() {
    let bytes = base_bytes(&[(EMBED, noise(Dtype::BF16, &[4, 3], 1))]);
    for (dtype, count) in [(Dtype::BF16, 6u32), (Dtype::BF16, 2), (Dtype::F32, 6), (Dtype::F32, 2)] {
        let numbers: Vec<f64> = (0..count * 3).map(f64::from).collect();
        let value = tensor(dtype, &[count.into(), 3], &numbers);
        let add_one = add(EMBED, 1.0, tensor(Dtype::F32, &[count.into(), 3], &vec![1.0; numbers.len()]));
        let adapter = adapter(vec![Edit::Set(set(EMBED, SetDtype::Base, value)), Edit::Add(add_one)]);
        let written = apply_one(&adapter, &checkpoint(&bytes));
        assert_eq!(
            (written[EMBED].info.dtype, written[EMBED].dims()),
            (Dtype::BF16, &[u64::from(count), 3][..])
        );
        assert_eq!(written[EMBED].values(), numbers.iter().map(|n| n + 1.0).collect::<Vec<_>>());
    }
}

#[test]
fn edits_around_an_appending_one_see_the_tensor_of_their_time() {
    let base = noise(Dtype::F64, &[3, 2], 1);
    let bytes = base_bytes(&[(EMBED, base.clone())]);
    let before = lora(EMBED, 1.0, noise(Dtype::F64, &[3, 1], 2), noise(Dtype::F64, &[1, 2], 3));
    let after = add(EMBED, 1.0, tensor(Dtype::F64, &[4, 2], &[1.0; 8]));
    let new = tensor(Dtype::F64, &[1, 2], &[7.0, 8.0]);
    let adapter = adapter(vec![Edit::Lora(before.clone()), rows(EMBED, &[3.0], new), Edit::Add(after)]);
    let written = apply_one(&adapter, &checkpoint(&bytes));
    assert_eq!(written[EMBED].dims(), [4, 2]);
    let (up, down) = (support::numbers(3, 2), support::numbers(2, 3));
    let w = support::numbers(6, 1);
    let expected: Vec<f64> = (0..6).map(|at| w[at] + up[at / 2] * down[at % 2] + 1.0).collect();
    let found = written[EMBED].values();
    assert!(found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-14));
    assert_eq!(found[6..], [8.0, 9.0]);
}

/// What an adapter that is bound to a base records of one of its tensors.
fn entry(text: &str, base: &MemoryCheckpoint<'_>) -> BaseTensor {
    let info = &base.tensors()[text];
    BaseTensor {
        unchanged: false,
        component: None,
        name: name(text),
        experts: None,
        dtype: Some(info.dtype),
        shape: Some(info.shape.clone()),
        digests: vec![sha256(&base.read(text).unwrap())],
        extra: serde_json::Map::new(),
    }
}

#[test]
fn other_rows_of_what_is_no_vocabulary_are_another_models() {
    let gate = "layers.0.mlp.gate_proj.weight";
    let bytes = base_bytes(&[(gate, noise(Dtype::BF16, &[4, 3], 1))]);
    let base = MemoryCheckpoint::new(&bytes, Some(config(json!({"vocab_size": 4})))).unwrap();
    let whole = Edit::Set(set(gate, SetDtype::Base, noise(Dtype::BF16, &[6, 3], 2)));
    for edit in [whole, rows(gate, &[4.0], noise(Dtype::BF16, &[1, 3], 3))] {
        let mut adapter = adapter(vec![edit]);
        let refused = Plan::new(&[input(&adapter, 1.0)], &base, &Options::default()).unwrap_err();
        let [culprit @ Culprit::Resized { found, .. }] = refused.culprits() else { panic!("{refused}") };
        assert!(found.dims() == [4, 3] && culprit.hint().is_some_and(|hint| hint.contains("--base")));
        // Bound, it says that it was made for this base.
        adapter.base.tensors = vec![entry(gate, &base)];
        let plan = Plan::new(&[input(&adapter, 1.0)], &base, &Options::default()).unwrap();
        assert!(
            matches!(&plan.notes[..], [Note::Grown { .. }]) && plan.config.is_empty(),
            "{:?}",
            plan.notes
        );
    }
}

#[test]
fn integers_are_replaced_without_arithmetic() {
    let bytes = base_bytes(&[("ids", tensor(Dtype::I64, &[3], &[1.0, 2.0, 3.0]))]);
    let value = tensor(Dtype::I64, &[3], &[4.0, 5.0, 6.0]);
    let adapter = adapter(vec![Edit::Set(set("ids", SetDtype::Stored, value))]);
    assert_eq!(apply_one(&adapter, &checkpoint(&bytes))["ids"].values(), [4.0, 5.0, 6.0]);
}

#[test]
fn tensors_are_created_and_removed() {
    let bytes = base_bytes(&[("a", noise(Dtype::F32, &[2], 1)), ("b", noise(Dtype::F32, &[2], 2))]);
    let mut new = set("c", SetDtype::Stored, tensor(Dtype::F16, &[2], &[1.0, 2.0]));
    new.create = true;
    let bump = add("c", 2.0, tensor(Dtype::F32, &[2], &[0.5, 0.5]));
    let adapter = adapter(vec![remove("a"), Edit::Set(new), Edit::Add(bump)]);
    let base = checkpoint(&bytes);
    let plan = Plan::new(&[input(&adapter, 1.0)], &base, &Options::default()).unwrap();
    assert!(plan.notes.contains(&Note::Removed { target: "a".into() }));
    assert!(plan.notes.contains(&Note::Created { target: "c".into() }));
    let (written, _) = support::run(&plan, &base);
    assert_eq!(written.keys().collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!((written["c"].info.dtype, written["c"].values()), (Dtype::F16, vec![2.0, 3.0]));
}

#[test]
fn an_edit_of_one_use_unties_the_tensor() {
    let embed = noise(Dtype::F64, &[4, 2], 1);
    let bytes = base_bytes(&[("embed", embed.clone()), ("norm", noise(Dtype::F64, &[2], 2))]);
    let base = MemoryCheckpoint::new(&bytes, Some(config(json!({"tie_word_embeddings": true})))).unwrap();
    let mut head = add("embed", 1.0, tensor(Dtype::F64, &[4, 2], &[1.0; 8]));
    head.target.uses = vec![name("head")];
    let both = add("embed", 1.0, tensor(Dtype::F64, &[4, 2], &[10.0; 8]));
    let mut adapter = adapter(vec![Edit::Add(head), Edit::Add(both)]);
    adapter.base.tied.insert(name("embed"), vec![name("head")]);
    let plan = Plan::new(&[input(&adapter, 1.0)], &base, &Options::default()).unwrap();
    assert_eq!(
        (plan.config[0].path.join("."), plan.config[0].to.clone()),
        ("tie_word_embeddings".into(), json!(false))
    );
    assert!(plan.tensors().any(|tensor| tensor.name == "head" && tensor.beside.as_deref() == Some("embed")));
    let (written, _) = support::run(&plan, &base);
    let w = support::numbers(8, 1);
    assert_eq!(written["embed"].values(), w.iter().map(|w| w + 10.0).collect::<Vec<_>>());
    let expected = w.iter().map(|w| w + 1.0 + 10.0);
    assert!(written["head"].values().iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-14));
}

#[test]
fn an_edit_of_the_head_alone_leaves_the_embedding_a_copy() {
    let bytes = base_bytes(&[("embed", noise(Dtype::BF16, &[4, 2], 1))]);
    let mut head = add("embed", 1.0, tensor(Dtype::F32, &[4, 2], &[1.0; 8]));
    head.target.uses = vec![name("head")];
    let tie = config_edit(ConfigValue::TieWordEmbeddings(false));
    let mut adapter = adapter(vec![Edit::Add(head), tie]);
    adapter.base.tied.insert(name("embed"), vec![name("head")]);
    let base = checkpoint(&bytes);
    let plan = Plan::new(&[input(&adapter, 1.0)], &base, &Options::default()).unwrap();
    let job = |wanted: &str| {
        plan.outputs.iter().find(|output| output.tensor.name == wanted).map(|output| &output.job)
    };
    assert!(matches!(job("embed"), Some(Job::Copy { from }) if from == "embed"));
    assert!(matches!(job("head"), Some(Job::Compute(_))));
    assert!(plan.notes.iter().any(|note| matches!(note, Note::ConfigMissing { .. })));
}

#[test]
fn a_use_that_is_stored_again_follows_the_tensor() {
    let embed = noise(Dtype::F32, &[4, 2], 1);
    let bytes = base_bytes(&[("embed", embed.clone()), ("head", embed)]);
    let mut adapter = adapter(vec![Edit::Add(add("embed", 1.0, tensor(Dtype::F32, &[4, 2], &[1.0; 8])))]);
    adapter.base.tied.insert(name("embed"), vec![name("head")]);
    let written = apply_one(&adapter, &checkpoint(&bytes));
    assert_eq!(written["embed"].bytes, written["head"].bytes);
}

#[test]
fn a_whole_checkpoint_changes_its_dtype() {
    let bytes = base_bytes(&[
        ("a", tensor(Dtype::F32, &[2], &[1.0 + 2f64.powi(-9), -3.0])),
        ("ids", tensor(Dtype::I64, &[1], &[7.0])),
        ("w", tensor(Dtype::F32, &[1], &[0.5])),
    ]);
    let base = MemoryCheckpoint::new(
        &bytes,
        Some(config(json!({"torch_dtype": "float32", "x": {"dtype": "float32"}}))),
    );
    let base = base.unwrap();
    let adapter = adapter(vec![Edit::Add(add("w", 1.0, tensor(Dtype::F32, &[1], &[0.25])))]);
    let options = Options { dtype: Some(Dtype::BF16), ..Options::default() };
    let plan = Plan::new(&[input(&adapter, 1.0)], &base, &options).unwrap();
    let paths: Vec<String> = plan.config.iter().map(|change| change.path.join(".")).collect();
    assert_eq!(paths, ["torch_dtype", "x.dtype"]);
    let (written, _) = support::run(&plan, &base);
    assert_eq!((written["a"].info.dtype, written["a"].values()), (Dtype::BF16, vec![1.0, -3.0]));
    assert_eq!((written["w"].info.dtype, written["w"].values()), (Dtype::BF16, vec![0.75]));
    assert_eq!(written["ids"].info.dtype, Dtype::I64);
}

#[test]
fn an_adapter_without_edits_gives_the_base() {
    let bytes =
        base_bytes(&[("a", noise(Dtype::BF16, &[2, 3], 1)), ("empty", tensor(Dtype::F32, &[0, 4], &[]))]);
    let adapter = adapter(vec![]);
    let base = checkpoint(&bytes);
    let plan = Plan::new(&[input(&adapter, 1.0)], &base, &Options::default()).unwrap();
    assert_eq!(plan.notes, [Note::NoEdits { file: "adapter".into() }]);
    let (written, outcome) = support::run(&plan, &base);
    assert_eq!((outcome.tensors, outcome.changed, outcome.bytes), (2, 0, 12));
    assert_eq!(written["a"].bytes, base.read("a").unwrap()[..]);
}

#[test]
fn a_dense_update_of_a_tensor_without_elements_is_nothing() {
    let bytes = base_bytes(&[("empty", tensor(Dtype::F32, &[0, 4], &[]))]);
    let adapter = adapter(vec![Edit::Add(add("empty", 1.0, tensor(Dtype::F32, &[0, 4], &[])))]);
    assert!(apply_one(&adapter, &checkpoint(&bytes))["empty"].bytes.is_empty());
}
