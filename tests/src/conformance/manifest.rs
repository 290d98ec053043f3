//! Broken manifests: form, version, features, stored tensors (spec section 3).

use fitment_core::json::to_canonical;
use serde_json::json;

use super::Coded;
use super::edits::{plain, two_sets};
use super::file::{File, Stored};
use super::parts::{ramp, raw, stored, tensor};
use fitment_core::tensor::Dtype;

pub(super) fn files() -> Vec<Coded> {
    let mut files = json_form();
    files.extend(canonical_form());
    files.extend(fields());
    files.extend(versions());
    files.extend(defaults());
    files.extend(stored_tensors());
    files
}

/// The plain file with the text of its manifest changed.
fn with_text(change: impl FnOnce(String) -> String) -> Vec<u8> {
    let file = plain();
    let text = to_canonical(&file.manifest);
    let changed = change(text.clone());
    assert_ne!(text, changed, "the change hits nothing");
    file.bytes_with(&changed)
}

fn replaced(from: &str, to: &str) -> Vec<u8> {
    with_text(|text| text.replacen(from, to, 1))
}

fn json_form() -> Vec<Coded> {
    let scale = |to: &str| replaced("\"scale\":2", &format!("\"scale\":{to}"));
    let digests = with_text(|text| {
        let start = text.find("\"tensors\":{\"a.weight::0.lora.down\":\"").expect("is there") + 11;
        let first = text[start..].split(',').next().unwrap_or_default().to_owned();
        text.replacen(&first, &format!("{first},{first}"), 1)
    });
    vec![
        ("M001", "empty-text", plain().bytes_with("")),
        ("M001", "a-list", plain().bytes_with("[]")),
        (
            "M001",
            "cut-text",
            with_text(|mut text| {
                text.pop();
                text
            }),
        ),
        ("M001", "text-behind-the-object", with_text(|text| text + "{}")),
        ("M001", "scale-is-the-literal-nan", scale("NaN")),
        ("M001", "scale-is-infinity", scale("-Infinity")),
        ("M001", "scale-overflows", scale("1e999")),
        ("M001", "number-with-a-leading-zero", scale("02")),
        ("M001", "a-comment", replaced("{\"edits\"", "{/**/\"edits\"")),
        (
            "M001",
            "nested-200-levels",
            replaced("{\"edits\"", &format!("{{\"a.b/c\":{}{},\"edits\"", "[".repeat(200), "]".repeat(200))),
        ),
        ("M001", "half-a-surrogate-pair", replaced("\"target\":\"a", "\"target\":\"\\ud800")),
        (
            "M002",
            "field-of-the-manifest-twice",
            replaced("\"fitment\":", "\"fitment\":\"1.0-draft\",\"fitment\":"),
        ),
        ("M002", "field-of-an-edit-twice", replaced("\"scale\":2", "\"scale\":2,\"scale\":3")),
        (
            "M002",
            "deep-inside-an-unknown-field",
            replaced("{\"edits\"", "{\"a.b/c\":[{\"d\":{\"e\":1,\"e\":1}}],\"edits\""),
        ),
        ("M002", "stored-name-twice", digests),
        ("M002", "same-key-spelled-with-an-escape", replaced("\"scale\":2", "\"scale\":2,\"\\u0073cale\":2")),
    ]
}

/// The plain file with another scale, which is spelled in another way than RFC 8785's.
fn spelled(scale: f64, spelling: &str) -> Vec<u8> {
    let file = plain().set("/edits/0/scale", json!(scale)).identified();
    let (text, field) = (to_canonical(&file.manifest), format!("\"scale\":{}", to_canonical(&json!(scale))));
    let changed = text.replacen(&field, &format!("\"scale\":{spelling}"), 1);
    assert_ne!(text, changed, "the scale is spelled canonically");
    file.bytes_with(&changed)
}

fn canonical_form() -> Vec<Coded> {
    let swapped =
        with_text(|text| text.replacen("\"kind\":\"lora\",\"scale\":2", "\"scale\":2,\"kind\":\"lora\"", 1));
    let extra = |text: &str| replaced("{\"edits\"", &format!("{{{text},\"edits\""));
    vec![
        ("M003", "white-space", replaced("\"scale\":2", "\"scale\": 2")),
        ("M003", "line-feed-at-the-end", with_text(|text| text + "\n")),
        ("M003", "keys-out-of-order", swapped),
        ("M003", "keys-in-byte-order", extra("\"a.b/\u{ff5e}\":1,\"a.b/\u{10000}\":2")),
        ("M003", "integer-with-a-fraction", spelled(2.0, "2.0")),
        ("M003", "needless-exponent", spelled(2.0, "2e0")),
        ("M003", "exponent-in-upper-case", spelled(1e-7, "1E-7")),
        ("M003", "exponent-with-a-zero", spelled(1e-7, "1e-07")),
        ("M003", "small-number-written-plainly", spelled(1e-7, "0.0000001")),
        ("M003", "large-number-written-plainly", spelled(1e21, "1000000000000000000000")),
        ("M003", "more-digits-than-needed", spelled(0.1, "0.10000000000000001")),
        ("M003", "negative-zero", spelled(0.0, "-0")),
        ("M003", "integer-that-no-double-holds", extra("\"a.b/c\":9007199254740993")),
        ("M003", "needless-escape", replaced("\"target\":\"a", "\"target\":\"\\u0061")),
        ("M003", "escape-in-upper-case", extra("\"a.b/c\":\"\\u001F\"")),
        ("M003", "escaped-slash", extra("\"a.b/c\":\"\\/\"")),
    ]
}

