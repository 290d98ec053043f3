//! LoRA on expert tensors: what decides the layout, and what contradicts it.

use crate::fixture::{Base, Folder, root, tensors_of};
use crate::formula;
use fitment_convert::{Converted, Error, FormatId, ReadOptions, WriteOptions, peft, read, write};
use fitment_core::model::{Edit, Lora};
use fitment_core::tensor::Tensor;
use fitment_core::{Adapter, Finding};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

struct Case {
    folder: Folder,
    base: Base,
}

impl Case {
    fn new(name: &str) -> Self {
        let path = root().join(name);
        Self { folder: Folder::read(&path.join("adapter")), base: Base::read(&path.join("base")) }
    }

    fn with(mut self, change: impl Fn(&mut Map<String, Value>)) -> Self {
        self.folder.change_config(change);
        self
    }

    fn options<'o>(&'o self, layout: Option<&'o str>, columns: Option<&'o str>) -> ReadOptions<'o> {
        ReadOptions {
            base: Some(&self.base),
            moe_layout: layout,
            moe_b_layout: columns,
            ..ReadOptions::default()
        }
    }

    fn read(&self) -> Result<Converted<'_>, Error> {
        read(&self.folder.files(), &self.options(None, None))
    }

    fn with_layout(&self, layout: &str) -> Result<Converted<'_>, Error> {
        read(&self.folder.files(), &self.options(Some(layout), None))
    }
}

fn without(key: &'static str) -> impl Fn(&mut Map<String, Value>) {
    move |config: &mut Map<String, Value>| {
        config.remove(key);
    }
}

fn codes(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|finding| finding.code.0).collect()
}

fn first<'e, 'a>(adapter: &'e Adapter<'a>) -> &'e Lora<'a> {
    adapter.edits.iter().find_map(|edit| if let Edit::Lora(lora) = edit { Some(lora) } else { None }).unwrap()
}

fn results(adapter: &Adapter<'_>, base: &Base) -> BTreeMap<String, Vec<f64>> {
    formula::apply(adapter, base).into_iter().map(|(name, array)| (name, array.values)).collect()
}

fn hint(result: Result<Converted<'_>, Error>) -> String {
    let error = result.unwrap_err();
    format!("{error} {}", error.hint().unwrap_or_default())
}

#[test]
fn of_square_experts_the_version_or_the_option_tells() {
    let stated = Case::new("experts_all_square");
    let stated = (stated.read().unwrap().adapter, &stated.base);
    let stated = results(&stated.0, stated.1);
    let silent = Case::new("experts_all_square").with(without("peft_version"));
    let error = silent.read().unwrap_err();
    assert!(matches!(error, Error::Ambiguous { .. }));
    assert!(hint(silent.read()).contains("--moe-layout"));
    let told = silent.with_layout("0.19.1").unwrap().adapter;
    assert_eq!(results(&told, &silent.base), stated);
    assert_eq!(
        told.source.as_ref().unwrap().options,
        [("moe-layout".to_owned(), "0.19.1".to_owned())].into()
    );
    for older in ["0.17", "0.19.0"] {
        let other = results(&silent.with_layout(older).unwrap().adapter, &silent.base);
        assert_ne!(other, stated);
    }
    assert!(hint(silent.with_layout("0.18")).contains("0.17, 0.19.0, 0.19.1"));
}

#[test]
fn a_config_that_only_0_17_writes_is_of_0_17_and_says_so() {
    let case = Case::new("experts_0_17_square");
    let read = case.read().unwrap();
    assert!(read.losses.iter().any(|loss| loss.id() == "assumed_layout"));
    let newer = Case::new("experts_0_17_square").with(|config| {
        config.insert("ensure_weight_tying".to_owned(), json!(false));
    });
    assert!(hint(newer.read()).contains("--moe-layout"));
}

#[test]
fn shapes_count_and_what_contradicts_them_is_told() {
    let plain = Case::new("experts_mixtral");
    let plain = results(&plain.read().unwrap().adapter, &plain.base);
    let changed = Case::new("experts_mixtral").with(|config| {
        config.insert("peft_version".to_owned(), json!("0.18.1"));
    });
    let read = changed.read().unwrap();
    assert_eq!(codes(&read.findings), ["P034"]);
    assert_eq!(results(&read.adapter, &changed.base), plain);
    let error = changed.with_layout("0.17").unwrap_err();
    assert!(matches!(&error, Error::Option { option, .. } if option == "--moe-layout 0.17"), "{error}");
    assert!(changed.with_layout("0.19.1").unwrap().findings.is_empty());
}

