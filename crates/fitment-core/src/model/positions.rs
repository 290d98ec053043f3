use super::words::words;
use std::collections::BTreeSet;
use std::ops::Range;

/// Which tokens an [`super::Intervention`] acts on: each of them once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Positions {
    /// In which passes, and what `select` counts.
    pub phase: Phase,
    /// Which of them.
    pub select: Select,
}

impl Positions {
    /// Every token of every pass: control vectors.
    pub const EVERYWHERE: Positions = Positions { phase: Phase::EveryForward, select: Select::All };
}

words! {
    /// When an edit acts.
    Phase {
        /// On the tokens of the prompt, whether they come in one pass or several.
        Prompt = "prompt",
        /// On the tokens after the prompt.
        Decode = "decode",
        /// On all tokens; selections count the tokens of each forward pass anew.
        EveryForward = "every_forward",
    }
}

/// Which tokens of a prompt, or of a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Select {
    /// All of them.
    All,
    /// Some at the beginning and some at the end.
    FirstLast(FirstLast),
    /// Those numbers: from 0 at the beginning, or negative from the end (−1 is the last). Only of a prompt.
    Explicit(Vec<i64>),
}

/// The first and the last tokens, padding left out. With `n` tokens and `e = n + end_offset`, `p` of `first` and `s` of
/// `last` remain by `short`: tokens `0..p` are the prefix, tokens `e−s..e` the suffix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstLast {
    /// Tokens at the beginning.
    pub first: u64,
    /// Tokens at the end.
    pub last: u64,
    /// 0, or −1 when the end is the last token but one (datasets of pyreft 0.1.0).
    pub end_offset: i64,
    /// What becomes of both in a prompt that is too short.
    pub short: ShortPrompt,
    /// Which of the two this intervention acts on.
    pub group: Group,
}

words! {
    /// How [`FirstLast`] shrinks.
    ShortPrompt {
        /// `p = min(first, ⌊e/2⌋)`, `s = min(last, ⌊e/2⌋)`, in longer prompts too (pyreft 0.1.0).
        FloorHalf = "floor_half",
        /// Where `e < first + last`: `p = min(first, ⌊e/2⌋)`, `s = min(last, ⌈e/2⌉)` (the paper, arXiv 2404.03592).
        Paper = "paper",
        /// `p = min(first, e)`, `s = min(last, e)`: the two may overlap (adapters 1.3.0).
        Overlap = "overlap",
    }
}

words! {
    /// Which part of [`FirstLast`] an intervention acts on. Untied interventions are two, one for each part.
    Group {
        /// The first tokens.
        Prefix = "prefix",
        /// The last tokens.
        Suffix = "suffix",
        /// Both, with the same tensors.
        Both = "both",
    }
}

impl Select {
    /// The selected ones of `count` tokens, padding left out: ascending, each once.
    ///
    /// Of a prompt, or with [`Phase::EveryForward`] of a pass. Numbers that it does not have select nothing.
    pub fn tokens(&self, count: u64) -> Vec<u64> {
        match self {
            Select::All => (0..count).collect(),
            Select::FirstLast(ends) => {
                let (prefix, suffix) = ends.ranges(count);
                let (prefix, suffix) = match ends.group {
                    Group::Prefix => (prefix, 0..0),
                    Group::Suffix => (0..0, suffix),
                    Group::Both => (prefix, suffix),
                };
                // The two may overlap; what is in both is taken once.
                prefix.clone().chain(suffix.filter(|token| !prefix.contains(token))).collect()
            }
            Select::Explicit(numbers) => {
                let from_end = |number: i64| count.checked_sub(number.unsigned_abs());
                let token = |number: &i64| u64::try_from(*number).ok().or_else(|| from_end(*number));
                numbers
                    .iter()
                    .filter_map(token)
                    .filter(|token| *token < count)
                    .collect::<BTreeSet<u64>>()
                    .into_iter()
                    .collect()
            }
        }
    }
}

