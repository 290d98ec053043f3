//! Broken targets: names, slices, bundles, uses, order (spec sections 3.4, 4, 5.5).

use serde_json::{Value, json};

use super::Coded;
use super::edits::{plain, two_sets};
use super::file::File;
use super::parts::{integers, ramp, stored};

pub(super) fn files() -> Vec<Coded> {
    let mut files = names();
    files.extend(slices());
    files.extend(bundles());
    files.extend(overlaps());
    files.extend(uses());
    files.extend(order());
    files.extend(config());
    files
}

/// Edits without tensors, so that a name need not be fit for a stored one.
fn removal(target: &str) -> Value {
    json!({ "kind": "remove", "target": target })
}

fn of(edits: Value) -> File {
    File::of(edits, [])
}

fn names() -> Vec<Coded> {
    let named = |target: &str| of(json!([removal(target)])).bytes();
    let in_component = |component: &str| {
        of(json!([{ "component": component, "kind": "remove", "target": "a.weight" }])).bytes()
    };
    let tied = |tied| plain().set("/base", json!({ "tied": tied })).bytes();
    vec![
        ("M016", "empty-target", named("")),
        ("M016", "target-of-513-bytes", named(&"n".repeat(513))),
        ("M016", "target-with-a-double-colon", named("a::b")),
        ("M016", "target-with-a-line-feed", named("a\nb")),
        ("M016", "target-with-a-c1-control", named("a\u{9f}b")),
        ("M016", "empty-component", in_component("")),
        ("M016", "component-with-a-slash", in_component("unet/down")),
        ("M016", "tied-name-is-empty", tied(json!({ "a.weight": [""] }))),
        (
            "M016",
            "component-of-a-config-edit-is-empty",
            of(json!([
                { "component": "", "key": "vocab_size", "kind": "config", "value": 3 }
            ]))
            .bytes(),
        ),
    ]
}

fn sliced(slice: Value) -> Vec<u8> {
    let base = json!({ "tensors": [{ "name": "a.weight", "shape": [6, 4] }] });
    plain().set("/edits/0/slice", slice).set("/base", base).sealed().bytes()
}

fn slices() -> Vec<Coded> {
    let rows = |ranges: Value| sliced(json!([{ "axis": 0, "ranges": ranges }]));
    let both = json!([{ "axis": 1, "ranges": [[0, 4, 1]] }, { "axis": 0, "ranges": [[0, 3, 1]] }]);
    let twice = json!([{ "axis": 0, "ranges": [[0, 3, 1]] }, { "axis": 0, "ranges": [[0, 3, 1]] }]);
    let unknown_base = plain().set("/edits/0/slice", json!([{ "axis": 8, "ranges": [[0, 3, 1]] }]));
    let rows_and_slice = super::edits::rows(&[0, 1])
        .set("/edits/0/slice", json!([{ "axis": 1, "ranges": [[0, 3, 1]] }]))
        .sealed();
    vec![
        ("E006", "axes-out-of-order", sliced(both)),
        ("E006", "axis-twice", sliced(twice)),
        ("E006", "axis-beyond-the-shape", sliced(json!([{ "axis": 2, "ranges": [[0, 1, 1]] }]))),
        ("E006", "axis-beyond-every-shape", unknown_base.sealed().bytes()),
        ("E006", "no-ranges", rows(json!([]))),
        ("E006", "empty-range", rows(json!([[3, 3, 1]]))),
        ("E006", "range-backwards", rows(json!([[3, 0, 1]]))),
        ("E006", "step-of-zero", rows(json!([[0, 3, 0]]))),
        ("E006", "ranges-overlap", rows(json!([[0, 2, 1], [1, 2, 1]]))),
        ("E006", "ranges-interleave", rows(json!([[0, 5, 2], [1, 6, 2]]))),
        ("E006", "range-beyond-the-extent", rows(json!([[4, 7, 1]]))),
        ("E006", "slice-and-rows", rows_and_slice.bytes()),
    ]
}

pub(super) fn large_files() -> Vec<Coded> {
    let many: Vec<[u64; 3]> = (0..65_537).map(|index| [index, index + 1, 1]).collect();
    let slice = json!([{ "axis": 0, "ranges": many }]);
    vec![("E006", "more-than-65536-ranges", plain().set("/edits/0/slice", slice).sealed().bytes())]
}

/// A bundle whose factors hold two experts.
fn bundle(target: &str, experts: Value) -> File {
    let name = |role: &str| format!("{target}::0.lora.{role}");
    File::of(
        json!([{ "kind": "lora", "target": target, "experts": experts, "scale": 1,
            "tensors": { "down": name("down"), "up": name("up") } }]),
        [(&*name("up"), stored(&ramp(&[2, 3, 1], 1.0))), (&*name("down"), stored(&ramp(&[2, 1, 4], 1.0)))],
    )
}

