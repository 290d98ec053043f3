//! Folded weights against what real pyvene computes at every site that can be folded (`fixtures/fold`).
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_apply::hidden::{At, Inputs, Pass, SitePlan, columns, sites};
use fitment_core::checkpoint::{Checkpoint, MemoryCheckpoint};
use fitment_core::model::{FirstLast, Group, Phase, Positions, Select, ShortPrompt};
use fitment_io::{Access, CheckpointDir};
use fitment_math::ndarray::{Array1, Array2, Array3, Axis};
use fitment_math::round::{Element, decode};
use fitment_tests::place::{fixture, scratch};
use fitment_tests::program::fitment;
use std::fs;
use std::path::Path;

const SITES: &[&str] = &[
    "mlp_output",
    "attention_output",
    "query_output",
    "key_output",
    "value_output",
    "attention_value_output",
    "mlp_input",
    "attention_input",
];

fn numbers(base: &dyn Checkpoint, name: &str) -> Option<(Vec<f32>, Vec<usize>)> {
    let info = base.tensors().get(name)?;
    let mut numbers = vec![0.0; info.shape.elements() as usize];
    decode(Element::F32, &base.read(name).unwrap(), &mut numbers).unwrap();
    Some((numbers, info.shape.dims().iter().map(|extent| *extent as usize).collect()))
}

fn matrix(base: &dyn Checkpoint, name: &str) -> Option<Array2<f64>> {
    let (numbers, dims) = numbers(base, name)?;
    Some(Array2::from_shape_vec((dims[0], dims[1]), numbers.into_iter().map(f64::from).collect()).unwrap())
}

fn error(found: &Array2<f64>, expected: &Array2<f64>) -> f64 {
    let largest = expected.iter().fold(0.0_f64, |largest, number| largest.max(number.abs()));
    (found - expected).iter().fold(0.0_f64, |error, number| error.max(number.abs())) / largest
}

/// What a linear layer of a checkpoint makes of `x`.
fn run(base: &dyn Checkpoint, module: &str, conv1d: bool, x: &Array2<f64>) -> Array2<f64> {
    let weight = matrix(base, &format!("{module}.weight")).unwrap();
    let product = if conv1d { x.dot(&weight) } else { x.dot(&weight.t()) };
    let bias = numbers(base, &format!("{module}.bias")).map(|(bias, _)| bias);
    product + bias.map_or(Array1::zeros(1), |bias| bias.into_iter().map(f64::from).collect())
}

fn with_io<R>(path: &Path, run: impl FnOnce(&MemoryCheckpoint<'_>) -> R) -> R {
    run(&MemoryCheckpoint::new(&fs::read(path).unwrap(), None).unwrap())
}

#[test]
fn folded_layers_give_what_pyvene_gives() {
    let room = scratch();
    for (model, prefix) in [("llama", "model.layers.0"), ("gpt2", "transformer.h.0")] {
        let folder = fixture("fold").join("pyvene").join(model);
        for site in SITES {
            let out = room.path().join(format!("{model}-{site}"));
            let adapter = folder.join(format!("{site}.fitment.safetensors"));
            let applied = fitment()
                .arg("apply")
                .arg(folder.join("base"))
                .arg(&adapter)
                .arg("-o")
                .arg(&out)
                .output()
                .unwrap();
            assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
            let folded = CheckpointDir::open(&out, Access::Map).unwrap();
            with_io(&folder.join(format!("{site}.io.safetensors")), |io| {
                let x = matrix(io, "x").unwrap();
                for module in io.tensors().keys().filter(|name| *name != "x") {
                    let found = run(&folded, &format!("{prefix}.{module}"), model == "gpt2", &x);
                    let error = error(&found, &matrix(io, module).unwrap());
                    assert!(error <= 1e-6, "{model} {site} {module}: {error:e}");
                }
            });
        }
    }
}

/// The same adapters on states: what the layer gives, then the intervention.
#[test]
fn states_behind_a_layer_are_those_of_pyvene() {
    let folder = fixture("fold/pyvene/llama");
    let base = CheckpointDir::open(&folder.join("base"), Access::Map).unwrap();
    for site in &SITES[..5] {
        let bytes = fs::read(folder.join(format!("{site}.fitment.safetensors"))).unwrap();
        let adapter = fitment_core::read(&bytes).unwrap();
        let inputs = [fitment_apply::Input { adapter: &adapter, weight: 1.0, name: (*site).to_owned() }];
        let (_, place) = sites(&inputs).into_iter().next().unwrap();
        with_io(&folder.join(format!("{site}.io.safetensors")), |io| {
            let module = io.tensors().keys().find(|name| *name != "x").unwrap();
            let plain = run(&base, &format!("model.layers.0.{module}"), false, &matrix(io, "x").unwrap());
            let expected = matrix(io, module).unwrap();
            let mut states: Array3<f32> = plain.mapv(|number| number as f32).insert_axis(Axis(0));
            let plan =
                SitePlan::new(&inputs, &At { component: None, site: &place, width: plain.ncols() }).unwrap();
            let mask = Array2::from_elem((1, plain.nrows()), true);
            plan.apply(states.view_mut(), &Inputs::new(), &Pass::prompt(mask.view())).unwrap();
            let error = error(&states.index_axis(Axis(0), 0).mapv(f64::from), &expected);
            assert!(error <= 1e-6, "{site}: {error:e}");
        });
    }
}

#[test]
fn positions_are_those_of_pyreft_on_either_side_of_the_padding() {
    let table: Vec<(u64, u64, usize, Vec<usize>)> =
        serde_json::from_slice(&fs::read(fixture("fold/positions.json")).unwrap()).unwrap();
    assert_eq!(table.len(), 250);
    for (first, last, count, expected) in table {
        let rule =
            FirstLast { first, last, end_offset: 0, short: ShortPrompt::FloorHalf, group: Group::Both };
        let positions = Positions { phase: Phase::Prompt, select: Select::FirstLast(rule) };
        let mask =
            Array2::from_shape_fn(
                (2, 12),
                |(row, column)| {
                    if row == 0 { column < count } else { column >= 12 - count }
                },
            );
        let pass = Pass::prompt(mask.view());
        assert_eq!(columns(&positions, &pass, 0), expected, "f{first}+l{last} of {count}");
        let shifted: Vec<usize> = expected.iter().map(|column| column + 12 - count).collect();
        assert_eq!(columns(&positions, &pass, 1), shifted, "f{first}+l{last} of {count}");
    }
}
