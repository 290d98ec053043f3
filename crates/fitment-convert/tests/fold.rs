//! A folded weight does what the interventions did around the weight.
#![allow(clippy::unwrap_used, reason = "tests")]

use fitment_convert::fold::{File, Folded, Into, Obstacle, fold, obstacles};
use fitment_core::checkpoint::{Checkpoint, MemoryCheckpoint};
use fitment_core::container::write_container;
use fitment_core::model::{
    Activation, Adapter, Add, AxisSlice, ConfigValue, Edit, FirstLast, Group, Intervention, Lora, LoraForm,
    ModuleSite, Origin, Overlap, Phase, Positions, Select, ShortPrompt, Site, SiteComponent, Target,
    TensorName,
};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_math::ndarray::{Array1, Array2, Axis};
use fitment_math::round::{Element, decode};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Numbers that look random and are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0) * 0.8
    }

    fn tensor(&mut self, dims: &[u64]) -> Tensor<'static> {
        let count: u64 = dims.iter().product();
        let bytes: Vec<u8> = (0..count).flat_map(|_| self.next().to_le_bytes()).collect();
        Tensor::owned(Dtype::F32, Shape::new(dims).unwrap(), bytes).unwrap()
    }
}

const WIDTH: u64 = 4;
const INNER: u64 = 6;

/// Two layers of a model: names, shapes.
fn names(model_type: &str) -> Vec<(String, Vec<u64>)> {
    let mut names = Vec::new();
    for layer in 0..2 {
        let mut add =
            |name: &str, dims: &[u64]| names.push((name.replace("{}", &layer.to_string()), dims.to_vec()));
        match model_type {
            "gpt2" => {
                add("h.{}.attn.c_attn.weight", &[WIDTH, 3 * WIDTH]);
                add("h.{}.attn.c_attn.bias", &[3 * WIDTH]);
                add("h.{}.attn.c_proj.weight", &[WIDTH, WIDTH]);
                add("h.{}.attn.c_proj.bias", &[WIDTH]);
                add("h.{}.mlp.c_fc.weight", &[WIDTH, INNER]);
                add("h.{}.mlp.c_fc.bias", &[INNER]);
                add("h.{}.mlp.c_proj.weight", &[INNER, WIDTH]);
                add("h.{}.mlp.c_proj.bias", &[WIDTH]);
            }
            "gpt_neox" => {
                add("gpt_neox.layers.{}.attention.query_key_value.weight", &[3 * WIDTH, WIDTH]);
                add("gpt_neox.layers.{}.attention.query_key_value.bias", &[3 * WIDTH]);
                add("gpt_neox.layers.{}.attention.dense.weight", &[WIDTH, WIDTH]);
                add("gpt_neox.layers.{}.attention.dense.bias", &[WIDTH]);
                add("gpt_neox.layers.{}.mlp.dense_h_to_4h.weight", &[INNER, WIDTH]);
                add("gpt_neox.layers.{}.mlp.dense_h_to_4h.bias", &[INNER]);
                add("gpt_neox.layers.{}.mlp.dense_4h_to_h.weight", &[WIDTH, INNER]);
                add("gpt_neox.layers.{}.mlp.dense_4h_to_h.bias", &[WIDTH]);
            }
            "bert" => {
                for part in ["attention.self.query", "attention.self.key", "attention.self.value"] {
                    add(&format!("bert.encoder.layer.{{}}.{part}.weight"), &[WIDTH, WIDTH]);
                }
                add("bert.encoder.layer.{}.output.LayerNorm.weight", &[WIDTH]);
                add("bert.encoder.layer.{}.output.LayerNorm.bias", &[WIDTH]);
            }
            _ => {
                for (part, out, input) in [
                    ("self_attn.q_proj", WIDTH, WIDTH),
                    ("self_attn.k_proj", 2, WIDTH),
                    ("self_attn.v_proj", 2, WIDTH),
                    ("self_attn.o_proj", WIDTH, WIDTH),
                    ("mlp.gate_proj", INNER, WIDTH),
                    ("mlp.up_proj", INNER, WIDTH),
                    ("mlp.down_proj", WIDTH, INNER),
                ] {
                    add(&format!("model.layers.{{}}.{part}.weight"), &[out, input]);
                }
            }
        }
    }
    names
}

