//! Fitment files themselves, alone and beside a base.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_convert::{Files, ReadOptions};
use fitment_core::Severity;
use fitment_core::checkpoint::{Checkpoint, MemoryCheckpoint};
use fitment_core::container::write_container;
use fitment_core::identity::sha256;
use fitment_core::model::{Adapter, BaseTensor, Edit, Lora, LoraForm, Origin, Target, TensorName};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_validate::{Error, Input, Options, Outcome, Verdict, codes, validate};
use std::collections::BTreeMap;

fn floats(dims: &[u64], value: f32) -> Tensor<'static> {
    let shape = Shape::new(dims).unwrap();
    let bytes: Vec<u8> = (0..shape.elements()).flat_map(|_| value.to_le_bytes()).collect();
    Tensor::owned(Dtype::F32, shape, bytes).unwrap()
}

const TARGET: &str = "model.layers.0.mlp.up_proj.weight";

fn adapter(value: f32) -> Adapter<'static> {
    let base = floats(&[4, 2], 0.5);
    let entry = BaseTensor {
        unchanged: false,
        component: None,
        name: TensorName::new(TARGET).unwrap(),
        experts: None,
        dtype: Some(Dtype::F32),
        shape: Some(base.shape().clone()),
        digests: vec![sha256(base.bytes())],
        extra: serde_json::Map::new(),
    };
    let lora = Lora {
        target: Target::whole(TensorName::new(TARGET).unwrap()),
        form: LoraForm::Matrix,
        transposed: false,
        scale: 2.0,
        up: floats(&[4, 1], value),
        down: floats(&[1, 2], 1.0),
        mid: None,
        magnitude: None,
        origin: Origin::default(),
    };
    let mut adapter = Adapter { edits: vec![Edit::Lora(lora)], ..Adapter::default() };
    adapter.base.name = Some("org/tiny".into());
    adapter.base.tensors = vec![entry];
    adapter
}

fn base(value: f32) -> Vec<u8> {
    let (tensor, mut bytes) = (floats(&[4, 2], value), Vec::new());
    write_container(&BTreeMap::new(), [(TARGET.to_owned(), &tensor)], &mut bytes).unwrap();
    bytes
}

fn outcome(bytes: &[u8], base: Option<&[u8]>, options: &Options) -> Outcome {
    let files: Files<'_> = [("a.safetensors", bytes)].into_iter().collect();
    let input = Input { name: "x/a.safetensors", files: &files, options: ReadOptions::default() };
    let base = base.map(|bytes| MemoryCheckpoint::new(bytes, None).unwrap());
    validate(&input, base.as_ref().map(|base| base as &dyn Checkpoint), options).unwrap()
}

fn lines(outcome: &Outcome) -> String {
    outcome.findings.iter().map(|finding| format!("{finding}\n")).collect()
}

fn sound() -> Vec<u8> {
    fitment_core::to_bytes(&adapter(1.0)).unwrap()
}

#[test]
fn a_bound_file_on_its_base_is_clean() {
    let found = outcome(&sound(), Some(&base(0.5)), &Options::default());
    insta::assert_snapshot!(lines(&found), @"note[B012]: hit: mlp.up_proj 0");
    assert!(found.checked.format && found.checked.weights && found.checked.base);
    assert_eq!(found.checked.digests, 1);
    assert_eq!(found.verdict(Severity::Warning), Verdict::Clean);
}

