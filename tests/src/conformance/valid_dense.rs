//! Valid files: replaced, created, removed and added tensors, config values, several edits of one target.

use fitment_core::Adapter;
use fitment_core::model::{
    Add, AxisSlice, Base, ConfigEdit, ConfigValue, Edit, Exceptions, ExpertRange, IndexRange, Origin, Remove,
    Set, SetDtype, Target,
};
use fitment_core::tensor::{Dtype, Tensor};

use super::parts::{bf16, counted, integers, lora, ramp, tensor, whole, written};
use super::valid::entry;

pub(super) fn files() -> Vec<(&'static str, Vec<u8>)> {
    let edits = |edits: Vec<Edit<'static>>| Adapter { edits, ..Adapter::default() };
    let adapters = vec![
        ("set-whole", edits(vec![set(whole("norm.weight"), SetDtype::Base, ramp(&[4], 1.0), None)])),
        ("set-every-dtype", edits(every_dtype())),
        ("set-rows", rows()),
        ("set-slice", sliced()),
        ("set-create", created()),
        ("set-reshape", reshaped()),
        ("set-without-elements", empty()),
        ("remove", removed()),
        ("add", edits(added())),
        ("add-exceptions", exceptions()),
        ("config", edits(config())),
        ("edits-in-order", ordered()),
    ];
    adapters.into_iter().map(|(name, adapter)| (name, written(&adapter))).collect()
}

fn set(
    target: Target,
    dtype: SetDtype,
    value: Tensor<'static>,
    rows: Option<Tensor<'static>>,
) -> Edit<'static> {
    Edit::Set(Set { target, dtype, create: false, reshape: false, value, rows, origin: Origin::default() })
}

fn add(target: Target, value: Tensor<'static>) -> Edit<'static> {
    Edit::Add(Add { target, scale: -0.5, value, exceptions: None, origin: Origin::default() })
}

fn every_dtype() -> Vec<Edit<'static>> {
    // Bits as they are: integer ramps, which are finite in every floating type.
    Dtype::ALL
        .iter()
        .map(|dtype| {
            let value = match dtype {
                Dtype::Bool => tensor(Dtype::Bool, &[4, 2], vec![0, 1, 1, 0, 0, 0, 1, 1]),
                other => counted(*other, &[4, 2]),
            };
            set(whole(&format!("{dtype}.weight")), SetDtype::Stored, value, None)
        })
        .collect()
}

fn rows() -> Adapter<'static> {
    let tensors = vec![entry("appended.weight", &[6, 2], 1), entry("replaced.weight", &[6, 2], 1)];
    let rows = |text: &str, rows: &[i64]| {
        let value = ramp(&[rows.len() as u64, 2], 1.0);
        set(whole(text), SetDtype::Base, value, Some(integers(rows)))
    };
    let unknown = rows("unbounded.weight", &[3, 1 << 40]);
    let bound = vec![rows("replaced.weight", &[0, 2, 5]), rows("appended.weight", &[1, 6, 7])];
    let mut edits = bound;
    let mut base = Base { tensors, ..Base::default() };
    // Without a recorded shape nothing is known of the end: any rows may be.
    base.tensors.iter_mut().for_each(|tensor| tensor.digests.clear());
    edits.push(unknown);
    Adapter { base, edits, ..Adapter::default() }
}

fn sliced() -> Adapter<'static> {
    let range = IndexRange { start: 1, end: 4, step: 2 };
    let slice = vec![AxisSlice { axis: 1, ranges: vec![range] }];
    let target = Target { slice, ..whole("fused.weight") };
    let bundle = Target { experts: Some(ExpertRange { start: 0, end: 2 }), ..whole("experts.{e}.bias") };
    let edits = vec![
        set(target.clone(), SetDtype::Base, ramp(&[2, 2], 1.0), None),
        set(bundle, SetDtype::Base, ramp(&[2, 3], 1.0), None),
        add(target, ramp(&[2, 2], 3.0)),
    ];
    let tensors = vec![entry("fused.weight", &[2, 4], 0)];
    Adapter { base: Base { tensors, ..Base::default() }, edits, ..Adapter::default() }
}

fn create(text: &str, value: Tensor<'static>) -> Edit<'static> {
    let target = whole(text);
    Edit::Set(Set {
        target,
        dtype: SetDtype::Stored,
        create: true,
        reshape: false,
        value,
        rows: None,
        origin: Origin::default(),
    })
}

fn reshaped() -> Adapter<'static> {
    let reshape = |text: &str, value| {
        let Edit::Set(edit) = set(whole(text), SetDtype::Stored, value, None) else { unreachable!() };
        Edit::Set(Set { reshape: true, ..edit })
    };
    // What follows fits the new shape.
    let edits = vec![
        reshape("classifier.weight", ramp(&[2, 6], 1.0)),
        add(whole("classifier.weight"), ramp(&[2, 6], 2.0)),
        reshape("pos.bias", counted(Dtype::I64, &[])),
    ];
    let tensors = vec![entry("classifier.weight", &[3, 4], 1), entry("pos.bias", &[2], 1)];
    Adapter { base: Base { tensors, ..Base::default() }, edits, ..Adapter::default() }
}