fn bundles() -> Vec<Coded> {
    let sound = || bundle("e.{e}.w", json!([0, 2]));
    let value = "e.{e}.w::0.set.value";
    let rows = "e.{e}.w::0.set.rows";
    let by_rows = File::of(
        json!([{ "kind": "set", "target": "e.{e}.w", "experts": [0, 2], "dtype": "base",
            "tensors": { "rows": rows, "value": value } }]),
        [(value, stored(&ramp(&[2, 1, 4], 1.0))), (rows, stored(&integers(&[1])))],
    );
    let dense = |experts| {
        File::of(
            json!([{ "kind": "set", "target": "e.{e}.w", "experts": experts, "dtype": "base", "tensors": { "value": value } }]),
            [(value, stored(&ramp(&[2, 3], 1.0)))],
        )
    };
    vec![
        ("E007", "place-without-experts", of(json!([removal("e.{e}.w")])).bytes()),
        (
            "E007",
            "experts-without-place",
            of(json!([{ "kind": "remove", "target": "e.w", "experts": [0, 2] }])).bytes(),
        ),
        (
            "E007",
            "two-places",
            of(json!([{ "kind": "remove", "target": "{e}.{e}", "experts": [0, 2] }])).bytes(),
        ),
        ("E007", "no-experts", of(json!([{ "kind": "remove", "target": "{e}", "experts": [2, 2] }])).bytes()),
        (
            "E007",
            "experts-backwards",
            of(json!([{ "kind": "remove", "target": "{e}", "experts": [2, 0] }])).bytes(),
        ),
        (
            "E007",
            "more-than-65536-experts",
            of(json!([{ "kind": "remove", "target": "{e}", "experts": [0, 65537] }])).bytes(),
        ),
        ("E007", "more-experts-than-factors", bundle("e.{e}.w", json!([0, 3])).bytes()),
        ("E007", "fewer-experts-than-factors", bundle("e.{e}.w", json!([0, 1])).bytes()),
        ("E007", "value-of-another-number-of-experts", dense(json!([0, 3])).bytes()),
        ("E007", "rows-of-a-bundle", by_rows.bytes()),
        ("E004", "stacked-bundle", sound().set("/edits/0/form", json!("stacked")).sealed().bytes()),
        ("E004", "bundle-without-expert-axis", {
            let file = sound();
            let names = ["e.{e}.w::0.lora.up", "e.{e}.w::0.lora.down"];
            file.store(names[0], stored(&ramp(&[3, 1], 1.0)))
                .store(names[1], stored(&ramp(&[1, 4], 1.0)))
                .sealed()
                .bytes()
        }),
        ("E008", "magnitude-of-a-bundle", {
            let name = "e.{e}.w::0.lora.magnitude";
            sound()
                .set("/edits/0/magnitude", json!({ "axis": 0, "norm_of": "merged" }))
                .set("/edits/0/tensors/magnitude", json!(name))
                .store(name, stored(&ramp(&[2, 3], 1.0)))
                .sealed()
                .bytes()
        }),
    ]
}

fn overlaps() -> Vec<Coded> {
    let bundle =
        |target: &str, experts: [u64; 2]| json!({ "kind": "remove", "target": target, "experts": experts });
    let files = |edits| of(edits).bytes();
    let many: Vec<Value> =
        (0..16u64).map(|index| bundle("e.{e}.w", [index * 65536, (index + 1) * 65536])).collect();
    vec![
        ("E007", "bundles-overlap", files(json!([bundle("e.{e}.w", [0, 5]), bundle("e.{e}.w", [4, 8])]))),
        ("E007", "single-tensor-in-a-bundle", files(json!([bundle("e.{e}.w", [0, 5]), removal("e.4.w")]))),
        ("E007", "bundles-cross", files(json!([bundle("l.{e}.e.1", [0, 5]), bundle("l.3.e.{e}", [0, 5])]))),
        (
            "E007",
            "bundles-meet-beside-digits",
            files(json!([bundle("w1{e}", [2, 3]), bundle("w{e}", [12, 13])])),
        ),
        ("E007", "more-than-a-million-tensors", files(json!(many))),
    ]
}

