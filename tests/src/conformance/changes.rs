//! Broken changes of single elements and of bits (spec sections 5.7 to 5.9, appendix D).

use fitment_core::tensor::{Dtype, Tensor};
use serde_json::{Value, json};

use super::Coded;
use super::file::File;
use super::parts::{counted, integers, ramp, ramp16, raw, stored, tensor};
use super::valid_changes::{frame, payload};

pub(super) fn files() -> Vec<Coded> {
    [positions(), targets(), digests(), payloads(), frames(), unchanged()].into_iter().flatten().collect()
}

const INDEX: &str = "a.weight::0.sparse_set.index";
const VALUE: &str = "a.weight::0.sparse_set.value";
const Z: &str = "a.weight::0.bits.z";

fn base(dtype: &str, dims: &[u64]) -> Value {
    json!({ "tensors": [{ "dtype": dtype, "name": "a.weight", "shape": dims }] })
}

/// Replaced elements of `a.weight`, BF16 `[3, 4]`.
fn sparse(index: &Tensor<'_>, value: &Tensor<'_>) -> File {
    let edit =
        json!({ "kind": "sparse_set", "target": "a.weight", "tensors": { "index": INDEX, "value": VALUE } });
    let file = File::of(json!([edit]), [(INDEX, stored(index)), (VALUE, stored(value))]);
    file.set("/base", base("BF16", &[3, 4])).sealed()
}

fn at(numbers: &[u32]) -> Tensor<'static> {
    let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    tensor(Dtype::U32, &[numbers.len() as u64], bytes)
}

/// A change of `a.weight`, BF16 `[12]`, with this payload.
fn bits(z: &[u8], changed: u64) -> File {
    let digest = "ab".repeat(32);
    let edit = json!({
        "base": digest, "changed": changed, "kind": "bits", "result": digest, "target": "a.weight", "tensors": { "z": Z }
    });
    File::of(json!([edit]), [(Z, stored(&raw(z)))]).set("/base", base("BF16", &[12])).sealed()
}

fn sound() -> Vec<u8> {
    payload(1, 3, &[&[0x05, 0x08], &[2, 1, 4], &[0; 3]])
}

fn positions() -> Vec<Coded> {
    let two = || ramp16(&[2], 1.0);
    let added = json!([{
        "kind": "sparse_add", "scale": 1, "target": "a.weight",
        "tensors": { "index": "a.weight::0.sparse_add.index", "value": "a.weight::0.sparse_add.value" }
    }]);
    let added = File::of(
        added,
        [
            ("a.weight::0.sparse_add.index", stored(&at(&[4, 3]))),
            ("a.weight::0.sparse_add.value", stored(&two())),
        ],
    );
    vec![
        ("E024", "positions-twice", sparse(&at(&[3, 3]), &two()).bytes()),
        ("E024", "positions-descending", sparse(&at(&[4, 3]), &two()).bytes()),
        ("E024", "positions-of-an-update-descending", added.bytes()),
        ("E024", "negative-position", sparse(&integers(&[-1, 3]), &two()).bytes()),
        ("E024", "position-beyond-the-end", sparse(&at(&[3, 12]), &two()).bytes()),
        ("E024", "fewer-values-than-positions", sparse(&at(&[1, 2, 3]), &two()).bytes()),
        ("E024", "values-of-two-axes", sparse(&at(&[1, 2]), &ramp16(&[2, 1], 1.0)).bytes()),
        ("E024", "no-position", sparse(&at(&[]), &ramp16(&[0], 1.0)).bytes()),
        ("E024", "positions-of-i32", sparse(&counted(Dtype::I32, &[1]), &ramp16(&[1], 1.0)).bytes()),
        ("E024", "values-of-another-dtype", sparse(&at(&[1, 2]), &ramp(&[2], 1.0)).bytes()),
        ("E002", "values-of-integers", sparse(&at(&[1]), &integers(&[5])).bytes()),
        (
            "E001",
            "sparse-set-without-values",
            sparse(&at(&[1]), &ramp16(&[1], 1.0))
                .without("/edits/0/tensors/value")
                .unstore(VALUE)
                .sealed()
                .bytes(),
        ),
        ("E011", "exception-positions-of-i32", exceptions()),
    ]
}

