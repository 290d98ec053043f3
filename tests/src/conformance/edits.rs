//! Broken edits: roles, dtypes, shapes, values (spec section 5).

use fitment_core::tensor::{Dtype, Tensor};
use serde_json::{Value, json};

use super::Coded;
use super::file::File;
use super::parts::{counted, integers, lora, ramp, ramp16, raw, stored, tensor, whole, written};

pub(super) fn files() -> Vec<Coded> {
    let mut files = roles();
    files.extend(dtypes());
    files.extend(ranks_and_shapes());
    files.extend(dense_shapes());
    files.extend(magnitudes());
    files.extend(row_numbers());
    files.extend(exceptions());
    files.extend(values());
    files
}

const UP: &str = "a.weight::0.lora.up";
const DOWN: &str = "a.weight::0.lora.down";
const MID: &str = "a.weight::0.lora.mid";
const MAGNITUDE: &str = "a.weight::0.lora.magnitude";
const VALUE: &str = "a.weight::0.set.value";
const ROWS: &str = "a.weight::0.set.rows";

/// One matrix edit of rank 1 of the `[3, 4]` tensor `a.weight`, unbound.
pub(super) fn plain() -> File {
    let edits = vec![fitment_core::model::Edit::Lora(lora(whole("a.weight"), [3, 1, 4]))];
    File::open(&written(&fitment_core::Adapter { edits, ..Default::default() }))
}

pub(super) fn with_magnitude(field: Value) -> File {
    plain()
        .set("/edits/0/magnitude", field)
        .set("/edits/0/tensors/magnitude", json!(MAGNITUDE))
        .store(MAGNITUDE, stored(&ramp(&[3], 1.0)))
        .sealed()
}

/// `set` of `a.weight` and `b.weight`, `[2, 3]` both.
pub(super) fn two_sets() -> File {
    let edit = |target: &str| {
        let tensors = json!({ "value": format!("{target}::0.set.value") });
        json!({ "dtype": "stored", "kind": "set", "target": target, "tensors": tensors })
    };
    File::of(
        json!([edit("a.weight"), edit("b.weight")]),
        [(VALUE, stored(&ramp(&[2, 3], 1.0))), ("b.weight::0.set.value", stored(&ramp(&[2, 3], 2.0)))],
    )
}

/// `set` of these rows of `a.weight`, whose shape is recorded as `[6, 3]`.
pub(super) fn rows(numbers: &[i64]) -> File {
    let count = numbers.len() as u64;
    File::of(
        json!([{ "dtype": "base", "kind": "set", "target": "a.weight", "tensors": { "rows": ROWS, "value": VALUE } }]),
        [(ROWS, stored(&integers(numbers))), (VALUE, stored(&ramp(&[count, 3], 1.0)))],
    )
    .set("/base", json!({ "tensors": [{ "name": "a.weight", "shape": [6, 3] }] }))
}

fn add(value: &Tensor<'_>, exceptions: Option<(Tensor<'_>, Tensor<'_>)>) -> File {
    let name = |role: &str| format!("a.weight::0.add.{role}");
    let mut file = File::of(
        json!([{ "kind": "add", "scale": 1, "target": "a.weight", "tensors": { "value": name("value") } }]),
        [(&*name("value"), stored(value))],
    );
    if let Some((index, value)) = exceptions {
        file = file
            .set("/edits/0/tensors/exc_index", json!(name("exc_index")))
            .set("/edits/0/tensors/exc_value", json!(name("exc_value")))
            .store(&name("exc_index"), stored(&index))
            .store(&name("exc_value"), stored(&value));
    }
    file.sealed()
}

fn recorded(file: File, dims: Value) -> File {
    file.set("/base", json!({ "tensors": [{ "dtype": "BF16", "name": "a.weight", "shape": dims }] }))
}

fn role(file: File, role: &str, name: &str, tensor: &Tensor<'_>) -> File {
    file.set(&format!("/edits/0/tensors/{role}"), json!(name)).store(name, stored(tensor)).sealed()
}

