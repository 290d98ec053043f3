//! What is written is read back as it was, and is laid out as torch lays it.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_torch::{Archive, Form, Item, Order, TorchFile};
use proptest::prelude::*;

fn write(stem: &str, items: &[Item<'_>]) -> Vec<u8> {
    let archive = Archive::new(stem, items).unwrap();
    let mut bytes = Vec::new();
    archive.write_to(&mut bytes).unwrap();
    assert_eq!(archive.byte_len(), bytes.len() as u64);
    bytes
}

fn tensor(dtype: Dtype, dims: &[u64], seed: u8) -> Tensor<'static> {
    let shape = Shape::new(dims).unwrap();
    let len = shape.byte_len(dtype).unwrap();
    let byte =
        |at: u64| if dtype == Dtype::Bool { (at % 2) as u8 } else { seed.wrapping_add((at * 7) as u8) };
    Tensor::owned(dtype, shape, (0..len).map(byte).collect::<Vec<u8>>()).unwrap()
}

fn writable() -> impl Strategy<Value = Dtype> {
    let whole: Vec<Dtype> = Dtype::ALL.iter().copied().filter(|dtype| dtype.bytes().is_some()).collect();
    prop::sample::select(whole)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn reading_gives_what_was_written(
        kinds in prop::collection::vec((writable(), prop::collection::vec(0u64..5, 0..4), any::<bool>()), 0..8),
        stem in "[a-z_#\\[\\]]{1,20}",
    ) {
        let items: Vec<Item<'_>> = kinds
            .iter()
            .enumerate()
            .map(|(at, (dtype, dims, turn))| {
                let order = if *turn && dims.len() == 2 { Order::ColumnMajor } else { Order::RowMajor };
                Item { order, ..Item::new(format!("layers.{at}.w"), tensor(*dtype, dims, at as u8)) }
            })
            .collect();
        let bytes = write(&stem, &items);
        let file = TorchFile::read("x.bin", &bytes).unwrap();
        prop_assert_eq!(file.form(), &Form::Zip { stem });
        let state = file.state_dict().unwrap();
        prop_assert_eq!(state.tensors.len(), items.len());
        for (read, item) in state.tensors.iter().zip(&items) {
            prop_assert_eq!(&read.name, &item.name);
            prop_assert_eq!((read.tensor.dtype(), read.tensor.dims()), (item.tensor.dtype(), item.tensor.dims()));
            prop_assert_eq!(read.tensor.bytes(), item.tensor.bytes());
        }
        prop_assert_eq!(write("again", &items), write("again", &items));
    }
}

#[test]
fn column_major_tensors_lie_column_by_column() {
    let base = tensor(Dtype::F32, &[3, 3], 1);
    let items = [Item { order: Order::ColumnMajor, ..Item::new("base", base.clone()) }];
    let bytes = write("intkey", &items);
    let state = TorchFile::read("x.bin", &bytes).unwrap().state_dict().unwrap();
    assert_eq!(state.tensors[0].view.strides(), &[1, 3]);
    assert_eq!(state.tensors[0].tensor.bytes(), base.bytes());
}

#[test]
fn storages_begin_at_multiples_of_64_bytes() {
    let items =
        [Item::new("a", tensor(Dtype::F16, &[5], 200)), Item::new("b", tensor(Dtype::I64, &[3], 100))];
    let bytes = write("model", &items);
    for item in &items {
        let data = item.tensor.bytes();
        let at = bytes.windows(data.len()).position(|window| window == data).unwrap();
        assert_eq!(at % 64, 0, "{}", item.name);
    }
}

#[test]
fn one_tensor_under_two_names_is_stored_once() {
    let tied = tensor(Dtype::F32, &[4, 4], 3);
    let bytes = write("m", &[Item::new("embed", tied.clone()), Item::new("head", tied)]);
    let state = TorchFile::read("x.bin", &bytes).unwrap().state_dict().unwrap();
    assert_eq!(state.tensors[0].view.storage(), state.tensors[1].view.storage());
}

#[test]
fn what_torch_cannot_hold_is_refused() {
    let error = |stem: &str, items: &[Item<'_>]| Archive::new(stem, items).unwrap_err().to_string();
    let small = || tensor(Dtype::F32, &[2], 0);
    assert_eq!(error("a/b", &[]), "a/b: no name of an archive's folder");
    assert_eq!(
        error("a", &[Item::new("w", small()), Item::new("w", small())]),
        "w: the name is used for two tensors"
    );
    let four = Tensor::owned(Dtype::F4, Shape::new(&[2]).unwrap(), vec![0]).unwrap();
    assert_eq!(error("a", &[Item::new("w", four)]), "w: torch has no such dtype");
    assert_eq!(
        error("a", &[Item { order: Order::ColumnMajor, ..Item::new("w", small()) }]),
        "w: only a tensor with two axes can be stored column by column"
    );
}
