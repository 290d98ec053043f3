//! One folder of `fixtures/unmerged`: adapters of a Llama, and what the original tools computed with them.

use super::generate::{Cache, Llama, likeliest};
use candle_core::{DType, Device, Tensor};
use fitment_apply::{Input, Options, Plan, execute};
use fitment_candle::device::Name;
use fitment_candle::hooks::{Hook, Interventions, Untouched};
use fitment_candle::unmerged::{Adapters, Mix};
use fitment_convert::{ReadOptions, read};
use fitment_core::checkpoint::{Checkpoint, CheckpointError, TensorInfo};
use fitment_core::model::Adapter;
use fitment_core::tensor::Dtype;
use fitment_io::AdapterFiles;
use fitment_tests::sink::Sink;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

/// Tokens generated behind the prompt; with the prompt's own there is one more row of logits.
const STEPS: usize = 8;

/// The device of the tests: the processor, or the one that `$FITMENT_TEST_DEVICE` names.
pub(crate) fn device() -> Device {
    // One and the same: tensors of a device that was opened twice do not meet.
    static DEVICE: OnceLock<Device> = OnceLock::new();
    let open = || fitment_tests::place::device().parse::<Name>().and_then(Name::open).unwrap();
    DEVICE.get_or_init(open).clone()
}

/// The folder, and the base that its adapters are of.
pub(crate) struct Family<'b> {
    pub(crate) folder: PathBuf,
    pub(crate) base: &'b dyn Checkpoint,
}

/// What the tools said to one prompt.
pub(crate) struct Answer {
    pub(crate) prompt: Vec<u32>,
    pub(crate) follows: Vec<u32>,
    /// Of some words, at each step.
    logits: Vec<Vec<f64>>,
}

/// What the model says to some prompts: words, and logits at each step.
type Said = Vec<(Vec<u32>, Vec<Vec<f32>>)>;

/// A checkpoint in memory.
pub(crate) struct Held<'b> {
    base: &'b dyn Checkpoint,
    tensors: BTreeMap<String, TensorInfo>,
    bytes: BTreeMap<String, Vec<u8>>,
}

impl<'b> Held<'b> {
    /// Everything that is read of a checkpoint: of a quantised one, its numbers.
    pub(crate) fn of(base: &'b dyn Checkpoint) -> Self {
        let read = |name: &String| (name.clone(), base.read(name).unwrap().into_owned());
        Self { base, tensors: base.tensors().clone(), bytes: base.tensors().keys().map(read).collect() }
    }
}

impl Checkpoint for Held<'_> {
    fn config(&self) -> Option<&Map<String, Value>> {
        self.base.config()
    }

    fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>, CheckpointError> {
        self.bytes
            .get(name)
            .map(|bytes| Cow::Borrowed(&bytes[..]))
            .ok_or_else(|| CheckpointError::missing(name))
    }
}

