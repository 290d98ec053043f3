//! One table of every rule: what `--explain` says, and what the outputs cite.

use crate::rules;
use fitment_convert::{FORMATS, torch};
use fitment_core::finding::{Code, Rule, rules as format};

/// Every rule, in order of its code within its group: container, manifest, edits, foreign formats, base, servers.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    let foreign = FORMATS.iter().filter_map(|format| format.checks).flat_map(|checks| checks.rules);
    format::ALL.iter().chain(foreign).chain(torch::rules::ALL).chain(rules::ALL)
}

/// The rule of a code, whatever the case of its letter.
pub fn find(code: &str) -> Option<&'static Rule> {
    all().find(|rule| rule.code.0.eq_ignore_ascii_case(code))
}

/// The rule of a finding.
///
/// Findings are made from rules, so there is one for every code but those of crates that this one does not know.
pub fn of(code: Code) -> Option<&'static Rule> {
    all().find(|rule| rule.code == code)
}

/// What a code means and what to do, as plain text; `None` when there is no such code.
///
/// ```
/// let text = fitment_validate::codes::explain("m014").expect("a code of the format");
/// assert!(text.starts_with("M014 (error, spec section 7.1)"));
/// ```
pub fn explain(code: &str) -> Option<String> {
    let Rule { code, severity, meaning, section, remedy } = find(code)?;
    // Rules of other tools' formats say whose: `PEFT: config`.
    let spec = if section.starts_with(|c: char| c.is_ascii_digit()) { "spec section " } else { "" };
    Some(format!("{code} ({severity}, {spec}{section})\n\n{meaning}\n\nWhat to do: {remedy}\n"))
}

#[cfg(test)]
mod tests {
    use super::{all, explain, find};
    use std::collections::BTreeSet;

    #[test]
    fn codes_are_unique_and_named_by_group_and_number() {
        let mut seen = BTreeSet::new();
        for rule in all() {
            let code = rule.code.0;
            assert!(seen.insert(code), "{code} stands twice");
            let (group, number) = code.split_at(1);
            assert!(
                group.chars().all(|letter| letter.is_ascii_uppercase())
                    && number.len() == 3
                    && number.parse::<u16>().is_ok(),
                "{code}"
            );
        }
    }

    #[test]
    fn every_rule_is_a_sentence_with_a_section_and_a_remedy() {
        for rule in all() {
            assert!(
                rule.meaning.ends_with('.')
                    && rule.meaning.starts_with(|c: char| c.is_uppercase() || c == '`'),
                "{}",
                rule.code
            );
            assert!(rule.remedy.ends_with(['.', '?']), "{}: {}", rule.code, rule.remedy);
            let tools = [
                ('P', "PEFT: "),
                ('G', "GGUF: "),
                ('T', "torch: "),
                ('R', "pyreft: "),
                ('H', "adapters: "),
                ('L', "trl: "),
                ('F', "fastchat: "),
                ('S', "slime: "),
                ('X', "mlx: "),
                ('U', "torchtune: "),
                ('I', "litgpt: "),
                ('K', "tinker: "),
                ('V', "servers: "),
            ];
            let tool = tools.into_iter().find(|(group, _)| rule.code.0.starts_with(*group));
            let names_tool = |(_, tool): (char, &str)| rule.section.starts_with(tool);
            let of_spec = rule.section.starts_with(|c: char| c.is_ascii_digit());
            assert!(tool.map_or(of_spec, names_tool), "{}: {}", rule.code, rule.section);
        }
    }

    #[test]
    fn an_unknown_code_has_no_explanation() {
        assert!(explain("B999").is_none());
        assert!(explain("").is_none());
        assert!(find("b001").is_some());
    }

    #[test]
    fn an_explanation_says_all_that_is_known() {
        insta::assert_snapshot!(explain("B004").unwrap(), @"
        B004 (error, spec section 4.4)

        An edit of a tied tensor says which of its uses it means, and adapter and base agree on what is tied.

        What to do: Convert the original with --base: the base decides which uses an edit means.
        ");
    }
}
