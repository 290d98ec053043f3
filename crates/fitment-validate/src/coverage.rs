//! Which modules a set of tensor names covers: module kind × layers, short enough to read.

use std::collections::{BTreeMap, BTreeSet};

/// Names that differ in their numbers only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Part of a pipeline: what stands before `/` in a label.
    pub component: Option<String>,
    /// The name with its numbers as `*`: `model.layers.*.self_attn.q_proj.weight`. A number behind the first that is the
    /// same in all names stays.
    pub kind: String,
    /// The numbers, such as `0-21`, `0-3,5`, or `0-21 × 0-7` where a name has two; empty where it has none.
    pub layers: String,
    /// How many different names the group holds.
    pub count: usize,
}

/// Groups names, or labels with a component before `/`, in order of component and kind.
///
/// ```
/// let names = ["h.0.q.weight", "h.1.q.weight", "h.2.q.weight", "h.4.q.weight", "head.weight"];
/// let groups = fitment_validate::coverage::group(names.into_iter());
/// let lines: Vec<String> = groups.iter().map(|group| format!("{} {}", group.kind, group.layers)).collect();
/// assert_eq!(lines, ["h.*.q.weight 0-2,4", "head.weight "]);
/// ```
pub fn group<'n>(names: impl Iterator<Item = &'n str>) -> Vec<Group> {
    let group = |((component, kind), indices): ((Option<String>, String), Indices)| {
        let fixed = fixed(&indices);
        let layers = compact(&without(&indices, &fixed));
        Group { component, kind: restore(&kind, &fixed), layers, count: indices.len() }
    };
    kinds(names).into_iter().map(group).collect()
}

/// How much of a kind of module is covered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// As in [`Group`].
    pub component: Option<String>,
    /// As in [`Group`].
    pub kind: String,
    /// Numbers of the names that are covered.
    pub hit: String,
    /// Numbers of the others.
    pub missing: String,
    /// How many names are covered.
    pub hits: usize,
    /// How many names there are.
    pub of: usize,
}

impl Share {
    /// The part of the kind that names the module: behind the last number and without `.weight`.
    pub fn module(&self) -> &str {
        let behind = self.kind.rsplit_once("*.").map_or(self.kind.as_str(), |(_, behind)| behind);
        behind.strip_suffix(".weight").unwrap_or(behind)
    }
}

/// Compares names with all the names that there are; kinds that only `covered` has are left out.
pub fn shares<'n>(covered: impl Iterator<Item = &'n str>, all: impl Iterator<Item = &'n str>) -> Vec<Share> {
    let covered = kinds(covered);
    let share = |((component, kind), all): ((Option<String>, String), Indices)| {
        let key = (component, kind);
        let hit: Indices = match covered.get(&key) {
            Some(indices) => indices.intersection(&all).cloned().collect(),
            None => Indices::new(),
        };
        let missing: Indices = all.difference(&hit).cloned().collect();
        let fixed = fixed(&all);
        let (component, kind) = key;
        let (hits, of) = (hit.len(), all.len());
        let [hit, missing] = [hit, missing].map(|indices| compact(&without(&indices, &fixed)));
        Share { component, kind: restore(&kind, &fixed), hit, missing, hits, of }
    };
    kinds(all).into_iter().map(share).collect()
}

/// Where a name stands in a table of layers × modules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// As in [`Group`].
    pub component: Option<String>,
    /// The name up to its last number that differs between names of its kind; empty for a name without a number.
    pub row: String,
    /// The rest, without `.weight`.
    pub column: String,
}

/// The place of each name, in the order of the names.
///
/// ```
/// let names = ["model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight", "lm_head.weight"];
/// let places = fitment_validate::coverage::places(names.into_iter());
/// let lines: Vec<_> = places.iter().map(|place| (place.row.as_str(), place.column.as_str())).collect();
/// assert_eq!(lines, [("model.layers.0", "mlp.up_proj"), ("model.layers.1", "mlp.up_proj"), ("", "lm_head")]);
/// ```
pub fn places<N: AsRef<str>>(names: impl Iterator<Item = N>) -> Vec<Place> {
    let names: Vec<N> = names.collect();
    let kinds = kinds(names.iter().map(AsRef::as_ref));
    let place = |label: &N| {
        let (component, name) = apart(label.as_ref());
        let key = (component, take_apart(name).0);
        let fixed = kinds.get(&key).map(fixed).unwrap_or_default();
        let (mut numbers, mut end) = (0, 0);
        for (start, segment) in segments(name) {
            if number(segment).is_some() {
                end = if fixed.contains_key(&numbers) { end } else { start + segment.len() };
                numbers += 1;
            }
        }
        let (row, column) = name.split_at(end);
        let column = column.strip_prefix('.').unwrap_or(column);
        Place {
            component: key.0,
            row: row.to_owned(),
            column: column.strip_suffix(".weight").unwrap_or(column).to_owned(),
        }
    };
    names.iter().map(place).collect()
}