fn exceptions() -> Vec<u8> {
    let role = |role: &str| format!("a.weight::0.add.{role}");
    let tensors =
        json!({ "exc_index": role("exc_index"), "exc_value": role("exc_value"), "value": role("value") });
    let edit = json!({ "kind": "add", "scale": 1, "target": "a.weight", "tensors": tensors });
    let (index, value) = (counted(Dtype::I32, &[1]), ramp16(&[1], 1.0));
    let (names, dense) = ([role("exc_index"), role("exc_value"), role("value")], ramp(&[3, 4], 1.0));
    let tensors = [(&*names[0], stored(&index)), (&*names[1], stored(&value)), (&*names[2], stored(&dense))];
    File::of(json!([edit]), tensors).bytes()
}

fn targets() -> Vec<Coded> {
    let slice = json!([{ "axis": 0, "ranges": [[0, 1, 1]] }]);
    let sparse = || sparse(&at(&[1]), &ramp16(&[1], 1.0));
    let bits = || bits(&sound(), 3);
    let (second, bundle) = (json!({ "kind": "remove", "target": "a.weight" }), |file: File| {
        file.set("/edits/0/experts", json!([0, 2]))
            .set("/edits/0/target", json!("a.{e}.weight"))
            .without("/base")
    });
    let followed = {
        let mut file = bits();
        file.manifest["edits"].as_array_mut().expect("a list").push(second);
        file.sealed().bytes()
    };
    vec![
        ("E006", "slice-of-a-sparse-set", sparse().set("/edits/0/slice", slice.clone()).sealed().bytes()),
        ("E006", "slice-of-bits", bits().set("/edits/0/slice", slice).sealed().bytes()),
        ("E007", "bundle-of-a-sparse-set", renamed(bundle(sparse()), &[INDEX, VALUE])),
        ("E007", "bundle-of-bits", renamed(bundle(bits()), &[Z])),
        (
            "E023",
            "bits-for-a-time",
            bits().set("/edits/0/when", json!({ "phase": "prompt" })).sealed().bytes(),
        ),
        ("E025", "an-edit-after-bits", followed),
        ("E025", "bits-of-an-unrecorded-tensor", bits().without("/base").sealed().bytes()),
        ("E025", "bits-of-an-unknown-shape", bits().without("/base/tensors/0/shape").sealed().bytes()),
    ]
}

/// The file with its tensors under the names of the bundle.
fn renamed(mut file: File, names: &[&str]) -> Vec<u8> {
    for name in names {
        let new = name.replacen("a.weight", "a.{e}.weight", 1);
        let role = name.rsplit('.').next().expect("a role").to_owned();
        let tensor = file.tensors.get(*name).expect("stored").clone();
        file = file.unstore(name).store(&new, tensor).set(&format!("/edits/0/tensors/{role}"), json!(new));
    }
    file.sealed().bytes()
}

fn digests() -> Vec<Coded> {
    let bits = || bits(&sound(), 3);
    vec![
        ("E025", "base-digest-cut-short", bits().set("/edits/0/base", json!("abcd")).sealed().bytes()),
        (
            "E025",
            "result-digest-in-capitals",
            bits().set("/edits/0/result", json!("AB".repeat(32))).sealed().bytes(),
        ),
        ("M004", "no-result-digest", bits().without("/edits/0/result").bytes()),
        ("M004", "count-of-changes-as-text", bits().set("/edits/0/changed", json!("3")).bytes()),
        ("M007", "bits-without-its-feature", bits().set("/requires", json!([])).bytes()),
        ("M015", "id-of-another-result", bits().set("/edits/0/result", json!("cd".repeat(32))).bytes()),
        ("E001", "bits-without-z", bits().without("/edits/0/tensors/z").unstore(Z).sealed().bytes()),
        ("E002", "z-of-i8", bits().store(Z, stored(&counted(Dtype::I8, &[40]))).sealed().bytes()),
    ]
}

