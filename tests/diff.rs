//! A diff applied to its base gives the tuned checkpoint, bit for bit, in every form.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod applied;

use applied::applied;
use fitment_apply::{Input, Options as ApplyOptions, Plan};
use fitment_core::Adapter;
use fitment_core::checkpoint::{Checkpoint, MemoryCheckpoint, TensorInfo};
use fitment_core::container::write_container;
use fitment_core::model::{ConfigValue, Edit};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_diff::{Diff, Error, Form, LowRank, MemorySpool, Options, diff};
use serde_json::json;
use std::collections::BTreeMap;

const FORMS: [Form; 3] = [Form::Bits, Form::Sparse, Form::Add];

type Tensors = BTreeMap<String, Tensor<'static>>;

fn file(tensors: &Tensors) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_container(&BTreeMap::new(), tensors.iter().map(|(name, t)| (name.clone(), t)), &mut bytes).unwrap();
    bytes
}

fn tensor(dtype: Dtype, dims: &[u64], bytes: Vec<u8>) -> Tensor<'static> {
    Tensor::owned(dtype, Shape::new(dims).unwrap(), bytes).unwrap()
}

/// Reproducible bf16 values around 1, with every `step`-th of another checkpoint.
fn noise(dims: &[u64], seed: u64, step: usize) -> Tensor<'static> {
    let count = dims.iter().product::<u64>() as usize;
    let value = |at: usize| {
        let mixed = (at as u64 ^ 0x9e37).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let nudge = if step > 0 && at.is_multiple_of(step) { seed as u16 % 61 } else { 0 };
        (0x3f00 + (mixed as u16 & 0x00ff)).wrapping_add(nudge)
    };
    tensor(Dtype::BF16, dims, (0..count).flat_map(|at| value(at).to_le_bytes()).collect())
}

/// Compares, writes the file, reads it back, applies it, and compares with the tuned checkpoint.
fn there(base: &dyn Checkpoint, tuned: &dyn Checkpoint, form: Form) -> (Diff, Vec<u8>) {
    let spool = MemorySpool::default();
    let diff = diff(base, tuned, &Options { form, ..Options::default() }, &spool, &|_| true).unwrap();
    let spooled = spool.into_bytes();
    let file = fitment_core::to_bytes(&diff.adapter(tuned, &spooled).unwrap()).unwrap();
    let adapter = fitment_core::read(&file).unwrap();
    let written = applied(&[(&adapter, 1.0)], base).unwrap();
    assert_eq!(written.keys().collect::<Vec<_>>(), tuned.tensors().keys().collect::<Vec<_>>());
    for (name, (info, bytes)) in &written {
        assert_eq!(info, &tuned.tensors()[name], "{name}");
        assert!(bytes[..] == tuned.read(name).unwrap()[..], "{form:?} of {name}");
    }
    (diff, file)
}

#[test]
fn real_checkpoints_come_back_bit_for_bit() {
    let peft = fitment_tests::place::fixture("peft");
    let mut cases = 0;
    for case in ["linear", "linear_bf16", "linear_f16", "linear_f64", "dora_bf16", "conv2d", "bias_all", "t5"]
    {
        let base = std::fs::read(peft.join(case).join("base/model.safetensors"));
        let reference = peft.join(case).join("reference.safetensors");
        let merged = if reference.exists() { reference } else { peft.join(case).join("merged.safetensors") };
        let (Ok(base), merged) = (base, std::fs::read(merged).unwrap()) else { continue };
        let (base, merged) =
            (MemoryCheckpoint::new(&base, None).unwrap(), MemoryCheckpoint::new(&merged, None).unwrap());
        let mut tensors = Tensors::new();
        for (name, info) in base.tensors() {
            let from: &dyn Checkpoint = if merged.tensors().contains_key(name) { &merged } else { &base };
            let info = from.tensors().get(name).unwrap_or(info);
            tensors.insert(
                name.clone(),
                tensor(info.dtype, info.shape.dims(), from.read(name).unwrap().to_vec()),
            );
        }
        let tuned = file(&tensors);
        let tuned = MemoryCheckpoint::new(&tuned, None).unwrap();
        for form in FORMS {
            let (diff, _) = there(&base, &tuned, form);
            assert!(diff.summary.changed > 0, "{case}");
        }
        cases += 1;
    }
    assert!(cases >= 4, "{cases} cases with a base in one file");
}