fn fields() -> Vec<Coded> {
    let edit = |field: &str, value| plain().set(&format!("/edits/0/{field}"), value).bytes();
    let plain_with = |pointer: &str, value| plain().set(pointer, value).bytes();
    let sliced = |ranges| edit("slice", json!([{ "axis": 0, "ranges": ranges }]));
    vec![
        ("M004", "no-edits", plain().without("/edits").bytes()),
        ("M004", "no-version", plain().without("/fitment").bytes()),
        ("M004", "no-requires", plain().without("/requires").bytes()),
        ("M004", "no-id", plain().without("/id").bytes()),
        ("M004", "no-digests", plain().without("/tensors").bytes()),
        ("M004", "no-scale", plain().without("/edits/0/scale").bytes()),
        ("M004", "no-target", plain().without("/edits/0/target").bytes()),
        ("M004", "no-kind", plain().without("/edits/0/kind").bytes()),
        ("M004", "no-tensors-in-an-edit", plain().without("/edits/0/tensors").bytes()),
        ("M004", "version-is-a-number", plain_with("/fitment", json!(1.0))),
        ("M004", "edits-are-an-object", plain_with("/edits", json!({}))),
        ("M004", "an-edit-is-a-list", plain_with("/edits/0", json!([]))),
        ("M004", "unannounced-kind", edit("kind", json!("rotate"))),
        ("M004", "kind-in-upper-case", edit("kind", json!("LORA"))),
        ("M004", "unknown-form", edit("form", json!("linear"))),
        ("M004", "scale-is-the-text-nan", edit("scale", json!("NaN"))),
        ("M004", "scale-is-null", edit("scale", json!(null))),
        ("M004", "target-is-null", edit("target", json!(null))),
        ("M004", "transposed-is-a-number", edit("transposed", json!(1))),
        ("M004", "range-of-two-numbers", sliced(json!([[0, 3]]))),
        ("M004", "negative-index", sliced(json!([[-1, 3, 1]]))),
        (
            "M004",
            "unknown-field-of-a-slice",
            edit("slice", json!([{ "axis": 0, "ranges": [[0, 3, 1]], "step": 1 }])),
        ),
        (
            "M004",
            "unknown-field-of-a-magnitude",
            edit("magnitude", json!({ "axis": 0, "norm_of": "merged", "p": 2 })),
        ),
        ("M004", "rank-is-a-fraction", edit("origin", json!({ "rank": 1.5 }))),
        ("M004", "experts-of-one-number", edit("experts", json!([8]))),
        ("M004", "source-without-format", plain_with("/source", json!({ "version": "1" }))),
        (
            "M004",
            "metadata-value-is-a-number",
            plain_with("/source", json!({ "format": "peft", "metadata": { "n": 1 } })),
        ),
    ]
}

fn versions() -> Vec<Coded> {
    let version = |text: &str| plain().set("/fitment", json!(text)).bytes();
    let requires = |list| plain().set("/requires", list).bytes();
    let rotate = plain().set("/edits/0/kind", json!("rotate")).sealed().bytes();
    vec![
        ("M005", "version-2", version("2.0")),
        ("M005", "version-0", version("0.9")),
        ("M005", "version-without-minor", version("1")),
        ("M005", "version-of-three-parts", version("1.0.0")),
        ("M005", "version-with-another-suffix", version("1.0-beta")),
        ("M006", "unknown-kind", rotate),
        ("M006", "unknown-option", requires(json!(["lora", "lora.groups"]))),
        ("M006", "feature-of-a-vendor", requires(json!(["lora", "vendor.example/rotate"]))),
        ("M007", "a-feature-is-missing", requires(json!([]))),
        ("M007", "a-feature-too-many", requires(json!(["lora", "set"]))),
        ("M007", "a-feature-twice", requires(json!(["lora", "lora"]))),
        ("M007", "an-option-is-missing", transposed().set("/requires", json!(["lora"])).bytes()),
        (
            "M007",
            "features-out-of-order",
            transposed().set("/requires", json!(["lora.transposed", "lora"])).bytes(),
        ),
    ]
}

fn transposed() -> File {
    plain().set("/edits/0/transposed", json!(true)).sealed()
}

