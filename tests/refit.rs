//! Adapters on a base that has their linear layers fused, or apart: the weights that PEFT merges in the other form.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod applied;

use applied::weights;
use fitment_convert::{
    Converted, Error, FormatId, Loss, OutputFile, QkvRows, ReadOptions, WriteOptions, read, write,
};
use fitment_core::Adapter;
use fitment_core::checkpoint::{Checkpoint, MemoryCheckpoint};
use fitment_core::container::write_container;
use fitment_core::model::Edit;
use fitment_core::tensor::{Shape, Tensor};
use fitment_io::{Access, AdapterFiles, CheckpointDir};
use fitment_tests::compare::distance;
use fitment_tests::place::fixture;
use fitment_tests::program::fitment;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Adapter, form that it was made on, form that it is to be fitted to.
const CASES: &[(&str, &str, &str)] = &[
    ("phi3/of_fused", "fused", "split"),
    ("phi3/of_fused_dora", "fused", "split"),
    ("phi3/of_split", "split", "fused"),
    ("phi3/of_split_some", "split", "fused"),
    ("phi3/of_split_dora", "split", "fused"),
    ("gpt_neox/of_fused", "fused", "split"),
    ("gpt_neox/of_split", "split", "fused"),
    ("gpt2/of_fused", "fused", "split"),
    ("gpt2/of_split", "split", "fused"),
    ("codegen/of_fused", "fused", "split"),
    ("codegen/of_split", "split", "fused"),
];

fn path(name: &str) -> PathBuf {
    fixture("refit").join(name)
}

fn base(name: &str, form: &str) -> CheckpointDir {
    CheckpointDir::open(&path(name).parent().unwrap().join(form), Access::Map).unwrap()
}

/// `query_key_value` on a base in parts can have either order.
fn rows(name: &str, onto: &str) -> Option<QkvRows> {
    match (name.split('/').next(), onto) {
        (Some("gpt_neox"), "split") => Some(QkvRows::Grouped),
        (Some("gpt2"), "split") => Some(QkvRows::Together),
        (Some("codegen"), "split") => Some(QkvRows::Blocks),
        _ => None,
    }
}

fn options(base: &dyn Checkpoint) -> ReadOptions<'_> {
    ReadOptions { base: Some(base), ..ReadOptions::default() }
}

fn refit<'a>(
    files: &'a AdapterFiles,
    base: &dyn Checkpoint,
    rows: Option<QkvRows>,
) -> Result<Converted<'a>, Error> {
    read(&files.iter().collect(), &ReadOptions { refit: true, qkv_rows: rows, ..options(base) })
}

fn memory(files: &[OutputFile<'_>]) -> Vec<(String, Vec<u8>)> {
    let bytes = |file: &OutputFile<'_>| {
        let mut bytes = Vec::new();
        file.write_to(&mut bytes).unwrap();
        (file.path.clone(), bytes)
    };
    files.iter().map(bytes).collect()
}

/// Every weight against the ones that PEFT merged, which are sums of F32 products.
fn assert_merged(name: &str, weights: &BTreeMap<String, Vec<u8>>, base: &dyn Checkpoint) {
    let bytes = fs::read(path(&format!("{name}.merged.safetensors"))).unwrap();
    let merged = MemoryCheckpoint::new(&bytes, None).unwrap();
    let mut changed = 0;
    for (name_on_disk, info) in base.tensors() {
        let (was, ours) = (base.read(name_on_disk).unwrap(), &weights[name_on_disk]);
        // Heads have other names in the class than on disk; no adapter here changes one.
        let wanted = merged.read(name_on_disk).unwrap_or_else(|_| was.clone());
        let far = distance(info.dtype, ours, &wanted, Some(&was));
        assert!(far.relative < 1e-6, "{name}: {name_on_disk} {far:?}");
        changed += usize::from(*was != ours[..]);
    }
    assert!(changed > 0, "{name}");
}

