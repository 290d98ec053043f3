//! Broken interventions, and broken conditions of weight edits (spec sections 4.5, 5.6).

use fitment_core::Adapter;
use fitment_core::model::Edit;
use fitment_core::tensor::{Dtype, Tensor};
use serde_json::{Value, json};

use super::Coded;
use super::edits::{plain, two_sets};
use super::file::File;
use super::parts::{counted, ramp, ramp16, raw, stored, tensor, written};
use super::valid_interventions::loreft;

const UP: &str = "@block_output.0::0.intervention.up";
const WEIGHT: &str = "@block_output.0::0.intervention.source.weight";
const BIAS: &str = "@block_output.0::0.intervention.source.bias";

pub(super) fn files() -> Vec<Coded> {
    let mut files = types();
    files.extend(roles_and_shapes());
    files.extend(sites());
    files.extend(positions());
    files.extend(formulas());
    files.extend(values());
    files.extend(roundings());
    files.extend(orders());
    files.extend(conditions());
    files
}

/// Files that would take much room in the repository.
pub(super) fn large_files() -> Vec<Coded> {
    let numbers = Value::from((0..65_537).collect::<Vec<u64>>());
    let positions = json!({ "phase": "prompt", "select": { "explicit": numbers.clone() } });
    let tokens = plain().set("/edits/0/when", json!({ "after_tokens": numbers })).sealed();
    vec![
        ("E017", "explicit-positions-65537", with("positions", positions)),
        ("E023", "tokens-65537", tokens.bytes()),
    ]
}

/// A LoReFT of rank 2 on states of width 4.
fn sound() -> File {
    File::open(&written(&Adapter { edits: vec![Edit::Intervention(loreft(0))], ..Adapter::default() }))
}

/// The same without the rounding of its class.
fn plainly_rounded() -> File {
    sound().without("/edits/0/rounding").sealed()
}

fn with(field: &str, value: Value) -> Vec<u8> {
    plainly_rounded().set(&format!("/edits/0/{field}"), value).sealed().bytes()
}

fn name(role: &str) -> String {
    format!("@block_output.0::0.intervention.{role}")
}

fn role(file: File, role: &str, tensor: &Tensor<'_>) -> File {
    let name = name(role);
    file.set(&format!("/edits/0/tensors/{role}"), json!(name)).store(&name, stored(tensor)).sealed()
}

fn without_role(file: File, role: &str) -> File {
    file.without(&format!("/edits/0/tensors/{role}")).unstore(&name(role)).sealed()
}

/// Without any role, subtraction or activation.
fn bare() -> File {
    let file = without_role(plainly_rounded(), "up");
    let file = without_role(without_role(file, "source.weight"), "source.bias");
    file.without("/edits/0/tensors").without("/edits/0/subtract").without("/edits/0/orthonormal").sealed()
}

fn types() -> Vec<Coded> {
    vec![
        ("M004", "intervention-without-positions", sound().without("/edits/0/positions").sealed().bytes()),
        ("M004", "intervention-without-a-site", {
            let file = bare().without("/edits/0/site").set("/edits/0/subtract", json!(true));
            file.sealed().bytes()
        }),
        ("M004", "unknown-activation", with("activation", json!("swish"))),
        ("M004", "unknown-component", with("site", json!({ "component": "residual", "layer": 0 }))),
        (
            "M004",
            "unknown-field-of-positions",
            with("positions", json!({ "phase": "prompt", "select": "all", "unit": 1 })),
        ),
        ("M004", "first-last-without-short", {
            with(
                "positions",
                json!({ "phase": "prompt", "select": { "first_last": { "first": 1, "last": 1 } } }),
            )
        }),
        ("M004", "explicit-with-a-fraction", {
            with("positions", json!({ "phase": "prompt", "select": { "explicit": [0.5] } }))
        }),
        (
            "M008",
            "sequential-written-out",
            plainly_rounded().set("/edits/0/overlap", json!("sequential")).bytes(),
        ),
        ("M008", "f32-written-out", plainly_rounded().set("/edits/0/rounding", json!("f32")).bytes()),
        ("M008", "intervention-tensors-empty", {
            bare().set("/edits/0/subtract", json!(true)).sealed().set("/edits/0/tensors", json!({})).bytes()
        }),
        ("M008", "when-says-nothing", {
            plain().set("/edits/0/when", json!({})).set("/requires", json!(["lora", "when"])).bytes()
        }),
        ("M007", "intervention-without-its-option", {
            let file = plainly_rounded().set("/edits/0/activation", json!("relu")).sealed();
            file.set("/requires", json!(["intervention"])).bytes()
        }),
        ("M012", "intervention-under-another-name", {
            let other = "@block_output.0::0.intervention.U";
            let file = sound().set("/edits/0/tensors/up", json!(other)).unstore(UP);
            file.store(other, sound().tensors[UP].clone()).sealed().bytes()
        }),
    ]
}

