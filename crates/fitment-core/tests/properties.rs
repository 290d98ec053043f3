//! Properties of generated adapters: what the model says survives the file, and the container agrees with `safetensors`.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_core::model::{
    Activation, Adapter, Base, BaseTensor, Edit, ExpertRange, FirstLast, Group, Intervention, Lora, LoraForm,
    ModuleSite, Origin, Overlap, Phase, Positions, Rounding, Select, Set, SetDtype, ShortPrompt, Site,
    SiteComponent, Target, TensorName,
};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_core::{Depth, check, read, to_bytes};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn tensor(dtype: Dtype, dims: &[u64], seed: u8) -> Tensor<'static> {
    let shape = Shape::new(dims).unwrap();
    let len = shape.byte_len(dtype).unwrap();
    // 0x11 in every byte is a finite, non-zero value of each float dtype.
    Tensor::owned(dtype, shape, (0..len).map(|i| 0x11 ^ (seed & 1) ^ (i as u8 & 2)).collect::<Vec<u8>>())
        .unwrap()
}

fn weight() -> impl Strategy<Value = Dtype> {
    prop::sample::select(vec![Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16])
}

fn name() -> impl Strategy<Value = String> {
    // Names of real modules, escapes, and characters whose UTF-8 and UTF-16 orders differ.
    prop::sample::select(vec![
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.10.mlp.up_proj.weight",
        "a",
        "A \"quoted\" \\ name",
        "\u{e000}",
        "\u{10000}",
        "größe.重み",
    ])
    .prop_map(str::to_owned)
}

prop_compose! {
    fn lora()(dtype in weight(), out in 1u64..5, rank in 1u64..4, input in 1u64..5, experts in 0u64..3,
              scale in prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO,
              transposed: bool, seed: u8) -> (Lora<'static>, Vec<u64>) {
        let lead: Vec<u64> = if experts > 0 { vec![experts] } else { vec![] };
        let up = tensor(dtype, &[&lead[..], &[out, rank]].concat(), seed);
        let down = tensor(dtype, &[&lead[..], &[rank, input]].concat(), seed ^ 1);
        let shape = if transposed { vec![input, out] } else { vec![out, input] };
        let target = Target {
            component: None,
            name: TensorName::new("x").unwrap(),
            experts: (experts > 0).then_some(ExpertRange { start: 3, end: 3 + experts }),
            slice: vec![],
            uses: vec![],
            when: None,
        };
        let lora = Lora {
            target, form: LoraForm::Matrix, transposed, scale, up, down, mid: None, magnitude: None,
            origin: Origin::default(),
        };
        (lora, shape)
    }
}

fn positions() -> impl Strategy<Value = Positions> {
    let short = prop::sample::select(ShortPrompt::ALL);
    let ends = (1u64..9, 1u64..9, -1i64..1, short, prop::sample::select(Group::ALL));
    let phase = prop::sample::select(vec![Phase::Prompt, Phase::EveryForward]);
    prop_oneof![
        prop::sample::select(Phase::ALL).prop_map(|phase| Positions { phase, select: Select::All }),
        (ends, phase).prop_map(|((first, last, end_offset, short, group), phase)| {
            let ends = FirstLast { first, last, end_offset, short, group };
            Positions { phase, select: Select::FirstLast(ends) }
        }),
        prop::collection::btree_set(-9i64..9, 1..5).prop_map(|numbers| {
            let (end, start): (Vec<i64>, Vec<i64>) = numbers.into_iter().partition(|number| *number < 0);
            Positions { phase: Phase::Prompt, select: Select::Explicit([start, end].concat()) }
        }),
    ]
}

prop_compose! {
    fn intervention()(dtype in weight(), width in 1u64..5, rank in 1u64..4, start in prop::option::of(0u64..3),
                      scale in prop::num::f64::NORMAL | prop::num::f64::ZERO, layer in prop::option::of(0u64..1 << 53),
                      component in prop::sample::select(SiteComponent::ALL), has: [bool; 5],
                      activation in prop::option::of(prop::sample::select(Activation::ALL)),
                      positions in positions(), seed: u8) -> Intervention<'static> {
        let layered = |layer| Site::Layer { layer, component };
        let site = layer.map_or_else(|| Site::Module(ModuleSite::new("h.0.output").unwrap()), layered);
        let of = |has: bool, dims: &[u64]| has.then(|| tensor(dtype, dims, seed));
        let [subtract, up_bias, bias, proj, proj_bias] = has;
        Intervention {
            dims: start.map(|start| [start, start + width]),
            scale,
            activation,
            subtract,
            up: of(true, &[width, rank]),
            up_bias: of(up_bias, &[width]),
            source_weight: of(true, &[rank, width]),
            source_bias: of(bias, &[rank]),
            proj: of(subtract && proj, &[rank, width]),
            proj_bias: of(subtract && proj_bias, &[rank]),
            overlap: Overlap::Sum,
            rounding: Rounding::F32,
            ..Intervention::at(site, positions)
        }
    }
}