#[test]
fn what_is_fitted_gives_the_weights_that_peft_merges() {
    for (name, _, onto) in CASES {
        let (base, files) = (base(name, onto), AdapterFiles::load(&path(name)).unwrap());
        let converted =
            refit(&files, &base, rows(name, onto)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_merged(name, &weights(&converted.adapter, &base), &base);
        let is_listed = |loss: &Loss| matches!(loss, Loss::Refitted { .. });
        assert!(converted.losses.iter().any(is_listed), "{name}: {:?}", converted.losses);
        assert!(!converted.losses.iter().any(Loss::changes_function), "{name}: {:?}", converted.losses);
    }
}

/// A new folder for the base's own class, which PEFT finds by names alone.
#[test]
fn a_fitted_adapter_is_written_for_the_base_and_computes_the_same() {
    for (name, _, onto) in CASES {
        let (base, files) = (base(name, onto), AdapterFiles::load(&path(name)).unwrap());
        let fitted = refit(&files, &base, rows(name, onto)).unwrap().adapter;
        let written = write(&fitted, FormatId::Peft, &WriteOptions::on(Some(&base))).unwrap();
        assert!(!written.losses.iter().any(Loss::changes_function), "{name}: {:?}", written.losses);
        let folder = memory(&written.files);
        let files = folder.iter().map(|(path, bytes)| (path.as_str(), &bytes[..])).collect();
        let again = read(&files, &options(&base)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_merged(name, &weights(&again.adapter, &base), &base);
    }
}

/// There and back, a low-rank update has the bytes that it had: ranks do not grow by the way.
#[test]
fn there_and_back_the_factors_are_the_same() {
    for (name, from, onto) in CASES.iter().filter(|(name, ..)| name.contains("of_split")) {
        let (own, other) = (base(name, from), base(name, onto));
        let files = AdapterFiles::load(&path(name)).unwrap();
        let was = read(&files.iter().collect(), &options(&own)).unwrap().adapter;
        let there = refit(&files, &other, rows(name, onto)).unwrap().adapter;
        let written = write(&there, FormatId::Peft, &WriteOptions::on(Some(&other))).unwrap();
        let folder = memory(&written.files);
        let files = folder.iter().map(|(path, bytes)| (path.as_str(), &bytes[..])).collect();
        let how = ReadOptions { refit: true, qkv_rows: rows(name, from), ..options(&own) };
        let back = read(&files, &how).unwrap_or_else(|error| panic!("{name}: {error}")).adapter;
        let by_name = |adapter: &Adapter<'_>| -> BTreeMap<String, (Vec<u8>, Vec<u8>, f64)> {
            let lora = |edit: &Edit<'_>| match edit {
                Edit::Lora(lora) => {
                    let bytes = |tensor: &Tensor<'_>| tensor.bytes().to_vec();
                    Some((lora.target.label(), (bytes(&lora.up), bytes(&lora.down), lora.scale)))
                }
                _ => None,
            };
            adapter.edits.iter().filter_map(lora).collect()
        };
        let (was, back) = (by_name(&was), by_name(&back));
        assert_eq!(was.keys().collect::<Vec<_>>(), back.keys().collect::<Vec<_>>(), "{name}");
        for (target, (up, down, scale)) in &was {
            let (up_back, down_back, scale_back) = &back[target];
            assert_eq!(down.len(), down_back.len(), "{name}: {target}");
            if scale == scale_back {
                assert!(up == up_back && down == down_back, "{name}: {target}");
            }
        }
    }
}

/// A Fitment file that is bound to one form is bound to the other: the digests of the parts are those of the rows.
#[test]
fn a_bound_file_knows_its_weights_in_the_other_form() {
    let (own, other) = (base("phi3/of_split", "split"), base("phi3/of_split", "fused"));
    let files = AdapterFiles::load(&path("phi3/of_split")).unwrap();
    let bound = read(&files.iter().collect(), &options(&own)).unwrap().adapter;
    let written = write(&bound, FormatId::Fitment, &WriteOptions::default()).unwrap();
    let file = memory(&written.files);
    let files = file.iter().map(|(path, bytes)| (path.as_str(), &bytes[..])).collect();
    let how = ReadOptions { refit: true, ..options(&other) };
    let fitted = read(&files, &how).unwrap().adapter;
    assert!(
        fitted.base.is_bound()
            && fitted.base.find(None, "model.layers.0.self_attn.qkv_proj.weight").is_some()
    );
    assert_merged("phi3/of_split", &weights(&fitted, &other), &other);
    // The same names, other weights.
    let strange = Changed::new(&other, "model.layers.0.self_attn.qkv_proj.weight");
    let error = read(&files, &ReadOptions { base: Some(&strange), ..how }).unwrap_err();
    let Error::Mismatch { culprits } = &error else { panic!("{error}") };
    assert!(culprits[0].target.contains("self_attn.") && error.to_string().contains("SHA-256"), "{error}");
}

