//! The exact merge, through the front door.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_core::Adapter;
use fitment_core::checkpoint::MemoryCheckpoint;
use fitment_core::model::{Add, Edit, Origin, Set, SetDtype, Target, TensorName};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_merge::{Input, Options, merge};

/// One element in BF16, of the upper bits of binary32.
fn element(value: f32) -> Tensor<'static> {
    let bytes = ((value.to_bits() >> 16) as u16).to_le_bytes().to_vec();
    Tensor::owned(Dtype::BF16, Shape::new(&[1]).unwrap(), bytes).unwrap()
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
        value: element(1.0 + step),
        rows: None,
        origin: origin.clone(),
    });
    let add = Edit::Add(Add { target, scale: 1.0, value: element(step), exceptions: None, origin });
    let adapters = [set, add].map(|edit| Adapter { edits: vec![edit], ..Adapter::default() });
    let input = |adapter| Input { adapter, weight: 0.5, name: "a".to_owned() };
    let header = format!("{:<64}", r#"{"w":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}"#);
    let file = [&64_u64.to_le_bytes()[..], header.as_bytes(), element(1.0).bytes()].concat();
    let base = MemoryCheckpoint::new(&file, None).unwrap();
    let inputs = [input(&adapters[0]), input(&adapters[1])];
    let merged = merge(&inputs, &Options { base: Some(&base), ..Options::default() }).unwrap();
    let Edit::Set(set) = &merged.adapter.edits[0] else { panic!() };
    // BF16 has no number between 1 and 1 + step.
    assert_eq!((set.dtype, set.value.dtype()), (SetDtype::Base, Dtype::F32));
    assert_eq!(set.value.bytes(), (1.0 + step / 2.0).to_le_bytes());
}
