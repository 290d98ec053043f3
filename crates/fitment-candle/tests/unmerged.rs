//! Layers with adapters beside them, against the same layers with merged weights, in f32.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "../../fitment-apply/tests/support/mod.rs"]
mod support;

use candle_core::{Device, Tensor};
use candle_nn::{Conv2d, Conv2dConfig, Embedding, Linear, Module};
use fitment_apply::{Input, Options, Plan};
use fitment_candle::unmerged::{Adapters, Error, Mix};
use fitment_core::model::{Adapter, Edit, LoraForm, Magnitude, NormOf, Set, SetDtype};
use fitment_core::tensor::{Dtype, Tensor as Stored};
use proptest::prelude::*;
use support::generated::{Wish, edit, wish};
use support::{NAME, adapter, add, base_bytes, checkpoint, input, lora, noise, numbers, remove, set, tensor};

const CPU: Device = Device::Cpu;

fn on_device(stored: &Stored<'_>) -> Tensor {
    let numbers: Vec<f32> =
        support::values_of(stored.dtype(), stored.bytes()).into_iter().map(|value| value as f32).collect();
    let dims: Vec<usize> = stored.dims().iter().map(|dim| *dim as usize).collect();
    Tensor::from_vec(numbers, dims, &CPU).unwrap()
}

fn states(dims: &[usize], seed: u64) -> Tensor {
    let values: Vec<f32> =
        numbers(dims.iter().product(), seed).into_iter().map(|value| value as f32).collect();
    Tensor::from_vec(values, dims, &CPU).unwrap()
}

/// Largest difference over the largest number.
fn distance(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let size = |tensor: &Tensor| {
        tensor.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap()
    };
    size(&(a - b).unwrap()) / size(b).max(1.0)
}