/// What apply says then is not that tensors are missing.
#[test]
fn a_bound_file_on_other_weights_in_the_other_form_is_for_another_base() {
    let room = tempfile::tempdir().unwrap();
    let [file, strange, out] = ["x.fitment.safetensors", "strange", "out"].map(|name| room.path().join(name));
    let own = path("phi3/split");
    let run = |arguments: [&Path; 6]| fitment().args(arguments).output().unwrap();
    let (convert, apply, to) = (Path::new("convert"), Path::new("apply"), Path::new("-o"));
    assert!(run([convert, &path("phi3/of_split"), to, &file, Path::new("--base"), &own]).status.success());
    fs::create_dir(&strange).unwrap();
    fs::copy(path("phi3/fused/config.json"), strange.join("config.json")).unwrap();
    let mut bytes = fs::read(path("phi3/fused/model.safetensors")).unwrap();
    let start = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    bytes[start..].iter_mut().step_by(4).for_each(|byte| *byte ^= 1);
    fs::write(strange.join("model.safetensors"), bytes).unwrap();
    let output = run([apply, &strange, &file, to, &out, Path::new("-q")]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("SHA-256") && text.contains("made for another base"), "{text}");
}

/// A base with one tensor of other numbers.
struct Changed<'b>(&'b CheckpointDir, &'static str);

impl<'b> Changed<'b> {
    fn new(base: &'b CheckpointDir, name: &'static str) -> Self {
        Self(base, name)
    }
}

impl Checkpoint for Changed<'_> {
    fn config(&self) -> Option<&serde_json::Map<String, serde_json::Value>> {
        self.0.config()
    }

    fn tensors(&self) -> &BTreeMap<String, fitment_core::checkpoint::TensorInfo> {
        self.0.tensors()
    }

    fn read(
        &self,
        name: &str,
    ) -> Result<std::borrow::Cow<'_, [u8]>, fitment_core::checkpoint::CheckpointError> {
        let mut bytes = self.0.read(name)?.into_owned();
        if name == self.1 {
            bytes[0] ^= 1;
        }
        Ok(bytes.into())
    }
}

fn refusal(name: &str, base: &dyn Checkpoint, rows: Option<QkvRows>) -> (String, String) {
    let files = AdapterFiles::load(&path(name)).unwrap();
    let error = refit(&files, base, rows).unwrap_err();
    (error.to_string(), error.hint().unwrap_or_default())
}

#[test]
fn an_order_that_nothing_says_is_asked_for() {
    let split = base("gpt_neox/of_fused", "split");
    let (line, hint) = refusal("gpt_neox/of_fused", &split, None);
    assert_eq!(
        line,
        "gpt_neox.layers.0.attention.query_key_value: the base has it in parts, and in which order the adapter has their rows is not known"
    );
    assert!(hint.contains("--qkv-rows"), "{hint}");
    // Of a base without its config nobody knows the heads.
    let folder = tempfile::tempdir().unwrap();
    let weights = path("gpt_neox/fused/model.safetensors");
    fs::copy(weights, folder.path().join("model.safetensors")).unwrap();
    let bare = CheckpointDir::open(folder.path(), Access::Map).unwrap();
    let (line, hint) = refusal("gpt_neox/of_split", &bare, Some(QkvRows::Grouped));
    assert!(line.contains("how many heads"), "{line}");
    assert!(hint.contains("config.json") && !hint.contains("--qkv-rows"), "{hint}");
    // GPT-J's parts are CodeGen's `qkv_proj`, whose order is no other model's.
    let split = base("codegen/of_fused", "split");
    let (line, hint) = refusal("codegen/of_fused", &split, None);
    assert!(line.contains("qkv_proj") && hint.contains("--qkv-rows blocks"), "{line}: {hint}");
    // Said, an order that does not come out even is not asked for again.
    let split = base("phi3/of_fused", "split");
    let (line, hint) = refusal("phi3/of_fused", &split, Some(QkvRows::Blocks));
    assert!(
        line.contains("do not come out even") && hint.contains("whether --qkv-rows blocks"),
        "{line}: {hint}"
    );
}