#[test]
fn a_base_of_other_content_is_an_error_that_names_the_tensor() {
    let found = outcome(&sound(), Some(&base(0.75)), &Options::default());
    insta::assert_snapshot!(lines(&found), @"
    error[B005] model.layers.0.mlp.up_proj.weight: the base differs here from the one that the adapter was made for: SHA-256 1aa83a6fdb8c9f0a…, recorded f09896aef1dbfb9c…
    note[B012]: hit: mlp.up_proj 0
    ");
    assert_eq!(found.verdict(Severity::Error), Verdict::Findings);
}

#[test]
fn without_a_base_its_absence_is_noted() {
    insta::assert_snapshot!(lines(&outcome(&sound(), None, &Options::default())), @r#"note[B017]: no base was given: nothing was checked about a fit; the adapter says it was made for "org/tiny""#);
}

#[test]
fn a_note_can_be_denied_and_an_error_allowed() {
    let code = |text: &str| codes::find(text).unwrap().code;
    let options =
        Options { allow: vec![code("b014"), code("E013")], deny: vec![code("B017")], ..Options::default() };
    let zeros = fitment_core::to_bytes(&adapter(0.0)).unwrap();
    let found = outcome(&zeros, None, &options);
    assert_eq!((found.allowed, found.count(Severity::Error), found.findings.len()), (2, 1, 1));
    assert_eq!(found.findings[0].code.0, "B017");
}

#[test]
fn a_weight_that_is_not_a_number_is_found_and_the_fit_is_checked_all_the_same() {
    let bytes = fitment_core::to_bytes(&adapter(f32::NAN)).unwrap();
    insta::assert_snapshot!(lines(&outcome(&bytes, Some(&base(0.75)), &Options::default())), @"
    error[E012] model.layers.0.mlp.up_proj.weight::0.lora.up: element 0 is NaN or infinite
    error[B005] model.layers.0.mlp.up_proj.weight: the base differs here from the one that the adapter was made for: SHA-256 1aa83a6fdb8c9f0a…, recorded f09896aef1dbfb9c…
    note[B012]: hit: mlp.up_proj 0
    ");
}

#[test]
fn values_that_are_not_at_hand_are_no_findings() {
    let mut bytes = sound();
    let container = fitment_core::container::read_foreign(&bytes).unwrap();
    let weights: Vec<_> = container.entries().iter().filter(|entry| entry.dtype.is_weight()).collect();
    let ranges: Vec<_> = weights.into_iter().map(|entry| container.data_range(entry)).collect();
    for range in ranges {
        bytes[range].fill(0);
    }
    let whole = outcome(&bytes, Some(&base(0.75)), &Options::default());
    assert!(whole.count(Severity::Error) > 1 && whole.checked.weights && whole.checked.digests == 1);
    let options = Options { structure_only: true, ..Options::default() };
    let found = outcome(&bytes, Some(&base(0.75)), &options);
    insta::assert_snapshot!(lines(&found), @"note[B012]: hit: mlp.up_proj 0");
    assert!(found.checked.format && !found.checked.weights && found.checked.digests == 0);
}

#[test]
fn a_re_saved_file_breaks_the_form_only_and_is_still_compared() {
    let bytes = sound();
    let header_len = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    let (head, data) = bytes[8..].split_at(header_len);
    let spaced = format!("{} ", std::str::from_utf8(head).unwrap().trim_end().replacen("\":{", "\": {", 1));
    let pad = spaced.len().next_multiple_of(8);
    let mut saved = (pad as u64).to_le_bytes().to_vec();
    saved.extend(format!("{spaced:<pad$}").into_bytes());
    saved.extend(data);
    let found = outcome(&saved, Some(&base(0.75)), &Options::default());
    let codes: Vec<&str> = found.findings.iter().map(|finding| finding.code.0).collect();
    assert!(codes.contains(&"C020") && codes.contains(&"B005"), "{codes:?}");
}

#[test]
fn every_truncation_has_an_error() {
    let bytes = sound();
    for len in 0..bytes.len() {
        let found = outcome(&bytes[..len], None, &Options::default());
        assert_eq!(found.verdict(Severity::Error), Verdict::Findings, "cut at {len}: {found:#?}");
    }
}

#[test]
fn a_sound_container_of_something_else_cannot_be_checked() {
    let found = outcome(&base(1.0), None, &Options::default());
    assert_eq!(found.verdict(Severity::Note), Verdict::Unchecked);
    assert!(found.refusal.unwrap().message.starts_with("no known adapter format"));
}

#[test]
fn text_is_not_judged_as_a_container() {
    let files: Files<'_> = [("notes.md", &b"# hello"[..])].into_iter().collect();
    let input = Input { name: "notes.md", files: &files, options: ReadOptions::default() };
    let found = validate(&input, None, &Options::default()).unwrap();
    assert_eq!((found.findings.len(), found.verdict(Severity::Note)), (0, Verdict::Unchecked));
}

struct Unreadable(MemoryCheckpoint<'static>);

impl Checkpoint for Unreadable {
    fn config(&self) -> Option<&serde_json::Map<String, serde_json::Value>> {
        None
    }

    fn tensors(&self) -> &BTreeMap<String, fitment_core::checkpoint::TensorInfo> {
        self.0.tensors()
    }

    fn read(
        &self,
        name: &str,
    ) -> Result<std::borrow::Cow<'_, [u8]>, fitment_core::checkpoint::CheckpointError> {
        Err(fitment_core::checkpoint::CheckpointError::missing(name))
    }
}

#[test]
fn a_base_that_cannot_be_read_is_an_error_and_no_finding() {
    let base = Unreadable(MemoryCheckpoint::new(base(0.5).leak(), None).unwrap());
    let bytes = sound();
    let files: Files<'_> = [("a.safetensors", &bytes[..])].into_iter().collect();
    let input = Input { name: "a.safetensors", files: &files, options: ReadOptions::default() };
    let error = validate(&input, Some(&base), &Options::default()).unwrap_err();
    assert!(matches!(error, Error::Base(_)), "{error}");
}
