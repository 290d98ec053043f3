//! Valid files: interventions on hidden states, and weight edits for a time.

use fitment_core::Adapter;
use fitment_core::model::{
    Activation, ComponentName, ConfigEdit, ConfigValue, Edit, FirstLast, Group, Intervention, KeptTensor,
    ModuleSite, Origin, Overlap, Phase, Positions, Rounding, Select, ShortPrompt, Site, SiteComponent,
    Source, Target, When,
};
use fitment_core::tensor::{Dtype, Tensor};

use super::parts::{counted, lora, ramp, ramp16, tensor, whole, written};

pub(super) fn files() -> Vec<(&'static str, Vec<u8>)> {
    let edits = |edits: Vec<Intervention<'static>>| Adapter {
        edits: edits.into_iter().map(Edit::Intervention).collect(),
        ..Adapter::default()
    };
    let adapters = vec![
        ("intervention-loreft", edits(vec![loreft(0), loreft(1)])),
        ("intervention-classes", edits(classes())),
        ("intervention-untied", edits(untied())),
        ("intervention-linked", edits(linked())),
        ("intervention-adapters", edits(adapterhub())),
        ("intervention-control-vector", edits(control_vector())),
        ("intervention-replace", edits(replacements())),
        ("intervention-bottleneck", edits(bottleneck())),
        ("intervention-sites", edits(sites())),
        ("intervention-positions", edits(positions())),
        ("intervention-activations", edits(activations())),
        ("intervention-dtypes", edits(dtypes())),
        ("intervention-pipeline", edits(pipeline())),
        ("intervention-after-weights", after_weights()),
        ("intervention-kept", kept()),
        ("when", for_a_time()),
    ];
    adapters.into_iter().map(|(name, adapter)| (name, written(&adapter))).collect()
}

fn at(layer: u64, component: SiteComponent) -> Site {
    Site::Layer { layer, component }
}

fn module(path: &str) -> Site {
    Site::Module(ModuleSite::new(path).expect("a proper path"))
}

/// An intervention with no role at all, on the prompt's tokens.
fn nothing(site: Site) -> Intervention<'static> {
    Intervention::at(site, Positions { phase: Phase::Prompt, select: Select::All })
}

/// Two columns of length 1, at a right angle.
fn rotation() -> Tensor<'static> {
    let values = [0.6f32, 0.0, 0.8, 0.0, 0.0, 0.28, 0.0, 0.96];
    tensor(Dtype::F32, &[4, 2], values.into_iter().flat_map(f32::to_le_bytes).collect())
}

fn ends(first: u64, last: u64) -> FirstLast {
    FirstLast { first, last, end_offset: 0, short: ShortPrompt::FloorHalf, group: Group::Both }
}

fn on(ends: FirstLast) -> Positions {
    Positions { phase: Phase::Prompt, select: Select::FirstLast(ends) }
}

/// pyreft's LoReFT, tied, `f7+l7`.
pub(super) fn loreft(layer: u64) -> Intervention<'static> {
    Intervention {
        subtract: true,
        orthonormal: true,
        up: Some(rotation()),
        source_weight: Some(ramp16(&[2, 4], -1.0)),
        source_bias: Some(ramp16(&[2], 0.5)),
        positions: on(ends(7, 7)),
        rounding: Rounding::Loreft,
        ..nothing(at(layer, SiteComponent::BlockOutput))
    }
}

/// The other five classes of pyreft.
fn classes() -> Vec<Intervention<'static>> {
    let affine = |layer, rounding, up| Intervention {
        up: Some(up),
        source_weight: Some(ramp16(&[2, 4], -1.0)),
        source_bias: Some(ramp16(&[2], 0.5)),
        positions: on(ends(1, 1)),
        rounding,
        ..nothing(at(layer, SiteComponent::BlockOutput))
    };
    let mut noreft = affine(0, Rounding::Noreft, ramp16(&[4, 2], 0.0));
    (noreft.subtract, noreft.proj_bias) = (true, Some(ramp16(&[2], 2.0)));
    let mut direft = affine(1, Rounding::Direft, rotation());
    direft.orthonormal = true;
    let nodireft = affine(2, Rounding::Noreft, ramp16(&[4, 2], 0.0));
    let constant = |layer, subtract| Intervention {
        subtract,
        orthonormal: true,
        up: Some(rotation()),
        source_bias: Some(ramp(&[2], 1.0)),
        positions: on(ends(1, 1)),
        ..nothing(at(layer, SiteComponent::BlockOutput))
    };
    vec![noreft, direft, nodireft, constant(3, true), constant(4, false)]
}