fn roles_and_shapes() -> Vec<Coded> {
    let up = |tensor: &Tensor<'_>| {
        plainly_rounded().without("/edits/0/orthonormal").store(UP, stored(tensor)).sealed().bytes()
    };
    let wide = || ramp(&[2, 5], 0.0);
    vec![
        ("E001", "intervention-with-a-down", role(plainly_rounded(), "down", &ramp(&[2, 4], 0.0)).bytes()),
        ("E002", "intervention-of-bytes", role(plainly_rounded(), "up.bias", &raw(&[0; 4])).bytes()),
        ("E002", "intervention-in-float8", {
            role(plainly_rounded(), "up.bias", &counted(Dtype::F8_E4M3, &[4])).bytes()
        }),
        ("E003", "intervention-of-two-ranks", up(&ramp(&[4, 3], 0.0))),
        ("E003", "source-bias-of-another-rank", {
            plainly_rounded().store(BIAS, stored(&ramp(&[3], 0.0))).sealed().bytes()
        }),
        ("E004", "up-is-a-vector", up(&ramp(&[4], 0.0))),
        ("E004", "up-is-transposed", up(&ramp(&[2, 2], 0.0))),
        (
            "E004",
            "source-of-another-width",
            plainly_rounded().store(WEIGHT, stored(&wide())).sealed().bytes(),
        ),
        ("E004", "proj-of-another-width", role(plainly_rounded(), "proj", &wide()).bytes()),
        ("E004", "up-bias-of-another-width", role(plainly_rounded(), "up.bias", &ramp(&[5], 0.0)).bytes()),
        ("E004", "dims-of-another-width", with("dims", json!([0, 5]))),
        ("E004", "identity-between-two-widths", {
            let file = without_role(plainly_rounded(), "up").without("/edits/0/orthonormal");
            file.sealed().bytes()
        }),
        ("E005", "intervention-of-rank-0", {
            let empty = |file: File, name: &str, dims: &[u64]| file.store(name, stored(&ramp(dims, 0.0)));
            let file = empty(empty(plainly_rounded(), UP, &[4, 0]), WEIGHT, &[0, 4]);
            empty(file, BIAS, &[0]).sealed().bytes()
        }),
        ("M017", "dims-descend", with("dims", json!([4, 0]))),
        ("M017", "dims-empty", with("dims", json!([4, 4]))),
        ("M016", "intervention-in-a-component-with-a-slash", {
            let mut file = bare().set("/edits/0/subtract", json!(true));
            file = file.set("/edits/0/component", json!("a/b"));
            file.sealed().bytes()
        }),
    ]
}

fn sites() -> Vec<Coded> {
    // Without stored tensors, a site does not show in their names.
    let at = |site: Value| {
        bare().set("/edits/0/subtract", json!(true)).set("/edits/0/site", site).sealed().bytes()
    };
    let path = |path: &str| at(json!({ "path": path }));
    vec![
        ("E016", "site-without-a-layer", at(json!({ "component": "block_output" }))),
        ("E016", "site-with-a-path-and-a-layer", at(json!({ "layer": 1, "path": "h.1.output" }))),
        ("E016", "site-says-nothing", at(json!({}))),
        ("E016", "layer-above-2-to-the-53", {
            at(json!({ "component": "block_output", "layer": 9_007_199_254_740_994_u64 }))
        }),
        ("E016", "path-without-its-end", path("model.layers.2")),
        ("E016", "path-of-no-module", path("output")),
        ("E016", "path-with-brackets", path("model.layers[2].output")),
        ("E016", "path-with-an-empty-part", path("model..2.output")),
        ("E016", "input-site-without-a-layer", with("input_site", json!({ "component": "mlp_input" }))),
    ]
}

