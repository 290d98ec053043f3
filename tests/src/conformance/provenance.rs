//! Broken identity, base and source (spec sections 6 to 8).

use fitment_core::identity::hex;
use fitment_core::tensor::Dtype;
use serde_json::{Value, json};

use super::Coded;
use super::edits::{plain, two_sets};
use super::file::File;
use super::parts::{counted, ramp, raw, stored};

pub(super) fn files() -> Vec<Coded> {
    let mut files = identity();
    files.extend(base());
    files.extend(binding());
    files.extend(source());
    files
}

const UP: &str = "a.weight::0.lora.up";

fn identity() -> Vec<Coded> {
    let digest = |value: &str| plain().set(&format!("/tensors/{UP}"), json!(value)).bytes();
    let right = plain().manifest["tensors"][UP].as_str().expect("a digest").to_owned();
    let id = |value: &str| plain().set("/id", json!(value)).bytes();
    let right_id = plain().manifest["id"].as_str().expect("an id").to_owned();
    let mut flipped = plain();
    flipped.tensors.get_mut(UP).expect("is stored").bytes[0] ^= 1;
    let mut reshaped = two_sets();
    reshaped.tensors.get_mut("b.weight::0.set.value").expect("is stored").dims = vec![3, 2];
    vec![
        ("M013", "no-digest-of-a-tensor", plain().without(&format!("/tensors/{UP}")).bytes()),
        (
            "M013",
            "digest-of-a-tensor-that-is-not-there",
            plain().set("/tensors/b.weight", json!(right)).bytes(),
        ),
        ("M013", "digest-in-upper-case", digest(&right.to_uppercase())),
        ("M013", "digest-of-63-digits", digest(&right[1..])),
        ("M013", "empty-digest", digest("")),
        ("M014", "flipped-bit", flipped.bytes()),
        ("M014", "same-bytes-in-another-shape", reshaped.bytes()),
        (
            "M014",
            "wrong-digest",
            plain().set(&format!("/tensors/{UP}"), json!(hex(&[7; 32]))).id_of_recorded().bytes(),
        ),
        ("M015", "wrong-id", id(&format!("fitment1:{}", hex(&[7; 32])))),
        ("M015", "id-without-its-prefix", id(&right_id["fitment1:".len()..])),
        ("M015", "id-in-upper-case", id(&right_id.to_uppercase())),
        ("M015", "empty-id", id("")),
        ("M015", "scale-changed", plain().set("/edits/0/scale", json!(3)).bytes()),
        ("M015", "dtype-of-a-set-changed", two_sets().set("/edits/0/dtype", json!("base")).bytes()),
    ]
}

fn entry(name: &str) -> Value {
    json!({ "name": name, "dtype": "BF16", "shape": [3, 4] })
}

fn with_base(file: File, base: Value) -> Vec<u8> {
    file.set("/base", base).sealed().bytes()
}

fn base() -> Vec<Coded> {
    let base = |base| with_base(plain(), base);
    let tensors = |tensors| with_base(two_sets(), json!({ "tensors": tensors }));
    let sized = |shape: Value| base(json!({ "tensors": [{ "name": "a.weight", "shape": shape }] }));
    let (a, b) = (json!({ "name": "a.weight" }), json!({ "name": "b.weight" }));
    vec![
        ("M017", "extent-above-2-to-53", sized(json!([9_007_199_254_740_994u64]))),
        ("M018", "unknown-layout", base(json!({ "layout": "gguf" }))),
        ("M018", "layout-without-architecture", base(json!({ "layout": "gguf:" }))),
        ("M018", "unknown-dtype", base(json!({ "tensors": [{ "name": "a.weight", "dtype": "bfloat16" }] }))),
        ("M018", "overflowing-shape", sized(json!([4_294_967_296u64, 4_294_967_296u64]))),
        ("M018", "nine-axes", sized(json!([1, 1, 1, 1, 1, 1, 1, 3, 4]))),
        ("M018", "entries-out-of-order", tensors(json!([b, a]))),
        ("M018", "entry-twice", tensors(json!([a, a, b]))),
        ("M018", "entry-of-an-untouched-tensor", tensors(json!([a, b, { "name": "c.weight" }]))),
        (
            "M018",
            "component-before-none",
            with_base(
                two_sets()
                    .set("/edits/0/component", json!("unet"))
                    .set("/edits/0/tensors/value", json!("unet/a.weight::0.set.value"))
                    .unstore("a.weight::0.set.value")
                    .store("unet/a.weight::0.set.value", stored(&ramp(&[2, 3], 1.0))),
                json!({ "tensors": [{ "component": "unet", "name": "a.weight" }, b] }),
            ),
        ),
        (
            "M018",
            "entry-of-a-created-tensor",
            with_base(two_sets().set("/edits/0/create", json!(true)), json!({ "tensors": [a] })),
        ),
    ]
}