/// One set of parameters for the first tokens, one for the last, as pyreft trains them on its datasets.
fn untied() -> Vec<Intervention<'static>> {
    let group = |group| {
        let mut edit = loreft(3);
        edit.positions = on(FirstLast { end_offset: -1, group, ..ends(5, 2) });
        edit
    };
    vec![group(Group::Prefix), group(Group::Suffix)]
}

/// One module at two places: pyvene's intervention_link_key.
fn linked() -> Vec<Intervention<'static>> {
    let first = loreft(8);
    let second = Intervention { site: at(9, SiteComponent::BlockOutput), ..first.clone() };
    vec![first, second]
}

/// adapters 1.3.0: both units read the states that stood there before, in every pass.
fn adapterhub() -> Vec<Intervention<'static>> {
    let unit = |group, first| Intervention {
        up: Some(ramp(&[4, 1], first)),
        source_weight: Some(ramp(&[1, 4], 1.0)),
        source_bias: Some(ramp(&[1], -1.0)),
        subtract: true,
        positions: Positions {
            phase: Phase::EveryForward,
            select: Select::FirstLast(FirstLast { short: ShortPrompt::Overlap, group, ..ends(3, 1) }),
        },
        overlap: Overlap::LastWins,
        ..nothing(module("bert.encoder.layer.0.output"))
    };
    vec![unit(Group::Prefix, 0.5), unit(Group::Suffix, -0.5)]
}

fn control_vector() -> Vec<Intervention<'static>> {
    let direction = |layer, scale, overlap| Intervention {
        scale,
        up_bias: Some(ramp(&[4], -1.0)),
        positions: Positions::EVERYWHERE,
        overlap,
        ..nothing(at(layer, SiteComponent::BlockOutput))
    };
    vec![
        direction(1, 1.0, Overlap::Sequential),
        direction(2, -0.5, Overlap::Sum),
        direction(2, 0.5, Overlap::Sum),
    ]
}

/// Replacement by a vector, by zero, and of a part of the states.
fn replacements() -> Vec<Intervention<'static>> {
    let by = |layer, dims, source_bias| Intervention {
        dims,
        subtract: true,
        source_bias,
        ..nothing(at(layer, SiteComponent::MlpOutput))
    };
    let mut moved = by(3, Some([4, 6]), Some(ramp(&[2], 0.0)));
    (moved.proj, moved.up) = (Some(ramp(&[2, 2], 1.0)), Some(ramp(&[2, 2], 0.25)));
    vec![
        by(0, None, Some(ramp(&[4], 1.0))),
        by(1, None, None),
        by(2, Some([2, 4]), Some(ramp(&[2], 1.0))),
        moved,
    ]
}

/// Behind the feed-forward module, and beside it.
fn bottleneck() -> Vec<Intervention<'static>> {
    let adapter = |input_site| Intervention {
        input_site,
        activation: Some(Activation::Relu),
        up: Some(ramp(&[4, 2], 0.0)),
        up_bias: Some(ramp(&[4], 0.0)),
        source_weight: Some(ramp(&[2, 4], 0.0)),
        source_bias: Some(ramp(&[2], 0.0)),
        positions: Positions::EVERYWHERE,
        ..nothing(at(0, SiteComponent::MlpOutput))
    };
    let mut narrow = adapter(Some(module("transformer.h.0.attn.input")));
    narrow.source_weight = Some(ramp(&[2, 3], 0.0));
    vec![adapter(None), adapter(Some(at(0, SiteComponent::MlpInput))), narrow]
}

