//! Models checked without a file: by themselves, and against a base at hand.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_core::check::{check_against, check_model, in_order};
use fitment_core::checkpoint::MemoryCheckpoint;
use fitment_core::container::write_container;
use fitment_core::model::{Adapter, BaseTensor, Edit, Lora, LoraForm, Origin, Target, TensorName};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_core::{Depth, check, to_bytes};
use std::collections::BTreeMap;

fn floats(dims: &[u64], value: f32) -> Tensor<'static> {
    let shape = Shape::new(dims).unwrap();
    let bytes: Vec<u8> = (0..shape.elements()).flat_map(|_| value.to_le_bytes()).collect();
    Tensor::owned(Dtype::F32, shape, bytes).unwrap()
}

fn lora(name: &str, (out, rank, input): (u64, u64, u64), value: f32) -> Edit<'static> {
    Edit::Lora(Lora {
        target: Target::whole(TensorName::new(name).unwrap()),
        form: LoraForm::Matrix,
        transposed: false,
        scale: 1.0,
        up: floats(&[out, rank], value),
        down: floats(&[rank, input], 1.0),
        mid: None,
        magnitude: None,
        origin: Origin::default(),
    })
}

fn adapter(edits: Vec<Edit<'static>>) -> Adapter<'static> {
    Adapter { edits, ..Adapter::default() }
}

fn base(tensors: &[(&str, &[u64])]) -> Vec<u8> {
    let tensors: Vec<_> =
        tensors.iter().map(|(name, dims)| ((*name).to_owned(), floats(dims, 0.0))).collect();
    let mut bytes = Vec::new();
    let items = tensors.iter().map(|(name, tensor)| (name.clone(), tensor));
    write_container(&BTreeMap::new(), items, &mut bytes).unwrap();
    bytes
}

#[test]
fn values_of_a_model_are_judged_as_those_of_its_file() {
    let model = adapter(vec![lora("a", (2, 1, 2), f32::NAN), lora("b", (2, 1, 2), 0.0)]);
    let found = check_model(&model, Depth::Values, &in_order);
    let codes: Vec<&str> = found.iter().map(|finding| finding.code.0).collect();
    assert_eq!(codes, ["E012", "E013"]);
    assert_eq!(found, check(&to_bytes(&model).unwrap(), Depth::Values).findings);
    assert_eq!(check_model(&model, Depth::Structure, &in_order), []);
}

#[test]
fn only_what_the_base_makes_wrong_is_reported_against_it() {
    let bytes = base(&[("a", &[4, 3]), ("b", &[4, 3])]);
    let base = MemoryCheckpoint::new(&bytes, None).unwrap();
    let mut model =
        adapter(vec![lora("a", (4, 2, 3), 1.0), lora("b", (4, 2, 5), 1.0), lora("missing", (9, 2, 9), 1.0)]);
    // What the adapter records of another base is not asked here.
    model.base.tensors.push(BaseTensor {
        unchanged: false,
        component: None,
        name: TensorName::new("a").unwrap(),
        experts: None,
        dtype: None,
        shape: Some(Shape::new(&[8, 8]).unwrap()),
        digests: vec![],
        extra: serde_json::Map::new(),
    });
    let found = check_against(&model, &base);
    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("error[E004] edits[1] b: "), "{lines:?}");
}
