//! How PEFT has it from 0.19.1 on, of factors that another layout was read from.

use super::Columns;
use super::layout::{Class, Layout, key};
use crate::error::Error;
use crate::formats::Ask;
use crate::pass::experts::{Part, parts};
use crate::peft::keys;
use fitment_core::Adapter;
use fitment_core::model::{Edit, Lora, LoraForm, Source};
use serde_json::{Map, Value};

/// What decides how today's PEFT has the factors of an adapter that was read from PEFT.
#[derive(Debug)]
pub(in crate::peft) struct Today<'s, 'a> {
    class: Class,
    layout: Option<Layout>,
    source: &'s Source<'a>,
}

/// Whether `lora_A` of the file is the factor that reads the inputs, `down`.
pub(in crate::peft) fn reads_as_stored(lora: &Lora<'_>) -> bool {
    lora.origin.keys.get("down").is_some_and(|key| keys::parse(key).part == keys::Part::LoraA)
}

fn is_from_peft(lora: &Lora<'_>) -> bool {
    lora.origin.keys.values().any(|key| keys::parse(key).part == keys::Part::LoraA)
}

impl<'s, 'a> Today<'s, 'a> {
    /// By the config of the base.
    pub(in crate::peft) fn new(source: &'s Source<'a>, config: Option<&Map<String, Value>>) -> Self {
        let config = config.filter(|config| !config.is_empty());
        Self { class: Class::of(config), layout: Layout::recorded(source), source }
    }

    /// Whether `lora_A` is the factor that reads the inputs; `None` where only a base tells.
    pub(in crate::peft) fn reads_inputs(&self, lora: &Lora<'_>) -> Option<bool> {
        let stored = reads_as_stored(lora);
        // PEFT does not turn the product of a stack of one.
        if lora.up.dims().first() == Some(&1) {
            return Some(stored);
        }
        let Some(axis) = Layout::Current.axis(self.class.flagged) else {
            return match (self.layout, stored) {
                // Of classes that say `is_transposed`, no checkpoint has experts one by one.
                _ if lora.form == LoraForm::Matrix => Some(true),
                // In 0.19.0 every class had the other axis.
                (Some(Layout::Second), _) => Some(!stored),
                (Some(Layout::Current), _) | (_, true) => Some(stored),
                // Up to 0.18, only classes that say it had today's.
                (_, false) => None,
            };
        };
        if lora.form == LoraForm::Matrix {
            return Some(axis == 2);
        }
        Some((axis == 2) == (lora.transposed == self.is_turned(lora)?))
    }

    /// Whether the stack on disk is the class's with its axes exchanged.
    fn is_turned(&self, lora: &Lora<'_>) -> Option<bool> {
        let (&[_, out, _], &[_, _, input]) = (lora.up.dims(), lora.down.dims()) else { return None };
        let stacks = self.class.stacks;
        let is_down = parts(lora.target.name.as_str().rsplit('.').next()?) == [Part::Down];
        // Read without a base, an edit is of the class's own axes, whatever those are.
        let is_of_class = !lora.transposed && stacks.is_stored_transposed(is_down, out, input);
        Some(!is_of_class && lora.transposed != stacks.is_transposed)
    }

    /// Whether factors of experts stand in the files the other way round than PEFT has them today.
    ///
    /// # Errors
    /// [`Error::Ambiguous`] where only a base tells which way round they must be.
    pub(in crate::peft) fn is_other_way(&self, adapter: &Adapter<'_>) -> Result<bool, Error> {
        let mut is_other_way = false;
        let loras = adapter.edits.iter().filter_map(|edit| match edit {
            Edit::Lora(lora) if lora.has_expert_axis() && is_from_peft(lora) => Some(lora),
            _ => None,
        });
        for lora in loras {
            let reads = self.reads_inputs(lora).ok_or_else(|| Error::Ambiguous {
                what: lora.target.label(),
                reason: format!(
                    "its factors are in the layout of {}, and which way round PEFT has them today depends on the model",
                    self.origin()
                ),
                hint: "name the base with --base".to_owned(),
            })?;
            is_other_way |= reads != reads_as_stored(lora);
        }
        Ok(is_other_way)
    }

    /// Whether the columns of `lora_B` were read in another order than PEFT's.
    pub(in crate::peft) fn has_other_columns(&self) -> bool {
        Columns::recorded(&self.source.options) != Columns::default()
    }

    /// Why a folder that goes back to PEFT cannot have the source's factors or version of experts, if it cannot.
    ///
    /// # Errors
    /// [`Error::Ambiguous`] where only a base tells which way round they must be.
    pub(in crate::peft) fn change(&self, adapter: &Adapter<'_>) -> Result<Option<String>, Error> {
        let is_other_way = self.is_other_way(adapter)?;
        let version = self.source.version.as_deref();
        let option = self.source.options.get(key(Ask::MoeLayout));
        Ok(if is_other_way {
            let were = match self.layout {
                Some(Layout::Current) => "not in the layout",
                Some(Layout::First | Layout::Second) | None => "in the layout",
            };
            Some(format!(
                "its factors of experts were {were} of {}, and are written as PEFT has them from 0.19.1 on",
                self.origin()
            ))
        } else if self.has_other_columns() {
            Some("the columns of its lora_B were not in PEFT's order, and are written in it".to_owned())
        } else if option.is_some() && version.and_then(Layout::of_version) != Some(Layout::Current) {
            let found =
                version.map_or("no peft_version".to_owned(), |version| format!("peft_version {version}"));
            Some(format!("it has {found}, and its factors of experts are as PEFT has them from 0.19.1 on"))
        } else {
            None
        })
    }

    /// What wrote the source, for messages.
    fn origin(&self) -> String {
        let option = self.source.options.get(key(Ask::MoeLayout));
        // Only 0.17 wrote no version.
        format!("PEFT {}", option.or(self.source.version.as_ref()).map_or("0.17", String::as_str))
    }
}