#[test]
fn an_order_that_decides_nothing_is_refused() {
    let fused = base("phi3/of_fused", "fused");
    let (line, _) = refusal("phi3/of_fused", &fused, Some(QkvRows::Together));
    assert!(line.starts_with("--qkv-rows decides nothing"), "{line}");
}

#[test]
fn an_order_that_the_base_knows_is_not_overruled_and_one_that_was_said_is_recorded() {
    for (name, said) in [("codegen/of_split", QkvRows::Grouped), ("gpt_neox/of_split", QkvRows::Together)] {
        let (line, hint) = refusal(name, &base(name, "fused"), Some(said));
        assert!(line.contains("contradicts the base") && hint == "leave it out", "{line}: {hint}");
    }
    let recorded = |name: &str, form: &str, rows| {
        let (base, files) = (base(name, form), AdapterFiles::load(&path(name)).unwrap());
        let adapter = refit(&files, &base, rows).unwrap().adapter;
        adapter.source.unwrap().options.get("qkv-rows").cloned()
    };
    let grouped = recorded("gpt_neox/of_fused", "split", Some(QkvRows::Grouped));
    assert_eq!(grouped.as_deref(), Some("grouped"));
    assert_eq!(recorded("codegen/of_split", "fused", Some(QkvRows::Blocks)).as_deref(), Some("blocks"));
    assert_eq!(recorded("codegen/of_split", "fused", None), None);
}

#[test]
fn without_leave_names_are_names() {
    let files = AdapterFiles::load(&path("phi3/of_split")).unwrap();
    let fused = base("phi3/of_split", "fused");
    let error = read(&files.iter().collect(), &options(&fused)).unwrap_err();
    assert!(matches!(error, Error::Unmapped { .. }), "{error}");
    // What the base has in neither form stays missing.
    let other = CheckpointDir::open(Path::new(&path("gpt2/fused")), Access::Map).unwrap();
    let error = refit(&files, &other, None).unwrap_err();
    assert!(matches!(error, Error::Unmapped { .. }), "{error}");
}

#[test]
fn mlx_gets_whole_modules() {
    for name in ["phi3/of_split", "phi3/of_split_dora"] {
        let (base, files) = (base(name, "fused"), AdapterFiles::load(&path(name)).unwrap());
        let fitted = refit(&files, &base, None).unwrap().adapter;
        let written = write(&fitted, FormatId::Mlx, &WriteOptions::on(Some(&base))).unwrap();
        let lost: Vec<&Loss> = written.losses.iter().filter(|loss| loss.changes_function()).collect();
        assert!(lost.is_empty(), "{name}: {lost:?}");
        let folder = memory(&written.files);
        let files = folder.iter().map(|(path, bytes)| (path.as_str(), &bytes[..])).collect();
        let again = read(&files, &options(&base)).unwrap().adapter;
        assert_merged(name, &weights(&again, &base), &base);
    }
}