#[test]
fn an_option_that_contradicts_the_version_counts_and_is_told() {
    for (name, options) in [
        ("experts_all_square", [("0.17", true), ("0.19.0", true), ("0.19.1", false)]),
        // Of a class that says `is_transposed`, 0.17 is as today.
        ("experts_0_19_0_gpt_oss_square", [("0.17", true), ("0.19.0", false), ("0.19.1", true)]),
        ("experts_0_17_square", [("0.17", false), ("0.19.0", false), ("0.19.1", false)]),
    ] {
        let case = Case::new(name);
        for (option, is_told) in options {
            let expected: &[&str] = if is_told { &["P034"] } else { &[] };
            assert_eq!(codes(&case.with_layout(option).unwrap().findings), expected, "{name} {option}");
        }
    }
    let unbound = Case::new("experts_mixtral");
    let options = ReadOptions { moe_layout: Some("0.17"), ..ReadOptions::default() };
    assert_eq!(codes(&read(&unbound.folder.files(), &options).unwrap().findings), ["P034"]);
}

#[test]
fn the_order_of_columns_is_said_and_recorded() {
    let case = Case::new("experts_mixtral");
    let files = case.folder.files();
    let plain = case.read().unwrap().adapter;
    let twisted = read(&files, &case.options(None, Some("expert-major"))).unwrap().adapter;
    assert_ne!(results(&plain, &case.base), results(&twisted, &case.base));
    assert_eq!(first(&plain).down.bytes(), first(&twisted).down.bytes());
    let recorded = &twisted.source.as_ref().unwrap().options;
    assert_eq!(recorded["moe-b-layout"], "expert-major");
    // Column k·E + e against e·r + k.
    let own = tensors_of(files.get("adapter_model.safetensors").unwrap());
    let b = formula::array(&own["base_model.model.model.layers.0.mlp.experts.lora_B.weight"]);
    let up = formula::array(&down_of(&twisted).up);
    let (experts, rank, rows) = (3, 2, 16);
    for (e, o, k) in (0..experts).flat_map(|e| (0..rows).flat_map(move |o| (0..rank).map(move |k| (e, o, k))))
    {
        assert_eq!(up.values[(e * rows + o) * rank + k], b.values[o * rank * experts + e * rank + k]);
    }
}

/// The edit of `down_proj`, `w2` on disk.
fn down_of<'e, 'a>(adapter: &'e Adapter<'a>) -> &'e Lora<'a> {
    let is_down = |edit: &'e Edit<'a>| match edit {
        Edit::Lora(lora) if lora.target.name.as_str().contains(".w2.") => Some(lora),
        _ => None,
    };
    adapter.edits.iter().find_map(is_down).unwrap()
}

/// Tensors by key, compared by dtype, shape and bytes.
#[derive(Debug)]
struct Weights(BTreeMap<String, Tensor<'static>>);

impl From<BTreeMap<String, Tensor<'static>>> for Weights {
    fn from(tensors: BTreeMap<String, Tensor<'static>>) -> Self {
        Self(tensors)
    }
}

impl PartialEq for Weights {
    fn eq(&self, other: &Self) -> bool {
        let plain = |(key, tensor): (&String, &Tensor<'_>)| {
            (key.clone(), tensor.dtype(), tensor.dims().to_vec(), tensor.bytes().to_vec())
        };
        self.0.iter().map(plain).eq(other.0.iter().map(plain))
    }
}

fn weights(adapter: &Adapter<'_>, base: Option<&Base>) -> Weights {
    let base = base.map(|base| base as &dyn fitment_core::checkpoint::Checkpoint);
    let written = write(adapter, FormatId::Peft, &WriteOptions::on(base)).unwrap();
    let file = written.files.iter().find(|file| file.path.ends_with(".safetensors")).unwrap();
    let mut bytes = Vec::new();
    file.write_to(&mut bytes).unwrap();
    tensors_of(&bytes).into()
}

