//! What programs that serve adapters make of one: what they refuse, what they leave out without a word, what they compute
//! otherwise. The rules are data ([`SERVERS`]), each with the version it was read in.
//!
//! Servers load PEFT folders, GGUF files or folders of MLX-LM. An adapter of another format is judged as `fitment convert` would
//! write it for them.

mod fact;
mod form;
mod table;

pub use fact::Fact;
pub use table::{SERVERS, find};

use crate::rules;
use fitment_convert::peft::has_other_experts;
use fitment_convert::{Error as ConvertError, Files, FormatId, Loss, WriteOptions, write};
use fitment_core::checkpoint::Checkpoint;
use fitment_core::finding::{Finding, Rule};
use fitment_core::model::Adapter;
use form::Form;
use std::collections::BTreeMap;

/// A program that loads adapters.
#[derive(Debug)]
pub struct Server {
    /// The value of `--for`.
    pub name: &'static str,
    /// What it is called.
    pub title: &'static str,
    /// The version whose rules these are.
    pub version: &'static str,
    /// What it loads.
    pub takes: FormatId,
    /// Where the rules were read, or how they were found.
    pub source: &'static str,
    /// What it does with what a folder may hold.
    pub rules: &'static [ServerRule],
}

/// One thing that an adapter may have, and what the server makes of it.
#[derive(Clone, Copy, Debug)]
pub struct ServerRule {
    /// What the adapter has.
    pub fact: Fact,
    /// What the server does then.
    pub effect: Effect,
    /// How, in a few words, as the end of a sentence.
    pub how: &'static str,
    /// The way out.
    pub fix: Fix,
}

/// What a server does with something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The adapter does not load.
    Refuses,
    /// It loads, and this is left out.
    Ignores,
    /// It loads, and something else is computed.
    ComputesOtherwise,
    /// It loads with the right settings.
    NeedsSetting,
}

/// What a user can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fix {
    /// `convert --to peft --preset servable` writes the same function in a form that is loaded.
    Servable,
    /// Only a base with the adapter in it does the same.
    Apply,
    /// Something else, said here.
    Other(&'static str),
}

impl Effect {
    fn rule(self) -> &'static Rule {
        match self {
            Self::Refuses => &rules::V_REFUSED,
            Self::Ignores => &rules::V_IGNORED,
            Self::ComputesOtherwise => &rules::V_OTHERWISE,
            Self::NeedsSetting => &rules::V_SETTING,
        }
    }

    fn verb(self) -> &'static str {
        match self {
            Self::Refuses => "refuses",
            Self::Ignores => "leaves out",
            Self::ComputesOtherwise => "misreads",
            Self::NeedsSetting => "needs a setting for",
        }
    }
}

impl Fix {
    fn text(self) -> &'static str {
        match self {
            Self::Servable => "`fitment convert --to peft --preset servable` writes the same without it",
            Self::Apply => "`fitment apply` it, and serve the result",
            Self::Other(text) => text,
        }
    }
}