fn uses() -> Vec<Coded> {
    let untied = json!({ "key": "tie_word_embeddings", "kind": "config", "value": false });
    let file = |tied: Value, uses: Value| {
        plain()
            .set("/base", json!({ "tied": tied }))
            .set("/edits/0/uses", uses)
            .set("/edits/-", untied.clone())
            .sealed()
    };
    let tied = json!({ "a.weight": ["head.weight", "score.weight"] });
    let with_uses = |uses| file(tied.clone(), uses).bytes();
    let with_tied = |tied| plain().set("/base", json!({ "tied": tied })).bytes();
    let sound = || file(tied.clone(), json!(["head.weight"]));
    let up = "unet/a.weight::0.lora.up";
    let down = "unet/a.weight::0.lora.down";
    let in_component = {
        let file = sound().set("/edits/0/component", json!("unet"));
        let (a, b) =
            (file.tensors["a.weight::0.lora.up"].clone(), file.tensors["a.weight::0.lora.down"].clone());
        file.unstore("a.weight::0.lora.up")
            .unstore("a.weight::0.lora.down")
            .store(up, a)
            .store(down, b)
            .set("/edits/0/tensors", json!({ "down": down, "up": up }))
            .sealed()
    };
    let still_tied = sound().set("/edits/1/value", json!(true)).sealed();
    let mut no_config = sound();
    no_config.manifest["edits"].as_array_mut().expect("a list").pop();
    vec![
        ("M021", "uses-out-of-order", with_uses(json!(["score.weight", "head.weight"]))),
        ("M021", "use-twice", with_uses(json!(["head.weight", "head.weight"]))),
        ("M021", "unknown-use", with_uses(json!(["other.weight"]))),
        (
            "M021",
            "uses-of-an-untied-tensor",
            file(json!({ "b.weight": ["head.weight"] }), json!(["head.weight"])).bytes(),
        ),
        ("M021", "tied-to-itself", with_tied(json!({ "a.weight": ["a.weight"] }))),
        ("M021", "tied-to-nothing", with_tied(json!({ "a.weight": [] }))),
        ("M021", "tied-names-out-of-order", with_tied(json!({ "a.weight": ["c", "b"] }))),
        ("M021", "uses-in-a-component", in_component.bytes()),
        ("M021", "loader-would-tie-again", no_config.sealed().bytes()),
        ("M021", "config-ties-again", still_tied.bytes()),
    ]
}

fn order() -> Vec<Coded> {
    let (first, second) = (removal("a.weight"), removal("b.weight"));
    let remove_first = {
        let mut file = two_sets();
        file.manifest["edits"].as_array_mut().expect("a list").insert(0, second);
        file.set("/edits/2/tensors/value", json!("b.weight::1.set.value"))
    };
    let value = remove_first.tensors["b.weight::0.set.value"].clone();
    let remove_first =
        remove_first.unstore("b.weight::0.set.value").store("b.weight::1.set.value", value).sealed();
    let created_second = {
        let file = two_sets().set("/edits/1/target", json!("a.weight")).set("/edits/1/create", json!(true));
        let value = file.tensors["b.weight::0.set.value"].clone();
        file.unstore("b.weight::0.set.value")
            .store("a.weight::1.set.value", value)
            .set("/edits/1/tensors/value", json!("a.weight::1.set.value"))
            .sealed()
    };
    let create = |file: File| file.set("/edits/0/create", json!(true)).sealed().bytes();
    let reshape = |file: File| file.set("/edits/0/reshape", json!(true)).sealed().bytes();
    let slice = json!([{ "axis": 0, "ranges": [[0, 2, 1]] }]);
    let tied = json!({ "tied": { "a.weight": ["head.weight"] } });
    let untied = json!({ "key": "tie_word_embeddings", "kind": "config", "value": false });
    vec![
        ("E010", "removed-twice", of(json!([first, first])).bytes()),
        ("E010", "edited-after-removal", remove_first.bytes()),
        ("E010", "created-after-an-edit", created_second.bytes()),
        ("E010", "created-in-the-base-dtype", create(two_sets().set("/edits/0/dtype", json!("base")))),
        ("E010", "created-by-rows", create(super::edits::rows(&[0, 1]).without("/base"))),
        ("E010", "created-in-a-slice", create(two_sets().set("/edits/0/slice", slice.clone()))),
        ("E010", "reshaped-in-the-base-dtype", reshape(two_sets().set("/edits/0/dtype", json!("base")))),
        ("E010", "reshaped-by-rows", reshape(super::edits::rows(&[0, 1]).without("/base"))),
        ("E010", "reshaped-in-a-slice", reshape(two_sets().set("/edits/0/slice", slice.clone()))),
        ("E010", "reshaped-and-created", create(two_sets().set("/edits/0/reshape", json!(true)))),
        (
            "E010",
            "slice-removed",
            of(json!([{ "kind": "remove", "target": "a.weight", "slice": slice }])).bytes(),
        ),
        (
            "E010",
            "use-removed",
            of(json!([{ "kind": "remove", "target": "a.weight", "uses": ["head.weight"] }, untied]))
                .set("/base", tied)
                .bytes(),
        ),
    ]
}

fn config() -> Vec<Coded> {
    let edit = |key: &str, value: Value| json!({ "key": key, "kind": "config", "value": value });
    let one = |key: &str, value| of(json!([edit(key, value)])).bytes();
    vec![
        ("M017", "vocabulary-above-2-to-53", one("vocab_size", json!(9_007_199_254_740_994u64))),
        ("M020", "unknown-key", one("hidden_size", json!(4096))),
        ("M020", "flag-as-a-number", one("tie_word_embeddings", json!(0))),
        ("M020", "flag-as-a-text", one("mlp_bias", json!("true"))),
        ("M020", "number-as-a-flag", one("vocab_size", json!(true))),
        ("M020", "fractional-vocabulary", one("vocab_size", json!(1.5))),
        ("M020", "value-is-null", one("attention_bias", json!(null))),
        (
            "M020",
            "key-twice",
            of(json!([edit("mlp_bias", json!(true)), edit("mlp_bias", json!(false))])).bytes(),
        ),
    ]
}