fn roles() -> Vec<Coded> {
    let no_down = plain().without("/edits/0/tensors/down").unstore(DOWN).sealed();
    let field_only = plain().set("/edits/0/magnitude", json!({ "axis": 0, "norm_of": "base" })).sealed();
    let mut nothing = two_sets();
    nothing.manifest["edits"].as_array_mut().expect("a list").pop();
    let nothing = nothing.unstore("b.weight::0.set.value").unstore(VALUE).set("/edits/0/tensors", json!({}));
    vec![
        ("E001", "no-down", no_down.bytes()),
        ("E001", "unknown-role", role(plain(), "side", "a.weight::0.lora.side", &ramp(&[2], 1.0)).bytes()),
        ("E001", "mid-of-a-matrix", role(plain(), "mid", MID, &ramp(&[1, 1], 1.0)).bytes()),
        (
            "E001",
            "magnitude-without-its-field",
            role(plain(), "magnitude", MAGNITUDE, &ramp(&[3], 1.0)).bytes(),
        ),
        ("E001", "magnitude-without-its-tensor", field_only.bytes()),
        ("E001", "set-of-no-value", nothing.sealed().bytes()),
        (
            "E001",
            "add-with-rows",
            role(add(&ramp(&[2], 1.0), None), "rows", "a.weight::0.add.rows", &integers(&[0])).bytes(),
        ),
    ]
}

fn dtypes() -> Vec<Coded> {
    let up = |dtype| plain().store(UP, stored(&counted(dtype, &[3, 1]))).sealed().bytes();
    let based = |dtype| {
        two_sets()
            .set("/edits/0/dtype", json!("base"))
            .store(VALUE, stored(&counted(dtype, &[2, 3])))
            .sealed()
    };
    let slice = json!([{ "axis": 0, "ranges": [[0, 2, 1]] }]);
    vec![
        ("E002", "factor-of-integers", up(Dtype::I32)),
        ("E002", "factor-in-8-bits", up(Dtype::F8_E4M3)),
        ("E002", "complex-factor", up(Dtype::C64)),
        (
            "E002",
            "magnitude-of-integers",
            role(
                plain().set("/edits/0/magnitude", json!({ "axis": 0, "norm_of": "base" })),
                "magnitude",
                MAGNITUDE,
                &counted(Dtype::U8, &[3]),
            )
            .bytes(),
        ),
        ("E002", "integers-in-the-base-dtype", based(Dtype::I64).bytes()),
        (
            "E002",
            "rows-in-i32",
            rows(&[0, 1]).store(ROWS, stored(&counted(Dtype::I32, &[2]))).sealed().bytes(),
        ),
        (
            "E002",
            "rows-in-their-own-dtype",
            rows(&[0, 1]).set("/edits/0/dtype", json!("stored")).sealed().bytes(),
        ),
        ("E002", "slice-in-its-own-dtype", two_sets().set("/edits/0/slice", slice).sealed().bytes()),
        ("E002", "add-of-integers", add(&counted(Dtype::I16, &[2]), None).bytes()),
    ]
}

fn ranks_and_shapes() -> Vec<Coded> {
    let factors = |form: Option<&str>, up: &[u64], mid: Option<&[u64]>, down: &[u64]| {
        let mut file = plain().store(UP, stored(&ramp(up, 1.0))).store(DOWN, stored(&ramp(down, 1.0)));
        if let Some(form) = form {
            file = file.set("/edits/0/form", json!(form));
        }
        match mid {
            Some(mid) => role(file, "mid", MID, &ramp(mid, 1.0)),
            None => file.sealed(),
        }
    };
    let conv = Some("conv");
    let stacked = Some("stacked");
    let file = |form, up, mid, down| factors(form, up, mid, down).bytes();
    let transposed = |file: File| file.set("/edits/0/transposed", json!(true)).sealed();
    vec![
        ("E003", "ranks-differ", file(None, &[3, 2], None, &[1, 4])),
        ("E003", "ranks-of-a-convolution-differ", file(conv, &[3, 2, 1], None, &[1, 4, 3])),
        ("E003", "rank-of-mid-differs", file(conv, &[3, 2, 1], Some(&[1, 2, 3]), &[2, 4, 1])),
        ("E003", "inner-rank-of-mid-differs", file(conv, &[3, 2, 1], Some(&[2, 1, 3]), &[2, 4, 1])),
        ("E003", "ranks-of-experts-differ", file(stacked, &[2, 3, 2], None, &[2, 1, 4])),
        ("E004", "factor-of-one-axis", file(None, &[3], None, &[1, 4])),
        ("E004", "factors-of-a-convolution-in-a-matrix", file(None, &[3, 2, 1], None, &[2, 4, 3])),
        ("E004", "matrix-factors-in-a-convolution", file(conv, &[3, 1], None, &[1, 4])),
        ("E004", "four-kernel-axes", file(conv, &[3, 1, 1, 1, 1, 1], None, &[1, 4, 1, 1, 1, 1])),
        ("E004", "kernel-in-up", file(conv, &[3, 2, 3], None, &[2, 4, 1])),
        ("E004", "kernel-in-down-beside-mid", file(conv, &[3, 2, 1], Some(&[2, 2, 3]), &[2, 4, 3])),
        ("E004", "kernels-of-different-axes", file(conv, &[3, 2, 1], None, &[2, 4, 3, 3])),
        ("E004", "numbers-of-experts-differ", file(stacked, &[2, 3, 1], None, &[3, 1, 4])),
        ("E004", "transposed-convolution", transposed(factors(conv, &[3, 2, 1], None, &[2, 4, 3])).bytes()),
        ("E004", "another-base-shape", recorded(plain(), json!([4, 3])).bytes()),
        ("E004", "orientation-against-the-base", transposed(recorded(plain(), json!([3, 4]))).bytes()),
        ("E004", "base-without-axes", recorded(plain(), json!([])).bytes()),
        (
            "E004",
            "convolution-of-a-matrix",
            recorded(factors(conv, &[3, 2, 1], None, &[2, 4, 3]), json!([3, 12])).bytes(),
        ),
        (
            "E004",
            "experts-in-a-matrix",
            recorded(factors(stacked, &[2, 3, 1], None, &[2, 1, 4]), json!([6, 4])).bytes(),
        ),
        ("E005", "rank-zero", file(None, &[3, 0], None, &[0, 4])),
        ("E005", "up-without-elements", file(None, &[0, 1], None, &[1, 4])),
        ("E005", "empty-factor-of-one-axis", file(None, &[0], None, &[1, 4])),
    ]
}

