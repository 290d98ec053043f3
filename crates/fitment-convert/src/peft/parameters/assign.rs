//! Which parameter each pair of factors is of.

use crate::peft::config::{Config, Modules, Refusal};
use crate::peft::contents::{Contents, Module};
use crate::peft::keys::INNER;
use crate::peft::pattern::PatternFault;
use crate::peft::rules;
use crate::peft::selection::{Choice, Lookup, Selection, is_named};
use crate::peft::{config::PatternRule, scale::rank_of};
use fitment_core::Finding;

/// Parameters in the order in which transformers' classes make them (5.23): of those of one module the first is innermost.
const ORDER: &[&str] = &[
    "weight",
    "gate_proj",
    "up_proj",
    "gate_up_proj",
    "gate_up_proj_bias",
    "down_proj",
    "down_proj_bias",
    "bias",
];

/// The place of a parameter among those of its module, by its last word; `None` where no class is known to have it.
pub(in crate::peft) fn place_in_class(word: &str) -> Option<usize> {
    ORDER.iter().position(|known| *known == word)
}

/// What came of it.
#[derive(Debug, Default)]
pub(in crate::peft) struct Assigned {
    pub(in crate::peft) findings: Vec<Finding>,
    pub(in crate::peft) refusal: Option<Refusal>,
}

/// Gives factors on parameters the path of their parameter in place of their module's.
///
/// # Errors
/// A pattern of the config that cannot be matched.
pub(in crate::peft) fn assign(
    contents: &mut Contents<'_>,
    config: &Config,
) -> Result<Assigned, PatternFault> {
    let selection = Selection::new(config)?;
    let mut assigned = Assigned::default();
    let nested = |path: &&String| path.ends_with(&format!(".{INNER}"));
    let outermost = contents.modules.iter().filter(|(path, module)| module.has_lora() && !nested(path));
    let mut paths: Vec<String> = outermost.map(|(path, _)| path.clone()).collect();
    // Nested factors whose outer ones are missing.
    let orphans = contents.modules.keys().filter(nested).map(|path| outer_of(path).to_owned());
    paths.extend(orphans.filter(|path| !contents.modules.contains_key(path)).collect::<Vec<_>>());
    paths.sort();
    paths.dedup();
    for path in paths {
        let chain = chain(contents, &path);
        let wanted = wanted(config, &path, chain.len());
        match choose(config, &selection, contents, (&path, &chain), &wanted)? {
            Chosen::Module => {}
            Chosen::Parameters => assigned.rename(contents, &path, chain, wanted),
            Chosen::Neither => {
                let (named, held) = (wanted.len(), chain.len());
                let message = format!(
                    "target_parameters names {named} parameters of this module, and the file has factors of {held}"
                );
                assigned.findings.push(Finding::new(&rules::P_TARGET_UNLISTED, path, message));
            }
        }
    }
    Ok(assigned)
}

fn outer_of(path: &str) -> &str {
    let end = format!(".{INNER}");
    let mut outer = path;
    while let Some(rest) = outer.strip_suffix(&end) {
        outer = rest;
    }
    outer
}

/// The places of a module's factors, the innermost first.
fn chain(contents: &Contents<'_>, path: &str) -> Vec<String> {
    let end = format!(".{INNER}");
    let of_module = |known: &&String| {
        let rest = known.strip_prefix(path);
        rest.is_some_and(|rest| rest.replace(&end, "").is_empty())
    };
    let mut chain: Vec<String> = contents
        .modules
        .range(path.to_owned()..)
        .take_while(|(known, _)| known.starts_with(path))
        .filter(|(known, module)| module.has_lora() && of_module(known))
        .map(|(known, _)| known.clone())
        .collect();
    chain.sort_by_key(|known| std::cmp::Reverse(known.len()));
    chain
}

/// The parameters of a module that the config names, in the order of the class. A word alone may be of any module: where all are
/// more than the factors, those count that the config names with this one.
fn wanted(config: &Config, path: &str, count: usize) -> Vec<String> {
    let with = |alone: bool| -> Vec<String> {
        let targets = config.target_parameters.iter().filter(|target| alone || target.contains('.'));
        let named = targets.filter_map(|target| {
            let word = target.rsplit('.').next().unwrap_or(target);
            is_named(&format!("{path}.{word}"), target).then(|| word.to_owned())
        });
        let mut words: Vec<String> = named.collect();
        let place = |word: &str| place_in_class(word).unwrap_or(ORDER.len());
        words.sort_by(|a, b| (place(a), a).cmp(&(place(b), b)));
        words.dedup();
        words
    };
    let all = with(true);
    if all.len() > count { Some(with(false)).filter(|own| own.len() == count).unwrap_or(all) } else { all }
}

enum Chosen {
    /// The factors are of the module itself.
    Module,
    Parameters,
    Neither,
}

fn choose(
    config: &Config,
    selection: &Selection<'_>,
    contents: &Contents<'_>,
    (path, chain): (&str, &[String]),
    wanted: &[String],
) -> Result<Chosen, PatternFault> {
    let is_one = chain.len() == 1 && chain[0] == path;
    let is_implied = matches!(config.target_modules, Modules::Unset | Modules::AllLinear);
    let is_selected = selection.choice(path)? == Choice::Selected;
    Ok(match wanted {
        _ if is_one && is_selected && !is_implied => Chosen::Module,
        [] if is_one => Chosen::Module,
        [_] if is_one && is_implied && names_no_module(config, path) => {
            // A word alone may be of any module: as many rows as the rank are those of a linear layer.
            let rank = contents.modules.get(path).and_then(rank_of);
            let plain = Lookup::new(config, PatternRule::Grouped)?.find(path)?.rank;
            if rank == Some(plain) { Chosen::Module } else { Chosen::Parameters }
        }
        words if words.len() == chain.len() => Chosen::Parameters,
        _ if is_one && is_implied && names_no_module(config, path) => Chosen::Module,
        _ => Chosen::Neither,
    })
}

/// Whether every parameter that the config names of this module is a word alone.
fn names_no_module(config: &Config, path: &str) -> bool {
    let of_module = |target: &&String| {
        target.contains('.')
            && is_named(&format!("{path}.{}", target.rsplit('.').next().unwrap_or_default()), target)
    };
    !config.target_parameters.iter().any(|target| of_module(&target))
}

impl Assigned {
    fn rename(&mut self, contents: &mut Contents<'_>, path: &str, chain: Vec<String>, words: Vec<String>) {
        if words.len() > 1 && words.iter().any(|word| place_in_class(word).is_none()) {
            self.refusal.get_or_insert_with(|| {
                let reason = format!(
                    "the keys do not say which of its parameters ({}) is the inner one, and the class is not known here",
                    words.join(", ")
                );
                Refusal::new(path, &reason, "merge it with PEFT (merge_and_unload)")
            });
            return;
        }
        let pairs: Vec<(String, Module<'_>)> = chain
            .into_iter()
            .zip(words)
            .filter_map(|(place, word)| Some((word, contents.modules.remove(&place)?)))
            .collect();
        for (word, module) in pairs {
            contents.modules.insert(format!("{path}.{word}"), Module { is_parameter: true, ..module });
        }
    }
}