impl FirstLast {
    /// Prefix and suffix of `count` tokens, whichever the group is.
    pub fn ranges(&self, count: u64) -> (Range<u64>, Range<u64>) {
        let end = count.saturating_add_signed(self.end_offset);
        let (first, last) = match self.short {
            ShortPrompt::FloorHalf => (self.first.min(end / 2), self.last.min(end / 2)),
            ShortPrompt::Paper if end < self.first.saturating_add(self.last) => {
                (self.first.min(end / 2), self.last.min(end.div_ceil(2)))
            }
            ShortPrompt::Paper => (self.first, self.last),
            ShortPrompt::Overlap => (self.first.min(end), self.last.min(end)),
        };
        (0..first, end.saturating_sub(last)..end)
    }
}

#[cfg(test)]
mod tests {
    use super::{FirstLast, Group, Select, ShortPrompt};

    fn tokens(first: u64, last: u64, end_offset: i64, short: ShortPrompt, count: u64) -> Vec<u64> {
        Select::FirstLast(FirstLast { first, last, end_offset, short, group: Group::Both }).tokens(count)
    }

    #[test]
    fn long_prompts_give_the_ends() {
        for short in ShortPrompt::ALL {
            assert_eq!(tokens(2, 1, 0, *short, 9), [0, 1, 8]);
            assert_eq!(tokens(2, 1, -1, *short, 9), [0, 1, 7]);
            assert_eq!(tokens(0, 2, 0, *short, 9), [7, 8]);
        }
    }

    #[test]
    fn short_prompts_shrink_by_the_rule() {
        // pyreft 0.1.0: min(last_position // 2, n) for both, whatever their sum.
        assert_eq!(tokens(7, 7, 0, ShortPrompt::FloorHalf, 5), [0, 1, 3, 4]);
        assert_eq!(tokens(7, 1, 0, ShortPrompt::FloorHalf, 10), [0, 1, 2, 3, 4, 9]);
        assert_eq!(tokens(1, 1, 0, ShortPrompt::FloorHalf, 1), [0u64; 0]);
        assert_eq!(tokens(7, 7, 0, ShortPrompt::Paper, 5), [0, 1, 2, 3, 4]);
        assert_eq!(tokens(7, 1, 0, ShortPrompt::Paper, 10), [0, 1, 2, 3, 4, 5, 6, 9]);
        assert_eq!(tokens(1, 1, 0, ShortPrompt::Paper, 1), [0]);
        assert_eq!(tokens(3, 3, 0, ShortPrompt::Overlap, 4), [0, 1, 2, 3]);
        for short in ShortPrompt::ALL {
            assert_eq!(tokens(3, 3, 0, *short, 0), [0u64; 0]);
            assert_eq!(tokens(3, 3, -1, *short, 1), [0u64; 0]);
            assert_eq!(tokens(3, 3, -1, *short, 0), [0u64; 0]);
        }
    }

    #[test]
    fn a_group_is_one_of_the_two() {
        let ends =
            FirstLast { first: 3, last: 2, end_offset: 0, short: ShortPrompt::Overlap, group: Group::Suffix };
        assert_eq!(Select::FirstLast(ends).tokens(4), [2, 3]);
        assert_eq!(Select::FirstLast(FirstLast { group: Group::Prefix, ..ends }).tokens(4), [0, 1, 2]);
        assert_eq!(Select::FirstLast(FirstLast { group: Group::Both, ..ends }).tokens(4), [0, 1, 2, 3]);
    }

    #[test]
    fn explicit_numbers_count_from_both_ends() {
        let select = Select::Explicit(vec![0, 3, 9, i64::MIN, -4, -1]);
        assert_eq!(select.tokens(4), [0, 3]);
        assert_eq!(select.tokens(10), [0, 3, 6, 9]);
        assert_eq!(select.tokens(0), [0u64; 0]);
        assert_eq!(Select::All.tokens(3), [0, 1, 2]);
    }
}