fn binding() -> Vec<Coded> {
    let name = "@base::0.digest.sha256";
    let bound = |tensors: Value, digests| {
        let file = plain().store(name, digests);
        with_base(file, json!({ "digests": name, "tensors": tensors }))
    };
    let rows = |count: u64| stored(&counted(Dtype::U8, &[count, 32]));
    let entry = entry("a.weight");
    let unknown_shape = json!({ "name": "a.weight", "dtype": "BF16" });
    let unknown_dtype = json!({ "name": "a.weight", "shape": [3, 4] });
    let sets = two_sets().store(name, rows(1));
    let one_of_two =
        json!({ "digests": name, "tensors": [{ "name": "a.weight", "dtype": "BF16", "shape": [2, 3] }] });
    let of_nothing = File::of(json!([]), [(name, rows(0))]);
    vec![
        ("M018", "bound-without-shape", bound(json!([unknown_shape]), rows(1))),
        ("M018", "bound-without-dtype", bound(json!([unknown_dtype]), rows(1))),
        ("M018", "bound-without-an-entry", with_base(sets, one_of_two)),
        ("M018", "bound-to-nothing", with_base(of_nothing, json!({ "digests": name }))),
        ("M018", "too-few-digests", bound(json!([entry]), rows(0))),
        ("M018", "too-many-digests", bound(json!([entry]), rows(2))),
        ("M018", "digests-of-31-bytes", bound(json!([entry]), stored(&counted(Dtype::U8, &[1, 31])))),
        ("M018", "digests-in-one-axis", bound(json!([entry]), stored(&counted(Dtype::U8, &[32])))),
        ("M018", "digests-in-i8", bound(json!([entry]), stored(&counted(Dtype::I8, &[1, 32])))),
    ]
}

fn source() -> Vec<Coded> {
    let file = |path: &str| {
        plain()
            .set(
                "/source",
                json!({ "format": "peft", "files": [{ "path": path, "tensor": "@source::0.file.data" }] }),
            )
            .store("@source::0.file.data", stored(&raw(b"hello")))
            .sealed()
    };
    let stored_as = |tensor| file("a.txt").store("@source::0.file.data", stored(&tensor)).sealed().bytes();
    let twice = file("a.txt")
        .set("/source/files/-", json!({ "path": "a.txt", "tensor": "@source::1.file.data" }))
        .store("@source::1.file.data", stored(&raw(b"world")))
        .sealed();
    let kept = |key: &str| json!({ "key": key, "tensor": "@source::0.kept.data" });
    let with_kept = |kept: Value| {
        plain()
            .set("/source", json!({ "format": "peft", "kept": kept }))
            .store("@source::0.kept.data", stored(&ramp(&[2], 1.0)))
    };
    let kept_twice = with_kept(json!([kept("x"), { "key": "x", "tensor": "@source::1.kept.data" }]))
        .store("@source::1.kept.data", stored(&ramp(&[2], 2.0)));
    vec![
        ("M019", "empty-format", plain().set("/source", json!({ "format": "" })).bytes()),
        (
            "M019",
            "empty-form-of-weights",
            plain().set("/source", json!({ "format": "peft", "weights": "" })).bytes(),
        ),
        ("M019", "absolute-path", file("/etc/passwd").bytes()),
        ("M019", "path-to-the-folder-above", file("../a.txt").bytes()),
        ("M019", "path-through-the-folder-above", file("a/../../b.txt").bytes()),
        ("M019", "path-of-the-folder-itself", file(".").bytes()),
        ("M019", "path-with-a-back-slash", file("..\\a.txt").bytes()),
        ("M019", "path-with-a-drive", file("C:a.txt").bytes()),
        ("M019", "empty-path", file("").bytes()),
        ("M019", "path-with-an-empty-part", file("a//b.txt").bytes()),
        ("M019", "path-with-a-nul", file("a\0.txt").bytes()),
        ("M019", "path-of-1025-bytes", file(&"p".repeat(1025)).bytes()),
        ("M019", "path-twice", twice.bytes()),
        ("M019", "file-of-floats", stored_as(ramp(&[5], 1.0))),
        ("M019", "file-in-two-axes", stored_as(counted(Dtype::U8, &[1, 5]))),
        ("M019", "kept-under-no-key", with_kept(json!([kept("")])).sealed().bytes()),
        ("M019", "kept-twice", kept_twice.sealed().bytes()),
    ]
}
