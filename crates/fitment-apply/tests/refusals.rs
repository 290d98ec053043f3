//! What does not fit is refused before anything is written, all of it, by name.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use fitment_apply::{Culprit, Error, Input, Note, Options, Plan, execute};
use fitment_core::checkpoint::{Checkpoint, MemoryCheckpoint};
use fitment_core::identity::sha256;
use fitment_core::model::{
    Adapter, AxisSlice, BaseTensor, ComponentName, ConfigValue, Edit, IndexRange, Intervention, LoraForm,
    Magnitude, NormOf, Phase, Positions, SetDtype, Site, SiteComponent, When,
};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use serde_json::json;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use support::{
    adapter, add, base_bytes, checkpoint, config, config_edit, input, lora, name, noise, set, tensor,
};

const BASE: &[(&str, Dtype, &[u64])] = &[
    ("model.layers.0.q_proj.weight", Dtype::BF16, &[4, 6]),
    ("model.layers.1.q_proj.weight", Dtype::BF16, &[4, 6]),
    ("model.norm.weight", Dtype::F8_E4M3, &[4]),
];
const Q0: &str = BASE[0].0;

fn bytes() -> Vec<u8> {
    let tensors: Vec<(&str, Tensor<'static>)> = BASE
        .iter()
        .map(|(name, dtype, dims)| {
            (*name, tensor(*dtype, dims, &vec![0.5; dims.iter().product::<u64>() as usize]))
        })
        .collect();
    base_bytes(&tensors)
}

fn product(target: &str, out: u64, input: u64) -> Edit<'static> {
    Edit::Lora(lora(target, 1.0, noise(Dtype::F32, &[out, 2], 1), noise(Dtype::F32, &[2, input], 2)))
}

fn refusal(adapter: &Adapter<'_>, options: &Options) -> Vec<Culprit> {
    let bytes = bytes();
    let base = checkpoint(&bytes);
    Plan::new(&[input(adapter, 1.0)], &base, options).expect_err("is refused").culprits().to_vec()
}

fn messages(edits: Vec<Edit<'static>>) -> Vec<String> {
    refusal(&adapter(edits), &Options::default()).iter().map(ToString::to_string).collect()
}

#[test]
fn all_culprits_are_listed() {
    let found = messages(vec![
        product("layers.0.q_proj.weight", 4, 6),
        product(Q0, 6, 4),
        product("model.norm.weight", 4, 1),
        product("model.layers.7.q_proj.weight", 4, 6),
    ]);
    assert_eq!(
        found,
        [
            "layers.0.q_proj.weight: the base has no such tensor, which adapter changes; nearest is model.layers.0.q_proj.weight",
            "model.layers.0.q_proj.weight: the low-rank update of adapter fits shape [6, 4], the base has [4, 6]",
            "model.layers.7.q_proj.weight: the base has no such tensor, which adapter changes; nearest is model.layers.0.q_proj.weight",
            "model.norm.weight: the base stores it as F8_E4M3; adapter can be applied to F64, F32, F16 and BF16",
        ]
    );
}

#[test]
fn what_acts_while_the_model_runs_is_refused_by_name() {
    let site = Site::Layer { layer: 3, component: SiteComponent::BlockOutput };
    let direction = Some(noise(Dtype::F32, &[6], 1));
    let steering = Intervention { up_bias: direction, ..Intervention::at(site, Positions::EVERYWHERE) };
    let mut timed = lora(Q0, 1.0, noise(Dtype::F32, &[4, 2], 1), noise(Dtype::F32, &[2, 6], 2));
    timed.target.when = Some(When { phase: Phase::Prompt, after_tokens: vec![] });
    assert_eq!(
        messages(vec![product(BASE[1].0, 4, 6), Edit::Lora(timed), Edit::Intervention(steering)]),
        [
            "model.layers.0.q_proj.weight: adapter changes it for some tokens only (when), which a checkpoint cannot hold",
            "@block_output.3: adapter acts on hidden states there, which is no edit of a weight",
        ]
    );
}