fn checkpoints() -> (Tensors, Tensors) {
    let odd = |bits: [u16; 4]| tensor(Dtype::BF16, &[4], bits.iter().flat_map(|b| b.to_le_bytes()).collect());
    let ids = |last: i64| {
        tensor(Dtype::I64, &[3], [1, 2, last].iter().flat_map(|n: &i64| n.to_le_bytes()).collect())
    };
    let base = Tensors::from([
        ("embed".to_owned(), noise(&[40, 8], 0, 0)),
        ("gone".to_owned(), noise(&[2], 0, 0)),
        ("head".to_owned(), noise(&[6, 3], 0, 0)),
        ("ids".to_owned(), ids(3)),
        ("norm".to_owned(), noise(&[5], 0, 0)),
        ("odd".to_owned(), odd([0x7f81, 0x8000, 0x0001, 0x3f80])),
        ("precise".to_owned(), noise(&[7], 0, 0)),
        ("sparse".to_owned(), noise(&[1000], 0, 0)),
        ("empty".to_owned(), noise(&[0, 3], 0, 0)),
        ("wide".to_owned(), noise(&[64, 64], 0, 0)),
    ]);
    let mut tuned = base.clone();
    tuned.remove("gone");
    let mut set = |name: &str, tensor: Tensor<'static>| tuned.insert(name.to_owned(), tensor);
    set("embed", noise(&[43, 8], 5, 100));
    set("head", noise(&[4, 3], 3, 1));
    set("ids", ids(9));
    set("new", noise(&[3, 3], 1, 1));
    set("odd", odd([0xffc1, 0x0000, 0x8001, 0x7f80]));
    set("precise", tensor(Dtype::F32, &[7], (0..7u32).flat_map(|n| (n as f32).to_le_bytes()).collect()));
    set("sparse", noise(&[1000], 40, 50));
    set("wide", noise(&[64, 64], 7, 2));
    (base, tuned)
}

#[test]
fn everything_that_can_become_of_a_tensor() {
    let (base, tuned) = checkpoints();
    let (base, tuned) = (file(&base), file(&tuned));
    let (base, tuned) =
        (MemoryCheckpoint::new(&base, None).unwrap(), MemoryCheckpoint::new(&tuned, None).unwrap());
    for form in FORMS {
        let (diff, bytes) = there(&base, &tuned, form);
        let found = &diff.summary;
        assert_eq!((found.unchanged, found.changed, found.created, found.removed), (2, 7, 1, 1));
        let named: Vec<&str> = found.others.iter().map(|(name, ..)| &**name).collect();
        assert_eq!(named, ["embed", "gone", "head", "new", "precise"]);
        let adapter = fitment_core::read(&bytes).unwrap();
        let kind = |name: &str| {
            let edit = adapter.edits.iter().find(|edit| edit.target().unwrap().name.as_str() == name);
            edit.map(Edit::kind)
        };
        let readable = match form {
            Form::Bits => "bits",
            Form::Sparse => "sparse_set",
            Form::Add => "add",
        };
        assert_eq!([kind("sparse"), kind("ids"), kind("norm")], [Some(readable), Some("set"), None]);
        let dense = if form == Form::Sparse { "set" } else { readable };
        assert_eq!(kind("wide"), Some(dense), "half of it changes");
        assert_eq!(kind("odd"), Some("bits"), "NaN and infinities are told by their bits");
        let rows = adapter.edits.iter().find_map(|edit| match edit {
            Edit::Set(set) if set.target.name.as_str() == "embed" => {
                Some(set.rows.as_ref().unwrap().elements())
            }
            _ => None,
        });
        assert_eq!(rows, Some(7), "three appended, four changed");
        let unchanged = adapter.base.tensors.iter().filter(|tensor| tensor.unchanged);
        assert_eq!(unchanged.map(|tensor| tensor.name.as_str()).collect::<Vec<_>>(), ["empty", "norm"]);
    }
}