/// The base of a case with the experts of each layer in one tensor, as transformers 5 has them in memory.
fn stacked(base: &CheckpointDir) -> Vec<u8> {
    let mut tensors: BTreeMap<String, (Vec<u64>, fitment_core::tensor::Dtype, Vec<u8>)> = BTreeMap::new();
    for (name, info) in base.tensors() {
        let bytes = base.read(name).unwrap().into_owned();
        let Some((block, rest)) = name.split_once(".block_sparse_moe.experts.") else {
            tensors.insert(name.clone(), (info.shape.dims().to_vec(), info.dtype, bytes));
            continue;
        };
        if rest.starts_with("0.w1") {
            let matrix = |expert: u64, word: &str| {
                let name = format!("{block}.block_sparse_moe.experts.{expert}.{word}.weight");
                base.tensors()
                    .get(&name)
                    .map(|info| (info.shape.dims().to_vec(), base.read(&name).unwrap().into_owned()))
            };
            let count = (0..).take_while(|expert| matrix(*expert, "w1").is_some()).count() as u64;
            for (stack, words) in [("gate_up_proj", &["w1", "w3"][..]), ("down_proj", &["w2"])] {
                let (dims, _) = matrix(0, words[0]).unwrap();
                let all = (0..count)
                    .flat_map(|expert| words.iter().flat_map(move |word| matrix(expert, word).unwrap().1));
                let dims = vec![count, dims[0] * words.len() as u64, dims[1]];
                tensors.insert(format!("{block}.mlp.experts.{stack}"), (dims, info.dtype, all.collect()));
            }
        }
    }
    let tensors: Vec<(String, Tensor<'_>)> = tensors
        .into_iter()
        .map(|(name, (dims, dtype, bytes))| {
            (name, Tensor::owned(dtype, Shape::new(&dims).unwrap(), bytes).unwrap())
        })
        .collect();
    let mut file = Vec::new();
    write_container(&BTreeMap::new(), tensors.iter().map(|(name, tensor)| (name.clone(), tensor)), &mut file)
        .unwrap();
    file
}

/// Experts that an adapter has each by itself, on a base that has them in one tensor.
#[test]
fn single_experts_are_fitted_to_a_stack() {
    let case = fixture("peft/experts_each");
    let own = CheckpointDir::open(&case.join("base"), Access::Map).unwrap();
    let bytes = stacked(&own);
    let stack = MemoryCheckpoint::new(&bytes, own.config().cloned()).unwrap();
    let files = AdapterFiles::load(&case.join("adapter")).unwrap();
    let was = read(&files.iter().collect(), &options(&own)).unwrap().adapter;
    let fitted = refit(&files, &stack, None).unwrap();
    assert!(!fitted.losses.iter().any(Loss::changes_function), "{:?}", fitted.losses);
    let (wanted, found) = (weights(&was, &own), weights(&fitted.adapter, &stack));
    let mut compared = 0;
    for (name, tensor) in &wanted {
        let Some((block, rest)) = name.split_once(".block_sparse_moe.experts.") else { continue };
        let (expert, word) = rest.split_once('.').unwrap();
        let (name, part, parts) = match word {
            "w1.weight" => ("gate_up_proj", 0, 2),
            "w3.weight" => ("gate_up_proj", 1, 2),
            _ => ("down_proj", 0, 1),
        };
        let whole = &found[&format!("{block}.mlp.experts.{name}")];
        let start = (expert.parse::<usize>().unwrap() * parts + part) * tensor.len();
        assert!(whole[start..start + tensor.len()] == tensor[..], "{name} of {expert}");
        compared += 1;
    }
    assert!(compared >= 9 && wanted.values().len() > compared);
    // PEFT has such a stack under `target_parameters`.
    let written = write(&fitted.adapter, FormatId::Peft, &WriteOptions::on(Some(&stack))).unwrap();
    assert!(!written.losses.iter().any(Loss::changes_function), "{:?}", written.losses);
    let folder = memory(&written.files);
    let files = folder.iter().map(|(path, bytes)| (path.as_str(), &bytes[..])).collect();
    let again = read(&files, &options(&stack)).unwrap().adapter;
    assert!(weights(&again, &stack) == found);
}

/// What PEFT saves of one LoRA on `o_proj`, and of `q_proj` whole.
fn with_saved(rows: u64) -> Vec<(String, Vec<u8>)> {
    let config = serde_json::json!({
        "peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["o_proj"], "modules_to_save": ["q_proj"],
        "task_type": "CAUSAL_LM", "peft_version": "0.21.2",
    });
    let tensor = |dims: &[u64]| {
        let bytes: Vec<u8> =
            (0..dims.iter().product::<u64>()).flat_map(|at| (at as f32 / 7.0).to_le_bytes()).collect();
        Tensor::owned(fitment_core::tensor::Dtype::F32, Shape::new(dims).unwrap(), bytes).unwrap()
    };
    let layer = "base_model.model.model.layers.0.self_attn";
    let tensors = [
        (format!("{layer}.o_proj.lora_A.weight"), tensor(&[1, 16])),
        (format!("{layer}.o_proj.lora_B.weight"), tensor(&[16, 1])),
        (format!("{layer}.q_proj.weight"), tensor(&[rows, 16])),
    ];
    let mut weights = Vec::new();
    write_container(
        &BTreeMap::new(),
        tensors.iter().map(|(name, tensor)| (name.clone(), tensor)),
        &mut weights,
    )
    .unwrap();
    vec![
        ("adapter_config.json".to_owned(), config.to_string().into_bytes()),
        ("adapter_model.safetensors".to_owned(), weights),
    ]
}

fn listed(folder: &[(String, Vec<u8>)]) -> fitment_convert::Files<'_> {
    folder.iter().map(|(path, bytes)| (path.as_str(), &bytes[..])).collect()
}