fn positions() -> Vec<Coded> {
    let at = |phase: &str, select: Value| with("positions", json!({ "phase": phase, "select": select }));
    let explicit = |numbers: Value| at("prompt", json!({ "explicit": numbers }));
    let ends = |fields: Value| {
        let mut all = json!({ "first": 1, "last": 1, "short": "paper" });
        for (key, value) in fields.as_object().expect("an object") {
            all[key] = value.clone();
        }
        at("prompt", json!({ "first_last": all }))
    };
    vec![
        ("E017", "no-first-and-no-last", ends(json!({ "first": 0, "last": 0 }))),
        ("E017", "prefix-without-first", ends(json!({ "first": 0, "group": "prefix" }))),
        ("E017", "suffix-without-last", ends(json!({ "group": "suffix", "last": 0 }))),
        ("E017", "end-offset-of-1", ends(json!({ "end_offset": 1 }))),
        ("E017", "first-above-2-to-the-53", ends(json!({ "first": 9_007_199_254_740_994_u64 }))),
        ("E017", "no-explicit-position", explicit(json!([]))),
        ("E017", "explicit-positions-descend", explicit(json!([2, 1]))),
        ("E017", "explicit-position-twice", explicit(json!([0, -1, -1]))),
        ("E017", "explicit-positions-from-the-end-first", explicit(json!([-1, 0]))),
        ("E017", "explicit-position-below-minus-2-to-the-53", explicit(json!([-9_007_199_254_740_994_i64]))),
        ("E017", "decode-of-the-first-tokens", {
            at("decode", json!({ "first_last": { "first": 1, "last": 0, "short": "paper" } }))
        }),
        ("E017", "explicit-positions-of-every-pass", at("every_forward", json!({ "explicit": [0] }))),
    ]
}

fn formulas() -> Vec<Coded> {
    let unsubtracted = || plainly_rounded().without("/edits/0/subtract");
    let up_only = || without_role(without_role(unsubtracted(), "source.weight"), "source.bias");
    let subtracting = || bare().set("/edits/0/subtract", json!(true));
    vec![
        ("E019", "proj-that-nothing-subtracts", role(unsubtracted(), "proj", &ramp(&[2, 4], 0.0)).bytes()),
        (
            "E019",
            "proj-bias-that-nothing-subtracts",
            role(unsubtracted(), "proj.bias", &ramp(&[2], 0.0)).bytes(),
        ),
        ("E019", "up-of-nothing", up_only().bytes()),
        (
            "E019",
            "constant-as-a-source-bias",
            role(bare().set("/edits/0/tensors", json!({})), "source.bias", &ramp(&[4], 0.0)).bytes(),
        ),
        ("E019", "intervention-that-does-nothing", bare().bytes()),
        (
            "E019",
            "activation-of-nothing",
            subtracting().set("/edits/0/activation", json!("gelu")).sealed().bytes(),
        ),
        ("E019", "input-site-that-is-not-read", {
            subtracting().set("/edits/0/input_site", json!({ "path": "h.0.input" })).sealed().bytes()
        }),
        (
            "E019",
            "orthonormal-without-up",
            subtracting().set("/edits/0/orthonormal", json!(true)).sealed().bytes(),
        ),
    ]
}

fn values() -> Vec<Coded> {
    let nan: Vec<u8> = [1.0, 0.0, 0.0, f32::NAN].iter().flat_map(|value| value.to_le_bytes()).collect();
    vec![
        ("E012", "nan-in-an-intervention", {
            role(plainly_rounded(), "up.bias", &tensor(Dtype::F32, &[4], nan)).bytes()
        }),
        (
            "E020",
            "orthonormal-by-name-only",
            plainly_rounded().store(UP, stored(&ramp(&[4, 2], 0.0))).sealed().bytes(),
        ),
        ("E020", "columns-of-another-length", {
            let mut up = sound().tensors[UP].clone();
            // 0.6 becomes 0.6001: the first column's square is 1.00012.
            up.bytes[..4].copy_from_slice(&0.6001_f32.to_le_bytes());
            plainly_rounded().store(UP, up).sealed().bytes()
        }),
    ]
}