/// The parts between dots, each with where it starts.
fn segments(name: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut start = 0;
    name.split('.').map(move |segment| {
        let at = start;
        start += segment.len() + 1;
        (at, segment)
    })
}

/// Component and name of a label.
fn apart(label: &str) -> (Option<String>, &str) {
    match label.split_once('/') {
        Some((component, name)) => (Some(component.to_owned()), name),
        None => (None, label),
    }
}

/// The numbers of each name of one kind.
type Indices = BTreeSet<Vec<u64>>;

fn kinds<'n>(names: impl Iterator<Item = &'n str>) -> BTreeMap<(Option<String>, String), Indices> {
    let mut kinds: BTreeMap<_, Indices> = BTreeMap::new();
    for label in names {
        let (component, name) = apart(label);
        let (kind, indices) = take_apart(name);
        kinds.entry((component, kind)).or_default().insert(indices);
    }
    kinds
}

/// A name with its numbers as `*`, and the numbers.
fn take_apart(name: &str) -> (String, Vec<u64>) {
    let mut indices = Vec::new();
    let mut kind = String::with_capacity(name.len());
    for (at, segment) in name.split('.').enumerate() {
        kind.push_str(if at > 0 { "." } else { "" });
        match number(segment) {
            Some(number) => {
                indices.push(number);
                kind.push('*');
            }
            None => kind.push_str(segment),
        }
    }
    (kind, indices)
}

/// Numbers behind the first that are the same in all names, by their place: such as the two layers inside a block of T5.
fn fixed(indices: &Indices) -> BTreeMap<usize, u64> {
    let Some(first) = indices.first() else { return BTreeMap::new() };
    let same = |(place, number): &(usize, u64)| indices.iter().all(|index| index.get(*place) == Some(number));
    first.iter().copied().enumerate().skip(1).filter(same).collect()
}

fn without(indices: &Indices, fixed: &BTreeMap<usize, u64>) -> Indices {
    let strip = |index: &Vec<u64>| {
        let kept = index.iter().enumerate().filter(|(place, _)| !fixed.contains_key(place));
        kept.map(|(_, number)| *number).collect()
    };
    indices.iter().map(strip).collect()
}

fn restore(kind: &str, fixed: &BTreeMap<usize, u64>) -> String {
    let mut place = 0;
    let segment = |segment: &str| {
        if segment != "*" {
            return segment.to_owned();
        }
        place += 1;
        fixed.get(&(place - 1)).map_or_else(|| "*".to_owned(), u64::to_string)
    };
    kind.split('.').map(segment).collect::<Vec<_>>().join(".")
}

/// The number that a segment is. `01` is text: no two names may become one.
fn number(segment: &str) -> Option<u64> {
    let plain = segment == "0" || !segment.starts_with('0');
    let digits = !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit());
    segment.parse().ok().filter(|_| plain && digits)
}

/// Sets of numbers, the first index varying slowest: what has the same rest is written once.
fn compact(indices: &Indices) -> String {
    let mut rests: BTreeMap<u64, Indices> = BTreeMap::new();
    for index in indices {
        if let [first, rest @ ..] = &index[..] {
            rests.entry(*first).or_default().insert(rest.to_vec());
        }
    }
    let mut firsts: Vec<(String, BTreeSet<u64>)> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for (first, rest) in rests {
        let rest = compact(&rest);
        let place = *places.entry(rest.clone()).or_insert(firsts.len());
        if place == firsts.len() {
            firsts.push((rest, BTreeSet::new()));
        }
        firsts[place].1.insert(first);
    }
    let part = |(rest, firsts): (String, BTreeSet<u64>)| match rest.is_empty() {
        true => ranges(&firsts),
        false => format!("{} × {rest}", ranges(&firsts)),
    };
    firsts.into_iter().map(part).collect::<Vec<_>>().join("; ")
}

