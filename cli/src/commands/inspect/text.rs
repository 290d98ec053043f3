//! The summary as text for a terminal.

use fitment_report::text::{grouped, number};
use fitment_report::{Group, Summary};
use std::fmt::Write as _;

pub(crate) fn render(summary: &Summary) -> String {
    let mut out = String::new();
    let mut row = |label: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(out, "{label:<11} {value}");
        }
    };
    row("file", &format!("{} ({})", summary.path, summary.format));
    row("id", summary.id.as_deref().unwrap_or_default());
    if let Some(about) = &summary.about {
        row("title", about.title.as_deref().unwrap_or_default());
        row("about", about.description.as_deref().unwrap_or_default());
        row("license", about.license.as_deref().unwrap_or_default());
        row("triggers", &about.triggers.join(", "));
        row("tags", &about.tags.join(", "));
    }
    row("family", &summary.families.join(", "));
    row("method", &summary.methods.join(", "));
    row("base", &base_line(summary));
    row("source", &source_line(summary));
    row("edits", &edits_line(summary));
    row("rank", &join(summary.ranks.iter().map(ToString::to_string)));
    row("scale", &join(summary.scales.iter().map(|scale| number(*scale))));
    row("parameters", &parameters_line(summary));
    row("bytes", &bytes_line(summary));
    row("dtype", &summary.dtypes.join(", "));
    row("changes", &summary.effect.targets.join(", "));
    row("acts on", &join(summary.effect.scope.iter().cloned()));
    row("foldable", &fold_line(summary));
    let flops = summary.effect.flops_per_token.map(grouped);
    row("cost", &flops.map(|flops| format!("{flops} flops for each such token")).unwrap_or_default());
    if !summary.groups.is_empty() {
        out.push('\n');
        out.push_str(&table(&summary.groups));
    }
    if let Some(tensors) = &summary.tensors {
        out.push('\n');
        for tensor in tensors {
            let (target, kind, role, dtype) = (&tensor.target, tensor.kind, tensor.role, tensor.dtype);
            let _ = writeln!(out, "{target}  {kind}.{role}  {dtype} {:?}", tensor.shape);
        }
    }
    out
}

fn base_line(summary: &Summary) -> String {
    let base = &summary.base;
    let name = base.name.clone().unwrap_or_else(|| "not named".to_owned());
    let revision = base.revision.as_ref().map(|revision| format!("@{revision}")).unwrap_or_default();
    let architecture =
        base.architecture.as_ref().map(|architecture| format!(", {architecture}")).unwrap_or_default();
    let binding = if base.bound {
        let unchanged = match base.unchanged_tensors {
            0 => String::new(),
            count => format!(" and {count} unchanged ones"),
        };
        format!("bound by the digests of {} tensors{unchanged}", base.touched_tensors)
    } else {
        "unbound: no digests recorded".to_owned()
    };
    format!("{name}{revision}{architecture} ({}), {binding}", base.layout)
}

fn source_line(summary: &Summary) -> String {
    let Some(source) = &summary.source else { return String::new() };
    let version = source.version.as_ref().map(|version| format!(" {version}")).unwrap_or_default();
    let mut line = format!("{}{version}", source.format);
    if !source.files.is_empty() {
        let _ = write!(line, ", keeps {}", source.files.join(", "));
    }
    if source.kept_tensors > 0 {
        let _ = write!(line, ", {} tensors without effect", source.kept_tensors);
    }
    line
}

fn edits_line(summary: &Summary) -> String {
    let kinds: Vec<String> = summary.kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let modules = match summary.modules {
        0 => String::new(),
        count => format!(" on {count} modules"),
    };
    if kinds.is_empty() { "none".to_owned() } else { format!("{}{modules}", kinds.join(", ")) }
}

fn parameters_line(summary: &Summary) -> String {
    let share = |part: u64, whole: u64| 100.0 * part as f64 / whole as f64;
    let mut line = grouped(summary.parameters);
    if let Some(whole) = summary.base.parameters.filter(|whole| *whole > 0) {
        let _ = write!(line, ", {:.3} % of the base's {}", share(summary.parameters, whole), grouped(whole));
    } else if let Some(touched) = summary.base.touched_parameters {
        let _ = write!(
            line,
            ", {:.3} % of the {} in the tensors it touches",
            share(summary.parameters, touched),
            grouped(touched)
        );
    }
    line
}

fn bytes_line(summary: &Summary) -> String {
    let bytes = summary.effect.bytes;
    let share = |whole: u64| {
        format!(", {:.3} % of the base's {}", 100.0 * bytes as f64 / whole as f64, grouped(whole))
    };
    let share = summary.base.bytes.filter(|whole| *whole > 0).map(share).unwrap_or_default();
    format!("{}{share}", grouped(bytes))
}

/// Whether interventions can become part of weights, and why not.
fn fold_line(summary: &Summary) -> String {
    let Some(fold) = &summary.effect.fold else { return String::new() };
    let answer = match (fold.foldable, fold.certain) {
        (0, _) => "no".to_owned(),
        (count, true) if count == fold.interventions => "yes".to_owned(),
        (count, false) if count == fold.interventions => {
            "into a base that has the weights; --base says whether".to_owned()
        }
        (count, _) => format!("{count} of {}", fold.interventions),
    };
    match &fold.reasons[..] {
        [] => answer,
        [first, rest @ ..] => {
            let more =
                if rest.is_empty() { String::new() } else { format!(" (and {} more reasons)", rest.len()) };
            format!("{answer}; {}: {}{more}", first.site, first.reason)
        }
    }
}

fn join(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    match items.len() {
        0..=8 => items.join(", "),
        count => format!("{} … {} ({count} values)", items[..4].join(", "), items[count - 1]),
    }
}

fn table(groups: &[Group]) -> String {
    let heading = ["target", "layers", "edit", "rank", "scale", "dtype", "n"].map(str::to_owned);
    let rows = groups.iter().map(|group| {
        let component = group.component.as_ref().map(|component| format!("{component}/")).unwrap_or_default();
        [
            format!("{component}{}", group.target),
            group.layers.clone(),
            group.edit.clone(),
            group.rank.map(|rank| rank.to_string()).unwrap_or_default(),
            group.scale.map(number).unwrap_or_default(),
            group.dtype.clone(),
            group.count.to_string(),
        ]
    });
    let rows: Vec<[String; 7]> = std::iter::once(heading).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..7).map(width).collect();
    let mut out = String::new();
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}
