//! Adapters without a PEFT source get a config that says the same.

use crate::fixture::{Base, Folder, cases, root, text};
use crate::formula;
use fitment_convert::{Content, FormatId, Loss, ReadOptions, WriteOptions, Written, read, write};
use fitment_core::Adapter;
use fitment_core::model::{
    Add, ConfigEdit, ConfigValue, Edit, Intervention, Lora, LoraForm, Origin, Phase, Positions, Remove, Set,
    SetDtype, Site, SiteComponent, Target, TensorName, When,
};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use serde_json::Value;
use std::collections::BTreeMap;

fn forget_source(adapter: &mut Adapter<'_>) {
    adapter.source = None;
    for edit in &mut adapter.edits {
        match edit {
            Edit::Lora(edit) => edit.origin = Origin::default(),
            Edit::Set(edit) => edit.origin = Origin::default(),
            Edit::Add(edit) => edit.origin = Origin::default(),
            Edit::Remove(edit) => edit.origin = Origin::default(),
            Edit::SparseSet(edit) => edit.origin = Origin::default(),
            Edit::SparseAdd(edit) => edit.origin = Origin::default(),
            Edit::Bits(edit) => edit.origin = Origin::default(),
            Edit::Config(edit) => edit.origin = Origin::default(),
            Edit::Intervention(edit) => edit.origin = Origin::default(),
        }
    }
}

fn bytes(written: &Written<'_>) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for file in &written.files {
        let mut bytes = Vec::new();
        file.write_to(&mut bytes).unwrap();
        files.insert(file.path.clone(), bytes);
    }
    files
}

fn lost(written: &Written<'_>) -> Vec<String> {
    let lost = written.losses.iter().filter(|loss| loss.changes_function());
    lost.map(ToString::to_string).collect()
}

#[test]
fn what_is_exported_computes_the_same_when_read_again() {
    let mut done = 0;
    for (name, path, case) in cases(&root()) {
        let folder = Folder::read(&path.join(text(&case, "adapter").unwrap()));
        let Some(base) = text(&case, "base").map(|base| Base::read(&path.join(base))) else { continue };
        let options = ReadOptions { base: Some(&base), ..ReadOptions::default() };
        let Ok(converted) = read(&folder.files(), &options) else { continue };
        let mut adapter = converted.adapter;
        forget_source(&mut adapter);
        let written = write(&adapter, FormatId::Peft, &WriteOptions::on(Some(&base))).unwrap();
        if name == "mha" {
            assert_eq!(lost(&written).len(), 2);
            continue;
        }
        assert_eq!(lost(&written), [] as [&str; 0], "{name}");
        let files = bytes(&written);
        let files = files.iter().map(|(path, bytes)| (path.clone(), bytes.as_slice())).collect();
        let again = read(&files, &options).unwrap_or_else(|error| panic!("{name}: {error}"));
        let errors: Vec<_> =
            again.findings.iter().filter(|f| !["P031", "E013", "E015"].contains(&f.code.0)).collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
        let (before, after) = (formula::apply(&adapter, &base), formula::apply(&again.adapter, &base));
        for (tensor, before) in &before {
            let unedited = || base.get(tensor).map(formula::array);
            let after = after.get(tensor).cloned().or_else(unedited).unwrap();
            assert_eq!(before.values, after.values, "{name}: {tensor}");
        }
        done += 1;
    }
    assert!(done >= 45, "only {done} cases");
}

fn floats(dims: &[u64]) -> Tensor<'static> {
    let count: u64 = dims.iter().product();
    let bytes: Vec<u8> = (0..count).flat_map(|i| (i as f32 / 8.0 + 0.5).to_le_bytes()).collect();
    Tensor::owned(Dtype::F32, Shape::new(dims).unwrap(), bytes).unwrap()
}

fn target(name: &str) -> Target {
    Target::whole(TensorName::new(name).unwrap())
}

fn lora(name: &str, scale: f64) -> Lora<'static> {
    Lora {
        target: target(name),
        form: LoraForm::Matrix,
        transposed: false,
        scale,
        up: floats(&[4, 3]),
        down: floats(&[3, 5]),
        mid: None,
        magnitude: None,
        origin: Origin::default(),
    }
}

fn export(edits: Vec<Edit<'static>>) -> (Vec<Loss>, Value, Vec<String>) {
    let adapter = Adapter { edits, ..Adapter::default() };
    let written = write(&adapter, FormatId::Peft, &WriteOptions::default()).unwrap();
    let config = serde_json::from_slice(&bytes(&written)["adapter_config.json"]).unwrap();
    let keys = written.files.iter().find_map(|file| match &file.content {
        Content::Container { tensors, .. } => Some(tensors.iter().map(|(name, _)| name.clone()).collect()),
        Content::Bytes(_) | Content::Pieces(_) | Content::Torch(_) => None,
    });
    let losses = written.losses.into_iter().filter(|loss| loss.id() != "assumed_names").collect();
    (losses, config, keys.unwrap())
}

#[test]
fn ranks_and_scales_become_exact_patterns() {
    let (losses, config, _) = export(vec![
        Edit::Lora(lora("a.q.weight", 2.0)),
        Edit::Lora(lora("a.k.weight", 2.0)),
        Edit::Lora(lora("a.b+c.weight", 0.25)),
    ]);
    assert_eq!(losses, []);
    assert_eq!((&config["r"], &config["lora_alpha"]), (&3.into(), &6.into()));
    assert_eq!(config["alpha_pattern"], serde_json::json!({r"^a\.b\+c": 0.75}));
    assert_eq!(config["target_modules"], serde_json::json!(["a.b+c", "a.k", "a.q"]));
    assert_eq!(config["peft_type"], "LORA");
}

