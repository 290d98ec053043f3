//! Different targets must not address one base tensor (spec section 4.3).

use super::Checker;
use super::state::{Key, key};
use crate::finding::rules;
use crate::limits::MAX_BASE_TENSORS;
use std::collections::{BTreeMap, BTreeSet};

/// Reports bundles that share a tensor with another target.
///
/// Nearly always this follows from the names without writing them out; only names in which `{e}` stands in different
/// places or beside a digit are written out, and their number is bounded.
pub(super) fn check(checker: &mut Checker<'_, '_>) {
    let manifest = checker.manifest;
    let targets: BTreeSet<Key<'_>> =
        manifest.edits.iter().filter_map(|edit| Some(key(edit.target()?))).collect();
    if !targets.iter().any(|(_, _, experts)| experts.is_some()) {
        return;
    }
    let total: u64 = targets.iter().map(|target| count(*target)).fold(0, u64::saturating_add);
    if total > MAX_BASE_TENSORS {
        let message = format!("targets stand for {total} tensors, at most {MAX_BASE_TENSORS} are allowed");
        checker.report(&rules::E_BUNDLE, "edits", message);
        return;
    }
    let mut families: BTreeMap<(Option<&str>, String), Vec<Key<'_>>> = BTreeMap::new();
    for target in targets {
        families.entry((target.0, family(target.1))).or_default().push(target);
    }
    for members in families.into_values() {
        let clash = match common_place(&members) {
            Some(place) => clash_at(&members, place),
            None => clash_of_names(&members),
        };
        if let Some((target, name)) = clash {
            let message = format!("{name:?} belongs to two targets");
            checker.report(&rules::E_BUNDLE, target, message);
        }
    }
}

fn count((_, _, experts): Key<'_>) -> u64 {
    experts.map_or(1, |[start, end]| end.saturating_sub(start))
}

/// The name with every run of digits and `{e}` as one `#`: names of different families never coincide.
fn family(name: &str) -> String {
    let mut family = String::with_capacity(name.len());
    for part in split(name) {
        family.push_str(if part.is_number { "#" } else { part.text });
    }
    family
}

struct Part<'n> {
    text: &'n str,
    is_number: bool,
}

/// The name cut where runs of digits and `{e}` begin and end.
fn split(name: &str) -> Vec<Part<'_>> {
    let mut parts: Vec<Part<'_>> = Vec::new();
    let mut at = 0;
    let mut start = 0;
    let mut in_number = false;
    let bytes = name.as_bytes();
    while at < bytes.len() {
        let step = if bytes[at..].starts_with(b"{e}") { 3 } else { 1 };
        let is_number = step == 3 || bytes[at].is_ascii_digit();
        if is_number != in_number && at > start {
            parts.push(Part { text: &name[start..at], is_number: in_number });
            start = at;
        }
        in_number = is_number;
        at += step;
    }
    if at > start {
        parts.push(Part { text: &name[start..at], is_number: in_number });
    }
    parts
}

/// The part that is `{e}` and nothing else in every bundle of a family.
fn common_place(members: &[Key<'_>]) -> Option<usize> {
    let mut place = None;
    for (_, name, _) in members.iter().filter(|(_, _, experts)| experts.is_some()) {
        let here = split(name).iter().position(|part| part.text == "{e}")?;
        if *place.get_or_insert(here) != here {
            return None;
        }
    }
    place
}

/// Members by their name without the numbered part: what clashes has that in common, and a number of one is in the
/// range of the other.
fn clash_at<'m>(members: &[Key<'m>], place: usize) -> Option<(&'m str, String)> {
    let mut ranges: BTreeMap<String, Vec<(u64, u64, &'m str)>> = BTreeMap::new();
    for &(_, name, experts) in members {
        let parts = split(name);
        let number = parts[place].text;
        let (start, end) = match experts {
            Some([start, end]) => (start, end),
            // A name that no number in decimal gives, such as `01`, belongs to no bundle.
            None => match number.parse::<u64>() {
                Ok(number_of) if number_of.to_string() == number => (number_of, number_of.saturating_add(1)),
                _ => continue,
            },
        };
        let rest = parts.iter().enumerate().map(|(at, part)| if at == place { "{e}" } else { part.text });
        ranges.entry(rest.collect()).or_default().push((start, end, name));
    }
    ranges.into_iter().find_map(|(rest, mut ranges)| {
        ranges.sort_unstable();
        let clash = ranges.windows(2).find(|pair| pair[1].0 < pair[0].1)?;
        Some((clash[1].2, rest.replacen("{e}", &clash[1].0.to_string(), 1)))
    })
}

fn clash_of_names<'m>(members: &[Key<'m>]) -> Option<(&'m str, String)> {
    let mut seen = BTreeSet::new();
    for &(_, target, experts) in members {
        let [start, end] = experts.unwrap_or([0, 1]);
        for expert in start..end {
            let name = match experts {
                Some(_) => target.replacen("{e}", &expert.to_string(), 1),
                None => target.to_owned(),
            };
            if !seen.insert(name.clone()) {
                return Some((target, name));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{Key, clash_at, clash_of_names, common_place, family};

    fn clash(members: &[Key<'_>]) -> Option<String> {
        let by_names = clash_of_names(members).map(|(_, name)| name);
        if let Some(place) = common_place(members) {
            let by_place = clash_at(members, place).map(|(_, name)| name);
            assert_eq!(by_place.is_some(), by_names.is_some());
        }
        by_names
    }

    #[test]
    fn families_join_numbers_and_expert_places() {
        assert_eq!(family("layers.12.experts.{e}.w1"), "layers.#.experts.#.w#");
        assert_eq!(family("layers.{e}.experts.3.w1{e}"), "layers.#.experts.#.w#");
    }

    #[test]
    fn ranges_of_one_name_may_meet_but_not_overlap() {
        assert_eq!(clash(&[(None, "x.{e}.w", Some([0, 4])), (None, "x.{e}.w", Some([4, 8]))]), None);
        let overlap = clash(&[(None, "x.{e}.w", Some([0, 5])), (None, "x.{e}.w", Some([4, 8]))]);
        assert_eq!(overlap.as_deref(), Some("x.4.w"));
    }

    #[test]
    fn a_single_tensor_inside_a_bundle_is_a_clash() {
        assert!(clash(&[(None, "x.{e}.w", Some([0, 4])), (None, "x.3.w", None)]).is_some());
        assert!(clash(&[(None, "x.{e}.w", Some([0, 4])), (None, "x.4.w", None)]).is_none());
        assert!(clash(&[(None, "x.{e}.w", Some([0, 4])), (None, "x.03.w", None)]).is_none());
    }

    #[test]
    fn expert_places_that_differ_are_written_out() {
        let members: &[Key<'_>] = &[(None, "a.{e}.b.1", Some([0, 4])), (None, "a.1.b.{e}", Some([0, 4]))];
        assert_eq!(common_place(members), None);
        assert_eq!(clash(members).as_deref(), Some("a.1.b.1"));
        assert!(clash(&[(None, "w1{e}", Some([2, 3])), (None, "w{e}", Some([12, 13]))]).is_some());
    }
}