prop_compose! {
    fn adapter()(loras in prop::collection::btree_map(name(), lora(), 0..5), zero in any::<bool>(),
                 bound in any::<bool>(), vendor in prop::option::of(-1e300f64..1e300),
                 interventions in prop::collection::vec(intervention(), 0..3)) -> Adapter<'static> {
        let mut adapter = Adapter::default();
        let mut base = BTreeMap::new();
        for (name, (mut lora, dims)) in loras {
            let name = if lora.target.experts.is_some() { format!("{name}.{{e}}.w") } else { name };
            lora.target.name = TensorName::new(name.clone()).unwrap();
            base.insert(name, (lora.target.experts, dims));
            adapter.edits.push(Edit::Lora(lora));
        }
        if zero {
            // A base tensor without elements may be replaced by another such.
            let target = Target::whole(TensorName::new("empty").unwrap());
            let (create, rows, origin) = (false, None, Origin::default());
            let value = tensor(Dtype::F32, &[0, 4], 0);
            adapter.edits.push(Edit::Set(Set { target, dtype: SetDtype::Stored, create, reshape: false, value, rows, origin }));
            base.insert("empty".into(), (None, vec![0, 4]));
        }
        adapter.edits.extend(interventions.into_iter().map(Edit::Intervention));
        if let Some(number) = vendor {
            adapter.extra.insert("vendor.example/number".into(), number.into());
        }
        let entry = |(name, (experts, dims)): (String, (Option<ExpertRange>, Vec<u64>))| BaseTensor { unchanged: false,
            component: None,
            name: TensorName::new(name).unwrap(),
            experts,
            dtype: Some(Dtype::BF16),
            shape: Some(Shape::new(&dims).unwrap()),
            digests: if bound { vec![[9; 32]; experts.map_or(1, |e| e.count() as usize)] } else { vec![] },
            extra: Default::default(),
        };
        adapter.base = Base { tensors: base.into_iter().map(entry).collect(), ..Base::default() };
        adapter
    }
}

proptest! {
    #[test]
    fn adapters_survive_the_file(adapter in adapter()) {
        let bytes = to_bytes(&adapter).unwrap();
        let report = check(&bytes, Depth::Values);
        let errors: Vec<_> = report.errors().collect();
        prop_assert!(errors.is_empty(), "{:?}", errors);
        let again = read(&bytes).unwrap();
        prop_assert_eq!(&to_bytes(&again).unwrap(), &bytes);
        for (a, b) in adapter.edits.iter().zip(&again.edits) {
            if let (Edit::Lora(a), Edit::Lora(b)) = (a, b) {
                prop_assert_eq!(a.scale.to_bits(), b.scale.to_bits());
                prop_assert_eq!(a.up.bytes(), b.up.bytes());
                prop_assert_eq!(&a.target, &b.target);
            }
            if let (Edit::Intervention(a), Edit::Intervention(b)) = (a, b) {
                prop_assert_eq!(&a.site, &b.site);
                prop_assert_eq!(&a.positions, &b.positions);
                prop_assert_eq!((a.dims, a.activation, a.subtract), (b.dims, b.activation, b.subtract));
                prop_assert_eq!(a.tensors().len(), b.tensors().len());
            }
        }
    }

    #[test]
    fn safetensors_sees_the_same_tensors(adapter in adapter()) {
        let bytes = to_bytes(&adapter).unwrap();
        let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let report = check(&bytes, Depth::Structure);
        let container = report.container.unwrap();
        prop_assert_eq!(theirs.len(), container.entries().len());
        for entry in container.entries() {
            prop_assert_eq!(theirs.tensor(&entry.name).unwrap().data(), &bytes[container.data_range(entry)]);
        }
    }
}