fn dense_shapes() -> Vec<Coded> {
    let set = |value: &[u64], base: Value| {
        let mut file = recorded(two_sets().store(VALUE, stored(&ramp(value, 1.0))), base);
        file.manifest["edits"].as_array_mut().expect("a list").pop();
        file.unstore("b.weight::0.set.value").sealed()
    };
    let slice = json!([{ "axis": 0, "ranges": [[0, 2, 1]] }]);
    let into_slice = |value: &[u64]| {
        set(value, json!([4, 3])).set("/edits/0/slice", slice.clone()).set("/edits/0/dtype", json!("base"))
    };
    let grown = two_sets().set("/edits/1/target", json!("a.weight"));
    // The second edit meets the three rows of the first, not the two of the base.
    let grown = recorded(
        grown
            .store(VALUE, stored(&ramp(&[3, 3], 1.0)))
            .unstore("b.weight::0.set.value")
            .store("a.weight::1.add.value", stored(&ramp(&[2, 3], 1.0)))
            .set("/edits/1", json!({ "kind": "add", "scale": 1, "target": "a.weight", "tensors": { "value": "a.weight::1.add.value" } })),
        json!([2, 3]),
    );
    let row_width = rows(&[0, 1]).store(VALUE, stored(&ramp(&[2, 4], 1.0))).sealed();
    vec![
        ("E004", "set-of-another-width", set(&[2, 4], json!([2, 3])).bytes()),
        ("E004", "set-of-other-axes", set(&[2, 3, 1], json!([2, 3])).bytes()),
        ("E004", "set-of-a-slice-in-another-shape", into_slice(&[3, 3]).sealed().bytes()),
        ("E004", "add-in-another-shape", recorded(add(&ramp(&[3, 4], 1.0), None), json!([4, 3])).bytes()),
        ("E004", "add-after-the-tensor-grew", grown.sealed().bytes()),
        ("E004", "rows-of-another-width", row_width.bytes()),
    ]
}

fn magnitudes() -> Vec<Coded> {
    let field = |axis: u64| json!({ "axis": axis, "norm_of": "merged" });
    let with =
        |axis, dims: &[u64]| with_magnitude(field(axis)).store(MAGNITUDE, stored(&ramp(dims, 1.0))).sealed();
    let stacked = with(0, &[2])
        .set("/edits/0/form", json!("stacked"))
        .store(UP, stored(&ramp(&[2, 3, 1], 1.0)))
        .store(DOWN, stored(&ramp(&[2, 1, 4], 1.0)));
    let eps = with_magnitude(json!({ "axis": 0, "eps": -1e-6, "norm_of": "merged" }));
    vec![
        ("E008", "one-element-for-the-other-axis", with(0, &[4]).bytes()),
        ("E008", "one-element-too-few", with(1, &[3]).bytes()),
        ("E008", "one-element-for-each-weight", with(0, &[3, 4]).bytes()),
        ("E008", "third-axis", with(2, &[3]).bytes()),
        ("E008", "magnitude-of-stacked-experts", stacked.sealed().bytes()),
        ("E005", "magnitude-without-elements", with(0, &[0]).bytes()),
        ("M017", "eps-below-zero", eps.bytes()),
        (
            "M017",
            "rank-above-2-to-53",
            plain().set("/edits/0/origin", json!({ "rank": 9_007_199_254_740_994u64 })).bytes(),
        ),
    ]
}

