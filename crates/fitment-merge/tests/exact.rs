//! The exact merge, through the front door.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_core::Adapter;
use fitment_core::checkpoint::MemoryCheckpoint;
use fitment_core::model::{
    Add, BaseTensor, Edit, Exceptions, Origin, Set, SetDtype, SparseAdd, SparseSet, Target, TensorName,
};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_merge::{Input, Options, merge, method};

/// One element in BF16, of the upper bits of binary32.
fn element(value: f32) -> Tensor<'static> {
    let bytes = ((value.to_bits() >> 16) as u16).to_le_bytes().to_vec();
    Tensor::owned(Dtype::BF16, Shape::new(&[1]).unwrap(), bytes).unwrap()
}

fn checkpoint(header: &str, data: &[u8]) -> Vec<u8> {
    [&64_u64.to_le_bytes()[..], format!("{header:<64}").as_bytes(), data].concat()
}

#[test]
fn a_replacement_is_not_rounded_before_something_is_added_to_it() {
    let step = 1.0_f32 / 128.0;
    let target = Target::whole(TensorName::new("w").unwrap());
    let origin = Origin::default();
    let set = Edit::Set(Set {
        target: target.clone(),
        dtype: SetDtype::Stored,
        create: false,
        reshape: false,
        value: element(1.0 + step),
        rows: None,
        origin: origin.clone(),
    });
    let add = Edit::Add(Add { target, scale: 1.0, value: element(step), exceptions: None, origin });
    let adapters = [set, add].map(|edit| Adapter { edits: vec![edit], ..Adapter::default() });
    let input = |adapter| Input { adapter, weight: 0.5, name: "a".to_owned(), id: None };
    let file = checkpoint(r#"{"w":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}"#, element(1.0).bytes());
    let base = MemoryCheckpoint::new(&file, None).unwrap();
    let inputs = [input(&adapters[0]), input(&adapters[1])];
    let merged = merge(&inputs, &Options { base: Some(&base), ..Options::default() }).unwrap();
    let Edit::Set(set) = &merged.adapter.edits[0] else { panic!() };
    // BF16 has no number between 1 and 1 + step.
    assert_eq!((set.dtype, set.value.dtype()), (SetDtype::Base, Dtype::F32));
    assert_eq!(set.value.bytes(), (1.0 + step / 2.0).to_le_bytes());
}

#[test]
fn new_elements_are_not_rounded_before_something_is_added_to_them() {
    let step = 1.0_f32 / 128.0;
    let (target, origin) = (Target::whole(TensorName::new("w").unwrap()), Origin::default());
    let index = Tensor::owned(Dtype::U32, Shape::new(&[1]).unwrap(), vec![0; 4]).unwrap();
    let value = element(1.0 + step);
    let set = Edit::SparseSet(SparseSet { target: target.clone(), index, value, origin: origin.clone() });
    let add = Edit::Add(Add { target, scale: 1.0, value: element(step), exceptions: None, origin });
    let adapters = [set, add].map(|edit| Adapter { edits: vec![edit], ..Adapter::default() });
    let input = |adapter| Input { adapter, weight: 0.5, name: "a".to_owned(), id: None };
    let inputs = [input(&adapters[0]), input(&adapters[1])];
    let file = checkpoint(r#"{"w":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}"#, element(1.0).bytes());
    let base = MemoryCheckpoint::new(&file, None).unwrap();
    let merged = merge(&inputs, &Options { base: Some(&base), ..Options::default() }).unwrap();
    let Edit::SparseAdd(sum) = &merged.adapter.edits[0] else { panic!() };
    assert_eq!((sum.scale, sum.value.bytes()), (1.0, &(step / 2.0).to_le_bytes()[..]));
}

#[test]
fn methods_take_single_elements_and_exceptions_for_the_updates_that_they_are() {
    let floats = |values: &[f32]| {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Tensor::owned(Dtype::F32, Shape::new(&[values.len() as u64]).unwrap(), bytes).unwrap()
    };
    let places = |places: &[u32]| {
        let bytes: Vec<u8> = places.iter().flat_map(|place| place.to_le_bytes()).collect();
        Tensor::owned(Dtype::U32, Shape::new(&[places.len() as u64]).unwrap(), bytes).unwrap()
    };
    let target = Target::whole(TensorName::new("w").unwrap());
    let add = |value: &[f32], exceptions| {
        let (target, value, origin) = (target.clone(), floats(value), Origin::default());
        Edit::Add(Add { target, scale: 1.0, value, exceptions, origin })
    };
    let file = checkpoint(
        r#"{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#,
        floats(&[1.0, 2.0, 3.0, 4.0]).bytes(),
    );
    let base = MemoryCheckpoint::new(&file, None).unwrap();
    let result = |edits: [Edit<'static>; 2], name: &str| {
        let adapters = edits.map(|edit| Adapter { edits: vec![edit], ..Adapter::default() });
        let inputs = [0.5, 0.25].map(|weight| (weight, "a".to_owned())).into_iter().zip(&adapters);
        let inputs: Vec<Input<'_>> =
            inputs.map(|((weight, name), adapter)| Input { adapter, weight, name, id: None }).collect();
        let options = Options { method: method(name), base: Some(&base), ..Options::default() };
        let merged = merge(&inputs, &options).unwrap();
        let Edit::Add(add) = &merged.adapter.edits[0] else { panic!() };
        (add.value.dims().to_vec(), add.value.bytes().to_vec())
    };
    let (index, value, origin) = (places(&[1, 3]), floats(&[2.5, 3.0]), Origin::default());
    let set = Edit::SparseSet(SparseSet { target: target.clone(), index, value, origin: origin.clone() });
    let (index, value) = (places(&[0, 3]), floats(&[0.5, -1.0]));
    let sum = Edit::SparseAdd(SparseAdd { target: target.clone(), scale: 2.0, index, value, origin });
    let exceptions = Exceptions { index: places(&[2]), value: floats(&[7.0]) };
    let corrected = add(&[0.5, 0.0, 0.0, -0.5], Some(exceptions));
    for name in ["task-arithmetic", "ties", "ties:mergekit", "slerp", "breadcrumbs"] {
        let [of_set, of_sum] = [add(&[0.0, 0.5, 0.0, -1.0], None), add(&[1.0, 0.0, 0.0, -2.0], None)];
        let of_corrected = add(&[0.5, 0.0, 4.0, -0.5], None);
        let found = result([set.clone(), sum.clone()], name);
        assert_eq!(found, result([of_set.clone(), of_sum], name), "{name}");
        assert_eq!(
            result([corrected.clone(), set.clone()], name),
            result([of_corrected, of_set], name),
            "{name}"
        );
    }
}

#[test]
fn elements_and_whole_replacements_have_a_mean_on_the_base() {
    let floats = |values: &[f32]| {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Tensor::owned(Dtype::F32, Shape::new(&[values.len() as u64]).unwrap(), bytes).unwrap()
    };
    let (target, origin) = (Target::whole(TensorName::new("w").unwrap()), Origin::default());
    let (value, create, rows) = (floats(&[3.0, 4.0]), false, None);
    let whole = Edit::Set(Set {
        target: target.clone(),
        dtype: SetDtype::Base,
        create,
        reshape: false,
        value,
        rows,
        origin: origin.clone(),
    });
    let index = Tensor::owned(Dtype::U32, Shape::new(&[1]).unwrap(), vec![1, 0, 0, 0]).unwrap();
    let some = Edit::SparseSet(SparseSet { target, index, value: floats(&[6.0]), origin });
    let adapters = [whole, some].map(|edit| Adapter { edits: vec![edit], ..Adapter::default() });
    let input = |adapter, weight| Input { adapter, weight, name: "a".to_owned(), id: None };
    let inputs = [input(&adapters[0], 0.5), input(&adapters[1], 0.25)];
    let error = merge(&inputs, &Options::default()).unwrap_err();
    assert_eq!(error.hint(), Some("name the base with --base"));
    let file =
        checkpoint(r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, floats(&[1.0, 2.0]).bytes());
    let base = MemoryCheckpoint::new(&file, None).unwrap();
    let merged = merge(&inputs, &Options { base: Some(&base), ..Options::default() }).unwrap();
    let Edit::Set(set) = &merged.adapter.edits[0] else { panic!() };
    assert_eq!(set.value.bytes(), floats(&[2.0, 4.0]).bytes());
}

#[test]
fn adapters_of_other_models_are_refused_for_that_alone() {
    let of_width = |width: u64| {
        let bytes = vec![0; width as usize * 4];
        let value = Tensor::owned(Dtype::F32, Shape::new(&[width]).unwrap(), bytes).unwrap();
        let (target, create, rows) = (Target::whole(TensorName::new("w").unwrap()), false, None);
        let (dtype, origin) = (SetDtype::Base, Origin::default());
        let edits = vec![Edit::Set(Set { target, dtype, create, reshape: false, value, rows, origin })];
        let tensor = BaseTensor {
            component: None,
            name: TensorName::new("w").unwrap(),
            experts: None,
            dtype: None,
            shape: Some(Shape::new(&[width]).unwrap()),
            digests: Vec::new(),
            unchanged: false,
            extra: Default::default(),
        };
        let mut adapter = Adapter { edits, ..Adapter::default() };
        adapter.base.tensors.push(tensor);
        adapter
    };
    let adapters = [of_width(2), of_width(3)];
    let input = |adapter| Input { adapter, weight: 0.5, name: "a".to_owned(), id: None };
    for method in [None, method("ties")] {
        let inputs = [input(&adapters[0]), input(&adapters[1])];
        let error = merge(&inputs, &Options { method, ..Options::default() }).unwrap_err().to_string();
        assert_eq!(error, "w: the base of a has [2], that of a has [3]");
    }
}

#[test]
fn the_same_change_twice_is_twice_the_change() {
    let target = Target::whole(TensorName::new("w").unwrap());
    let index = Tensor::owned(Dtype::U32, Shape::new(&[1]).unwrap(), vec![0; 4]).unwrap();
    let exceptions = Some(Exceptions { index, value: element(1.5) });
    let add = Add { target, scale: 1.0, value: element(0.5), exceptions, origin: Origin::default() };
    let adapter = Adapter { edits: vec![Edit::Add(add)], ..Adapter::default() };
    let input = || Input { adapter: &adapter, weight: 1.0, name: "a".to_owned(), id: None };
    let file = checkpoint(r#"{"w":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}"#, element(1.0).bytes());
    let base = MemoryCheckpoint::new(&file, None).unwrap();
    let options = Options { base: Some(&base), ..Options::default() };
    let merged = merge(&[input(), input()], &options).unwrap();
    let Edit::Set(set) = &merged.adapter.edits[0] else { panic!() };
    assert_eq!(set.value.bytes(), element(2.0).bytes());
}