#[test]
fn every_kind_checks_its_shape() {
    let mut sliced = add(Q0, 1.0, noise(Dtype::F32, &[4, 6], 1));
    sliced.target.slice = vec![AxisSlice { axis: 0, ranges: vec![IndexRange { start: 0, end: 2, step: 1 }] }];
    let mut beyond = sliced.clone();
    beyond.target.slice[0].ranges[0].end = 5;
    let mut rows = set(Q0, SetDtype::Base, noise(Dtype::F32, &[1, 6], 1));
    rows.rows = Some(tensor(Dtype::I64, &[1], &[9.0]));
    let mut stacked = lora(Q0, 1.0, noise(Dtype::F32, &[2, 4, 1], 1), noise(Dtype::F32, &[2, 1, 6], 1));
    stacked.form = LoraForm::Stacked;
    let mut turned = lora(Q0, 1.0, noise(Dtype::F32, &[4, 1], 1), noise(Dtype::F32, &[1, 6], 1));
    turned.transposed = true;
    let whole = set(Q0, SetDtype::Stored, noise(Dtype::F32, &[6, 4], 1));
    let edits = [
        Edit::Add(add(Q0, 1.0, noise(Dtype::F32, &[6, 4], 1))),
        Edit::Add(sliced),
        Edit::Add(beyond),
        Edit::Set(rows),
        Edit::Lora(stacked),
        Edit::Lora(turned),
        Edit::Set(whole),
    ];
    for edit in edits {
        let found = refusal(&adapter(vec![edit.clone()]), &Options::default());
        assert!(matches!(&found[..], [Culprit::WrongShape { .. }]), "{edit:?}: {found:?}");
    }
}

#[test]
fn edits_that_contradict_themselves_are_refused() {
    let mut no_rank = lora(Q0, 1.0, noise(Dtype::F32, &[4, 1], 1), noise(Dtype::F32, &[2, 6], 1));
    let mut scaled = no_rank.clone();
    no_rank.up = noise(Dtype::F32, &[4, 0], 1);
    no_rank.down = noise(Dtype::F32, &[0, 6], 1);
    scaled.up = noise(Dtype::F32, &[4, 2], 1);
    let mut short = scaled.clone();
    short.magnitude =
        Some(Magnitude { value: noise(Dtype::F32, &[6], 1), axis: 0, norm_of: NormOf::Merged, eps: 0.0 });
    let clash = lora(Q0, 1.0, noise(Dtype::F32, &[4, 1], 1), noise(Dtype::F32, &[2, 6], 1));
    scaled.scale = f64::NAN;
    let integers = add(Q0, 1.0, tensor(Dtype::I64, &[4, 6], &[1.0; 24]));
    for edit in
        [Edit::Lora(no_rank), Edit::Lora(scaled), Edit::Lora(short), Edit::Lora(clash), Edit::Add(integers)]
    {
        let found = refusal(&adapter(vec![edit.clone()]), &Options::default());
        assert!(matches!(&found[..], [Culprit::Malformed { .. }]), "{edit:?}: {found:?}");
    }
}

#[test]
fn numbers_that_are_not_finite_are_refused() {
    let mut up = support::numbers(8, 1);
    up[5] = f64::NAN;
    let edit = lora(Q0, 1.0, tensor(Dtype::F32, &[4, 2], &up), noise(Dtype::F32, &[2, 6], 1));
    let found = refusal(&adapter(vec![Edit::Lora(edit)]), &Options::default());
    assert!(matches!(&found[..], [Culprit::NotFinite { role: "up", position: 5, .. }]));
    let ours = adapter(vec![product(Q0, 4, 6)]);
    let bytes = bytes();
    let inputs = [Input { adapter: &ours, weight: f64::INFINITY, name: "a".into() }];
    let refused = Plan::new(&inputs, &checkpoint(&bytes), &Options::default()).unwrap_err();
    assert!(matches!(refused.culprits(), [Culprit::Weight { .. }]));
}