fn with_base<R>(model_type: &str, run: impl FnOnce(&MemoryCheckpoint<'_>) -> R) -> R {
    let mut numbers = Numbers(7);
    let tensors: Vec<(String, Tensor<'static>)> =
        names(model_type).into_iter().map(|(name, dims)| (name, numbers.tensor(&dims))).collect();
    let mut file = Vec::new();
    write_container(&BTreeMap::new(), tensors.iter().map(|(name, tensor)| (name.clone(), tensor)), &mut file)
        .unwrap();
    let config =
        format!(r#"{{"model_type": "{model_type}", "num_attention_heads": 2, "num_key_value_heads": 1}}"#);
    run(&MemoryCheckpoint::new(&file, serde_json::from_str(&config).unwrap()).unwrap())
}

fn layer(component: SiteComponent) -> Site {
    Site::Layer { layer: 1, component }
}

fn module(path: &str) -> Site {
    Site::Module(ModuleSite::new(path).unwrap())
}

/// LoReFT of rank 2 with a constant, everywhere.
fn reft(site: Site, width: u64, numbers: &mut Numbers) -> Intervention<'static> {
    Intervention {
        scale: 1.5,
        subtract: true,
        up: Some(numbers.tensor(&[width, 2])),
        source_weight: Some(numbers.tensor(&[2, width])),
        source_bias: Some(numbers.tensor(&[2])),
        up_bias: Some(numbers.tensor(&[width])),
        ..Intervention::at(site, Positions::EVERYWHERE)
    }
}

fn adapter(edits: Vec<Intervention<'static>>) -> Adapter<'static> {
    Adapter { edits: edits.into_iter().map(Edit::Intervention).collect(), ..Adapter::default() }
}

fn values(tensor: &Tensor<'_>) -> Vec<f64> {
    let element = if tensor.dtype() == Dtype::F64 { Element::F64 } else { Element::F32 };
    let mut values = vec![0.0; tensor.elements() as usize];
    decode(element, tensor.bytes(), &mut values).unwrap();
    values
}

fn matrix(tensor: &Tensor<'_>) -> Array2<f64> {
    let dims = tensor.dims();
    Array2::from_shape_vec((dims[0] as usize, dims[1] as usize), values(tensor)).unwrap()
}

/// What an intervention makes of states `[tokens, d]`: the definition.
fn act(edit: &Intervention<'_>, weight: f64, h: &Array2<f64>) -> Array2<f64> {
    let up = edit.up.as_ref().map_or(Array2::eye(h.ncols()), matrix);
    let row = |role: &Option<Tensor<'_>>, len| {
        role.as_ref().map_or(Array1::zeros(len), |t| Array1::from_vec(values(t)))
    };
    let mut inner =
        edit.source_weight.as_ref().map_or(Array2::zeros((h.nrows(), up.ncols())), |w| h.dot(&matrix(w).t()))
            + row(&edit.source_bias, up.ncols());
    if edit.subtract {
        inner -= &h.dot(&up);
    }
    h + (inner.dot(&up.t()) + row(&edit.up_bias, h.ncols())) * (edit.scale * weight)
}

/// A layer's weight `[out, in]` and bias, with the edits of a fold.
fn layer_with(
    base: &dyn Checkpoint,
    module: &str,
    edits: &[Edit<'_>],
    conv1d: bool,
) -> (Array2<f64>, Array1<f64>) {
    let read = |name: &str| {
        let info = base.tensors().get(name)?;
        Tensor::owned(info.dtype, info.shape.clone(), base.read(name).unwrap().into_owned()).ok()
    };
    let mut weight = matrix(&read(&format!("{module}.weight")).unwrap());
    let bias = read(&format!("{module}.bias"));
    let out = if conv1d { weight.ncols() } else { weight.nrows() };
    let mut bias = Array1::from_vec(bias.map_or(vec![0.0; out], |bias| values(&bias)));
    let rows = |slice: &[AxisSlice], len: usize| match slice {
        [] => (0..len).collect::<Vec<_>>(),
        [one] => one.ranges.iter().flat_map(|range| range.indices()).map(|index| index as usize).collect(),
        _ => panic!("one axis"),
    };
    for edit in edits {
        match edit {
            Edit::Lora(lora) if lora.target.name.as_str() == format!("{module}.weight") => {
                assert_eq!(lora.transposed, conv1d);
                let delta = matrix(&lora.up).dot(&matrix(&lora.down)) * lora.scale;
                for (at, row) in rows(&lora.target.slice, out).into_iter().enumerate() {
                    let mut row = if conv1d { weight.column_mut(row) } else { weight.row_mut(row) };
                    row += &delta.row(at);
                }
            }
            Edit::Add(add) if add.target.name.as_str() == format!("{module}.bias") => {
                for (row, value) in rows(&add.target.slice, out).into_iter().zip(values(&add.value)) {
                    bias[row] += add.scale * value;
                }
            }
            Edit::Set(set) if set.target.name.as_str() == format!("{module}.bias") => {
                bias = Array1::from_vec(values(&set.value));
            }
            _ => {}
        }
    }
    (if conv1d { weight.reversed_axes() } else { weight }, bias)
}

fn run((weight, bias): &(Array2<f64>, Array1<f64>), x: &Array2<f64>) -> Array2<f64> {
    x.dot(&weight.t()) + bias
}

fn inputs(width: usize) -> Array2<f64> {
    let mut numbers = Numbers(99);
    Array2::from_shape_fn((5, width), |_| f64::from(numbers.next()))
}

fn close(found: &Array2<f64>, expected: &Array2<f64>) {
    let error = (found - expected).iter().fold(0.0_f64, |error, x| error.max(x.abs()));
    assert!(error < 1e-6, "{error:e}");
}

fn folded(adapter: &Adapter<'_>, base: &dyn Checkpoint, into: Into) -> Folded {
    let folded = fold(&[File { adapter, weight: 0.7 }], base, into).unwrap();
    assert_eq!(folded.kept, []);
    folded
}

/// Each site that can be folded: model, site, what it names, the layers at it, whether it is their input.
const SITES: &[(&str, SiteComponent, &[&str], bool)] = &[
    ("llama", SiteComponent::MlpOutput, &["model.layers.1.mlp.down_proj"], false),
    ("llama", SiteComponent::AttentionOutput, &["model.layers.1.self_attn.o_proj"], false),
    ("llama", SiteComponent::QueryOutput, &["model.layers.1.self_attn.q_proj"], false),
    ("llama", SiteComponent::KeyOutput, &["model.layers.1.self_attn.k_proj"], false),
    ("llama", SiteComponent::ValueOutput, &["model.layers.1.self_attn.v_proj"], false),
    ("llama", SiteComponent::AttentionValueOutput, &["model.layers.1.self_attn.o_proj"], true),
    ("llama", SiteComponent::MlpInput, &["model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj"], true),
    (
        "llama",
        SiteComponent::AttentionInput,
        &[
            "model.layers.1.self_attn.q_proj",
            "model.layers.1.self_attn.k_proj",
            "model.layers.1.self_attn.v_proj",
        ],
        true,
    ),
    ("gpt2", SiteComponent::MlpOutput, &["h.1.mlp.c_proj"], false),
    ("gpt2", SiteComponent::MlpActivation, &["h.1.mlp.c_proj"], true),
    ("gpt2", SiteComponent::AttentionInput, &["h.1.attn.c_attn"], true),
    ("gpt2", SiteComponent::AttentionValueOutput, &["h.1.attn.c_proj"], true),
    ("gpt_neox", SiteComponent::MlpInput, &["gpt_neox.layers.1.mlp.dense_h_to_4h"], true),
];

#[test]
fn every_site_that_can_be_folded_is() {
    for (model_type, component, modules, is_input) in SITES {
        with_base(model_type, |base| {
            let conv1d = *model_type == "gpt2";
            for into in [Into::Checkpoint, Into::Lora] {
                let (weight, bias) = layer_with(base, modules[0], &[], conv1d);
                let width = if *is_input { weight.ncols() } else { bias.len() };
                let edit = reft(layer(*component), width as u64, &mut Numbers(3));
                let adapter = adapter(vec![edit.clone()]);
                let folded = folded(&adapter, base, into);
                for module in *modules {
                    let before = layer_with(base, module, &[], conv1d);
                    let after = layer_with(base, module, &folded.edits, conv1d);
                    let x = inputs(before.0.ncols());
                    let expected = match is_input {
                        true => run(&before, &act(&edit, 0.7, &x)),
                        false => act(&edit, 0.7, &run(&before, &x)),
                    };
                    close(&run(&after, &x), &expected);
                }
            }
        });
    }
}

#[test]
fn parts_of_fused_weights_change_alone() {
    for (model_type, module_name, indices) in [
        ("gpt2", "h.1.attn.c_attn", vec![4, 5, 6, 7]),
        ("gpt_neox", "gpt_neox.layers.1.attention.query_key_value", vec![2, 3, 8, 9]),
    ] {
        with_base(model_type, |base| {
            let conv1d = model_type == "gpt2";
            let edit = reft(layer(SiteComponent::KeyOutput), WIDTH, &mut Numbers(3));
            let adapter = adapter(vec![edit.clone()]);
            for into in [Into::Checkpoint, Into::Lora] {
                let folded = folded(&adapter, base, into);
                let sliced = folded.edits.iter().all(|edit| !edit.target().unwrap().slice.is_empty());
                assert_eq!(sliced, into == Into::Checkpoint);
                let before = layer_with(base, module_name, &[], conv1d);
                let after = layer_with(base, module_name, &folded.edits, conv1d);
                let x = inputs(WIDTH as usize);
                let mut expected = run(&before, &x);
                let keys = act(&edit, 0.7, &expected.select(Axis(1), &indices));
                for (at, index) in indices.iter().enumerate() {
                    expected.column_mut(*index).assign(&keys.column(at));
                }
                close(&run(&after, &x), &expected);
            }
        });
    }
}

#[test]
fn heads_change_alike_and_a_part_of_the_states_alone() {
    with_base("llama", |base| {
        let q = "model.layers.1.self_attn.q_proj";
        let (before, x) = (layer_with(base, q, &[], false), inputs(4));
        let edit = reft(layer(SiteComponent::HeadQueryOutput), 2, &mut Numbers(5));
        let after =
            layer_with(base, q, &folded(&adapter(vec![edit.clone()]), base, Into::Checkpoint).edits, false);
        let mut expected = run(&before, &x);
        for head in 0..2 {
            let part = act(&edit, 0.7, &expected.select(Axis(1), &[2 * head, 2 * head + 1]));
            (0..2).for_each(|at| expected.column_mut(2 * head + at).assign(&part.column(at)));
        }
        close(&run(&after, &x), &expected);

        let mut edit = reft(layer(SiteComponent::QueryOutput), 2, &mut Numbers(5));
        edit.dims = Some([1, 3]);
        let after =
            layer_with(base, q, &folded(&adapter(vec![edit.clone()]), base, Into::Checkpoint).edits, false);
        let mut expected = run(&before, &x);
        let part = act(&edit, 0.7, &expected.select(Axis(1), &[1, 2]));
        (0..2).for_each(|at| expected.column_mut(1 + at).assign(&part.column(at)));
        close(&run(&after, &x), &expected);
    });
}

#[test]
fn a_config_that_gives_biases_gives_them_to_every_layer() {
    with_base("llama", |base| {
        let mut constant = reft(layer(SiteComponent::BlockOutput), WIDTH, &mut Numbers(3));
        (constant.source_weight, constant.subtract) = (None, false);
        let folded = folded(&adapter(vec![constant]), base, Into::Checkpoint);
        let created: Vec<&str> =
            folded.edits.iter().filter_map(Edit::target).map(|target| target.name.as_str()).collect();
        assert_eq!(created.len(), 6);
        assert!(created.iter().all(|name| name.contains(".mlp.") && name.ends_with(".bias")));
        let Some(Edit::Config(config)) = folded.edits.last() else { panic!("{:?}", folded.edits) };
        assert_eq!(config.value, ConfigValue::MlpBias(true));
    });
}

#[test]
fn constants_behind_a_norm_go_into_its_bias_and_those_at_an_input_of_a_layer_into_the_one_before() {
    let constant = |site| Intervention {
        up_bias: Some(Numbers(1).tensor(&[WIDTH])),
        ..Intervention::at(site, Positions::EVERYWHERE)
    };
    let target = |model_type: &str, site: Site| {
        with_base(model_type, |base| {
            let folded = folded(&adapter(vec![constant(site)]), base, Into::Checkpoint);
            folded.edits.iter().map(|edit| edit.label().unwrap()).collect::<Vec<_>>()
        })
    };
    assert_eq!(
        target("bert", layer(SiteComponent::BlockOutput)),
        ["bert.encoder.layer.1.output.LayerNorm.bias"]
    );
    assert_eq!(
        target("bert", module("encoder.layer.0.output")),
        ["bert.encoder.layer.0.output.LayerNorm.bias"]
    );
    assert_eq!(target("gpt2", layer(SiteComponent::BlockInput)), ["h.0.mlp.c_proj.bias"]);
    assert_eq!(target("gpt2", module("transformer.h.0.mlp.output")), ["h.0.mlp.c_proj.bias"]);
}

fn reasons(model_type: &str, edits: Vec<Intervention<'static>>) -> Vec<(usize, Obstacle)> {
    with_base(model_type, |base| {
        obstacles(&adapter(edits), base).into_iter().map(|kept| (kept.edit, kept.obstacle)).collect()
    })
}

#[test]
fn what_weights_cannot_do_is_kept_with_its_reason() {
    let one = |change: &dyn Fn(&mut Intervention<'static>)| {
        let mut edit = reft(layer(SiteComponent::MlpOutput), WIDTH, &mut Numbers(3));
        change(&mut edit);
        let [(0, obstacle)] = &reasons("llama", vec![edit])[..] else { panic!("nothing refused") };
        obstacle.clone()
    };
    let rule =
        FirstLast { first: 1, last: 1, end_offset: 0, short: ShortPrompt::FloorHalf, group: Group::Both };
    let at = |component| move |edit: &mut Intervention<'static>| edit.site = layer(component);
    assert_eq!(one(&at(SiteComponent::BlockOutput)), Obstacle::Residual(SiteComponent::BlockOutput));
    assert_eq!(one(&|edit| edit.positions.select = Select::FirstLast(rule)), Obstacle::SomeTokens);
    assert_eq!(one(&|edit| edit.positions.phase = Phase::Prompt), Obstacle::SomePhase(Phase::Prompt));
    assert_eq!(one(&|edit| edit.activation = Some(Activation::Silu)), Obstacle::Activation(Activation::Silu));
    assert!(matches!(one(&at(SiteComponent::MlpActivation)), Obstacle::NoWeight { .. }));
    assert!(matches!(one(&at(SiteComponent::KeyOutput)), Obstacle::Width { expected: 4, found: 2, .. }));
    let input = |edit: &mut Intervention<'static>| edit.input_site = Some(layer(SiteComponent::MlpInput));
    assert!(matches!(one(&input), Obstacle::InputSite { .. }));
    let nowhere = |edit: &mut Intervention<'static>| {
        edit.site = Site::Layer { layer: 9, component: SiteComponent::MlpOutput }
    };
    assert!(matches!(one(&nowhere), Obstacle::MissingTensor { .. }));
    let embedding = |edit: &mut Intervention<'static>| edit.site = module("model.embed_tokens.output");
    assert!(matches!(one(&embedding), Obstacle::UnknownModule { .. }));
    let plain = reft(layer(SiteComponent::MlpOutput), WIDTH, &mut Numbers(3));
    assert!(matches!(reasons("mistral", vec![plain.clone()])[..], [(0, Obstacle::NoBias { .. })]));
    assert!(matches!(reasons("new", vec![plain])[..], [(0, Obstacle::UnknownModel { .. })]));
}

#[test]
fn what_stays_keeps_from_folding_what_acts_behind_it() {
    let prompt_only = |site: Site| Intervention {
        positions: Positions { phase: Phase::Prompt, select: Select::All },
        ..reft(site, WIDTH, &mut Numbers(4))
    };
    let all = |site: Site| reft(site, WIDTH, &mut Numbers(3));
    let output = || layer(SiteComponent::MlpOutput);
    let kept = |edits| reasons("gpt2", edits).into_iter().map(|(edit, _)| edit).collect::<Vec<_>>();
    // An output: the weight acts first, so what acts first can be folded.
    assert_eq!(kept(vec![all(output()), prompt_only(output())]), [1]);
    assert_eq!(kept(vec![prompt_only(output()), all(output())]), [0, 1]);
    // An input: the other way round.
    let input = || layer(SiteComponent::AttentionInput);
    assert_eq!(kept(vec![all(input()), prompt_only(input())]), [0, 1]);
    assert_eq!(kept(vec![prompt_only(input()), all(input())]), [0]);
    // A constant behind the layer would pass through what stays at the module.
    let mut constant = all(layer(SiteComponent::BlockOutput));
    (constant.source_weight, constant.subtract) = (None, false);
    assert_eq!(kept(vec![constant.clone(), prompt_only(output())]), [0, 1]);
    assert_eq!(kept(vec![constant, all(output())]), [0; 0]);
    // Keys are not queries.
    assert_eq!(
        kept(vec![prompt_only(layer(SiteComponent::QueryOutput)), all(layer(SiteComponent::KeyOutput))]),
        [0]
    );
    // What stays reads the states as they were before.
    let mut reader = all(output());
    reader.input_site = Some(input());
    reader.source_weight = Some(Numbers(1).tensor(&[2, WIDTH]));
    assert_eq!(kept(vec![all(input()), reader]), [0, 1]);
    // One of a group that is summed stays: all of it stays.
    let group = |mut edit: Intervention<'static>| {
        edit.overlap = Overlap::Sum;
        edit
    };
    assert_eq!(kept(vec![group(all(output())), group(prompt_only(output()))]), [0, 1]);
}

proptest! {
    #[test]
    fn several_interventions_and_edits_fold_as_they_act(
        seed in any::<u64>(), overlap in proptest::sample::select(Overlap::ALL), count in 1_usize..4, lora in any::<bool>(),
        conv1d in any::<bool>(),
    ) {
        let (model_type, out) = if conv1d { ("gpt2", "h.1.mlp.c_proj") } else { ("llama", "model.layers.1.mlp.down_proj") };
        with_base(model_type, |base| {
            let mut numbers = Numbers(seed);
            let mut at_output: Vec<Intervention<'static>> = Vec::new();
            for _ in 0..count {
                at_output.push(Intervention { overlap, ..reft(layer(SiteComponent::MlpOutput), WIDTH, &mut numbers) });
            }
            let at_input = reft(module(&format!("{out}.input")), INNER, &mut numbers);
            let mut adapter = adapter(at_output.clone());
            adapter.edits.push(Edit::Intervention(at_input.clone()));
            let mut own = Vec::new();
            if lora {
                let target = |part: &str| Target::whole(TensorName::new(format!("{out}.{part}")).unwrap());
                own.push(Edit::Lora(Lora {
                    target: target("weight"), form: LoraForm::Matrix, transposed: conv1d, scale: 0.5,
                    up: numbers.tensor(&[WIDTH, 1]), down: numbers.tensor(&[1, INNER]),
                    mid: None, magnitude: None, origin: Origin::default(),
                }));
                if conv1d {
                    own.push(Edit::Add(Add {
                        target: target("bias"), scale: 2.0, value: numbers.tensor(&[WIDTH]), exceptions: None, origin: Origin::default(),
                    }));
                }
            }
            adapter.edits.splice(0..0, own.clone());
            let files = [File { adapter: &adapter, weight: 1.0 }];
            let folded = fold(&files, base, Into::Checkpoint).unwrap();
            assert_eq!(folded.kept, []);
            let edited = layer_with(base, out, &own, conv1d);
            own.extend(folded.edits);
            let after = layer_with(base, out, &own, conv1d);
            let x = inputs(INNER as usize);
            let h = run(&edited, &act(&at_input, 1.0, &x));
            let expected = match overlap {
                Overlap::Sequential => at_output.iter().fold(h, |h, edit| act(edit, 1.0, &h)),
                Overlap::Sum => at_output.iter().fold(h.clone(), |sum, edit| sum + act(edit, 1.0, &h) - &h),
                Overlap::LastWins => act(at_output.last().unwrap(), 1.0, &h),
            };
            close(&run(&after, &x), &expected);
        });
    }
}
