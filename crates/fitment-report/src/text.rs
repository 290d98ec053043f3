//! Numbers as people read them.

/// A double in its shortest decimal form.
pub fn number(value: f64) -> String {
    format!("{value}")
}

/// A measured double with three significant digits: `0.0123`, `12.3`, `1,230`; with an exponent where that is shorter.
pub fn measured(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    let magnitude = value.abs().log10().floor();
    if !(-4.0..6.0).contains(&magnitude) {
        return format!("{value:.2e}");
    }
    let decimals = (2.0 - magnitude).max(0.0) as usize;
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => match text.strip_prefix('-') {
            Some(digits) => format!("-{}", grouped(digits.parse().unwrap_or(0))),
            None => grouped(text.parse().unwrap_or(0)),
        },
    }
}

/// A whole number, thousands apart.
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 module`, `2 modules`.
pub fn counted(count: usize, one: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {one}{plural}", grouped(count as u64))
}

/// Text for XML and HTML, and for the values of their attributes.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(character),
            _ if character.is_control() => out.extend(character.escape_default()),
            // Marks that turn the direction of text could make a name look like another.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.extend(character.escape_default()),
            _ => out.push(character),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{counted, escaped, grouped, measured};

    #[test]
    fn thousands_stand_apart() {
        assert_eq!([grouped(7), grouped(1000), grouped(1234567)], ["7", "1,000", "1,234,567"]);
        assert_eq!([counted(1, "layer"), counted(1200, "layer")], ["1 layer", "1,200 layers"]);
    }

    #[test]
    fn three_digits_are_enough() {
        let texts = [0.0, 1.0, 0.012345, 12.345, 999.9, 1234.5, -2500.0, 1.5e-7, 3e9].map(measured);
        assert_eq!(texts, ["0", "1", "0.0123", "12.3", "1,000", "1,234", "-2,500", "1.50e-7", "3.00e9"]);
    }

    #[test]
    fn names_cannot_become_markup() {
        assert_eq!(
            escaped("<a href=\"x\">&'\u{7}\u{202e}"),
            "&lt;a href=&quot;x&quot;&gt;&amp;&#39;\\u{7}\\u{202e}"
        );
    }
}