#[test]
fn the_same_file_whatever_the_order_of_work() {
    let (base, tuned) = checkpoints();
    let (base, tuned) = (file(&base), file(&tuned));
    let (base, tuned) =
        (MemoryCheckpoint::new(&base, None).unwrap(), MemoryCheckpoint::new(&tuned, None).unwrap());
    let files: Vec<Vec<u8>> = (0..3).map(|_| there(&base, &tuned, Form::Bits).1).collect();
    assert!(files[0] == files[1] && files[1] == files[2]);
}

#[test]
fn a_changed_tensor_that_was_said_to_be_unchanged_is_found() {
    let (base, tuned) = checkpoints();
    let bytes = (file(&base), file(&tuned));
    let ends =
        (MemoryCheckpoint::new(&bytes.0, None).unwrap(), MemoryCheckpoint::new(&bytes.1, None).unwrap());
    let (_, made) = there(&ends.0, &ends.1, Form::Bits);
    let adapter = fitment_core::read(&made).unwrap();
    let mut other = base.clone();
    other.insert("norm".to_owned(), noise(&[5], 9, 1));
    let other = file(&other);
    let error = applied(&[(&adapter, 1.0)], &MemoryCheckpoint::new(&other, None).unwrap()).unwrap_err();
    assert!(error.contains("norm differs"), "{error}");
    let mut other = base;
    other.remove("norm");
    let other = file(&other);
    let error = applied(&[(&adapter, 1.0)], &MemoryCheckpoint::new(&other, None).unwrap()).unwrap_err();
    assert!(error.contains("norm"), "{error}");
}

#[test]
fn a_diff_that_is_bound_again_keeps_what_is_unchanged() {
    let (base, tuned) = checkpoints();
    let mut other = base.clone();
    other.insert("norm".to_owned(), noise(&[5], 9, 1));
    let files = [file(&base), file(&tuned), file(&other)];
    let [base, tuned, other] = files.each_ref().map(|bytes| MemoryCheckpoint::new(bytes, None).unwrap());
    let (_, made) = there(&base, &tuned, Form::Bits);
    let mut adapter = fitment_core::read(&made).unwrap();
    fitment_convert::bind(&mut adapter, &base).unwrap();
    assert!(fitment_core::to_bytes(&adapter).unwrap() == made);
    let error = fitment_convert::bind(&mut adapter, &other).unwrap_err();
    assert!(error.to_string().contains("norm: the adapter asks for SHA-256"), "{error}");
}

#[test]
fn diffs_chain_and_are_not_applied_twice() {
    let steps: Vec<Vec<u8>> = [(0, 0), (3, 10), (20, 7)]
        .iter()
        .map(|(seed, step)| file(&Tensors::from([("w".to_owned(), noise(&[512], *seed, *step))])))
        .collect();
    let steps: Vec<MemoryCheckpoint<'_>> =
        steps.iter().map(|step| MemoryCheckpoint::new(step, None).unwrap()).collect();
    let (_, first) = there(&steps[0], &steps[1], Form::Bits);
    let (_, second) = there(&steps[1], &steps[2], Form::Bits);
    let (first, second) = (fitment_core::read(&first).unwrap(), fitment_core::read(&second).unwrap());
    let results = |adapter: &Adapter<'_>| match &adapter.edits[0] {
        Edit::Bits(bits) => (bits.base, bits.result),
        other => panic!("{}", other.kind()),
    };
    assert_eq!(results(&first).1, results(&second).0);
    assert!(applied(&[(&first, 1.0)], &steps[1]).unwrap_err().contains("already applied"));
    assert!(applied(&[(&second, 1.0)], &steps[0]).unwrap_err().contains("w differs"));
}