/// `0-3,5` of 0, 1, 2, 3, 5.
pub(crate) fn ranges(numbers: &BTreeSet<u64>) -> String {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, end)) if end.checked_add(1) == Some(number) => *end = number,
            _ => runs.push((number, number)),
        }
    }
    let run = |(start, end): (u64, u64)| match start == end {
        true => start.to_string(),
        false => format!("{start}-{end}"),
    };
    runs.into_iter().map(run).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::{group, places, shares};

    fn lines(names: &[&str]) -> Vec<String> {
        let line = |group: super::Group| {
            let component = group.component.map(|component| component + "/").unwrap_or_default();
            format!("{component}{} [{}] {}", group.kind, group.layers, group.count)
        };
        group(names.iter().copied()).into_iter().map(line).collect()
    }

    #[test]
    fn layers_become_ranges() {
        let names = ["l.10.q.weight", "l.2.q.weight", "l.1.q.weight", "l.0.q.weight", "l.2.q.weight"];
        assert_eq!(lines(&names), ["l.*.q.weight [0-2,10] 4"]);
    }

    #[test]
    fn components_and_kinds_stand_apart() {
        let names = ["unet/a.0.q", "vae/a.0.q", "a.0.q", "a.0.k", "lm_head.weight"];
        let wanted =
            ["a.*.k [0] 1", "a.*.q [0] 1", "lm_head.weight [] 1", "unet/a.*.q [0] 1", "vae/a.*.q [0] 1"];
        assert_eq!(lines(&names), wanted);
    }

    #[test]
    fn experts_of_all_layers_are_a_product() {
        let mut names: Vec<String> = Vec::new();
        for layer in 0..3 {
            for expert in 0..8 {
                names.push(format!("l.{layer}.experts.{expert}.w"));
            }
        }
        let borrowed: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(lines(&borrowed), ["l.*.experts.*.w [0-2 × 0-7] 24"]);
        assert_eq!(lines(&borrowed[..20]), ["l.*.experts.*.w [0-1 × 0-7; 2 × 0-3] 20"]);
    }

    #[test]
    fn a_number_that_never_differs_stays_in_the_kind() {
        let names = ["block.0.layer.1.wi.weight", "block.1.layer.1.wi.weight", "block.1.layer.0.q.weight"];
        let wanted = ["block.*.layer.0.q.weight [1] 1", "block.*.layer.1.wi.weight [0-1] 2"];
        assert_eq!(lines(&names), wanted);
        let found = shares([names[0]].into_iter(), names.into_iter());
        let parts = found.iter().map(|s| (s.module(), &*s.hit, &*s.missing));
        assert_eq!(parts.collect::<Vec<_>>(), [("layer.0.q", "", "1"), ("layer.1.wi", "0", "1")]);
    }

    #[test]
    fn a_row_ends_with_the_number_that_counts_layers() {
        let names = [
            "block.0.layer.1.wi.weight",
            "block.1.layer.1.wi.weight",
            "unet/down.0.attn.1.to_out.0.weight",
            "unet/down.1.attn.0.to_out.0.weight",
            "l.0.experts.3.w1.weight",
            "l.0.experts.4.w1.weight",
        ];
        let lines: Vec<String> =
            places(names.iter()).iter().map(|p| format!("{} | {}", p.row, p.column)).collect();
        let wanted = [
            "block.0 | layer.1.wi",
            "block.1 | layer.1.wi",
            "down.0.attn.1 | to_out.0",
            "down.1.attn.0 | to_out.0",
            "l.0.experts.3 | w1",
            "l.0.experts.4 | w1",
        ];
        assert_eq!(lines, wanted);
    }

    #[test]
    fn numbers_that_are_not_decimal_counts_stay_text() {
        let names = ["l.01.q", "l.+1.q", "l.1.q", "l.99999999999999999999.q", "l..q"];
        assert_eq!(lines(&names).len(), 5);
    }

    #[test]
    fn a_share_tells_hit_from_missing() {
        let all = ["l.0.q.weight", "l.1.q.weight", "l.2.q.weight", "l.0.mlp.k.weight", "head.weight"];
        let found = shares(["l.0.q.weight", "l.2.q.weight", "other"].into_iter(), all.into_iter());
        let lines: Vec<_> = found.iter().map(|s| (s.module(), &*s.hit, &*s.missing, s.hits, s.of)).collect();
        assert_eq!(lines, [("head", "", "", 0, 1), ("mlp.k", "", "0", 0, 1), ("q", "0,2", "1", 2, 3)]);
    }
}
