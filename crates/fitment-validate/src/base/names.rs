//! Targets that the base does not have: under another prefix, or not at all.

use super::{Fit, counted};
use crate::coverage::ranges;
use crate::rules;
use fitment_core::checkpoint::Names;
use fitment_core::finding::Finding;
use fitment_core::model::Target;
use std::collections::{BTreeMap, BTreeSet};

/// Reports every target that the base lacks, unless it is created.
pub(super) fn check(fit: &mut Fit<'_, '_>) {
    let created = fit.created();
    let tensors = fit.base.tensors();
    let mut missing = Vec::new();
    for target in fit.targets() {
        let label = target.label();
        let lacking: Vec<String> = target.base_names().filter(|name| !tensors.contains_key(name)).collect();
        let Some(first) = lacking.first().filter(|_| !created.contains(&label)) else { continue };
        missing.push(Missing { label, name: first.clone(), experts: experts(target, &lacking) });
    }
    if !missing.is_empty() {
        let names = Names::new(tensors.keys().map(String::as_str));
        fit.findings.extend(missing_findings(&missing, &names));
        fit.handled.extend(missing.into_iter().map(|target| target.label));
    }
}

/// A target that the base lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    /// Where the finding is placed.
    pub(crate) label: String,
    /// The tensor that was looked for.
    pub(crate) name: String,
    /// Of a bundle: which experts are missing, when it is not all of them.
    pub(crate) experts: Option<String>,
}

fn experts(target: &Target, lacking: &[String]) -> Option<String> {
    let range = target.experts.filter(|range| lacking.len() as u64 != range.count())?;
    let lacking: BTreeSet<&String> = lacking.iter().collect();
    let numbers = target.base_names().zip(range.start..range.end);
    Some(ranges(&numbers.filter(|(name, _)| lacking.contains(name)).map(|(_, number)| number).collect()))
}

/// One finding for all targets that another prefix explains, one for each of the others.
pub(crate) fn missing_findings(missing: &[Missing], names: &Names<'_>) -> Vec<Finding> {
    let mut prefixes: BTreeMap<(String, String), Vec<(&Missing, &str)>> = BTreeMap::new();
    let mut others = Vec::new();
    for target in missing {
        match other_prefix(&target.name, names) {
            Some((from, to, found)) if target.experts.is_none() => {
                prefixes.entry((from, to)).or_default().push((target, found));
            }
            _ => others.push(missing_finding(target, names)),
        }
    }
    let prefix = |((from, to), targets): ((String, String), Vec<(&Missing, &str)>)| {
        let (first, found) = targets.first().expect("a group has a first member");
        let message = format!(
            "{} {}, in the base {}; {found:?} was probably meant",
            counted(targets.len(), "target stands", "targets stand"),
            under(&from),
            under(&to)
        );
        Finding::new(&rules::B_NAMES, &first.label, message)
    };
    prefixes.into_iter().map(prefix).chain(others).collect()
}

fn under(prefix: &str) -> String {
    if prefix.is_empty() { "at the top".to_owned() } else { format!("under {prefix:?}") }
}

fn missing_finding(target: &Missing, names: &Names<'_>) -> Finding {
    let mut message = match &target.experts {
        Some(experts) => format!("the base lacks the experts {experts}"),
        None => "the base has no such tensor".to_owned(),
    };
    match names.nearest(&target.name) {
        Some(nearest) => message.push_str(&format!("; the nearest is {nearest:?}")),
        None => message.push_str(", nor one of a similar name"),
    }
    Finding::new(&rules::B_MISSING, &target.label, message)
}

/// The two prefixes and the base's name, when exactly one name of the base differs from this one by a prefix only.
///
/// The common part must hold every number of both names and more than a last word; else layers would be mixed up.
fn other_prefix<'b>(name: &str, names: &Names<'b>) -> Option<(String, String, &'b str)> {
    let core = core_of(name)?;
    let mut found: Vec<(&'b str, usize)> =
        names.ending_in(core).map(|other| (other, common_end(name, other))).collect();
    let longest = found.iter().map(|(_, common)| *common).max()?;
    found.retain(|(_, common)| *common == longest);
    let [(other, common)] = found[..] else { return None };
    let (from, to) = (&name[..name.len() - common], &other[..other.len() - common]);
    let numbered = |prefix: &str| prefix.split('.').any(is_number);
    (!numbered(from) && !numbered(to)).then(|| (from.to_owned(), to.to_owned(), other))
}

/// The end of a name from the segment before its first number on; of a name without number, its last two segments.
fn core_of(name: &str) -> Option<&str> {
    let starts: Vec<usize> =
        std::iter::once(0).chain(name.match_indices('.').map(|(at, _)| at + 1)).collect();
    let first_number = name.split('.').position(is_number);
    let segment = first_number.unwrap_or(starts.len().saturating_sub(1)).checked_sub(1)?;
    starts.get(segment).map(|start| &name[*start..])
}

fn is_number(segment: &str) -> bool {
    !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit())
}