#[test]
fn config_values_that_differ_are_set_or_named() {
    let bytes = file(&Tensors::from([("w".to_owned(), noise(&[4], 0, 0))]));
    let config = |value: serde_json::Value| value.as_object().cloned();
    let base = MemoryCheckpoint::new(&bytes, config(json!({"vocab_size": 4, "rope_theta": 1.0}))).unwrap();
    let tuned = MemoryCheckpoint::new(&bytes, config(json!({"vocab_size": 6, "rope_theta": 2.0}))).unwrap();
    let spool = MemorySpool::default();
    let diff = diff(&base, &tuned, &Options::default(), &spool, &|_| true).unwrap();
    assert_eq!(diff.summary.other_config, ["rope_theta"]);
    let adapter = diff.adapter(&tuned, &[]).unwrap();
    assert!(matches!(&adapter.edits[..], [Edit::Config(edit)] if edit.value == ConfigValue::VocabSize(6)));
}

#[test]
fn a_model_of_other_shapes_is_refused_by_name_and_the_caller_may_stop() {
    let one = |dims: &[u64]| file(&Tensors::from([("w".to_owned(), noise(dims, 0, 0))]));
    let (base, tuned) = (one(&[4, 6]), one(&[6, 4]));
    let (base, tuned) =
        (MemoryCheckpoint::new(&base, None).unwrap(), MemoryCheckpoint::new(&tuned, None).unwrap());
    let spool = MemorySpool::default();
    let error = diff(&base, &tuned, &Options::default(), &spool, &|_| true).unwrap_err();
    assert_eq!(
        error.to_string(),
        "w: its shape is [4, 6] in the base and [6, 4] in the tuned checkpoint, and so with 1 of 1 tensors"
    );
    let error = diff(&base, &base, &Options::default(), &spool, &|_| false).unwrap_err();
    assert!(matches!(error, Error::Cancelled));
}

#[test]
fn a_tensor_of_another_shape_is_stored_and_named() {
    let of = |dims: &[u64], step| {
        let tensors = [("head".to_owned(), noise(dims, 0, 0)), ("w".to_owned(), noise(&[64, 64], 9, step))];
        file(&Tensors::from(tensors))
    };
    // Also one with as many elements, and one with other axes.
    for dims in [&[6, 4][..], &[3, 5], &[24], &[4, 6, 1], &[]] {
        let (base, tuned) = (of(&[4, 6], 0), of(dims, 2));
        let (base, tuned) =
            (MemoryCheckpoint::new(&base, None).unwrap(), MemoryCheckpoint::new(&tuned, None).unwrap());
        for form in FORMS {
            let (diff, bytes) = there(&base, &tuned, form);
            let info =
                |dims: &[u64]| Some(TensorInfo { dtype: Dtype::BF16, shape: Shape::new(dims).unwrap() });
            assert_eq!(diff.summary.others, [("head".to_owned(), info(&[4, 6]), info(dims))]);
            let adapter = fitment_core::read(&bytes).unwrap();
            assert!(matches!(&adapter.edits[0], Edit::Set(set) if set.reshape), "{dims:?}");
            let again = applied(&[(&adapter, 1.0)], &tuned);
            if form == Form::Bits {
                assert!(again.unwrap_err().contains("already applied"), "{dims:?}");
            }
            let half = Input { adapter: &adapter, weight: 0.5, name: "diff".to_owned() };
            let refusal = Plan::new(&[half], &base, &ApplyOptions::default()).unwrap_err().to_string();
            assert!(refusal.contains("head") && refusal.contains("another shape"), "{refusal}");
        }
    }
}

