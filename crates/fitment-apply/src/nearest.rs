//! The base tensor that a wrong name most likely means.

use std::collections::BTreeMap;

/// Names longer than this are compared by their endings only: edit distance is quadratic.
const MAX_COMPARED: usize = 160;

/// The name of the base that is nearest to `wanted`: the one that shares most trailing parts, then the one at the least
/// edit distance. `None` when nothing is near.
pub(crate) fn nearest<'b, V>(wanted: &str, names: &'b BTreeMap<String, V>) -> Option<&'b str> {
    let score = |name: &str| (common_tail(wanted, name), std::cmp::Reverse(wanted.len().abs_diff(name.len())));
    let best = names.keys().map(|name| score(name).0).max()?;
    let tied = names.keys().filter(|name| common_tail(wanted, name) == best);
    let nearest = tied.min_by_key(|name| (distance(wanted, name), score(name).1))?;
    let far = distance(wanted, nearest) > wanted.len() / 2;
    (best > 0 || !far).then_some(nearest.as_str())
}

/// How many dotted parts the names share at the end, `weight` and `bias` alone not counted.
fn common_tail(a: &str, b: &str) -> usize {
    let shared = a.rsplit('.').zip(b.rsplit('.')).take_while(|(a, b)| a == b).count();
    let only_kind = shared == 1 && a.contains('.') && matches!(a.rsplit('.').next(), Some("weight" | "bias"));
    if only_kind { 0 } else { shared }
}

/// Levenshtein distance of the bytes.
fn distance(a: &str, b: &str) -> usize {
    if a.len() > MAX_COMPARED || b.len() > MAX_COMPARED {
        return a.len().abs_diff(b.len());
    }
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut corner = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::{distance, nearest};
    use std::collections::BTreeMap;

    fn base(names: &[&str]) -> BTreeMap<String, ()> {
        names.iter().map(|name| ((*name).to_owned(), ())).collect()
    }

    #[test]
    fn a_missing_prefix_is_found_by_the_ending() {
        let names = base(&["model.layers.0.q_proj.weight", "model.layers.1.q_proj.weight", "lm_head.weight"]);
        assert_eq!(nearest("layers.1.q_proj.weight", &names), Some("model.layers.1.q_proj.weight"));
    }

    #[test]
    fn a_misspelt_part_is_found_by_distance() {
        let names = base(&["model.embed_tokens.weight", "model.norm.weight"]);
        assert_eq!(nearest("model.embd_tokens.weight", &names), Some("model.embed_tokens.weight"));
    }

    #[test]
    fn nothing_near_is_nothing() {
        assert_eq!(nearest("vision.patch.weight", &base(&["a.weight"])), None);
        assert_eq!(nearest("x", &base(&[])), None);
    }

    #[test]
    fn distance_counts_single_edits() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }
}
