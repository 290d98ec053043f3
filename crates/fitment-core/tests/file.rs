//! Files made by the model: read back equal, and refused when the model breaks a rule.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_core::finding::rules;
use fitment_core::model::{
    Adapter, Add, Base, BaseTensor, ConfigEdit, ConfigValue, Edit, Lora, LoraForm, Magnitude, NormOf, Origin,
    Set, SetDtype, Source, SourceFile, Target, TensorName,
};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_core::{Depth, Error, check, read, to_bytes};

fn floats(dims: &[u64], value: f32) -> Tensor<'static> {
    let shape = Shape::new(dims).unwrap();
    let bytes: Vec<u8> = (0..shape.elements()).flat_map(|i| (value + i as f32).to_le_bytes()).collect();
    Tensor::owned(Dtype::F32, shape, bytes).unwrap()
}

fn rows(numbers: &[i64]) -> Tensor<'static> {
    let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
    Tensor::owned(Dtype::I64, Shape::new(&[numbers.len() as u64]).unwrap(), bytes).unwrap()
}

fn target(name: &str) -> Target {
    Target::whole(TensorName::new(name).unwrap())
}

fn lora(name: &str, out: u64, rank: u64, input: u64) -> Lora<'static> {
    Lora {
        target: target(name),
        form: LoraForm::Matrix,
        transposed: false,
        scale: 1e-7,
        up: floats(&[out, rank], 1.0),
        down: floats(&[rank, input], 2.0),
        mid: None,
        magnitude: None,
        origin: Origin::default(),
    }
}

fn sample() -> Adapter<'static> {
    let mut dora = lora("a.weight", 4, 2, 3);
    dora.magnitude = Some(Magnitude { value: floats(&[4], 1.0), axis: 0, norm_of: NormOf::Merged, eps: 0.0 });
    dora.origin.alpha = Some(16.0);
    dora.origin.extra.insert("vendor.example/x".into(), 1e21.into());
    let set = Set {
        target: target("e.weight"),
        dtype: SetDtype::Base,
        create: false,
        reshape: false,
        value: floats(&[2, 3], 0.5),
        rows: Some(rows(&[1, 5])),
        origin: Origin::default(),
    };
    let add = Add {
        target: target("a.bias"),
        scale: 0.5,
        value: floats(&[4], 1.0),
        exceptions: None,
        origin: Origin::default(),
    };
    let config = ConfigEdit { component: None, value: ConfigValue::VocabSize(6), origin: Origin::default() };
    let base_tensor = |name: &str, dims: &[u64]| BaseTensor {
        unchanged: false,
        component: None,
        name: TensorName::new(name).unwrap(),
        experts: None,
        dtype: Some(Dtype::BF16),
        shape: Some(Shape::new(dims).unwrap()),
        digests: vec![[7; 32]],
        extra: Default::default(),
    };
    let file = b"{\"r\": 8}".to_vec();
    let len = file.len() as u64;
    Adapter {
        base: Base {
            name: Some("org/model".into()),
            tensors: vec![
                base_tensor("a.bias", &[4]),
                base_tensor("a.weight", &[4, 3]),
                base_tensor("e.weight", &[5, 3]),
            ],
            ..Base::default()
        },
        edits: vec![Edit::Lora(dora), Edit::Set(set), Edit::Add(add), Edit::Config(config)],
        source: Some(Source {
            format: "peft".into(),
            files: vec![SourceFile {
                path: "adapter_config.json".into(),
                data: Tensor::owned(Dtype::U8, Shape::new(&[len]).unwrap(), file).unwrap(),
            }],
            ..Source::default()
        }),
        ..Adapter::default()
    }
}

#[test]
fn an_adapter_comes_back_as_the_same_bytes_without_findings() {
    let bytes = to_bytes(&sample()).unwrap();
    let report = check(&bytes, Depth::Values);
    assert_eq!(report.findings, []);
    let again = read(&bytes).unwrap();
    assert_eq!(to_bytes(&again).unwrap(), bytes);
    assert_eq!(again.base.find(None, "a.weight").unwrap().0.digests, [[7; 32]]);
}

#[test]
fn an_adapter_without_edits_is_valid() {
    let bytes = to_bytes(&Adapter::default()).unwrap();
    assert_eq!(check(&bytes, Depth::Values).findings, []);
    assert!(read(&bytes).unwrap().edits.is_empty());
}

#[test]
fn a_shared_tensor_is_stored_once_and_stays_shared() {
    let mut adapter = Adapter::default();
    let first = lora("a.weight", 2, 1, 2);
    let mut second = lora("b.weight", 2, 1, 2);
    second.up = first.up.clone();
    adapter.edits = vec![Edit::Lora(first), Edit::Lora(second)];
    let bytes = to_bytes(&adapter).unwrap();
    let report = check(&bytes, Depth::Values);
    assert_eq!(report.findings, []);
    assert_eq!(report.manifest.unwrap().tensors.len(), 3);
    assert_eq!(to_bytes(&read(&bytes).unwrap()).unwrap(), bytes);
}

fn code_of(adapter: &Adapter<'_>) -> &'static str {
    match to_bytes(adapter).unwrap_err() {
        Error::Malformed { first, more: 0 } => first.code.0,
        other => panic!("{other}"),
    }
}

#[test]
fn a_model_that_breaks_a_rule_is_not_written() {
    let mut adapter = sample();
    let Edit::Lora(edit) = &mut adapter.edits[0] else { panic!() };
    edit.down = floats(&[3, 3], 0.0);
    assert_eq!(code_of(&adapter), rules::E_RANK.code.0);

    let mut adapter = sample();
    let Edit::Set(edit) = &mut adapter.edits[1] else { panic!() };
    edit.rows = Some(rows(&[5, 1]));
    assert_eq!(code_of(&adapter), rules::E_ROWS.code.0);
    let Edit::Set(edit) = &mut adapter.edits[1] else { panic!() };
    edit.rows = Some(rows(&[1, 6]));
    assert_eq!(code_of(&adapter), rules::E_ROWS.code.0, "row 6 leaves a gap behind the end 5");

    let mut adapter = sample();
    let Edit::Add(edit) = &mut adapter.edits[2] else { panic!() };
    edit.scale = f64::NAN;
    assert_eq!(code_of(&adapter), rules::M_NUMBER.code.0);

    let mut adapter = sample();
    adapter.base.tensors.swap(0, 1);
    assert_eq!(code_of(&adapter), rules::M_BASE.code.0);
}

#[test]
fn every_truncation_and_bit_flip_of_the_header_is_an_error_or_the_same_function() {
    let bytes = to_bytes(&sample()).unwrap();
    for len in 0..bytes.len() {
        assert!(check(&bytes[..len], Depth::Values).errors().next().is_some(), "cut at {len}");
    }
    let id = check(&bytes, Depth::Values).manifest.unwrap().id;
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        let report = check(&flipped, Depth::Values);
        if report.errors().next().is_none() {
            assert_eq!(report.manifest.unwrap().id, id, "flip at {at} changed the function unseen");
        }
    }
}

#[test]
fn a_header_that_no_reader_takes_is_not_written() {
    let mut adapter = Adapter::default();
    adapter.about.description = Some("x".repeat(25_000_000));
    assert_eq!(code_of(&adapter), rules::C_HEADER_LIMIT.code.0);
}