/// Whether a base is the result, or another, is asked of bit-exact changes first: a tensor that is stored whole cannot tell.
#[test]
fn a_tensor_stored_whole_does_not_hide_that_a_diff_is_applied_already() {
    let of = |small: u64, step: f32, dtype: Dtype| {
        let wide = matrix(64, 64, |row, column| (row * 64 + column) as f32 + step);
        let columns = 64 * 4 / dtype.bytes().unwrap() as u64;
        let wide = tensor(dtype, &[64, columns], wide.bytes().to_vec());
        // Six that are so small that they are stored whole come first.
        let small = (0..6).map(|number| (format!("a{number}"), noise(&[4], small, 1)));
        file(&small.chain([("w".to_owned(), wide)]).collect())
    };
    let files =
        [of(0, 0.0, Dtype::F32), of(5, 2.0, Dtype::F32), of(5, 3.0, Dtype::F32), of(0, 0.0, Dtype::BF16)];
    let [base, tuned, other, retyped] =
        [0, 1, 2, 3].map(|at: usize| MemoryCheckpoint::new(&files[at], None).unwrap());
    let (_, bytes) = there(&base, &tuned, Form::Bits);
    let adapter = fitment_core::read(&bytes).unwrap();
    assert_eq!(
        adapter.edits.iter().map(Edit::kind).collect::<Vec<_>>(),
        [&["set"; 6][..], &["bits"]].concat()
    );
    assert!(applied(&[(&adapter, 1.0)], &tuned).unwrap_err().contains("already applied: w is"));
    let error = applied(&[(&adapter, 1.0)], &other).unwrap_err();
    assert!(error.contains("this is not the base") && error.contains('w'), "{error}");
    let allowed = ApplyOptions { allow_base_mismatch: true, ..ApplyOptions::default() };
    let input = Input { adapter: &adapter, weight: 1.0, name: "diff".to_owned() };
    let refusal = Plan::new(&[input], &retyped, &allowed).unwrap_err();
    assert!(refusal.to_string().contains("w: diff was made for"), "{refusal}");
}

#[test]
fn copies_of_a_tied_tensor_are_stored_once() {
    let of = |head: usize, step| {
        let names = ["embed", "head", "other"];
        let noise = |name: &str| noise(&[40, 8], 5, if name == "other" { head } else { step });
        file(&Tensors::from(names.map(|name| (name.to_owned(), noise(name)))))
    };
    // Equal in the base alone is not enough.
    let (base, tuned) = (of(0, 0), of(3, 2));
    let (base, tuned) =
        (MemoryCheckpoint::new(&base, None).unwrap(), MemoryCheckpoint::new(&tuned, None).unwrap());
    for form in FORMS {
        let (diff, bytes) = there(&base, &tuned, form);
        let adapter = fitment_core::read(&bytes).unwrap();
        assert_eq!(adapter.edits.len(), 3);
        let stored = |edit: &Edit<'_>| {
            edit.tensors().into_iter().map(|(_, tensor)| tensor.bytes().as_ptr()).collect::<Vec<_>>()
        };
        let [embed, head, other] = [0, 1, 2].map(|place: usize| stored(&adapter.edits[place]));
        assert!(embed == head && embed != other, "{form:?}");
        let len =
            |edit: &Edit<'_>| edit.tensors().into_iter().map(|(_, t)| t.bytes().len() as u64).sum::<u64>();
        assert_eq!(diff.summary.stored_bytes, len(&adapter.edits[0]) + len(&adapter.edits[2]), "{form:?}");
    }
}

/// F32 of a matrix of noise.
fn matrix(rows: u64, columns: u64, number: impl Fn(u64, u64) -> f32) -> Tensor<'static> {
    let at = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
    let bytes = at.flat_map(|(row, column)| number(row, column).to_le_bytes()).collect();
    tensor(Dtype::F32, &[rows, columns], bytes)
}

