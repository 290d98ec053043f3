//! Valid files: changes of single elements and bit-exact ones. Frames are written by hand, as RFC 8878 has them.

use fitment_core::Adapter;
use fitment_core::identity::sha256;
use fitment_core::model::{
    Add, Base, BaseTensor, Bits, Edit, Exceptions, Origin, SparseAdd, SparseSet, Target,
};
use fitment_core::tensor::{Dtype, Tensor};

use super::parts::{bf16, integers, ramp, ramp16, raw, shape, tensor, whole, written};
use super::valid::entry;

pub(super) fn files() -> Vec<(&'static str, Vec<u8>)> {
    let adapters = vec![
        ("sparse-set", sparse_set()),
        ("sparse-set-of-i64", sparse_set_long()),
        ("sparse-add", sparse_add()),
        ("add-exceptions-of-u32", exceptions()),
        ("bits-planes", bits(Dtype::BF16, 4, payload(0, 3, &[&[2, 1, 0, 4], &[0, 0, 0, 0]]), 3)),
        ("bits-bitmap", bits(Dtype::BF16, 12, payload(1, 3, &[&[0x05, 0x08], &[2, 1, 4], &[0; 3]]), 3)),
        ("bits-gaps", bits(Dtype::BF16, 300, payload(2, 2, &[&[1, 0x80, 0x02], &[2, 1], &[0; 2]]), 2)),
        ("bits-f32", bits(Dtype::F32, 3, payload(2, 1, &[&[2], &[9], &[1], &[0], &[0]]), 1)),
        ("bits-f8", bits(Dtype::F8_E4M3, 3, payload(2, 1, &[&[0], &[9]]), 1)),
        (
            "bits-of-integers",
            bits(Dtype::I64, 2, payload(2, 1, &[&[1], &[7], &[0], &[0], &[0], &[0], &[0], &[0], &[1]]), 1),
        ),
        ("bits-that-change-nothing", bits(Dtype::BF16, 4, unchanged(2, 3), 0)),
        ("bits-without-elements", bits(Dtype::BF16, 0, vec![1], 0)),
        ("bits-of-a-tied-tensor", tied()),
        ("unchanged-tensors", listed()),
    ];
    adapters.into_iter().map(|(name, adapter)| (name, written(&adapter))).collect()
}

/// A frame of one raw block and a single segment, with its content's size in four bytes.
pub(super) fn frame(content: &[u8]) -> Vec<u8> {
    let len = u32::try_from(content.len()).expect("small");
    let mut bytes = vec![0x28, 0xb5, 0x2f, 0xfd, 0xa0];
    bytes.extend(len.to_le_bytes());
    bytes.extend(&(len << 3 | 1).to_le_bytes()[..3]);
    bytes.extend(content);
    bytes
}

/// A payload of one chunk.
pub(super) fn payload(layout: u8, changed: u32, streams: &[&[u8]]) -> Vec<u8> {
    let frames: Vec<Vec<u8>> = streams.iter().map(|stream| frame(stream)).collect();
    let mut bytes = vec![layout];
    bytes.extend(changed.to_le_bytes());
    frames.iter().for_each(|frame| bytes.extend(u32::try_from(frame.len()).expect("small").to_le_bytes()));
    bytes.extend(frames.concat());
    bytes
}

fn unchanged(layout: u8, streams: usize) -> Vec<u8> {
    [vec![layout], vec![0; 4 + 4 * streams]].concat()
}

/// One change of the vector `a.bias` of so many elements.
fn bits(dtype: Dtype, elements: u64, payload: Vec<u8>, changed: u64) -> Adapter<'static> {
    let entry = BaseTensor { dtype: Some(dtype), ..entry("a.bias", &[elements], 0) };
    let edits = vec![change("a.bias", payload, changed)];
    Adapter { base: Base { tensors: vec![entry], ..Base::default() }, edits, ..Adapter::default() }
}

fn change(text: &str, payload: Vec<u8>, changed: u64) -> Edit<'static> {
    Edit::Bits(Bits {
        target: whole(text),
        base: sha256(b"base"),
        result: sha256(b"result"),
        changed,
        z: raw(&payload),
        origin: Origin::default(),
    })
}

fn positions(numbers: &[u32]) -> Tensor<'static> {
    let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    tensor(Dtype::U32, &[numbers.len() as u64], bytes)
}

fn replaced(target: Target, index: Tensor<'static>, value: Tensor<'static>) -> Edit<'static> {
    Edit::SparseSet(SparseSet { target, index, value, origin: Origin::default() })
}

fn sparse_set() -> Adapter<'static> {
    let tensors = vec![entry("a.weight", &[3, 4], 0)];
    let edits = vec![
        replaced(whole("a.weight"), positions(&[0, 7, 11]), ramp16(&[3], 1.0)),
        // Of an unrecorded tensor anything may be.
        replaced(whole("b.weight"), positions(&[u32::MAX]), ramp(&[1], 1.0)),
    ];
    Adapter { base: Base { tensors, ..Base::default() }, edits, ..Adapter::default() }
}

fn sparse_set_long() -> Adapter<'static> {
    let edits = vec![replaced(whole("a.weight"), integers(&[3, 1 << 40]), ramp16(&[2], 1.0))];
    Adapter { edits, ..Adapter::default() }
}

fn sparse_add() -> Adapter<'static> {
    let tensors = vec![entry("a.weight", &[3, 4], 1)];
    let edit = |scale, index: &[u32]| {
        let value = ramp(&[index.len() as u64], -1.0);
        let (target, index) = (whole("a.weight"), positions(index));
        Edit::SparseAdd(SparseAdd { target, scale, index, value, origin: Origin::default() })
    };
    let edits = vec![edit(1.0, &[1, 2, 3]), edit(-0.5, &[3, 11])];
    Adapter { base: Base { tensors, ..Base::default() }, edits, ..Adapter::default() }
}

fn exceptions() -> Adapter<'static> {
    let value = tensor(Dtype::BF16, &[2], [bf16(3.0), bf16(-4.0)].concat());
    let edit = Add {
        target: whole("a.weight"),
        scale: 1.0,
        value: ramp(&[3, 4], 0.0),
        exceptions: Some(Exceptions { index: positions(&[2, 11]), value }),
        origin: Origin::default(),
    };
    let tensors = vec![entry("a.weight", &[3, 4], 0)];
    Adapter { base: Base { tensors, ..Base::default() }, edits: vec![Edit::Add(edit)], ..Adapter::default() }
}

fn listed() -> Adapter<'static> {
    let mut adapter = bits(Dtype::BF16, 4, payload(0, 3, &[&[2, 1, 0, 4], &[0, 0, 0, 0]]), 3);
    adapter.base.tensors[0].digests = vec![sha256(b"base")];
    let same = BaseTensor { unchanged: true, ..entry("norm.weight", &[4], 1) };
    adapter.base.tensors.push(same);
    assert_eq!(shape(&[4]).elements(), 4);
    adapter
}

/// A checkpoint that stores a tied tensor under both names: one payload for both edits.
fn tied() -> Adapter<'static> {
    let mut adapter = bits(Dtype::BF16, 4, payload(0, 3, &[&[2, 1, 0, 4], &[0, 0, 0, 0]]), 3);
    let mut second = adapter.edits[0].clone();
    second.target_mut().expect("it has a target").name = whole("b.bias").name;
    adapter.edits.push(second);
    adapter.base.tensors.push(BaseTensor { name: whole("b.bias").name, ..adapter.base.tensors[0].clone() });
    adapter
}