#[test]
fn files_of_unsloth_ask_for_the_order_of_columns() {
    let marks: [fn(&mut Map<String, Value>); 2] = [
        |config| {
            config.insert("auto_mapping".to_owned(), json!({"unsloth_fixed": true}));
        },
        |config| {
            config.insert("base_model_name_or_path".to_owned(), json!("unsloth/Qwen3-30B-A3B"));
        },
    ];
    for mark in marks {
        let case = Case::new("experts_mixtral").with(mark);
        let read_with = |columns| read(&case.folder.files(), &case.options(None, columns)).unwrap().findings;
        assert_eq!(codes(&read_with(None)), ["P035"]);
        assert!(read_with(Some("rank-major")).is_empty());
        assert_eq!(codes(&peft::check(&case.folder.files(), None).unwrap()), ["P035"]);
    }
}

#[test]
fn options_of_experts_are_for_experts() {
    let plain = Case::new("linear");
    assert!(hint(plain.with_layout("0.17")).contains("leave it out"));
    let wrong = Case::new("experts_mixtral");
    let error = read(&wrong.folder.files(), &wrong.options(None, Some("row-major"))).unwrap_err();
    assert!(matches!(error, Error::Option { .. }), "{error}");
}

#[test]
fn factors_that_belong_to_no_parameter_are_malformed() {
    let named = |names: Value| {
        Case::new("experts_mixtral").with(move |config| {
            config.insert("target_parameters".to_owned(), names.clone());
        })
    };
    for names in [json!(null), json!(["mlp.experts.gate_up_proj"]), json!(["a.b", "a.c"])] {
        let case = named(names);
        let Err(Error::Malformed { findings }) = case.read() else { panic!("it is read") };
        assert_eq!(codes(&findings), ["P021"]);
    }
    let case = named(json!(["mlp.experts.gate_up_proj", "mlp.experts.other"]));
    assert!(matches!(case.read(), Err(Error::Unsupported { .. })));
    let unused = named(json!(["experts.gate_up_proj", "experts.down_proj", "x.y"]));
    assert_eq!(codes(&unused.read().unwrap().findings), ["P022"]);
}

#[test]
fn what_peft_refuses_beside_parameters_is_malformed() {
    let flagged = Case::new("experts_mixtral").with(|config| {
        config.insert("fan_in_fan_out".to_owned(), json!(true));
    });
    assert!(matches!(flagged.read(), Err(Error::Malformed { .. })));
    let ranked = Case::new("experts_mixtral").with(|config| {
        config.insert("rank_pattern".to_owned(), json!({"down_proj": 4}));
    });
    let Err(Error::Malformed { findings }) = ranked.read() else { panic!("it is read") };
    assert_eq!(codes(&findings), ["P020"]);
}

#[test]
fn another_number_of_experts_is_another_base() {
    let (three, four) = (Case::new("experts_mixtral"), Case::new("experts_down"));
    let options = ReadOptions { base: Some(&four.base), ..ReadOptions::default() };
    let error = read(&three.folder.files(), &options).unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    assert!(error.to_string().contains("3 experts, the base has more"), "{error}");
    // Two experts are read as a rank of 3.
    let fewer = Case::new("experts_mixtral").with(|config| {
        config.insert("rank_pattern".to_owned(), json!({"gate_up_proj": 3}));
    });
    let error = fewer.read().unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    assert!(error.to_string().contains("2 experts"), "{error}");
}

#[test]
fn stacks_are_written_as_peft_lays_them_out_today() {
    for name in ["experts_stacked", "experts_gpt_oss", "experts_0_18_gpt_oss"] {
        let case = Case::new(name);
        let mut adapter = case.read().unwrap().adapter;
        adapter.source = None;
        let original = tensors_of(case.folder.files().get("adapter_model.safetensors").unwrap());
        assert_eq!(weights(&adapter, Some(&case.base)), original.into(), "{name}");
    }
    let older = Case::new("experts_0_19_0_gpt_oss");
    let mut adapter = older.read().unwrap().adapter;
    adapter.source = None;
    let written = weights(&adapter, None).0;
    let a = &written["base_model.model.model.layers.0.mlp.experts.base_layer.lora_A.weight"];
    assert_eq!(a.dims(), [6, 16], "over the inputs");
}