fn roundings() -> Vec<Coded> {
    let as_class = |file: File, class: &str| file.set("/edits/0/rounding", json!(class)).sealed().bytes();
    vec![
        ("E021", "loreft-without-subtraction", {
            as_class(plainly_rounded().without("/edits/0/subtract"), "loreft")
        }),
        ("E021", "direft-with-subtraction", as_class(plainly_rounded(), "direft")),
        ("E021", "noreft-of-two-dtypes", as_class(plainly_rounded(), "noreft")),
        (
            "E021",
            "loreft-without-a-source-bias",
            as_class(without_role(plainly_rounded(), "source.bias"), "loreft"),
        ),
        ("E021", "loreft-with-a-proj", {
            as_class(role(plainly_rounded(), "proj", &ramp16(&[2, 4], 0.0)), "loreft")
        }),
        (
            "E021",
            "loreft-of-a-part",
            as_class(plainly_rounded().set("/edits/0/dims", json!([0, 4])), "loreft"),
        ),
        ("E021", "loreft-with-up-in-16-bits", {
            let file =
                plainly_rounded().without("/edits/0/orthonormal").store(UP, stored(&ramp16(&[4, 2], 0.0)));
            as_class(file, "loreft")
        }),
    ]
}

fn orders() -> Vec<Coded> {
    let weights = plain();
    let mut turned = sound();
    turned.manifest["edits"].as_array_mut().expect("a list").push(weights.manifest["edits"][0].clone());
    turned.tensors.extend(weights.tensors);
    let mut config = sound();
    let value = json!({ "key": "mlp_bias", "kind": "config", "value": true });
    config.manifest["edits"].as_array_mut().expect("a list").push(value);
    let mut two = plainly_rounded();
    let mut second = two.manifest["edits"][0].clone();
    second["overlap"] = json!("last_wins");
    two.manifest["edits"].as_array_mut().expect("a list").push(second);
    vec![
        ("E022", "lora-after-an-intervention", turned.sealed().bytes()),
        ("E022", "config-after-an-intervention", config.sealed().bytes()),
        ("E018", "two-overlaps-at-one-site", two.sealed().bytes()),
    ]
}

fn conditions() -> Vec<Coded> {
    let when = |file: File, when: Value| file.set("/edits/0/when", when).sealed().bytes();
    let when_file = |when: Value| plain().set("/edits/0/when", when).sealed();
    let created = || two_sets().set("/edits/0/create", json!(true));
    let removal = File::of(json!([{ "kind": "remove", "target": "a.weight" }]), []);
    vec![
        ("M004", "when-of-an-unknown-phase", when(plain(), json!({ "phase": "training" }))),
        ("M004", "unknown-field-of-when", when(plain(), json!({ "phase": "prompt", "until": 3 }))),
        (
            "M006",
            "when-as-a-feature-of-its-own",
            plain().set("/requires", json!(["lora", "when.until"])).bytes(),
        ),
        ("M007", "when-without-its-feature", {
            let file = plain().set("/edits/0/when", json!({ "phase": "prompt" })).sealed();
            file.set("/requires", json!(["lora"])).bytes()
        }),
        ("M008", "every-pass-written-out", {
            let file = when_file(json!({ "after_tokens": [1] }));
            file.set("/edits/0/when/phase", json!("every_forward")).bytes()
        }),
        (
            "M017",
            "token-above-2-to-the-53",
            when(plain(), json!({ "after_tokens": [9_007_199_254_740_994_u64] })),
        ),
        ("E023", "created-for-a-time", when(created(), json!({ "phase": "prompt" }))),
        ("E023", "removed-for-a-time", when(removal, json!({ "phase": "decode" }))),
    ]
}