#[test]
fn quantised_bases_are_named() {
    let edit = adapter(vec![product("a.weight", 4, 6)]);
    let cases: [(&str, Vec<(&str, Tensor<'static>)>); 4] = [
        (
            "bitsandbytes (tensor a.weight.absmax)",
            vec![
                ("a.weight", tensor(Dtype::U8, &[12, 1], &[0.0; 12])),
                ("a.weight.absmax", noise(Dtype::F32, &[1], 1)),
            ],
        ),
        (
            "GPTQ (tensor a.qweight)",
            vec![
                ("a.qweight", tensor(Dtype::I64, &[1, 4], &[0.0; 4])),
                ("a.g_idx", tensor(Dtype::I64, &[6], &[0.0; 6])),
            ],
        ),
        (
            "AWQ (tensor a.qweight)",
            vec![
                ("a.qweight", tensor(Dtype::I64, &[6, 1], &[0.0; 6])),
                ("a.scales", noise(Dtype::F16, &[1, 8], 1)),
            ],
        ),
        (
            "MXFP4 (tensor a_blocks)",
            vec![
                ("a_blocks", tensor(Dtype::U8, &[2], &[0.0; 2])),
                ("a_scales", tensor(Dtype::U8, &[1], &[0.0])),
            ],
        ),
    ];
    for (expected, tensors) in cases {
        let bytes = base_bytes(&tensors);
        let refused = Plan::new(&[input(&edit, 1.0)], &checkpoint(&bytes), &Options::default()).unwrap_err();
        assert_eq!(refused.to_string(), format!("the base is quantised: {expected}"));
        assert!(refused.hint().is_some());
    }
    let bytes = bytes();
    let fp8 = config(json!({"quantization_config": {"quant_method": "fp8"}}));
    let base = MemoryCheckpoint::new(&bytes, Some(fp8)).unwrap();
    let refused = Plan::new(&[input(&edit, 1.0)], &base, &Options::default()).unwrap_err();
    assert_eq!(refused.to_string(), "the base is quantised: fp8 (quantization_config in config.json)");
}

#[test]
fn components_and_created_doubles_are_refused() {
    let mut part = add(Q0, 1.0, noise(Dtype::F32, &[4, 6], 1));
    part.target.component = Some(ComponentName::new("unet").unwrap());
    let mut double = set(Q0, SetDtype::Stored, noise(Dtype::F32, &[4, 6], 1));
    double.create = true;
    let found = refusal(&adapter(vec![Edit::Add(part), Edit::Set(double)]), &Options::default());
    assert!(matches!(&found[..], [Culprit::Component { .. }, Culprit::AlreadyThere { rebinds: true, .. }]));
}

#[test]
fn skipping_leaves_targets_out_and_must_match() {
    let edits = adapter(vec![product(Q0, 4, 6), product("missing.weight", 4, 6)]);
    let skip = |patterns: &[&str]| Options {
        skip: patterns.iter().map(|pattern| (*pattern).to_owned()).collect(),
        ..Options::default()
    };
    let bytes = bytes();
    let base = checkpoint(&bytes);
    let plan = Plan::new(&[input(&edits, 1.0)], &base, &skip(&["missing.*"])).unwrap();
    assert!(matches!(&plan.notes[..], [Note::Skipped { target, .. }, ..] if target == "missing.weight"));
    assert_eq!(plan.changed(), 1);
    let found = refusal(&edits, &skip(&["missing.*", "nothing*"]));
    assert!(matches!(&found[..], [Culprit::SkipWithoutMatch { pattern }] if pattern == "nothing*"));
}

#[test]
fn tied_names_must_be_one_tensor() {
    let bytes =
        base_bytes(&[("embed", noise(Dtype::F32, &[4, 2], 1)), ("head", noise(Dtype::F32, &[4, 2], 2))]);
    let edit = |uses: &[&str]| {
        let mut edit = add("embed", 1.0, noise(Dtype::F32, &[4, 2], 3));
        edit.target.uses = uses.iter().map(|use_| name(use_)).collect();
        Edit::Add(edit)
    };
    let mut ours = adapter(vec![edit(&["head"])]);
    ours.base.tied.insert(name("embed"), vec![name("head")]);
    let base = checkpoint(&bytes);
    let refused = Plan::new(&[input(&ours, 1.0)], &base, &Options::default()).unwrap_err();
    assert!(matches!(refused.culprits(), [Culprit::NotTied { .. }]));
    ours.edits.push(Edit::Add(add("head", 1.0, noise(Dtype::F32, &[4, 2], 3))));
    let refused = Plan::new(&[input(&ours, 1.0)], &base, &Options::default()).unwrap_err();
    assert!(matches!(refused.culprits(), [Culprit::UseEditedTwice { .. }]));
    let mut ours = adapter(vec![edit(&["other"]), config_edit(ConfigValue::TieWordEmbeddings(true))]);
    ours.base.tied.insert(name("embed"), vec![]);
    let refused = Plan::new(&[input(&ours, 1.0)], &base, &Options::default()).unwrap_err();
    assert!(matches!(refused.culprits(), [Culprit::UnknownUse { .. }, Culprit::StaysTied { .. }]));
}

/// An adapter bound to the base, with what was recorded of its target.
fn bound(dtype: Dtype, dims: &[u64], digest: [u8; 32]) -> Adapter<'static> {
    let mut bound = adapter(vec![product(Q0, 4, 6)]);
    bound.base.tensors = vec![BaseTensor {
        unchanged: false,
        component: None,
        name: name(Q0),
        experts: None,
        dtype: Some(dtype),
        shape: Some(Shape::new(dims).unwrap()),
        digests: vec![digest],
        extra: serde_json::Map::new(),
    }];
    bound
}

#[test]
fn another_base_is_refused_unless_allowed() {
    let bytes = bytes();
    let base = checkpoint(&bytes);
    let allow = Options { allow_base_mismatch: true, ..Options::default() };
    let right = sha256(&base.read(Q0).unwrap());

    let ours = bound(Dtype::BF16, &[4, 6], right);
    let (_, outcome) = support::apply(&[input(&ours, 1.0)], &base, &Options::default());
    assert_eq!((outcome.checked, outcome.mismatches.len()), (1, 0));

    let other = bound(Dtype::BF16, &[4, 6], [7; 32]);
    let plan = Plan::new(&[input(&other, 1.0)], &base, &Options::default()).unwrap();
    let sink = support::MemorySink::new(&base, plan.tensors());
    let error = execute(&plan, &base, &sink, &|_| {}, &AtomicBool::new(false)).unwrap_err();
    assert_eq!(error.to_string(), format!("this is not the base that adapter was made for: {Q0} differs"));
    assert!(error.hint().unwrap().contains("--allow-base-mismatch"));
    let (_, outcome) = support::apply(&[input(&other, 1.0)], &base, &allow);
    assert_eq!(outcome.mismatches[0].target, Q0);

    let wide = bound(Dtype::F32, &[4, 6], right);
    assert!(matches!(&refusal(&wide, &Options::default())[..], [Culprit::RecordedDtype { .. }]));
    let plan = Plan::new(&[input(&wide, 1.0)], &base, &allow).unwrap();
    assert!(matches!(&plan.notes[..], [Note::DtypeAccepted { .. }]));

    let long = bound(Dtype::BF16, &[4, 7], right);
    assert!(matches!(&refusal(&long, &allow)[..], [Culprit::RecordedShape { .. }]));

    let inputs = [input(&ours, 1.0), input(&other, 1.0)];
    let refused = Plan::new(&inputs, &base, &Options::default()).unwrap_err();
    assert!(matches!(refused.culprits(), [Culprit::DifferentBases { .. }]));
}

#[test]
fn digests_are_checked_even_where_nothing_is_read() {
    let bytes = bytes();
    let base = checkpoint(&bytes);
    let mut ours = bound(Dtype::BF16, &[4, 6], [7; 32]);
    for edits in [
        vec![support::remove(Q0)],
        vec![Edit::Set(set(Q0, SetDtype::Stored, noise(Dtype::BF16, &[4, 6], 1)))],
    ] {
        ours.edits = edits;
        let plan = Plan::new(&[input(&ours, 1.0)], &base, &Options::default()).unwrap();
        let sink = support::MemorySink::new(&base, plan.tensors());
        let error = execute(&plan, &base, &sink, &|_| {}, &AtomicBool::new(false)).unwrap_err();
        assert!(matches!(error, Error::BaseMismatch { .. }));
    }
}

#[test]
fn a_tensor_that_shrinks_is_checked_as_a_whole() {
    let bytes = bytes();
    let base = checkpoint(&bytes);
    let mut ours = bound(Dtype::BF16, &[4, 6], sha256(&base.read(Q0).unwrap()));
    let smaller = set(Q0, SetDtype::Base, noise(Dtype::F32, &[2, 6], 1));
    ours.edits = vec![product(Q0, 4, 6), Edit::Set(smaller)];
    let (written, outcome) = support::apply(&[input(&ours, 1.0)], &base, &Options::default());
    assert_eq!((outcome.checked, written[Q0].dims()), (1, &[2, 6][..]));
}

#[test]
fn the_first_differing_tensors_are_named_in_order() {
    let names: Vec<String> = (0..9).map(|n| format!("t{n}")).collect();
    let tensors: Vec<(&str, Tensor<'static>)> =
        names.iter().map(|name| (name.as_str(), noise(Dtype::F32, &[64, 64], 3))).collect();
    let bytes = base_bytes(&tensors);
    let base = checkpoint(&bytes);
    let mut ours = adapter(names.iter().map(|name| product(name, 64, 64)).collect());
    ours.base.tensors = names
        .iter()
        .map(|text| BaseTensor {
            unchanged: false,
            component: None,
            name: name(text),
            experts: None,
            dtype: Some(Dtype::F32),
            shape: Some(Shape::new(&[64, 64]).unwrap()),
            digests: vec![if text == "t1" { sha256(&base.read("t1").unwrap()) } else { [0; 32] }],
            extra: serde_json::Map::new(),
        })
        .collect();
    let plan = Plan::new(&[input(&ours, 1.0)], &base, &Options::default()).unwrap();
    let sink = support::MemorySink::new(&base, plan.tensors());
    let error = execute(&plan, &base, &sink, &|_| {}, &AtomicBool::new(false)).unwrap_err();
    let expected = "this is not the base that adapter was made for: t0, t2, t3, t4, t5, … differ";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn what_the_output_dtype_cannot_hold_is_refused() {
    let bytes = base_bytes(&[("a", tensor(Dtype::F16, &[3], &[60000.0, f64::INFINITY, 1.0]))]);
    let base = checkpoint(&bytes);
    let run = |values: &[f64]| {
        let ours = adapter(vec![Edit::Add(add("a", 1.0, tensor(Dtype::F32, &[3], values)))]);
        let plan = Plan::new(&[input(&ours, 1.0)], &base, &Options::default()).unwrap();
        let sink = support::MemorySink::new(&base, plan.tensors());
        execute(&plan, &base, &sink, &|_| {}, &AtomicBool::new(false))
    };
    assert!(run(&[5000.0, 1.0, 1.0]).is_ok());
    let error = run(&[6000.0, 1.0, 1.0]).unwrap_err();
    assert!(matches!(&error, Error::NotFinite { position: 0, .. }), "{error}");
}

#[test]
fn a_row_without_norm_gets_no_magnitude() {
    let bytes = base_bytes(&[("a", tensor(Dtype::F32, &[2, 2], &[1.0, 1.0, 0.0, 0.0]))]);
    let base = checkpoint(&bytes);
    let mut edit = lora("a", 1.0, tensor(Dtype::F32, &[2, 1], &[1.0, 0.0]), noise(Dtype::F32, &[1, 2], 1));
    edit.magnitude =
        Some(Magnitude { value: noise(Dtype::F32, &[2], 1), axis: 0, norm_of: NormOf::Merged, eps: 0.0 });
    let ours = adapter(vec![Edit::Lora(edit)]);
    let plan = Plan::new(&[input(&ours, 1.0)], &base, &Options::default()).unwrap();
    let sink = support::MemorySink::new(&base, plan.tensors());
    let error = execute(&plan, &base, &sink, &|_| {}, &AtomicBool::new(false)).unwrap_err();
    assert!(matches!(&error, Error::Arithmetic { tensor, .. } if tensor == "a"));
}

#[test]
fn cancelling_stops_and_progress_counts_every_byte() {
    let bytes = bytes();
    let base = checkpoint(&bytes);
    let ours = adapter(vec![product(Q0, 4, 6)]);
    let plan = Plan::new(&[input(&ours, 1.0)], &base, &Options::default()).unwrap();
    let sink = support::MemorySink::new(&base, plan.tensors());
    let error = execute(&plan, &base, &sink, &|_| {}, &AtomicBool::new(true)).unwrap_err();
    assert!(matches!(error, Error::Cancelled));
    let done = AtomicU64::new(0);
    let count = |bytes| {
        done.fetch_add(bytes, Ordering::Relaxed);
    };
    execute(&plan, &base, &sink, &count, &AtomicBool::new(false)).unwrap();
    assert_eq!(done.into_inner(), plan.bytes());
}