fn row_numbers() -> Vec<Coded> {
    let with = |numbers: &[i64]| rows(numbers).bytes();
    let count = rows(&[0, 1]).store(VALUE, stored(&ramp(&[3, 3], 1.0))).sealed();
    let axes =
        rows(&[0, 1]).store(ROWS, stored(&tensor(Dtype::I64, &[2, 1], integers(&[0, 1]).bytes().to_vec())));
    let scalar = rows(&[0]).store(VALUE, stored(&ramp(&[], 1.0))).sealed();
    vec![
        ("E009", "rows-descend", with(&[3, 1])),
        ("E009", "row-twice", with(&[1, 1])),
        ("E009", "row-below-zero", with(&[-1, 1])),
        ("E009", "no-rows", with(&[])),
        ("E009", "gap-behind-the-end", with(&[2, 7])),
        ("E009", "gap-between-appended-rows", with(&[6, 8])),
        ("E009", "another-number-of-values", count.bytes()),
        ("E009", "row-numbers-in-two-axes", axes.sealed().bytes()),
        ("E009", "a-scalar-by-rows", scalar.bytes()),
    ]
}

fn exceptions() -> Vec<Coded> {
    let value = ramp(&[2, 3], 1.0);
    let with = |index: &[i64], exceptions: u64| {
        add(&value, Some((integers(index), ramp16(&[exceptions], 1.0)))).bytes()
    };
    let one_only = |missing: &str| {
        let file = add(&value, Some((integers(&[0]), ramp16(&[1], 1.0))));
        file.without(&format!("/edits/0/tensors/{missing}"))
            .unstore(&format!("a.weight::0.add.{missing}"))
            .sealed()
            .bytes()
    };
    let other_dtype = recorded(add(&value, Some((integers(&[0]), ramp(&[1], 1.0)))), json!([2, 3]));
    let bytes = add(&value, Some((integers(&[0]), raw(b"x"))));
    let narrow = add(&value, Some((counted(Dtype::I32, &[1]), ramp16(&[1], 1.0))));
    vec![
        ("E011", "positions-without-values", one_only("exc_value")),
        ("E011", "values-without-positions", one_only("exc_index")),
        ("E011", "positions-descend", with(&[3, 1], 2)),
        ("E011", "position-below-zero", with(&[-1], 1)),
        ("E011", "position-beyond-the-elements", with(&[0, 6], 2)),
        ("E011", "another-number-of-values", with(&[0, 1], 3)),
        ("E011", "no-positions", with(&[], 0)),
        ("E011", "values-in-another-dtype", other_dtype.bytes()),
        ("E011", "values-of-bytes", bytes.bytes()),
        ("E011", "positions-in-i32", narrow.bytes()),
    ]
}

fn values() -> Vec<Coded> {
    let up = |value: f32| {
        let bytes = [1.0, value, 2.0].into_iter().flat_map(f32::to_le_bytes).collect();
        plain().store(UP, stored(&tensor(Dtype::F32, &[3, 1], bytes))).sealed().bytes()
    };
    let set = |dtype, bytes: &[u8]| {
        let value = tensor(dtype, &[1], bytes.to_vec());
        let file = two_sets().store(VALUE, stored(&value));
        file.sealed().bytes()
    };
    vec![
        ("E012", "nan-in-a-factor", up(f32::NAN)),
        ("E012", "infinity-in-a-factor", up(f32::NEG_INFINITY)),
        (
            "E012",
            "nan-in-a-magnitude",
            with_magnitude(json!({ "axis": 0, "norm_of": "base" }))
                .store(
                    MAGNITUDE,
                    stored(&tensor(
                        Dtype::F32,
                        &[3],
                        [1.0, f32::NAN, 1.0].into_iter().flat_map(f32::to_le_bytes).collect(),
                    )),
                )
                .sealed()
                .bytes(),
        ),
        ("E012", "infinity-in-f16", set(Dtype::F16, &[0, 0x7c])),
        ("E012", "nan-in-bf16", set(Dtype::BF16, &[0x81, 0x7f])),
        ("E012", "infinity-in-f64", set(Dtype::F64, &f64::INFINITY.to_le_bytes())),
    ]
}
