use crate::analysis::Analysis;
use crate::text::{escaped, measured};
use std::fmt::Write as _;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 180.0;
const MARGIN: [f64; 4] = [12.0, 12.0, 26.0, 56.0];

/// The singular values of an update as bars, with the ranks that keep 90 and 99 % of its energy; an empty picture says so.
pub fn spectrum(label: &str, analysis: &Analysis) -> String {
    let values = &analysis.spectrum;
    let mut out = String::new();
    let title = format!("Singular values of {label}: {}", in_words(analysis));
    let [top, right, bottom, left] = MARGIN;
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"spectrum\" role=\"img\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         width=\"{WIDTH}\" height=\"{HEIGHT}\" font-family=\"ui-sans-serif, system-ui, sans-serif\" \
         font-size=\"12\"><title>{}</title>",
        escaped(&title)
    );
    let largest = values.first().copied().unwrap_or(0.0);
    let (inner, base) = (WIDTH - left - right, HEIGHT - bottom);
    let step = inner / values.len().max(1) as f64;
    for (index, value) in values.iter().enumerate() {
        let height = if largest > 0.0 { (base - top) * value / largest } else { 0.0 };
        let _ = write!(
            out,
            "<rect x=\"{:.2}\" y=\"{:.2}\" width=\"{:.2}\" height=\"{height:.2}\" fill=\"#31688e\"><title>σ{}: \
             {}</title></rect>",
            left + index as f64 * step,
            base - height,
            (step * 0.86).max(0.4),
            index + 1,
            measured(*value)
        );
    }
    let _ = write!(
        out,
        "<path d=\"M{left} {top}V{base}H{}\" fill=\"none\" stroke=\"currentColor\" stroke-opacity=\"0.5\"/>",
        WIDTH - right
    );
    text(&mut out, [left - 6.0, top + 8.0], "end", &measured(largest));
    text(&mut out, [left - 6.0, base], "end", "0");
    text(&mut out, [left, HEIGHT - 8.0], "start", "σ1");
    text(&mut out, [WIDTH - right, HEIGHT - 8.0], "end", &format!("σ{}", values.len()));
    for (rank, part) in [(analysis.rank_90, "90 %"), (analysis.rank_99, "99 %")] {
        let Some(rank) = rank.filter(|_| !values.is_empty()) else { continue };
        let x = left + rank as f64 * step;
        let _ = write!(
            out,
            "<path d=\"M{x:.2} {top}V{base}\" stroke=\"currentColor\" stroke-dasharray=\"3 3\"/>"
        );
        let y = if part == "90 %" { top + 10.0 } else { top + 26.0 };
        let (x, anchor) = if x > WIDTH - 140.0 { (x - 5.0, "end") } else { (x + 5.0, "start") };
        text(&mut out, [x, y], anchor, &format!("{part} in {rank}"));
    }
    out.push_str("</svg>");
    out
}

fn text(out: &mut String, [x, y]: [f64; 2], anchor: &str, words: &str) {
    let _ = write!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"currentColor\">{}</text>",
        escaped(words)
    );
}

fn in_words(analysis: &Analysis) -> String {
    match (analysis.rank_90, analysis.rank_99) {
        (Some(ninety), Some(most)) if !analysis.spectrum.is_empty() => format!(
            "{} values, the largest {}; {ninety} keep 90 %, {most} keep 99 % of the energy",
            analysis.spectrum.len(),
            measured(analysis.spectrum[0])
        ),
        _ => "none".to_owned(),
    }
}

/// A spectrum as small as a word.
pub fn spark(analysis: &Analysis) -> String {
    let Some(largest) = analysis.spectrum.first().filter(|value| **value > 0.0) else { return String::new() };
    // No more points than can be seen.
    let every = analysis.spectrum.len().div_ceil(48);
    let points: Vec<f64> = analysis.spectrum.iter().step_by(every).map(|value| value / largest).collect();
    let step = 96.0 / points.len() as f64;
    let mut path = "M0 20".to_owned();
    for (index, value) in points.iter().enumerate() {
        let _ = write!(path, "V{:.1}H{:.1}", 20.0 - 19.0 * value, (index + 1) as f64 * step);
    }
    format!(
        "<svg class=\"spark\" viewBox=\"0 0 96 20\" width=\"96\" height=\"20\" aria-hidden=\"true\"><path d=\"{path}V20Z\" \
         fill=\"#31688e\"/></svg>"
    )
}