/// What a server makes of an adapter: of the files themselves, where they are what it loads, else of what `convert` would write.
///
/// # Errors
/// When the base cannot be read.
pub(crate) fn check(
    adapter: &Adapter<'_>,
    own: Option<(&Files<'_>, Option<&str>)>,
    server: &Server,
    base: Option<&dyn Checkpoint>,
) -> Result<Vec<Finding>, ConvertError> {
    let own =
        own.filter(|_| server.takes == FormatId::Peft).and_then(|(files, name)| Form::of_files(files, name));
    if let Some(form) = own.filter(|form| !form.tensors.is_empty()) {
        return Ok(server.judged(form, adapter, base));
    }
    // What lies in a torch file is the same in safetensors, whose names can be looked at.
    let mut plain = adapter.clone();
    if let Some(source) = &mut plain.source {
        source.weights = None;
    }
    let written = match write(&plain, server.takes, &WriteOptions::on(base)) {
        Ok(written) => written,
        Err(error @ ConvertError::Base(_)) => return Err(error),
        Err(error) => {
            let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
            let (name, loads) = (server.named(), server.loads());
            // What more has to be known for is not the server's refusal.
            let (rule, message) = match error {
                ConvertError::Ambiguous { .. } => {
                    (&rules::V_UNKNOWN, format!("nothing was checked for {name}: {error}{hint}"))
                }
                _ => (&rules::V_REFUSED, format!("{name} loads {loads}: {error}{hint}")),
            };
            return Ok(vec![Finding::new(rule, "", message)]);
        }
    };
    let mut findings = not_held(&written.losses, server);
    findings.extend(server.asked(&Form::of(&written)));
    Ok(findings)
}

/// What a server makes of files that cannot be read as an adapter here; `None` where they are not what it loads, or where nothing
/// is found in an adapter of a method that is not known here.
pub(crate) fn check_files(
    (files, adapter): (&Files<'_>, Option<&str>),
    (format, is_known): (FormatId, bool),
    server: &Server,
) -> Option<Vec<Finding>> {
    let is_loaded = format == FormatId::Peft && server.takes == FormatId::Peft;
    let findings = server.asked(&Form::of_files(files, adapter).filter(|_| is_loaded)?);
    (is_known || !findings.is_empty()).then_some(findings)
}

impl Server {
    /// Name and version.
    pub fn named(&self) -> String {
        format!("{} {}", self.title, self.version)
    }

    /// What it makes of a folder of PEFT that an adapter was read from.
    fn judged(&self, mut form: Form, adapter: &Adapter<'_>, base: Option<&dyn Checkpoint>) -> Vec<Finding> {
        let asks = self.rules.iter().any(|rule| rule.fact == Fact::OtherExperts);
        let layout = has_other_experts(adapter, base);
        form.has_other_experts = matches!(layout, Ok(true));
        let mut findings = self.asked(&form);
        if let Err(error) = layout.as_ref().map_err(ToString::to_string)
            && asks
        {
            let message = format!("the layout of experts was not checked for {}: {error}", self.named());
            findings.push(Finding::new(&rules::V_UNKNOWN, "", message));
        }
        findings
    }

    fn asked(&self, form: &Form) -> Vec<Finding> {
        let finding = |rule: &ServerRule| {
            let (place, what) = rule.fact.of(form)?;
            let (name, verb, how, fix) = (self.named(), rule.effect.verb(), rule.how, rule.fix.text());
            Some(Finding::new(rule.effect.rule(), place, format!("{name} {verb} {what}: {how}; {fix}")))
        };
        self.rules.iter().filter_map(finding).collect()
    }

    /// What it loads, in words.
    pub fn loads(&self) -> &'static str {
        match self.takes {
            FormatId::Gguf => "GGUF files",
            FormatId::Mlx => "folders of MLX-LM",
            _ => "PEFT folders",
        }
    }
}

/// What the form that the server loads has no place for: one finding for each reason.
fn not_held(losses: &[Loss], server: &Server) -> Vec<Finding> {
    let mut reasons: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    let mut others = Vec::new();
    for loss in losses.iter().filter(|loss| loss.changes_function()) {
        match loss {
            Loss::NotHeld { target, kind, reason } => reasons.entry((kind, reason)).or_default().push(target),
            other => others.push(other.to_string()),
        }
    }
    let name = server.named();
    let held = |((kind, reason), targets): ((&str, &str), Vec<&str>)| {
        let more = match targets.len() {
            1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        let what = format!("{kind} of {}{more}", targets[0]);
        let message = format!(
            "{name} loads {}, which do not hold {what}: {reason}; {}",
            server.loads(),
            Fix::Apply.text()
        );
        Finding::new(&rules::V_REFUSED, targets[0], message)
    };
    let mut findings: Vec<Finding> = reasons.into_iter().map(held).collect();
    let other = |message: String| {
        Finding::new(&rules::V_REFUSED, "", format!("{name} loads {}: {message}", server.loads()))
    };
    findings.extend(others.into_iter().map(other));
    findings
}
