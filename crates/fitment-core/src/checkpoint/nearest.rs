//! Which name of a checkpoint was probably meant.

use std::collections::BTreeSet;

/// The names of a checkpoint, ordered from the front and from the back: similar ones are found without a look at all.
#[derive(Clone, Debug)]
pub struct Names<'b> {
    forward: Vec<&'b str>,
    /// Names with their segments reversed, and the names themselves.
    backward: Vec<(String, &'b str)>,
}

/// How many neighbours on each side are compared: enough to pass by the other tensors of one module.
const WINDOW: usize = 8;

impl<'b> Names<'b> {
    /// Orders the names.
    pub fn new(names: impl Iterator<Item = &'b str>) -> Self {
        let mut forward: Vec<&str> = names.collect();
        forward.sort_unstable();
        let mut backward: Vec<(String, &str)> = forward.iter().map(|name| (reversed(name), *name)).collect();
        backward.sort_unstable();
        Self { forward, backward }
    }

    /// The name most like another one; `None` when nothing but a last word such as `weight` is common.
    pub fn nearest(&self, name: &str) -> Option<&'b str> {
        let back = reversed(name);
        let at_front = self.forward.partition_point(|other| *other < name);
        let at_back = self.backward.partition_point(|(other, _)| *other < back);
        let front = window(&self.forward, at_front).iter().copied();
        let candidates: BTreeSet<&str> =
            front.chain(window(&self.backward, at_back).iter().map(|(_, name)| *name)).collect();
        let wanted: Vec<&str> = name.split('.').collect();
        let likeness = |other: &&str| {
            let found: Vec<&str> = other.split('.').collect();
            let common = longest_common(&wanted, &found);
            (common > 1).then(|| (common, usize::MAX - distance(name, other)))
        };
        let scored = candidates.iter().filter_map(|other| Some((likeness(other)?, *other)));
        // Of equally like ones the first in order of names.
        scored.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, name)| name)
    }

    /// Every name that ends in these segments.
    pub fn ending_in(&self, segments: &str) -> impl Iterator<Item = &'b str> {
        let back = reversed(segments);
        let start = self.backward.partition_point(|(other, _)| *other < back);
        let ends = move |other: &str| {
            other.strip_prefix(back.as_str()).map(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        // Names with a longer last segment (`lm_head2` behind `lm_head`) may stand between: they are passed over.
        self.backward[start..]
            .iter()
            .map_while(move |(other, name)| ends(other).map(|ends| ends.then_some(*name)))
            .flatten()
    }
}

fn window<T>(sorted: &[T], at: usize) -> &[T] {
    &sorted[at.saturating_sub(WINDOW)..sorted.len().min(at.saturating_add(WINDOW))]
}

fn reversed(name: &str) -> String {
    name.rsplit('.').collect::<Vec<_>>().join(".")
}

/// Length of the longest common subsequence of segments.
fn longest_common(a: &[&str], b: &[&str]) -> usize {
    let mut row = vec![0usize; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (at, y) in b.iter().enumerate() {
            let above = row[at + 1];
            row[at + 1] = if x == y { diagonal + 1 } else { above.max(row[at]) };
            diagonal = above;
        }
    }
    row[b.len()]
}

/// Levenshtein's distance, in bytes: names are at most 512 long.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (at, x) in a.bytes().enumerate() {
        let mut diagonal = at;
        row[0] = at + 1;
        for (index, y) in b.bytes().enumerate() {
            let above = row[index + 1];
            let change = diagonal + usize::from(x != y);
            row[index + 1] = change.min(above + 1).min(row[index] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::Names;

    fn names() -> Names<'static> {
        let base = [
            "lm_head.weight",
            "model.embed_tokens.weight",
            "model.layers.0.mlp.up_proj.weight",
            "model.layers.0.self_attn.q_proj.bias",
            "model.layers.0.self_attn.q_proj.weight",
            "model.layers.1.self_attn.q_proj.weight",
            "model.norm.weight",
        ];
        Names::new(base.into_iter())
    }

    #[test]
    fn another_prefix_finds_the_same_module() {
        let nearest = names().nearest("model.language_model.layers.0.self_attn.q_proj.weight");
        assert_eq!(nearest, Some("model.layers.0.self_attn.q_proj.weight"));
        assert_eq!(
            names().nearest("h.1.self_attn.q_proj.weight"),
            Some("model.layers.1.self_attn.q_proj.weight")
        );
    }

    #[test]
    fn a_layer_beyond_the_end_finds_the_last_word_of_its_module() {
        let nearest = names().nearest("model.layers.9.self_attn.q_proj.weight");
        assert_eq!(nearest, Some("model.layers.0.self_attn.q_proj.weight"));
    }

    #[test]
    fn a_misspelt_module_finds_its_neighbour() {
        let nearest = names().nearest("model.layers.0.self_attn.q_porj.weight");
        assert_eq!(nearest, Some("model.layers.0.self_attn.q_proj.weight"));
    }

    #[test]
    fn what_shares_only_the_last_word_is_not_near() {
        assert_eq!(names().nearest("unet.conv_in.weight"), None);
        assert_eq!(Names::new(std::iter::empty()).nearest("a.b"), None);
    }

    #[test]
    fn endings_stop_at_whole_segments() {
        let base = ["a.x_proj.w", "a.proj.w", "b.proj.w", "proj.w", "c.proj.w.z"];
        let index = Names::new(base.into_iter());
        let found: Vec<&str> = index.ending_in("proj.w").collect();
        assert_eq!(found, ["proj.w", "a.proj.w", "b.proj.w"]);
    }
}