/// Readable forms are made in blocks of 65,536 elements.
#[test]
fn tensors_of_several_blocks_and_differences_beyond_the_range() {
    const COUNT: u64 = 150_000;
    // Where the base is large and the tuned number small, the sum of base and rounded difference misses it.
    let base = |at: u64| if at >= 70_000 && at.is_multiple_of(999) { 1e8 } else { 1.0 + at as f32 };
    let tuned = |at: u64| if at.is_multiple_of(3) { 1.5 + (at % 1000) as f32 * 1e-7 } else { base(at) };
    let huge = |sign: f32| matrix(1, COUNT, move |_, at| if at == 140_000 { sign * f32::MAX } else { 1.0 });
    let odd = |of: f32| matrix(1, COUNT, move |_, at| if at == 100_000 { of } else { 1.0 + at as f32 });
    let (before, after) = (
        file(&Tensors::from([
            ("huge".to_owned(), huge(1.0)),
            ("odd".to_owned(), odd(1.0)),
            ("w".to_owned(), matrix(1, COUNT, |_, at| base(at))),
        ])),
        file(&Tensors::from([
            ("huge".to_owned(), huge(-1.0)),
            ("odd".to_owned(), odd(f32::NAN)),
            ("w".to_owned(), matrix(1, COUNT, |_, at| tuned(at))),
        ])),
    );
    let (before, after) =
        (MemoryCheckpoint::new(&before, None).unwrap(), MemoryCheckpoint::new(&after, None).unwrap());
    for (form, kinds) in
        [(Form::Add, ["set", "bits", "add"]), (Form::Sparse, ["sparse_set", "bits", "sparse_set"])]
    {
        let (_, bytes) = there(&before, &after, form);
        let adapter = fitment_core::read(&bytes).unwrap();
        assert_eq!(adapter.edits.iter().map(Edit::kind).collect::<Vec<_>>(), kinds);
        if let Edit::Add(add) = &adapter.edits[2] {
            let missed = add.exceptions.as_ref().unwrap().index.bytes().as_chunks::<4>().0;
            let last = u32::from_le_bytes(*missed.last().unwrap());
            assert!(missed.len() > 1 && last > 2 * 65_536, "{} missed, {last}", missed.len());
        }
    }
}

fn low_rank_ends() -> (Vec<u8>, Vec<u8>) {
    let wave = |row: u64, column: u64, of: f32| {
        ((row as f32 * of).sin() + 0.3) * ((column as f32 * (of + 0.7)).cos() - 0.2)
    };
    // A change of rank 3, falling by a tenth each; one of full rank; a vector, a convolution, and a number that is none.
    let change =
        |row, column| wave(row, column, 1.1) + 0.1 * wave(row, column, 2.3) + 0.01 * wave(row, column, 4.7);
    let rough = |row: u64, column: u64| ((row * 131 + column * 71) % 97) as f32 * 0.01;
    let odd = |value: f32| matrix(4, 4, move |row, column| if row + column == 0 { value } else { 1.0 });
    let base = Tensors::from([
        ("conv".to_owned(), tensor(Dtype::BF16, &[8, 2, 3, 3], vec![0; 288])),
        ("low".to_owned(), matrix(48, 64, rough)),
        ("nan".to_owned(), odd(1.0)),
        ("norm".to_owned(), noise(&[50], 0, 0)),
        ("rough".to_owned(), matrix(40, 40, rough)),
        ("same".to_owned(), noise(&[5, 5], 0, 0)),
    ]);
    let mut tuned = base.clone();
    let mut set = |name: &str, tensor: Tensor<'static>| tuned.insert(name.to_owned(), tensor);
    set("conv", noise(&[8, 2, 3, 3], 0, 0));
    set("low", matrix(48, 64, |row, column| rough(row, column) + change(row, column)));
    set("nan", odd(f32::NAN));
    set("norm", noise(&[50], 9, 3));
    set("rough", matrix(40, 40, |row, column| rough(row, column) + rough(column * 7 + 3, row * row)));
    (file(&base), file(&tuned))
}

fn numbers(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|number| f32::from_le_bytes(*number)).collect()
}