impl Family<'_> {
    fn expected(&self) -> Value {
        serde_json::from_slice(&fs::read(self.folder.join("expected.json")).unwrap()).unwrap()
    }

    pub(crate) fn answers(&self, name: &str) -> Vec<Answer> {
        let numbers = |value: &Value| -> Vec<f64> {
            value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
        };
        let words = |value: &Value| numbers(value).into_iter().map(|number| number as u32).collect();
        let answer = |value: &Value| Answer {
            prompt: words(&value["prompt"]),
            follows: words(&value["follows"]),
            logits: value["logits"].as_array().unwrap().iter().map(numbers).collect(),
        };
        self.expected()[name].as_array().unwrap().iter().map(answer).collect()
    }

    /// The adapter in a folder, or a file's, bound to the base.
    pub(crate) fn with_adapter(&self, path: &Path, then: impl FnOnce(&Adapter<'_>)) {
        let files = AdapterFiles::load(path).unwrap();
        let said = |words| path.ends_with("loreft").then_some(words);
        let (positions, activation) = (said("f1+l2"), said("none"));
        let options = ReadOptions { base: Some(self.base), positions, activation, ..ReadOptions::default() };
        then(&read(&files.iter().collect(), &options).unwrap().adapter);
    }

    /// The tools' answers, from one prompt at a time and from all as one batch.
    pub(crate) fn says_the_same(
        &self,
        name: &str,
        model: &Llama,
        hook: Option<&Interventions<'_>>,
        allowed: f32,
    ) {
        let answers = self.answers(name);
        let prompts: Vec<&[u32]> = answers.iter().map(|answer| &answer.prompt[..]).collect();
        let together = said(model, &prompts, hook);
        for (at, (answer, prompt)) in answers.iter().zip(&prompts).enumerate() {
            let alone = &said(model, &[*prompt], hook)[0];
            for (what, (words, logits)) in [("alone", alone), ("in a batch", &together[at])] {
                let off = self.off(&answer.logits, logits);
                println!("{name}, prompt {at}, {what}: logits off by {off:.2e} of the largest");
                assert_eq!(*words, answer.follows, "{name}, prompt {at}, {what}");
                assert!(off < allowed, "{name}, prompt {at}, {what}: {off}");
            }
        }
    }

    /// Largest difference from the tools' logits over the largest logit.
    fn off(&self, theirs: &[Vec<f64>], ours: &[Vec<f32>]) -> f32 {
        let expected = self.expected();
        let chosen = expected["chosen"].as_array().unwrap();
        let mut pairs = Vec::new();
        for (theirs, ours) in theirs.iter().zip(ours) {
            let ours = chosen.iter().map(|word| ours[word.as_u64().unwrap() as usize]);
            pairs.extend(theirs.iter().map(|number| *number as f32).zip(ours));
        }
        let largest = pairs.iter().fold(0_f32, |largest, (theirs, _)| largest.max(theirs.abs()));
        pairs.iter().fold(0_f32, |off, (theirs, ours)| off.max((theirs - ours).abs())) / largest
    }

    /// The model with some adapters beside it.
    pub(crate) fn model(&self, adapters: &[(&Adapter<'_>, f64)]) -> (Llama, Adapters) {
        let inputs: Vec<Input<'_>> = adapters
            .iter()
            .map(|(adapter, weight)| Input { adapter, weight: *weight, name: "adapter".to_owned() })
            .collect();
        let mut beside = Adapters::load(&inputs, self.base, &device()).unwrap();
        let model = Llama::load(self.base, &mut beside, &device(), DType::F32).unwrap();
        beside.check_all_taken().unwrap();
        (model, beside)
    }

    /// The model with the adapters in its weights, in f32.
    pub(crate) fn merged(&self, adapters: &[(&Adapter<'_>, f64)]) -> Llama {
        let inputs: Vec<Input<'_>> = adapters
            .iter()
            .map(|(adapter, weight)| Input { adapter, weight: *weight, name: "adapter".to_owned() })
            .collect();
        let options = Options { dtype: Some(Dtype::F32), ..Options::default() };
        let plan = Plan::new(&inputs, self.base, &options).unwrap();
        let sink = Sink::new(self.base);
        execute(&plan, self.base, &sink, &|_| {}, &AtomicBool::new(false)).unwrap();
        let tensors = plan.tensors().map(|tensor| (tensor.name.clone(), tensor.info.clone())).collect();
        let merged = Held { base: self.base, tensors, bytes: sink.into_written() };
        let mut none = Adapters::load(&[], self.base, &device()).unwrap();
        Llama::load(&merged, &mut none, &device(), DType::F32).unwrap()
    }
}

/// Greedy answers to prompts as one batch, padded on the left.
pub(crate) fn said(model: &Llama, prompts: &[&[u32]], hook: Option<&Interventions<'_>>) -> Said {
    let longest = prompts.iter().map(|prompt| prompt.len()).max().unwrap();
    let padded = |prompt: &&[u32]| [&vec![0; longest - prompt.len()][..], *prompt].concat();
    let mut ids: Vec<Vec<u32>> = prompts.iter().map(padded).collect();
    let is_token = |prompt: &&[u32]| (0..longest).map(|at| at >= longest - prompt.len()).collect();
    let mut mask: Vec<Vec<bool>> = prompts.iter().map(is_token).collect();
    let mut cache = Cache::default();
    let mut said: Said = vec![Default::default(); prompts.len()];
    for step in 0..=STEPS {
        if let Some(hook) = hook {
            if step == 0 {
                hook.prompt(&mask).unwrap()
            } else {
                hook.step(&vec![true; prompts.len()]).unwrap()
            }
        }
        let acting: &dyn Hook = match hook {
            Some(hook) => hook,
            None => &Untouched,
        };
        let ids_here = Tensor::new(ids, &device()).unwrap();
        let logits = model.forward(&ids_here, &mask, &mut cache, acting).unwrap();
        let next = likeliest(&logits).unwrap();
        let last = logits.narrow(1, logits.dim(1).unwrap() - 1, 1).unwrap().squeeze(1).unwrap();
        for ((said, next), logits) in said.iter_mut().zip(&next).zip(last.to_vec2::<f32>().unwrap()) {
            said.0.push(*next);
            said.1.push(logits);
        }
        ids = next.into_iter().map(|next| vec![next]).collect();
        mask = vec![vec![true]; prompts.len()];
    }
    said
}

/// Largest difference of logits over the largest logit; the words must be the same.
pub(crate) fn distance(a: &Said, b: &Said) -> f32 {
    let mut off = 0_f32;
    for ((words, logits), (others, other_logits)) in a.iter().zip(b) {
        assert_eq!(words, others);
        let all = logits.iter().flatten().zip(other_logits.iter().flatten());
        let largest = all.clone().fold(0_f32, |largest, (a, _)| largest.max(a.abs()));
        off = all.fold(off, |off, (a, b)| off.max((a - b).abs() / largest));
    }
    off
}

/// Of each PEFT adapter and of all of them together: beside the weights as in them, for all rows and row by row.
pub(crate) fn weights_and_mixes(
    family: &Family<'_>,
    adapters: &[&Adapter<'_>],
    prompts: [&[u32]; 2],
    allowed: f32,
) {
    let weights: Vec<f64> = [0.5, -0.25, 1.0].into_iter().take(adapters.len()).collect();
    let weighted: Vec<(&Adapter<'_>, f64)> = adapters.iter().copied().zip(weights.clone()).collect();
    let (model, beside) = family.model(&weighted);
    let off = distance(&said(&model, &prompts, None), &said(&family.merged(&weighted), &prompts, None));
    println!("{} adapters together: off by {off:.2e}", adapters.len());
    assert!(off < allowed, "{off}");
    beside.set(Mix::Rows(vec![Some((1, 1.0)), Some((0, 0.5))])).unwrap();
    let mixed = said(&model, &prompts, None);
    for (row, (adapter, weight)) in [(1, 1.0), (0, 0.5)].into_iter().enumerate() {
        let merged = family.merged(&[(adapters[adapter], weight)]);
        let off = distance(&vec![mixed[row].clone()], &said(&merged, &[prompts[row]], None));
        println!("row {row} with adapter {adapter}: off by {off:.2e}");
        assert!(off < allowed, "{off}");
    }
}
