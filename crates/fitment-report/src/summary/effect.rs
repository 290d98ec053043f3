//! What a user compares who chooses a technique: what an adapter changes, for which tokens, and what that costs.

use fitment_convert::fold;
use fitment_core::checkpoint::Checkpoint;
use fitment_core::model::{Adapter, Edit, FirstLast, Group, Intervention, Phase, Positions, Select};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Part of the JSON contract of `fitment inspect`.
#[derive(Debug, Serialize)]
pub struct Effect {
    /// `weights`, `representations`, or both.
    pub targets: Vec<&'static str>,
    /// Which tokens see the change.
    pub scope: Vec<String>,
    /// Bytes of the stored tensors that are changed with.
    pub bytes: u64,
    /// Of interventions: whether they can become part of weights.
    pub fold: Option<Fold>,
    /// Floating-point operations for each token on which the interventions act that cannot be folded: two for each
    /// multiplication with a weight.
    pub flops_per_token: Option<u64>,
}

/// How many interventions can be folded into weights, and why the others cannot.
#[derive(Debug, Serialize)]
pub struct Fold {
    /// How many interventions there are.
    pub interventions: usize,
    /// How many can; without a base, how many could into a suitable one.
    pub foldable: usize,
    /// A base was at hand.
    pub certain: bool,
    /// Why the others cannot.
    pub reasons: Vec<Reason>,
}

/// Why interventions cannot be folded.
#[derive(Debug, Serialize)]
pub struct Reason {
    /// The first site with it.
    pub site: String,
    /// In words.
    pub reason: String,
    /// How many interventions have it.
    pub count: usize,
}

impl Effect {
    /// Of an adapter, and of the base where it is at hand.
    pub fn of(adapter: &Adapter<'_>, base: Option<&dyn Checkpoint>) -> Self {
        let interventions: Vec<(usize, &Intervention<'_>)> = adapter
            .edits
            .iter()
            .enumerate()
            .filter_map(|(index, edit)| match edit {
                Edit::Intervention(edit) => Some((index, edit)),
                _ => None,
            })
            .collect();
        let weights = adapter.edits.iter().any(|edit| edit.target().is_some());
        let targets = [(weights, "weights"), (!interventions.is_empty(), "representations")];
        let obstacles = obstacles(adapter, &interventions, base);
        let kept: u64 = interventions
            .iter()
            .filter(|(index, _)| obstacles.contains_key(index))
            .map(|(_, edit)| flops(edit))
            .sum();
        Self {
            targets: targets.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect(),
            scope: scope(adapter),
            bytes: bytes(adapter),
            fold: (!interventions.is_empty()).then(|| Fold {
                interventions: interventions.len(),
                foldable: interventions.len() - obstacles.len(),
                certain: base.is_some(),
                reasons: reasons(&obstacles),
            }),
            flops_per_token: (!obstacles.is_empty()).then_some(kept),
        }
    }
}

/// Of all stored tensors; one that several edits share counts once.
fn bytes(adapter: &Adapter<'_>) -> u64 {
    let tensors = adapter.edits.iter().flat_map(Edit::tensors);
    let places = tensors.map(|(_, tensor)| (tensor.bytes().as_ptr(), tensor.bytes().len()));
    places.collect::<BTreeSet<_>>().into_iter().map(|(_, len)| len as u64).sum()
}

/// Site and reason of every intervention that cannot be folded, by its index.
fn obstacles(
    adapter: &Adapter<'_>,
    interventions: &[(usize, &Intervention<'_>)],
    base: Option<&dyn Checkpoint>,
) -> BTreeMap<usize, (String, String)> {
    match base {
        _ if interventions.is_empty() => BTreeMap::new(),
        Some(base) => {
            let kept = fold::obstacles(adapter, base).into_iter();
            kept.map(|kept| (kept.edit, (kept.site, kept.obstacle.to_string()))).collect()
        }
        None => interventions
            .iter()
            .filter_map(|(index, edit)| {
                let obstacle = fold::obstacle_in_any_base(edit)?;
                Some((*index, (edit.label(), obstacle.to_string())))
            })
            .collect(),
    }
}

fn reasons(obstacles: &BTreeMap<usize, (String, String)>) -> Vec<Reason> {
    let mut reasons: Vec<Reason> = Vec::new();
    for (site, reason) in obstacles.values() {
        match reasons.iter_mut().find(|known| known.reason == *reason) {
            Some(known) => known.count += 1,
            None => reasons.push(Reason { site: site.clone(), reason: reason.clone(), count: 1 }),
        }
    }
    reasons
}

/// Each multiplication with a weight counts two.
fn flops(edit: &Intervention<'_>) -> u64 {
    let elements = |tensor: &Option<fitment_core::tensor::Tensor<'_>>| {
        tensor.as_ref().map_or(0, |tensor| tensor.elements())
    };
    let projected = match (&edit.proj, edit.subtract) {
        (_, false) => 0,
        (Some(proj), true) => proj.elements(),
        (None, true) => elements(&edit.up),
    };
    2 * (elements(&edit.source_weight) + projected + elements(&edit.up))
}

fn scope(adapter: &Adapter<'_>) -> Vec<String> {
    let of = |edit: &Edit<'_>| match edit {
        Edit::Intervention(edit) => Some(tokens(&edit.positions)),
        edit => match &edit.target()?.when {
            None => Some("every token".to_owned()),
            Some(when) if when.after_tokens.is_empty() => Some(phase(when.phase).to_owned()),
            Some(when) => Some(format!(
                "{}, from a sequence of {} tokens on",
                phase(when.phase),
                when.after_tokens.len()
            )),
        },
    };
    adapter.edits.iter().filter_map(of).collect::<BTreeSet<_>>().into_iter().collect()
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Prompt => "the prompt",
        Phase::Decode => "what is generated",
        Phase::EveryForward => "every token",
    }
}

pub(crate) fn tokens(positions: &Positions) -> String {
    let of = match positions.phase {
        Phase::EveryForward => "every pass",
        other => phase(other),
    };
    match &positions.select {
        Select::All => phase(positions.phase).to_owned(),
        Select::FirstLast(FirstLast { first, last, group, end_offset, .. }) => {
            let is_prefix = *group == Group::Prefix || *last == 0;
            let is_suffix = *group == Group::Suffix || *first == 0;
            let (first, last) = (format!("first {first}"), format!("last {last}"));
            let ends = match (is_prefix, is_suffix) {
                (true, _) => first,
                (_, true) => last,
                (false, false) => format!("{first} and {last}"),
            };
            let but = if *end_offset == -1 && !is_prefix { ", its last token not counted" } else { "" };
            format!("{ends} tokens of {of}{but}")
        }
        Select::Explicit(numbers) => match numbers[..] {
            [number] => format!("token {number} of {of}"),
            _ => format!("{} chosen tokens of {of}", numbers.len()),
        },
    }
}
