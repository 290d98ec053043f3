//! Python's regular expressions, as far as module paths need them, with bounded effort.

use fancy_regex::{Regex, RegexBuilder};
use std::fmt;

/// Steps of backtracking for one path: catastrophic patterns end in an error instead of a hang.
const BACKTRACK_LIMIT: usize = 200_000;

/// Character-class operators that Rust's engine has and Python's takes literally.
const CLASS_OPERATORS: &[&str] = &["[[", "&&", "--", "~~"];

/// A pattern of the config, compiled.
#[derive(Debug)]
pub(super) struct Pattern {
    text: String,
    regex: Regex,
}

/// Why a pattern cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PatternFault {
    /// The pattern as the config has it.
    pub(super) pattern: String,
    /// What is wrong.
    pub(super) reason: String,
}

impl fmt::Display for PatternFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.pattern, self.reason)
    }
}

impl Pattern {
    /// `re.fullmatch(text, path)`.
    pub(super) fn whole(text: &str) -> Result<Self, PatternFault> {
        Self::compile(text, &format!("\\A(?:{text})\\z"))
    }

    /// `re.match("(.*\.)?(text)$", path)`: the path, or its end behind a dot.
    pub(super) fn end(text: &str) -> Result<Self, PatternFault> {
        Self::compile(text, &format!("\\A(?:(.*\\.)?({text})\\z)"))
    }

    /// `re.match(".*\.text$", path)`: the end behind a dot; an alternation in `text` is not grouped.
    pub(super) fn end_behind_dot(text: &str) -> Result<Self, PatternFault> {
        Self::compile(text, &format!("\\A(?:.*\\.{text}\\z)"))
    }

    /// `re.match("(^|.*\.)text($|\..*)", path)`: some segments of the path.
    pub(super) fn segments(text: &str) -> Result<Self, PatternFault> {
        Self::compile(text, &format!("\\A(?:(^|.*\\.){text}($|\\..*))"))
    }

    /// `re.match("(?:^|.*?\.)text\.(\d+)\.", path)`: a number behind `text`.
    pub(super) fn numbered(text: &str) -> Result<Self, PatternFault> {
        Self::compile(text, &format!("\\A(?:(?:^|.*?\\.){text}\\.(?P<idx>\\d+)\\.)"))
    }

    /// `re.match(".*?\.[^.]*\.(\d+)\.", path)`: the first number behind two segments.
    pub(super) fn first_number() -> Self {
        let regex = "\\A(?:.*?\\.[^.]*\\.(?P<idx>\\d+)\\.)";
        Self::compile("layer number", regex).expect("a constant pattern that a test compiles")
    }

    fn compile(text: &str, regex: &str) -> Result<Self, PatternFault> {
        let fault = |reason: String| PatternFault { pattern: text.to_owned(), reason };
        if let Some(operator) = CLASS_OPERATORS.iter().find(|operator| text.contains(**operator)) {
            return Err(fault(format!("{operator} in a pattern means another thing in Python than here")));
        }
        let built = RegexBuilder::new(regex).backtrack_limit(BACKTRACK_LIMIT).build();
        let regex =
            built.map_err(|error| fault(format!("not a regular expression: {}", in_one_line(&error))))?;
        Ok(Self { text: text.to_owned(), regex })
    }

    /// Whether a path matches.
    pub(super) fn matches(&self, path: &str) -> Result<bool, PatternFault> {
        self.regex.is_match(path).map_err(|error| self.gave_up(&error))
    }

    /// The number that the pattern captures in a path that matches.
    pub(super) fn number(&self, path: &str) -> Result<Option<u64>, PatternFault> {
        let captures = self.regex.captures(path).map_err(|error| self.gave_up(&error))?;
        Ok(captures.and_then(|captures| captures.name("idx")?.as_str().parse().ok()))
    }

    fn gave_up(&self, error: &fancy_regex::Error) -> PatternFault {
        PatternFault {
            pattern: self.text.clone(),
            reason: format!("cannot be matched: {}", in_one_line(error)),
        }
    }
}

/// A path as a pattern that matches it alone.
pub(super) fn escaped(path: &str) -> String {
    let special = |c: char| r".^$*+?{}[]\|()".contains(c);
    path.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

fn in_one_line(error: &fancy_regex::Error) -> String {
    let text = error.to_string();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    // Every expectation below is what Python's `re` answers.
    #[test]
    fn ends_match_as_python_does() {
        let hit = |key: &str, path: &str| Pattern::end(key).unwrap().matches(path).unwrap();
        assert!(hit("q_proj", "model.layers.0.self_attn.q_proj"));
        assert!(!hit("_proj", "model.layers.0.self_attn.q_proj"));
        assert!(hit("q_proj", "q_proj"));
        assert!(hit("k_proj|o_proj", "a.o_proj"));
        assert!(hit("^model.layers.1.mlp.(up|down)_proj", "model.layers.1.mlp.up_proj"));
        assert!(hit("layers.0.*", "model.layers.0.mlp.up_proj"));
        assert!(hit(r"layers\.(?!0\.)\d+\..*q_proj", "model.layers.1.self_attn.q_proj"));
        assert!(!hit(r"layers\.(?!0\.)\d+\..*q_proj", "model.layers.0.self_attn.q_proj"));
    }

    #[test]
    fn old_ends_need_a_dot_and_do_not_group() {
        let hit = |key: &str, path: &str| Pattern::end_behind_dot(key).unwrap().matches(path).unwrap();
        assert!(!hit("q_proj", "q_proj"));
        assert!(hit("a|b", "x.a.y")); // `.*\.a` alone is the first branch: no end asked for
        assert!(!hit("a|b", "x.b"));
    }

    #[test]
    fn whole_matches_take_any_branch_that_covers_the_path() {
        let hit = |text: &str, path: &str| Pattern::whole(text).unwrap().matches(path).unwrap();
        assert!(hit("a|ab", "ab"));
        assert!(!hit("a|ab", "abc"));
        assert!(hit(r".*\.(?P<kind>q|v)_proj", "x.v_proj"));
    }

    #[test]
    fn layer_numbers_are_the_first_ones() {
        let first = Pattern::first_number();
        assert_eq!(first.number("model.layers.1.experts.0.w1").unwrap(), Some(1));
        assert_eq!(first.number("layers.1.q").unwrap(), None);
        let after = Pattern::numbered("layers").unwrap();
        assert_eq!(after.number("layers.7.q").unwrap(), Some(7));
        assert_eq!(after.number("a.layers.12.b.layers.3.q").unwrap(), Some(12));
    }

    #[test]
    fn catastrophic_patterns_end_in_an_error() {
        let pattern =
            Pattern::whole(r"(?:a|aa|(?=x))*\1?b").or_else(|_| Pattern::whole(r"(a|aa)*\1b(?=c)")).unwrap();
        let fault = pattern.matches(&"a".repeat(200)).unwrap_err();
        assert!(fault.to_string().contains("cannot be matched"), "{fault}");
    }

    #[test]
    fn patterns_that_differ_between_the_engines_are_refused() {
        assert!(Pattern::end("[a&&b]").is_err());
        assert!(Pattern::end("(unclosed").is_err());
    }
}