fn created() -> Adapter<'static> {
    let edits = vec![
        create("score.weight", ramp(&[2, 4], 1.0)),
        add(whole("score.weight"), ramp(&[2, 4], 2.0)),
        Edit::Lora(lora(whole("a.weight"), [3, 1, 4])),
        create("score.count", counted(Dtype::I64, &[])),
    ];
    let tensors = vec![entry("a.weight", &[3, 4], 1)];
    Adapter { base: Base { tensors, ..Base::default() }, edits, ..Adapter::default() }
}

fn empty() -> Adapter<'static> {
    // Without elements: a base tensor may have none, and two of them are never one stored tensor.
    let none = ramp(&[0, 3], 0.0);
    let edits = vec![
        set(whole("b.weight"), SetDtype::Stored, none.clone(), None),
        set(whole("a.weight"), SetDtype::Stored, none, None),
        set(whole("c.weight"), SetDtype::Stored, ramp(&[2], 0.0), None),
        set(whole("d.weight"), SetDtype::Stored, tensor(Dtype::F16, &[3, 0], vec![]), None),
    ];
    let tensors = vec![
        entry("a.weight", &[0, 3], 1),
        entry("b.weight", &[0, 3], 1),
        entry("c.weight", &[2], 1),
        entry("d.weight", &[3, 0], 1),
    ];
    Adapter { base: Base { tensors, ..Base::default() }, edits, ..Adapter::default() }
}

fn removed() -> Adapter<'static> {
    let remove = |target| Edit::Remove(Remove { target, origin: Origin::default() });
    let bundle = Target { experts: Some(ExpertRange { start: 1, end: 3 }), ..whole("experts.{e}.bias") };
    let edits = vec![
        add(whole("last.weight"), ramp(&[2], 1.0)),
        remove(whole("last.weight")),
        remove(whole("lm_head.weight")),
        remove(bundle),
    ];
    Adapter { edits, ..Adapter::default() }
}

fn added() -> Vec<Edit<'static>> {
    let scalar = add(whole("temperature"), ramp(&[], 1.0));
    let bundle = Target { experts: Some(ExpertRange { start: 0, end: 2 }), ..whole("experts.{e}.bias") };
    vec![add(whole("bias"), ramp(&[3], 1.0)), scalar, add(bundle, ramp(&[2, 3], 1.0))]
}

fn exceptions() -> Adapter<'static> {
    let values = [1.5f32, -2.0].into_iter().flat_map(bf16).collect();
    let exceptions = Exceptions { index: integers(&[0, 5]), value: tensor(Dtype::BF16, &[2], values) };
    let mut edit = Add {
        target: whole("a.weight"),
        scale: 1.0,
        value: ramp(&[2, 3], 1.0),
        exceptions: None,
        origin: Origin::default(),
    };
    edit.exceptions = Some(exceptions);
    let tensors = vec![entry("a.weight", &[2, 3], 1)];
    Adapter { base: Base { tensors, ..Base::default() }, edits: vec![Edit::Add(edit)], ..Adapter::default() }
}

fn config() -> Vec<Edit<'static>> {
    let values = [
        ConfigValue::VocabSize(32003),
        ConfigValue::TieWordEmbeddings(false),
        ConfigValue::MlpBias(true),
        ConfigValue::AttentionBias(true),
    ];
    let edit = |value| Edit::Config(ConfigEdit { component: None, value, origin: Origin::default() });
    values.map(edit).into()
}

fn ordered() -> Adapter<'static> {
    // Every edit meets what the ones before made of its target: more rows, a whole new vocabulary, another dtype.
    let grown = "model.embed_tokens.weight";
    let resized = "lm_head.weight";
    let edits = vec![
        set(whole(grown), SetDtype::Base, ramp(&[2, 3], 1.0), Some(integers(&[4, 5]))),
        Edit::Lora(lora(whole(resized), [4, 1, 3])),
        set(whole(resized), SetDtype::Stored, ramp(&[6, 3], 1.0), None),
        Edit::Lora(lora(whole(grown), [6, 2, 3])),
        add(whole(resized), ramp(&[6, 3], 2.0)),
        set(whole(grown), SetDtype::Base, ramp(&[1, 3], 1.0), Some(integers(&[6]))),
        Edit::Lora(lora(whole(grown), [7, 1, 3])),
    ];
    let tensors = vec![entry(resized, &[4, 3], 1), entry(grown, &[4, 3], 1)];
    Adapter { base: Base { tensors, ..Base::default() }, edits, ..Adapter::default() }
}