/// A saved module of a layer that the base calls otherwise is not new to it.
#[test]
fn a_whole_module_of_a_layer_is_fitted_and_never_created_beside() {
    let (folder, fused, split) = (with_saved(16), base("phi3/x", "fused"), base("phi3/x", "split"));
    let error = read(&listed(&folder), &options(&fused)).unwrap_err();
    assert!(matches!(error, Error::Unmapped { .. }), "{error}");
    let fitted = read(&listed(&folder), &ReadOptions { refit: true, ..options(&fused) }).unwrap().adapter;
    let plain = read(&listed(&folder), &options(&split)).unwrap().adapter;
    let (on_fused, on_split) = (weights(&fitted, &fused), weights(&plain, &split));
    let qkv = "model.layers.0.self_attn.qkv_proj.weight";
    let own = &on_split["model.layers.0.self_attn.q_proj.weight"];
    assert!(
        on_fused[qkv][..own.len()] == own[..]
            && on_fused[qkv][own.len()..] == fused.read(qkv).unwrap()[own.len()..]
    );
    assert_eq!(on_fused.len(), fused.tensors().len());
    // Only a vocabulary may have another number of rows than the base.
    let error = read(&listed(&with_saved(12)), &options(&split)).unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    assert!(error.to_string().contains("[12, 16]") && error.to_string().contains("[16, 16]"), "{error}");
}

#[test]
fn what_was_fitted_to_a_whole_goes_back_to_its_parts() {
    for (name, rows) in
        [("phi3/of_split", None), ("phi3/of_split_dora", None), ("gpt_neox/of_split", Some(QkvRows::Grouped))]
    {
        let (own, other) = (base(name, "split"), base(name, "fused"));
        let files = AdapterFiles::load(&path(name)).unwrap();
        let was = read(&files.iter().collect(), &options(&own)).unwrap().adapter;
        let there = refit(&files, &other, None).unwrap().adapter;
        let written = write(&there, FormatId::Fitment, &WriteOptions::default()).unwrap();
        let file = memory(&written.files);
        let how = ReadOptions { refit: true, qkv_rows: rows, ..options(&own) };
        let back = read(&listed(&file), &how).unwrap_or_else(|error| panic!("{name}: {error}")).adapter;
        assert!(weights(&back, &own) == weights(&was, &own), "{name}");
    }
}

/// Converted without a base, stacks of experts have the names of the class; the base may have each matrix by itself.
#[test]
fn stacks_of_an_unbound_file_come_apart_for_a_base_of_single_experts() {
    let case = fixture("peft/experts_mixtral");
    let own = CheckpointDir::open(&case.join("base"), Access::Map).unwrap();
    let files = AdapterFiles::load(&case.join("adapter")).unwrap();
    let was = read(&files.iter().collect(), &options(&own)).unwrap().adapter;
    let unbound = read(&files.iter().collect(), &ReadOptions::default()).unwrap().adapter;
    let written = write(&unbound, FormatId::Fitment, &WriteOptions::default()).unwrap();
    let file = memory(&written.files);
    let fitted = read(&listed(&file), &ReadOptions { refit: true, ..options(&own) }).unwrap();
    assert!(fitted.losses.iter().any(|loss| matches!(loss, Loss::Refitted { .. })), "{:?}", fitted.losses);
    assert!(weights(&fitted.adapter, &own) == weights(&was, &own));
}
