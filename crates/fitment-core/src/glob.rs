//! Patterns over tensor names: `*` is any run of characters, `?` any one; everything else stands for itself.

/// Whether the whole name matches.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where to go on when the text behind the last star does not fit: one character later.
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                retry = Some((p, n));
                p += 1;
            }
            Some(&c) if c == '?' || c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match retry {
                None => return false,
                Some((star, from)) => {
                    retry = Some((star, from + 1));
                    p = star + 1;
                    n = from + 1;
                }
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn star_spans_dots_and_may_be_empty() {
        assert!(matches("*lm_head*", "lm_head.weight"));
        assert!(matches("model.layers.*.q_proj.weight", "model.layers.10.self_attn.q_proj.weight"));
        assert!(matches("a*b*c", "abbbc"));
        assert!(matches("**", ""));
    }

    #[test]
    fn the_whole_name_must_match() {
        assert!(!matches("q_proj", "q_proj.weight"));
        assert!(!matches("*.bias", "q_proj.weight"));
        assert!(!matches("layers.?.x", "layers.10.x"));
        assert!(matches("layers.?.x", "layers.1.x"));
    }

    #[test]
    fn regex_characters_stand_for_themselves() {
        assert!(!matches("a.c", "abc"));
        assert!(matches("[0]", "[0]"));
    }
}