fn sites() -> Vec<Intervention<'static>> {
    let add = |site| Intervention { up_bias: Some(ramp(&[4], 0.0)), ..nothing(site) };
    let words = SiteComponent::ALL.iter().map(|component| at(15, *component));
    let paths = ["model.layers.2.output", "input.input", "h.é.mlp.output"].map(module);
    words.chain(paths).map(add).collect()
}

fn positions() -> Vec<Intervention<'static>> {
    let phases = Phase::ALL.iter().map(|phase| Positions { phase: *phase, select: Select::All });
    let shorts = ShortPrompt::ALL.iter().map(|short| on(FirstLast { short: *short, ..ends(2, 0) }));
    let last = [on(ends(0, 1)), on(FirstLast { end_offset: -1, ..ends(0, 1) })];
    let explicit = [vec![0], vec![-1], vec![0, 3, 9_007_199_254_740_992, -7, -2]]
        .map(|numbers| Positions { phase: Phase::Prompt, select: Select::Explicit(numbers) });
    let all = phases.chain(shorts).chain(last).chain(explicit).zip(0..);
    let add = |(positions, layer)| Intervention {
        up_bias: Some(ramp(&[4], 0.0)),
        positions,
        ..nothing(at(layer, SiteComponent::BlockOutput))
    };
    all.map(add).collect()
}

fn activations() -> Vec<Intervention<'static>> {
    let edit = |(activation, layer): (&Activation, u64)| Intervention {
        activation: Some(*activation),
        up: Some(ramp(&[4, 1], 0.0)),
        source_weight: Some(ramp(&[1, 4], 0.0)),
        ..nothing(at(layer, SiteComponent::BlockOutput))
    };
    Activation::ALL.iter().zip(0..).map(edit).collect()
}

fn dtypes() -> Vec<Intervention<'static>> {
    let edit = |(dtype, layer)| Intervention {
        up: Some(counted(dtype, &[4, 2])),
        source_bias: Some(counted(dtype, &[2])),
        subtract: true,
        ..nothing(at(layer, SiteComponent::QueryOutput))
    };
    [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16].into_iter().zip(0..).map(edit).collect()
}

fn pipeline() -> Vec<Intervention<'static>> {
    let part = |component: &str| Intervention {
        component: Some(ComponentName::new(component).expect("a proper name")),
        up_bias: Some(ramp(&[4], 0.0)),
        ..nothing(at(0, SiteComponent::CrossAttentionOutput))
    };
    vec![part("text_encoder"), part("unet")]
}

/// HEFT: a LoRA and a LoReFT in one file.
fn after_weights() -> Adapter<'static> {
    let value = ConfigValue::MlpBias(true);
    let edits = vec![
        Edit::Lora(lora(whole("model.layers.0.mlp.down_proj.weight"), [4, 2, 3])),
        Edit::Config(ConfigEdit { component: None, value, origin: Origin::default() }),
        Edit::Intervention(loreft(0)),
    ];
    Adapter { edits, ..Adapter::default() }
}

/// A tensor that the map does not use (NodiReFT's bias) is kept for the way back.
fn kept() -> Adapter<'static> {
    let key = "intkey_layer_2_comp_block_output_unit_pos_nunit_1#0.bin/proj_layer.bias";
    let source = Source {
        format: "pyreft".to_owned(),
        version: Some("0.1.0".to_owned()),
        kept: vec![KeptTensor { key: key.to_owned(), value: ramp16(&[2], 3.0) }],
        ..Source::default()
    };
    let edits = classes().into_iter().nth(2).map(Edit::Intervention).into_iter().collect();
    Adapter { edits, source: Some(source), ..Adapter::default() }
}

/// PreFT, activated LoRA, and both conditions at once.
fn for_a_time() -> Adapter<'static> {
    let edit = |target: &str, phase, after_tokens| {
        let when = Some(When { phase, after_tokens });
        Edit::Lora(lora(Target { when, ..whole(target) }, [3, 1, 2]))
    };
    let edits = vec![
        edit("a.weight", Phase::Prompt, vec![]),
        edit("b.weight", Phase::EveryForward, vec![27, 91, 0]),
        edit("c.weight", Phase::Decode, vec![9_007_199_254_740_992]),
    ];
    Adapter { edits, ..Adapter::default() }
}
