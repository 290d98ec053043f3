//! What a folder does not say and the user must: positions, activation, class.

use super::class::Class;
use crate::error::{Error, one_line};
use crate::read::ReadOptions;
use fitment_core::model::{Activation, FirstLast, Group, Phase, Positions, Select, ShortPrompt};

/// What the options say.
#[derive(Clone, Debug)]
pub(super) struct Said {
    /// `None` where an option was not given.
    pub(super) positions: Option<Where>,
    pub(super) activation: Option<Option<Activation>>,
    pub(super) formula: Option<Class>,
}

/// Positions as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Where {
    positions: Positions,
    /// `f7|l7`: the first intervention of a place has the prefix, the second the suffix.
    pub(super) untied: bool,
}

impl Where {
    /// Positions of the intervention that is number `number` at its place.
    pub(super) fn of(&self, number: u64) -> Positions {
        let mut positions = self.positions.clone();
        if let (true, Select::FirstLast(ends)) = (self.untied, &mut positions.select) {
            ends.group = if number == 0 { Group::Prefix } else { Group::Suffix };
        }
        positions
    }
}

impl Said {
    pub(super) fn of(options: &ReadOptions<'_>) -> Result<Self, Error> {
        Ok(Self {
            positions: options.positions.map(positions).transpose()?,
            activation: options.activation.map(activation).transpose()?,
            formula: options.formula.map(formula).transpose()?,
        })
    }
}

/// `f7+l7`, `f7`, `l7`, `f7|l7`, each with `@-1` behind it; `all`, `prompt`, `decode`.
fn positions(text: &str) -> Result<Where, Error> {
    let whole = |phase| Ok(Where { positions: Positions { phase, select: Select::All }, untied: false });
    match text {
        "all" => return whole(Phase::EveryForward),
        "prompt" => return whole(Phase::Prompt),
        "decode" => return whole(Phase::Decode),
        _ => {}
    }
    let parsed = || -> Option<Where> {
        let (text, end_offset) = match text.split_once('@') {
            None => (text, 0),
            Some((text, "-1")) => (text, -1),
            Some((text, "0")) => (text, 0),
            Some(_) => return None,
        };
        let untied = text.contains('|');
        let mut ends =
            FirstLast { first: 0, last: 0, end_offset, short: ShortPrompt::FloorHalf, group: Group::Both };
        let parts: Vec<&str> = text.split(if untied { '|' } else { '+' }).collect();
        for part in &parts {
            let count = |letter: char| part.strip_prefix(letter).and_then(|count| count.parse().ok());
            match (count('f'), count('l')) {
                (Some(count), None) if ends.first == 0 && ends.last == 0 => ends.first = count,
                (None, Some(count)) if ends.last == 0 => ends.last = count,
                _ => return None,
            }
        }
        if parts.len() > 2 || ends.first + ends.last == 0 || (untied && (ends.first == 0 || ends.last == 0)) {
            return None;
        }
        Some(Where { positions: Positions { phase: Phase::Prompt, select: Select::FirstLast(ends) }, untied })
    };
    parsed().ok_or_else(|| Error::Option {
        option: format!("--positions {}", one_line(text)),
        reason: "is no selection of positions".to_owned(),
        hint: "f7+l7 (first 7 and last 7 of the prompt, one module for both), f7|l7 (the first module of a place has the first 7, \
               the second the last 7), f7, l7; @-1 behind it when training ended one token before the prompt's end; all, prompt, decode"
            .to_owned(),
    })
}

fn activation(text: &str) -> Result<Option<Activation>, Error> {
    // transformers has several words for some of them.
    let word = match text {
        "none" | "linear" => return Ok(None),
        "swish" => "silu",
        "gelu_pytorch_tanh" | "gelu_fast" => "gelu_new",
        other => other,
    };
    Activation::from_name(word).map(Some).ok_or_else(|| Error::Option {
        option: format!("--activation {}", one_line(text)),
        reason: "is no activation that is known".to_owned(),
        hint: format!("none, {}", Activation::ALL.iter().map(|a| a.name()).collect::<Vec<_>>().join(", ")),
    })
}

fn formula(text: &str) -> Result<Class, Error> {
    Class::ALL.iter().copied().find(|class| class.name() == text).ok_or_else(|| Error::Option {
        option: format!("--formula {}", one_line(text)),
        reason: "is no class of pyreft".to_owned(),
        hint: Class::ALL.iter().map(|class| class.name()).collect::<Vec<_>>().join(", "),
    })
}

/// The error about what was not said; `None` when nothing is missing.
pub(super) fn missing(positions: bool, activation: bool, formula: Option<&str>) -> Option<Error> {
    let mut options = Vec::new();
    if positions {
        options.push("--positions (f7+l7, f7|l7, f1, l1, all …: which tokens, as in training)");
    }
    if activation {
        options.push("--activation (none, or act_fn as in training)");
    }
    if formula.is_some() {
        options.push("--formula (noreft, nodireft, consreft or lobireft: the class)");
    }
    let what = match (positions || activation, formula) {
        (_, Some(file)) => file.to_owned(),
        _ => "a pyreft folder".to_owned(),
    };
    let reason =
        "it does not say all that the adapter does, and a guess would change it in silence".to_owned();
    (!options.is_empty()).then(|| Error::Ambiguous {
        what,
        reason,
        hint: format!("say {}", options.join("; ")),
    })
}