#[test]
fn a_scale_that_no_alpha_gives_pads_the_rank() {
    // In doubles, no third is 0.1: not that of 0.3, nor of the next one up.
    let scale = 0.1;
    assert!([0.3f64, 0.3f64.next_up()].iter().all(|alpha| alpha / 3.0 != scale));
    let (losses, config, _) = export(vec![Edit::Lora(lora("a.q.weight", scale))]);
    assert_eq!(losses, [Loss::RankPadded { target: "a.q.weight".to_owned(), from: 3, to: 4 }]);
    assert_eq!(config["r"], 4);
    assert_eq!(config["lora_alpha"].as_f64().unwrap() / 4.0, scale);
}

#[test]
fn biases_rows_and_whole_tensors_find_their_keys() {
    let add = |name: &str, scale: f64| Add {
        target: target(name),
        scale,
        value: floats(&[4]),
        exceptions: None,
        origin: Origin::default(),
    };
    let set = |name: &str, dims: &[u64], create: bool, rows: Option<Tensor<'static>>| Set {
        target: target(name),
        dtype: if create { SetDtype::Stored } else { SetDtype::Base },
        create,
        reshape: false,
        value: floats(dims),
        rows,
        origin: Origin::default(),
    };
    let numbers: Vec<u8> = [3i64, 7].iter().flat_map(|number| number.to_le_bytes()).collect();
    let rows = Tensor::owned(Dtype::I64, Shape::new(&[2]).unwrap(), numbers).unwrap();
    let (losses, config, keys) = export(vec![
        Edit::Lora(lora("a.q.weight", 2.0)),
        Edit::Add(add("a.q.bias", 2.0)),
        Edit::Lora(lora("a.v.weight", 2.0)),
        Edit::Set(set("model.embed_tokens.weight", &[2, 5], false, Some(rows))),
        Edit::Set(set("norm.weight", &[5], false, None)),
        Edit::Set(set("score.weight", &[2, 5], true, None)),
        Edit::Set(set("a.v.bias", &[4], false, None)),
    ]);
    assert_eq!(losses, []);
    assert_eq!(config["lora_bias"], true);
    assert_eq!(config["bias"], "lora_only");
    assert_eq!(config["modules_to_save"], serde_json::json!(["norm", "score"]));
    assert_eq!(config["trainable_token_indices"], serde_json::json!({"model.embed_tokens": [3, 7]}));
    let keys: Vec<&str> = keys.iter().map(|key| key.strip_prefix("base_model.model.").unwrap()).collect();
    assert_eq!(
        keys,
        [
            "a.q.lora_A.weight",
            "a.q.lora_B.bias",
            "a.q.lora_B.weight",
            "a.v.base_layer.bias",
            "a.v.lora_A.weight",
            "a.v.lora_B.bias",
            "a.v.lora_B.weight",
            "model.embed_tokens.token_adapter.trainable_tokens_delta",
            "norm.weight",
            "score.weight",
        ]
    );
}

#[test]
fn what_peft_cannot_hold_is_listed_by_name() {
    let sliced = {
        let range = fitment_core::model::IndexRange { start: 0, end: 4, step: 1 };
        let slice = vec![fitment_core::model::AxisSlice { axis: 0, ranges: vec![range] }];
        Lora { target: Target { slice, ..target("s.weight") }, ..lora("s.weight", 1.0) }
    };
    let timed = {
        let when = Some(When { phase: Phase::Prompt, after_tokens: vec![] });
        Lora { target: Target { when, ..target("t.weight") }, ..lora("t.weight", 1.0) }
    };
    let steering = {
        let site = Site::Layer { layer: 3, component: SiteComponent::BlockOutput };
        Intervention { up_bias: Some(floats(&[4])), ..Intervention::at(site, Positions::EVERYWHERE) }
    };
    let (losses, config, keys) = export(vec![
        Edit::Lora(lora("a.q.weight", 2.0)),
        // Of what the two are done to in turn, PEFT holds the first.
        Edit::Lora(lora("a.r.weight", 1.0)),
        Edit::Lora(Lora { form: LoraForm::Conv, ..lora("a.r.weight", 1.0) }),
        Edit::Lora(sliced),
        Edit::Lora(timed),
        Edit::Add(Add {
            target: target("a.q.bias"),
            scale: 1.0,
            value: floats(&[4]),
            exceptions: None,
            origin: Origin::default(),
        }),
        Edit::Remove(Remove { target: target("b.weight"), origin: Origin::default() }),
        Edit::Config(ConfigEdit {
            component: None,
            value: ConfigValue::MlpBias(true),
            origin: Origin::default(),
        }),
        Edit::Intervention(steering),
    ]);
    let lost: Vec<(&str, &str)> = losses
        .iter()
        .map(|loss| match loss {
            Loss::NotHeld { target, kind, .. } => (target.as_str(), *kind),
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(
        lost,
        [
            ("a.r.weight", "lora"),
            ("s.weight", "lora"),
            ("t.weight", "lora"),
            ("a.q.bias", "add"),
            ("b.weight", "remove"),
            ("mlp_bias", "config"),
            ("@block_output.3", "intervention"),
        ]
    );
    assert!(losses.iter().all(Loss::changes_function));
    assert_eq!(config["lora_bias"], false);
    assert_eq!(keys.len(), 4);
}

#[test]
fn an_adapter_without_factors_names_no_targets() {
    let set = Set {
        target: target("norm.weight"),
        dtype: SetDtype::Base,
        create: false,
        reshape: false,
        value: floats(&[5]),
        rows: None,
        origin: Origin::default(),
    };
    let (losses, config, _) = export(vec![Edit::Set(set)]);
    assert_eq!(losses, []);
    assert_eq!(config["target_modules"], "dummy-target-modules");
}