/// The merged weight of one mix.
fn merged(adapters: &[Adapter<'static>], weights: &[f64], base: &Stored<'static>) -> Option<Tensor> {
    let bytes = base_bytes(&[(NAME, base.clone())]);
    let base = checkpoint(&bytes);
    let inputs: Vec<Input<'_>> =
        adapters.iter().zip(weights).map(|(adapter, weight)| input(adapter, *weight)).collect();
    let plan = Plan::new(&inputs, &base, &Options { dtype: Some(Dtype::F32), ..Options::default() }).ok()?;
    let written = support::run(&plan, &base).0.remove(NAME).unwrap();
    Some(on_device(&Stored::owned(written.info.dtype, written.info.shape, written.bytes).unwrap()))
}

/// Runs `layer` with every mix, and `plain` with the merged weight of each.
fn check(
    adapters: &[Adapter<'static>],
    base: &Stored<'static>,
    x: &Tensor,
    layer: impl Fn(&mut Adapters) -> Box<dyn Module>,
    plain: impl Fn(Tensor, &Tensor) -> Tensor,
) {
    let bytes = base_bytes(&[(NAME, base.clone())]);
    let checkpoint = checkpoint(&bytes);
    let inputs: Vec<Input<'_>> = adapters.iter().map(|adapter| input(adapter, 1.0)).collect();
    let mut loaded = Adapters::load(&inputs, &checkpoint, &CPU).unwrap();
    let layer = layer(&mut loaded);
    loaded.check_all_taken().unwrap();
    let weights: Vec<f64> = [0.5, -1.0, 1.0].into_iter().cycle().take(adapters.len()).collect();
    for weights in [vec![1.0; adapters.len()], vec![0.0; adapters.len()], weights.clone()] {
        let Some(merged) = merged(adapters, &weights, base) else { continue };
        loaded.set(Mix::Same(weights)).unwrap();
        let off = distance(&layer.forward(x).unwrap(), &plain(merged, x));
        assert!(off < 1e-5, "{off}");
    }
    // Each row of the batch with another adapter, or with none.
    let batch = x.dim(0).unwrap();
    let rows: Vec<Option<(usize, f64)>> = (0..batch)
        .map(|row| (row % (adapters.len() + 1)).checked_sub(1).map(|adapter| (adapter, weights[adapter])))
        .collect();
    loaded.set(Mix::Rows(rows.clone())).unwrap();
    let y = layer.forward(x).unwrap();
    for (row, chosen) in rows.iter().enumerate() {
        let mut alone = vec![0.0; adapters.len()];
        if let Some((adapter, weight)) = chosen {
            alone[*adapter] = *weight;
        }
        let Some(merged) = merged(adapters, &alone, base) else { continue };
        let off = distance(&y.narrow(0, row, 1).unwrap(), &plain(merged, &x.narrow(0, row, 1).unwrap()));
        assert!(off < 1e-5, "row {row}: {off}");
    }
}

fn linear(weight: Tensor, x: &Tensor) -> Tensor {
    Linear::new(weight, None).forward(x).unwrap()
}

fn of_wishes(files: &[Vec<Wish>], dims: &[u64]) -> Vec<Adapter<'static>> {
    files.iter().map(|wishes| adapter(wishes.iter().map(|wish| edit(wish, dims)).collect())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn a_linear_layer_does_what_its_merged_weight_does(
        out in 1..7_u64, inner in 1..7_u64, seed: u64,
        files in proptest::collection::vec(proptest::collection::vec(wish(), 1..4), 1..5),
    ) {
        let base = noise(Dtype::F32, &[out, inner], seed);
        let layer = |adapters: &mut Adapters| -> Box<dyn Module> {
            Box::new(adapters.linear("m", Linear::new(on_device(&base), None)).unwrap())
        };
        let x = states(&[6, 2, inner as usize], seed ^ 1);
        check(&of_wishes(&files, &[out, inner]), &base, &x, layer, linear);
    }

    #[test]
    fn an_embedding_does_what_its_merged_weight_does(
        vocab in 1..7_u64, dim in 1..7_u64, seed: u64,
        files in proptest::collection::vec(proptest::collection::vec(wish(), 1..4), 1..5),
    ) {
        let base = noise(Dtype::F32, &[vocab, dim], seed);
        let layer = |adapters: &mut Adapters| -> Box<dyn Module> {
            Box::new(adapters.embedding("m", Embedding::new(on_device(&base), dim as usize)).unwrap())
        };
        let ids: Vec<u32> = (0..18).map(|at| ((seed >> (at % 32)) % vocab) as u32).collect();
        let ids = Tensor::from_vec(ids, (6, 3), &CPU).unwrap();
        let plain = |weight: Tensor, ids: &Tensor| Embedding::new(weight, dim as usize).forward(ids).unwrap();
        check(&of_wishes(&files, &[vocab, dim]), &base, &ids, layer, plain);
    }

    #[test]
    fn a_convolution_does_what_its_merged_weight_does(
        groups in 1..3_usize, out in 1..4_u64, inner in 1..4_u64, size in 1..4_u64, seed: u64,
        files in proptest::collection::vec(proptest::collection::vec(wish(), 1..3), 1..3),
    ) {
        let dims = [out * groups as u64, inner, size, size];
        let base = noise(Dtype::F32, &dims, seed);
        let config = Conv2dConfig { padding: 1, stride: 2, groups, ..Conv2dConfig::default() };
        let layer = |adapters: &mut Adapters| -> Box<dyn Module> {
            Box::new(adapters.conv2d("m", Conv2d::new(on_device(&base), None, config)).unwrap())
        };
        let x = states(&[3, inner as usize * groups, 5, 6], seed ^ 1);
        let plain = |weight: Tensor, x: &Tensor| Conv2d::new(weight, None, config).forward(x).unwrap();
        check(&of_wishes(&files, &dims), &base, &x, layer, plain);
    }
}

/// Adapters of different ranks, with and without a magnitude, and one that is no product: in any order, as often as wanted, at any
/// weight, in one batch after the other.
#[test]
fn rows_take_any_of_many_adapters() {
    let base = noise(Dtype::F32, &[5, 4], 1);
    let bytes = base_bytes(&[(NAME, base.clone())]);
    let base_file = checkpoint(&bytes);
    let make = |number: u64| {
        let rank = 1 + number % 3;
        let (up, down) =
            (noise(Dtype::F32, &[5, rank], 2 * number), noise(Dtype::F32, &[rank, 4], 2 * number + 1));
        let mut edit = lora(NAME, 0.5, up, down);
        if number % 2 == 1 {
            let axis = (number / 2) % 2;
            let value = noise(Dtype::F32, &[if axis == 0 { 5 } else { 4 }], number + 99);
            edit.magnitude = Some(Magnitude { value, axis, norm_of: NormOf::Merged, eps: 0.0 });
        }
        match number {
            6 => adapter(vec![Edit::Add(add(NAME, 1.0, noise(Dtype::F32, &[5, 4], 77)))]),
            _ => adapter(vec![Edit::Lora(edit)]),
        }
    };
    let adapters: Vec<Adapter<'static>> = (0..9).map(make).collect();
    let inputs: Vec<Input<'_>> = adapters.iter().map(|adapter| input(adapter, 1.0)).collect();
    let mut loaded = Adapters::load(&inputs, &base_file, &CPU).unwrap();
    let layer = loaded.linear("m", Linear::new(on_device(&base), None)).unwrap();
    let all =
        [Some((8, 1.0)), Some((1, 0.5)), Some((6, 2.0)), Some((3, 1.0)), Some((8, -1.0)), Some((0, 1.0))];
    let some = [None, Some((2, 1.0)), Some((2, 1.0)), Some((7, 0.0)), Some((4, 1.0)), None];
    let same = [Some((5, 1.0)); 6];
    for rows in [all, some, same] {
        loaded.set(Mix::Rows(rows.to_vec())).unwrap();
        for seed in 0..2 {
            let x = states(&[6, 3, 4], seed);
            let y = layer.forward(&x).unwrap();
            for (row, entry) in rows.iter().enumerate() {
                let mut alone = vec![0.0; adapters.len()];
                if let Some((adapter, weight)) = entry {
                    alone[*adapter] = *weight;
                }
                let wanted = linear(merged(&adapters, &alone, &base).unwrap(), &x.narrow(0, row, 1).unwrap());
                assert!(distance(&y.narrow(0, row, 1).unwrap(), &wanted) < 1e-5, "{rows:?}, row {row}");
            }
        }
        let error = layer.forward(&states(&[5, 3, 4], 0)).unwrap_err().to_string();
        assert!(error.starts_with("the mix names adapters for 6 rows, the batch has 5"), "{error}");
    }
}

/// A base of a layer with a bias, and adapters of every way with it.
#[test]
fn biases_are_changed_brought_and_taken_away() {
    let base = [(NAME, noise(Dtype::F32, &[3, 2], 1)), ("m.bias", noise(Dtype::F32, &[3], 2))];
    let bytes = base_bytes(&base);
    let base_file = checkpoint(&bytes);
    let changed = adapter(vec![Edit::Add(add("m.bias", 2.0, noise(Dtype::F32, &[3], 3)))]);
    let gone = adapter(vec![remove("m.bias")]);
    let inputs = [input(&changed, 1.0), input(&gone, 1.0)];
    let mut loaded = Adapters::load(&inputs, &base_file, &CPU).unwrap();
    let (weight, bias) = (on_device(&base[0].1), on_device(&base[1].1));
    let layer = loaded.linear("m", Linear::new(weight.clone(), Some(bias.clone()))).unwrap();
    loaded.check_all_taken().unwrap();
    loaded.set(Mix::Rows(vec![Some((0, 0.5)), Some((1, 1.0)), None])).unwrap();
    let x = states(&[3, 2, 2], 4);
    let y = layer.forward(&x).unwrap();
    let delta = on_device(&noise(Dtype::F32, &[3], 3));
    for (row, bias) in [(&bias + delta).unwrap(), bias.zeros_like().unwrap(), bias].into_iter().enumerate() {
        let alone = x.narrow(0, row, 1).unwrap();
        let wanted = Linear::new(weight.clone(), Some(bias)).forward(&alone).unwrap();
        assert!(distance(&y.narrow(0, row, 1).unwrap(), &wanted) < 1e-6);
    }

    let bytes = base_bytes(&base[..1]);
    let base_file = checkpoint(&bytes);
    let brought = Set { create: true, ..set("m.bias", SetDtype::Stored, noise(Dtype::F32, &[3], 5)) };
    let brought = adapter(vec![Edit::Set(brought)]);
    let mut loaded = Adapters::load(&[input(&brought, 1.0)], &base_file, &CPU).unwrap();
    let layer = loaded.linear("m", Linear::new(weight.clone(), None)).unwrap();
    let bias = on_device(&noise(Dtype::F32, &[3], 5));
    let wanted = Linear::new(weight, Some(bias)).forward(&x).unwrap();
    assert!(distance(&layer.forward(&x).unwrap(), &wanted) < 1e-6);
}

/// Each token through the experts that it goes to, with the adapters of its row, against the merged stack.
#[test]
fn experts_have_adapters_of_their_own() {
    let base = noise(Dtype::F32, &[3, 5, 4], 1);
    let bytes = base_bytes(&[("e", base.clone())]);
    let base_file = checkpoint(&bytes);
    let stacked = |seed: u64| {
        let (up, down) = (noise(Dtype::F32, &[3, 5, 2], seed), noise(Dtype::F32, &[3, 2, 4], seed + 1));
        let mut edit = lora("e", 0.5, up, down);
        edit.form = LoraForm::Stacked;
        adapter(vec![Edit::Lora(edit)])
    };
    let dense = adapter(vec![Edit::Add(add("e", 1.0, noise(Dtype::F32, &[3, 5, 4], 20)))]);
    let adapters = [stacked(10), stacked(30), dense];
    let inputs: Vec<Input<'_>> = adapters.iter().map(|adapter| input(adapter, 1.0)).collect();
    let mut loaded = Adapters::load(&inputs, &base_file, &CPU).unwrap();
    let layer = loaded.experts("e", &on_device(&base)).unwrap();
    loaded.check_all_taken().unwrap();
    let chosen: Vec<u32> = vec![0, 2, 2, 1, 1, 0, 0, 1, 2, 1, 0, 2];
    let experts = Tensor::from_vec(chosen.clone(), (3, 2, 2), &CPU).unwrap();
    let x = states(&[3, 2, 4], 4);
    let rows = vec![Some((1, 0.5)), None, Some((0, -1.0))];
    for mix in [Mix::Same(vec![1.0, 0.0, 0.25]), Mix::Rows(rows)] {
        loaded.set(mix.clone()).unwrap();
        let y = layer.forward(&x, &experts).unwrap();
        let apart = x.unsqueeze(2).unwrap().repeat((1, 1, 2, 1)).unwrap();
        assert!(distance(&layer.forward(&apart, &experts).unwrap(), &y) < 1e-6);
        for row in 0..3 {
            let mut weights = vec![0.0; 3];
            match &mix {
                Mix::Same(all) => weights.clone_from(all),
                Mix::Rows(rows) => {
                    rows[row].into_iter().for_each(|(adapter, weight)| weights[adapter] = weight)
                }
            }
            let inputs: Vec<Input<'_>> =
                adapters.iter().zip(&weights).map(|(adapter, weight)| input(adapter, *weight)).collect();
            let plan = Plan::new(&inputs, &base_file, &Options::default()).unwrap();
            let written = support::run(&plan, &base_file).0.remove("e").unwrap();
            let merged = Stored::owned(written.info.dtype, written.info.shape, written.bytes).unwrap();
            for at in 0..4 {
                let expert = chosen[4 * row + at] as usize;
                let weight = on_device(&merged).get(expert).unwrap();
                let token = x.narrow(0, row, 1).unwrap().narrow(1, at / 2, 1).unwrap();
                let found = y.get(row).unwrap().get(at / 2).unwrap().get(at % 2).unwrap();
                let wanted = linear(weight, &token).flatten_all().unwrap();
                assert!(distance(&found, &wanted) < 1e-5, "row {row}, {at}");
            }
        }
    }
    let turned = layer_of_transposed_experts();
    assert!(turned < 1e-5, "{turned}");
    let alien = Tensor::from_vec(vec![3_u32; 12], (3, 2, 2), &CPU).unwrap();
    let error = layer.forward(&x, &alien).unwrap_err().to_string();
    assert!(error.starts_with("a token goes to expert 3 of 3"), "{error}");
}

/// How far a stack that is stored `[experts, in, out]` is from its merged one.
fn layer_of_transposed_experts() -> f32 {
    let base = noise(Dtype::F32, &[2, 4, 5], 1);
    let bytes = base_bytes(&[("e", base.clone())]);
    let base_file = checkpoint(&bytes);
    let mut edit = lora("e", 0.5, noise(Dtype::F32, &[2, 4, 2], 2), noise(Dtype::F32, &[2, 2, 5], 3));
    edit.form = LoraForm::Stacked;
    let adapter = adapter(vec![Edit::Lora(edit)]);
    let inputs = [input(&adapter, 1.0)];
    let mut loaded = Adapters::load(&inputs, &base_file, &CPU).unwrap();
    let weight = on_device(&base).transpose(1, 2).unwrap().contiguous().unwrap();
    let layer = loaded.experts_transposed("e", &weight).unwrap();
    let x = states(&[1, 1, 4], 4);
    let y = layer.forward(&x, &Tensor::from_vec(vec![1_u32], (1, 1, 1), &CPU).unwrap()).unwrap();
    let plan = Plan::new(&inputs, &base_file, &Options::default()).unwrap();
    let written = support::run(&plan, &base_file).0.remove("e").unwrap();
    let merged = on_device(&Stored::owned(written.info.dtype, written.info.shape, written.bytes).unwrap());
    let wanted = linear(merged.get(1).unwrap().t().unwrap().contiguous().unwrap(), &x);
    distance(&y.flatten_all().unwrap(), &wanted.flatten_all().unwrap())
}

#[test]
fn a_vocabulary_may_grow() {
    // Of no other layer may the number of rows change.
    let name = "embed_tokens.weight";
    let base = noise(Dtype::F32, &[3, 2], 1);
    let bytes = base_bytes(&[(name, base.clone())]);
    let base_file = checkpoint(&bytes);
    let mut rows = set(name, SetDtype::Base, noise(Dtype::F32, &[2, 2], 2));
    rows.rows = Some(tensor(Dtype::I64, &[2], &[3.0, 4.0]));
    let grown = adapter(vec![Edit::Set(rows)]);
    let mut loaded = Adapters::load(&[input(&grown, 1.0)], &base_file, &CPU).unwrap();
    let embedding = loaded.embedding("embed_tokens", Embedding::new(on_device(&base), 2)).unwrap();
    let head = loaded.linear("embed_tokens", Linear::new(on_device(&base), None)).unwrap();
    let new = on_device(&noise(Dtype::F32, &[2, 2], 2));
    let found = embedding.forward(&Tensor::new(&[[2_u32, 3, 4]], &CPU).unwrap()).unwrap();
    let wanted = Tensor::cat(&[on_device(&base).narrow(0, 2, 1).unwrap(), new.clone()], 0).unwrap();
    assert!(distance(&found, &wanted.unsqueeze(0).unwrap()) < 1e-6);
    let x = states(&[1, 1, 2], 3);
    let whole = Tensor::cat(&[on_device(&base), new], 0).unwrap();
    assert!(distance(&head.forward(&x).unwrap(), &linear(whole, &x)) < 1e-6);
}

#[test]
fn what_no_layer_takes_and_mixes_that_do_not_fit_are_refused() {
    let base = [(NAME, noise(Dtype::F32, &[3, 2], 1)), ("n.weight", noise(Dtype::F32, &[3, 2], 2))];
    let bytes = base_bytes(&base);
    let base_file = checkpoint(&bytes);
    let mut dora = lora("n.weight", 1.0, noise(Dtype::F32, &[3, 1], 3), noise(Dtype::F32, &[1, 2], 4));
    dora.magnitude =
        Some(Magnitude { value: noise(Dtype::F32, &[3], 5), axis: 0, norm_of: NormOf::Merged, eps: 0.0 });
    let dora = adapter(vec![Edit::Lora(dora)]);
    let mut loaded = Adapters::load(&[input(&dora, 1.0)], &base_file, &CPU).unwrap();
    let layer = loaded.linear("m", Linear::new(on_device(&base[0].1), None)).unwrap();
    let error = loaded.check_all_taken().unwrap_err();
    assert_eq!(error.to_string(), "adapter changes n.weight, which no layer of this model has taken");
    for (mix, reason) in [
        (Mix::Same(vec![1.0, 1.0]), "2 weights for 1 adapters"),
        (Mix::Rows(vec![Some((1, 1.0))]), "a row names adapter 1 of 1"),
        (Mix::Same(vec![f64::NAN]), "the weight NaN is not a finite number"),
    ] {
        assert!(loaded.set(mix).unwrap_err().to_string().starts_with(reason), "{reason}");
    }
    loaded.linear("n", Linear::new(on_device(&base[1].1), None)).unwrap();
    loaded.check_all_taken().unwrap();
    assert!(layer.forward(&states(&[2, 2], 1)).is_ok());

    let gone = adapter(vec![remove("n.weight")]);
    let mut loaded = Adapters::load(&[input(&gone, 1.0)], &base_file, &CPU).unwrap();
    let error = loaded.linear("n", Linear::new(on_device(&base[1].1), None)).unwrap_err();
    assert!(matches!(error, Error::Removed { .. }));
}