fn payloads() -> Vec<Coded> {
    let cut = |len: usize| sound()[..len].to_vec();
    let mut trailing = sound();
    trailing.push(0);
    let mut layout = sound();
    layout[0] = 3;
    vec![
        ("E026", "no-payload", bits(&[], 0).bytes()),
        ("E026", "unknown-layout", bits(&layout, 3).bytes()),
        ("E026", "table-cut-short", bits(&cut(9), 3).bytes()),
        ("E026", "frames-cut-short", bits(&cut(sound().len() - 1), 3).bytes()),
        ("E026", "bytes-behind-the-frames", bits(&trailing, 3).bytes()),
        ("E026", "more-changes-than-elements", bits(&payload(0, 13, &[&[0; 12], &[0; 12]]), 13).bytes()),
        ("E026", "another-count-of-changes", bits(&sound(), 4).bytes()),
        ("E026", "frames-where-nothing-changes", bits(&payload(1, 0, &[&[0, 0], &[], &[]]), 0).bytes()),
    ]
}

fn frames() -> Vec<Coded> {
    let streams = |bitmap: &[u8], low: &[u8]| payload(1, 3, &[bitmap, low, &[0; 3]]);
    let other = |frame: Vec<u8>| {
        let rest = [self::frame(&[2, 1, 4]), self::frame(&[0; 3])];
        let mut bytes = vec![1];
        bytes.extend(3u32.to_le_bytes());
        for frame in [&frame, &rest[0], &rest[1]] {
            bytes.extend(u32::try_from(frame.len()).expect("small").to_le_bytes());
        }
        bytes.extend([frame, rest.concat()].concat());
        bits(&bytes, 3).bytes()
    };
    let changed = |at: usize, byte: u8| {
        let mut frame = frame(&[0x05, 0x08]);
        frame[at] = byte;
        other(frame)
    };
    vec![
        ("E026", "bitmap-of-another-length", bits(&streams(&[0x07], &[2, 1, 4]), 3).bytes()),
        ("E026", "plane-of-another-length", bits(&streams(&[0x05, 0x08], &[2, 1, 4, 0]), 3).bytes()),
        (
            "E026",
            "gaps-above-three-bytes",
            bits(&payload(2, 1, &[&[0x80, 0x80, 0x80, 0x00], &[2], &[0]]), 1).bytes(),
        ),
        ("E026", "no-frame", changed(0, 0)),
        ("E026", "frame-with-a-window", changed(4, 0x80)),
        ("E026", "frame-with-a-dictionary", changed(4, 0xa1)),
        ("E026", "frame-with-a-reserved-block", changed(9, 0x17)),
        ("E026", "two-frames-for-one", other([frame(&[0x05, 0x08]), frame(&[])].concat())),
    ]
}

fn unchanged() -> Vec<Coded> {
    let entry = json!({ "dtype": "BF16", "name": "b.weight", "shape": [4] });
    let listed = |unchanged: Option<bool>| {
        let mut file = bits(&sound(), 3);
        let tensors =
            file.manifest.pointer_mut("/base/tensors").and_then(Value::as_array_mut).expect("a list");
        tensors.push(entry.clone());
        match unchanged {
            None => file.sealed(),
            Some(flag) => file
                .set("/base/tensors/0/unchanged", json!(flag))
                .set("/base/tensors/1/unchanged", json!(true))
                .sealed(),
        }
    };
    vec![
        ("M018", "listed-and-neither-touched-nor-unchanged", listed(None).bytes()),
        ("M018", "touched-and-said-to-be-unchanged", listed(Some(true)).bytes()),
        ("M008", "unchanged-false-written-out", listed(Some(false)).bytes()),
    ]
}