/// Bytes of the longest common end that begins with a whole segment in both names.
pub(crate) fn common_end(a: &str, b: &str) -> usize {
    let mut common = 0;
    let mut ends =
        a.rsplit('.').zip(b.rsplit('.')).take_while(|(x, y)| x == y).map(|(x, _)| x.len()).peekable();
    while let Some(len) = ends.next() {
        common += len + usize::from(ends.peek().is_some());
    }
    common
}

#[cfg(test)]
mod tests {
    use super::{Missing, Names, core_of, missing_findings, other_prefix};

    const BASE: [&str; 5] = [
        "lm_head.weight",
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.1.self_attn.q_proj.weight",
        "vision.layers.1.self_attn.q_proj.weight",
    ];

    fn prefix(name: &str) -> Option<(String, String, &'static str)> {
        other_prefix(name, &Names::new(BASE.into_iter()))
    }

    #[test]
    fn the_core_of_a_name_begins_before_its_first_number() {
        assert_eq!(core_of("model.layers.3.q.weight"), Some("layers.3.q.weight"));
        assert_eq!(core_of("a.b.lm_head.weight"), Some("lm_head.weight"));
        assert_eq!(core_of("weight"), None);
        assert_eq!(core_of("0.weight"), None);
    }

    #[test]
    fn a_prefix_too_many_or_too_few_is_found() {
        let found = prefix("layers.0.self_attn.q_proj.weight");
        assert_eq!(found, Some((String::new(), "model.".into(), BASE[2])));
        let found = prefix("model.language_model.layers.0.self_attn.q_proj.weight");
        assert_eq!(found, Some(("model.language_model.".into(), "model.".into(), BASE[2])));
        assert_eq!(prefix("x.lm_head.weight"), Some(("x.".into(), String::new(), BASE[0])));
    }

    #[test]
    fn two_towers_with_one_name_are_not_guessed_between() {
        assert_eq!(prefix("layers.1.self_attn.q_proj.weight"), None);
        assert_eq!(prefix("text.model.layers.1.self_attn.q_proj.weight").map(|found| found.2), Some(BASE[3]));
    }

    #[test]
    fn another_layer_is_not_another_prefix() {
        assert_eq!(prefix("model.layers.9.self_attn.q_proj.weight"), None);
    }

    fn messages(names: &[&str]) -> String {
        let missing: Vec<Missing> = names
            .iter()
            .map(|name| Missing { label: (*name).into(), name: (*name).into(), experts: None })
            .collect();
        let found = missing_findings(&missing, &Names::new(BASE.into_iter()));
        found.iter().map(|finding| format!("{finding}\n")).collect()
    }

    #[test]
    fn targets_of_one_wrong_prefix_are_one_finding() {
        let names = [
            "language_model.model.layers.0.self_attn.q_proj.weight",
            "language_model.model.layers.1.self_attn.q_proj.weight",
            "layers.0.self_attn.q_proj.weight",
        ];
        insta::assert_snapshot!(messages(&names), @r#"
        error[B002] layers.0.self_attn.q_proj.weight: 1 target stands at the top, in the base under "model."; "model.layers.0.self_attn.q_proj.weight" was probably meant
        error[B002] language_model.model.layers.0.self_attn.q_proj.weight: 2 targets stand under "language_model.", in the base at the top; "model.layers.0.self_attn.q_proj.weight" was probably meant
        "#);
    }

    #[test]
    fn what_no_prefix_explains_is_a_finding_each() {
        let names = ["model.layers.9.self_attn.q_proj.weight", "unet.conv_in.bias"];
        insta::assert_snapshot!(messages(&names), @r#"
        error[B001] model.layers.9.self_attn.q_proj.weight: the base has no such tensor; the nearest is "model.layers.0.self_attn.q_proj.weight"
        error[B001] unet.conv_in.bias: the base has no such tensor, nor one of a similar name
        "#);
    }
}