#[test]
fn matrices_are_approximated_and_say_how_far() {
    let (base, tuned) = low_rank_ends();
    let (base, tuned) =
        (MemoryCheckpoint::new(&base, None).unwrap(), MemoryCheckpoint::new(&tuned, None).unwrap());
    for (wanted, low_ranks, form) in [
        (LowRank::Rank(3), ["lora", "lora"], Form::Bits),
        (LowRank::Rank(1), ["lora", "lora"], Form::Add),
        (LowRank::Error(0.2), ["lora", "lora"], Form::Bits),
        (LowRank::Error(0.02), ["lora", "add"], Form::Add),
        (LowRank::Rank(40), ["bits", "bits"], Form::Bits),
    ] {
        let options = Options { form, low_rank: Some(wanted), ..Options::default() };
        let spool = MemorySpool::default();
        let diff = diff(&base, &tuned, &options, &spool, &|_| true).unwrap();
        let spooled = spool.into_bytes();
        let bytes = fitment_core::to_bytes(&diff.adapter(&tuned, &spooled).unwrap()).unwrap();
        let adapter = fitment_core::read(&bytes).unwrap();
        let edit = |name: &str| {
            adapter.edits.iter().find(|edit| edit.target().unwrap().name.as_str() == name).unwrap()
        };
        let whole = if form == Form::Add { "add" } else { "set" };
        assert_eq!([edit("norm").kind(), edit("conv").kind(), edit("nan").kind()], [whole, whole, "bits"]);
        assert_eq!(edit("low").kind(), low_ranks[0], "{wanted:?}");
        if matches!(wanted, LowRank::Rank(_)) || low_ranks[1] == "add" {
            assert_eq!(edit("rough").kind(), low_ranks[1], "{wanted:?}");
        }
        let written = applied(&[(&adapter, 1.0)], &base).unwrap();
        for (name, (_, restored)) in &written {
            let wanted_bytes = tuned.read(name).unwrap();
            let of_it = |edit: &&Edit<'_>| edit.target().is_some_and(|target| target.name.as_str() == name);
            let Some(Edit::Lora(lora)) = adapter.edits.iter().find(of_it) else {
                assert!(restored[..] == wanted_bytes[..], "{name}");
                continue;
            };
            let (from, to, got) =
                (numbers(&base.read(name).unwrap()), numbers(&wanted_bytes), numbers(restored));
            let square =
                |of: &dyn Fn(usize) -> f32| (0..to.len()).map(|at| f64::from(of(at)).powi(2)).sum::<f64>();
            let relative = (square(&|at| to[at] - got[at]) / square(&|at| to[at] - from[at])).sqrt();
            let said = lora.origin.extra["approximation"]["relative_error"].as_f64().unwrap();
            assert!((relative - said).abs() < 1e-4, "{name}: {relative} {said}");
            match wanted {
                LowRank::Rank(rank) => assert_eq!(lora.rank(), rank as u64),
                LowRank::Error(most) => assert!(said <= most, "{name}: {said}"),
            }
            if (name.as_str(), wanted) == ("low", LowRank::Rank(3)) {
                assert!(said < 1e-5, "{said}");
            }
        }
    }
}

#[test]
fn a_new_tensor_with_numbers_that_no_reader_takes_is_refused_by_name() {
    let base = Tensors::from([("w".to_owned(), noise(&[4], 0, 0))]);
    let mut tuned = base.clone();
    let mask = [0.0f32, f32::NEG_INFINITY].iter().flat_map(|number| number.to_le_bytes()).collect();
    tuned.insert("mask".to_owned(), tensor(Dtype::F32, &[2], mask));
    let bytes = (file(&base), file(&tuned));
    let (base, tuned) =
        (MemoryCheckpoint::new(&bytes.0, None).unwrap(), MemoryCheckpoint::new(&bytes.1, None).unwrap());
    let spool = MemorySpool::default();
    let error = diff(&base, &tuned, &Options::default(), &spool, &|_| true).unwrap_err();
    assert!(matches!(error, Error::NotFinite { position: 1, .. }), "{error}");
    assert!(error.to_string().starts_with("mask: element 1 is NaN or infinite"), "{error}");
}