fn defaults() -> Vec<Coded> {
    let edit = |field: &str, value| plain().set(&format!("/edits/0/{field}"), value).bytes();
    let manifest = |field: &str, value| plain().set(&format!("/{field}"), value).bytes();
    let set = |field: &str, value| two_sets().set(&format!("/edits/0/{field}"), value).bytes();
    let magnitude = super::edits::with_magnitude(json!({ "axis": 0, "norm_of": "merged" }));
    vec![
        ("M008", "form-matrix", edit("form", json!("matrix"))),
        ("M008", "transposed-false", edit("transposed", json!(false))),
        ("M008", "create-false", set("create", json!(false))),
        ("M008", "eps-zero", magnitude.set("/edits/0/magnitude/eps", json!(0)).bytes()),
        ("M008", "empty-slice", edit("slice", json!([]))),
        ("M008", "empty-uses", edit("uses", json!([]))),
        ("M008", "empty-origin", edit("origin", json!({}))),
        ("M008", "rslora-false", edit("origin", json!({ "rank": 1, "rslora": false }))),
        ("M008", "component-null", edit("component", json!(null))),
        ("M008", "empty-base", manifest("base", json!({}))),
        ("M008", "layout-hf", manifest("base", json!({ "layout": "hf", "name": "x" }))),
        ("M008", "empty-base-tensors", manifest("base", json!({ "name": "x", "tensors": [] }))),
        ("M008", "empty-about", manifest("about", json!({}))),
        ("M008", "empty-tags", manifest("about", json!({ "tags": [], "title": "x" }))),
        ("M008", "source-null", manifest("source", json!(null))),
        ("M008", "empty-source-files", manifest("source", json!({ "format": "peft", "files": [] }))),
    ]
}

fn stored_tensors() -> Vec<Coded> {
    let (up, down) = ("a.weight::0.lora.up", "a.weight::0.lora.down");
    let renamed = |role: &str, from: &str, to: &str| {
        let mut file = plain().set(&format!("/edits/0/tensors/{role}"), json!(to));
        let tensor = file.tensors.remove(from).expect("is stored");
        file.store(to, tensor).sealed().bytes()
    };
    let exchanged = {
        let file = plain();
        let (a, b): (Stored, Stored) = (file.tensors[up].clone(), file.tensors[down].clone());
        file.set("/edits/0/tensors/up", json!(down))
            .set("/edits/0/tensors/down", json!(up))
            .store(up, b)
            .store(down, a)
    };
    let source = |field: &str, item| plain().set("/source", json!({ "format": "peft", field: [item] }));
    let orphan = || stored(&ramp(&[2], 0.0));
    let empty = stored(&tensor(Dtype::F32, &[0, 3], vec![]));
    let shared_empty = two_sets()
        .set("/edits/1/tensors/value", json!("a.weight::0.set.value"))
        .unstore("b.weight::0.set.value")
        .store("a.weight::0.set.value", empty)
        .sealed();
    let late_name = two_sets()
        .set("/edits/0/tensors/value", json!("b.weight::0.set.value"))
        .unstore("a.weight::0.set.value")
        .sealed();
    let file_data = stored(&raw(b"hello"));
    vec![
        ("M010", "missing-factor", plain().unstore(up).bytes()),
        (
            "M010",
            "missing-file",
            source("files", json!({ "path": "a", "tensor": "@source::0.file.data" })).sealed().bytes(),
        ),
        (
            "M010",
            "missing-digests",
            plain()
                .set(
                    "/base",
                    json!({
                        "digests": "@base::0.digest.sha256",
                        "tensors": [{ "dtype": "BF16", "name": "a.weight", "shape": [3, 4] }],
                    }),
                )
                .bytes(),
        ),
        ("M011", "orphan", plain().store("b.weight::0.lora.up", orphan()).sealed().bytes()),
        ("M011", "orphan-without-digest", plain().store("b.weight::0.lora.up", orphan()).bytes()),
        ("M012", "another-name", renamed("up", up, "lora_B")),
        ("M012", "another-index", renamed("up", up, "a.weight::1.lora.up")),
        ("M012", "index-with-a-leading-zero", renamed("up", up, "a.weight::00.lora.up")),
        ("M012", "another-kind", renamed("up", up, "a.weight::0.set.up")),
        ("M012", "names-of-the-factors-exchanged", exchanged.sealed().bytes()),
        ("M012", "shared-tensor-named-by-its-second-use", late_name.bytes()),
        ("M012", "shared-tensor-without-elements", shared_empty.bytes()),
        (
            "M012",
            "source-shares-a-tensor-of-an-edit",
            source("kept", json!({ "key": "x", "tensor": up })).bytes(),
        ),
        (
            "M012",
            "source-file-under-another-index",
            source("files", json!({ "path": "a", "tensor": "@source::1.file.data" }))
                .store("@source::1.file.data", file_data)
                .sealed()
                .bytes(),
        ),
    ]
}
