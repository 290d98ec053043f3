use super::Report;
use super::markdown::kind;
use crate::modules::Measure;
use crate::picture;
use crate::summary::{Summary, TensorLine};
use crate::text::{counted, escaped, grouped, measured, number};
use fitment_core::Severity;
use fitment_validate::{Outcome, Verdict, codes};
use std::fmt::Write as _;

const CSS: &str = include_str!("report.css");

impl Report {
    /// The report as one page: no script, nothing from elsewhere, light and dark.
    pub fn html(&self) -> String {
        let summary = &self.summary;
        let name = escaped(&summary.path);
        let mut out = String::new();
        let _ = write!(
            out,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
             content=\"width=device-width, initial-scale=1\">\n<meta http-equiv=\"Content-Security-Policy\" \
             content=\"default-src 'none'; style-src 'unsafe-inline'\">\n<title>{name} · Fitment</title>\n\
             <style>\n{CSS}</style>\n</head>\n<body>\n<main>\n<h1>{name}</h1>\n<p class=\"sentence\">{}</p>\n",
            escaped(&summary.sentence())
        );
        if let Some(outcome) = &self.outcome {
            verdict(&mut out, outcome);
        }
        self.assumed(&mut out);
        out.push_str("<h2>What it is</h2>\n<dl>\n");
        for (name, value) in facts(summary) {
            let _ = writeln!(out, "<dt>{name}</dt><dd>{}</dd>", escaped(&value));
        }
        out.push_str("</dl>\n");
        self.pictures(&mut out);
        self.modules_table(&mut out);
        if let Some(tensors) = &summary.tensors {
            tensor_table(&mut out, tensors);
        }
        self.texts(&mut out);
        out.push_str(
            "</main>\n<footer>Made by Fitment. Nothing on this page was fetched from elsewhere.</footer>\n",
        );
        out.push_str("</body>\n</html>\n");
        out
    }

    fn assumed(&self, out: &mut String) {
        let lines: Vec<&String> = self.losses.iter().chain(&self.problems).collect();
        if lines.is_empty() {
            return;
        }
        out.push_str("<h2>What was left out or taken for granted</h2>\n<ul>\n");
        for line in lines {
            let _ = writeln!(out, "<li>{}</li>", escaped(line));
        }
        out.push_str("</ul>\n");
    }

    fn pictures(&self, out: &mut String) {
        let measures = self.measures();
        if measures.is_empty() {
            return;
        }
        out.push_str("<h2>Layers × modules</h2>\n");
        for measure in measures {
            let title = measure.title();
            let _ = write!(
                out,
                "<figure>\n<figcaption>{title}</figcaption>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" \
                 aria-label=\"{}\">{}</div>\n</figure>\n",
                escaped(title),
                picture::heat_map(&self.modules, &self.analyses, measure)
            );
        }
        let magnitudes = self.modules.iter().filter(|module| module.magnitude).count();
        if magnitudes > 0 && self.measures().contains(&Measure::Norm) {
            let _ = writeln!(
                out,
                "<p>{} have a magnitude (DoRA): shown is the low-rank part alone, as the rest depends on the base.</p>",
                counted(magnitudes, "module")
            );
        }
    }

    fn modules_table(&self, out: &mut String) {
        if self.modules.is_empty() {
            return;
        }
        let _ = write!(
            out,
            "<h2>Modules</h2>\n<details open>\n<summary>{}, with the numbers of the pictures</summary>\n<div \
             class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Modules\">\n<table>\n<thead><tr><th \
             scope=\"col\">module</th><th scope=\"col\">kind</th>",
            counted(self.modules.len(), "edit")
        );
        for heading in ["rank", "scale", "‖ΔW‖", "σ₁", "stable rank", "90 % in", "99 % in", "share", "bytes"]
        {
            let _ = write!(out, "<th scope=\"col\" class=\"number\">{heading}</th>");
        }
        out.push_str("<th scope=\"col\">spectrum</th><th scope=\"col\">acts on</th></tr></thead>\n<tbody>\n");
        for (module, analysis) in self.modules.iter().zip(&self.analyses) {
            let analysis = analysis.clone().unwrap_or_default();
            let count = |value: Option<usize>| value.map(|value| value.to_string()).unwrap_or_default();
            let of = |value: Option<f64>| value.map(measured).unwrap_or_default();
            let cells = [
                module.rank.map(|rank| rank.to_string()).unwrap_or_default(),
                module.scale.map(number).unwrap_or_default(),
                of(analysis.norm),
                of(analysis.spectral),
                of(analysis.stable_rank),
                count(analysis.rank_90),
                count(analysis.rank_99),
                of(module.share),
                grouped(module.bytes),
            ];
            let _ = write!(out, "<tr><td>{}</td><td>{}</td>", escaped(&module.label), kind(module));
            for cell in cells {
                let _ = write!(out, "<td class=\"number\">{cell}</td>");
            }
            let mut acts_on = module.positions.clone().unwrap_or_default();
            if let Some(error) = analysis.orthogonality {
                let _ = write!(acts_on, "; |UᵀU − I| ≤ {}", measured(error));
            }
            let _ =
                writeln!(out, "<td>{}</td><td>{}</td></tr>", picture::spark(&analysis), escaped(&acts_on));
        }
        out.push_str("</tbody>\n</table>\n</div>\n</details>\n");
    }

    fn texts(&self, out: &mut String) {
        if let Some(manifest) = &self.manifest {
            let _ = write!(
                out,
                "<h2>Manifest</h2>\n<details>\n<summary>as the file has it, with line breaks</summary>\n<pre \
                 tabindex=\"0\">{}</pre>\n</details>\n",
                escaped(manifest)
            );
        }
        if !self.sources.is_empty() {
            out.push_str("<h2>Source</h2>\n");
        }
        for (path, text) in &self.sources {
            let _ = write!(
                out,
                "<details>\n<summary>{} as written</summary>\n<pre tabindex=\"0\">{}</pre>\n</details>\n",
                escaped(path),
                escaped(text)
            );
        }
    }
}

/// The verdict in a few words.
pub(super) fn verdict_words(outcome: &Outcome) -> String {
    let count = |severity: Severity, word: &str| {
        let count = outcome.count(severity);
        (count > 0).then(|| counted(count, word))
    };
    let counts =
        [count(Severity::Error, "error"), count(Severity::Warning, "warning"), count(Severity::Note, "note")];
    let counts: Vec<String> = counts.into_iter().flatten().collect();
    let counts = if counts.is_empty() { "no findings".to_owned() } else { counts.join(", ") };
    match outcome.verdict(Severity::Error) {
        Verdict::Findings => format!("Broken: {counts}"),
        Verdict::Unchecked => "Not checked".to_owned(),
        Verdict::Clean if outcome.count(Severity::Warning) > 0 => format!("Sound, with {counts}"),
        Verdict::Clean => format!("Sound: {counts}"),
    }
}

fn verdict(out: &mut String, outcome: &Outcome) {
    let class = match outcome.verdict(Severity::Error) {
        Verdict::Findings => "error",
        Verdict::Unchecked => "unchecked",
        Verdict::Clean if outcome.count(Severity::Warning) > 0 => "warning",
        Verdict::Clean => "fine",
    };
    let checked = [
        (outcome.checked.format, "the rules of its format"),
        (outcome.checked.weights, "the values"),
        (outcome.checked.base, "the fit to the base"),
    ];
    let checked: Vec<&str> = checked.into_iter().filter(|(was, _)| *was).map(|(_, what)| what).collect();
    let checked = if checked.is_empty() { "nothing".to_owned() } else { checked.join(", ") };
    let _ = write!(
        out,
        "<section class=\"verdict {class}\" aria-label=\"Verdict\">\n<strong>{}</strong> · checked: {checked}\n",
        escaped(&verdict_words(outcome))
    );
    if let Some(refusal) = &outcome.refusal {
        let _ = writeln!(out, "<p>{}</p>", escaped(&refusal.message));
        if let Some(hint) = &refusal.hint {
            let _ = writeln!(out, "<p class=\"help\">{}</p>", escaped(hint));
        }
    }
    if !outcome.findings.is_empty() {
        out.push_str("<ul class=\"findings\">\n");
        for finding in &outcome.findings {
            let place = match finding.place.is_empty() {
                true => String::new(),
                false => format!("{}: ", escaped(&finding.place)),
            };
            let remedy = codes::of(finding.code).map(|rule| escaped(rule.remedy)).unwrap_or_default();
            let severity = finding.severity;
            let _ = writeln!(
                out,
                "<li><span class=\"code {severity}\">{severity} {}</span> {place}{} <span class=\"help\">{remedy}</span></li>",
                finding.code,
                escaped(&finding.message)
            );
        }
        out.push_str("</ul>\n");
    }
    out.push_str("</section>\n");
}

/// Names and values of what a summary says beside its sentence.
pub(super) fn facts(summary: &Summary) -> Vec<(&'static str, String)> {
    let base = &summary.base;
    let bound = match base.bound {
        true => format!("by the digests of {}", counted(base.touched_tensors, "tensor")),
        false => "no: no digests are recorded".to_owned(),
    };
    let join = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(", ");
    let about = summary.about.as_ref();
    let facts = [
        ("Format", summary.format.clone()),
        ("Content id", summary.id.clone().unwrap_or_default()),
        ("Title", about.and_then(|about| about.title.clone()).unwrap_or_default()),
        ("About", about.and_then(|about| about.description.clone()).unwrap_or_default()),
        ("License", about.and_then(|about| about.license.clone()).unwrap_or_default()),
        ("Triggers", about.map(|about| about.triggers.join(", ")).unwrap_or_default()),
        ("Family", summary.families.join(", ")),
        ("Method", summary.methods.join(", ")),
        ("Base", base.name.clone().unwrap_or_default()),
        ("Revision", base.revision.clone().unwrap_or_default()),
        ("Architecture", base.architecture.clone().unwrap_or_default()),
        ("Names of tensors", base.layout.clone()),
        ("Bound to the base", bound),
        (
            "Edits",
            join(&mut summary.kinds.iter().map(|(kind, count)| format!("{} {kind}", grouped(*count as u64)))),
        ),
        ("Rank", join(&mut summary.ranks.iter().map(ToString::to_string))),
        ("Scale", join(&mut summary.scales.iter().take(12).map(|scale| number(*scale)))),
        ("Parameters", grouped(summary.parameters)),
        ("Bytes", grouped(summary.effect.bytes)),
        ("Changes", summary.effect.targets.join(", ")),
        ("Acts on", summary.effect.scope.join("; ")),
        ("Came from", summary.source.as_ref().map(|source| source.format.clone()).unwrap_or_default()),
    ];
    facts.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}

fn tensor_table(out: &mut String, tensors: &[TensorLine]) {
    let _ = write!(
        out,
        "<h2>Tensors</h2>\n<details>\n<summary>{}</summary>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" \
         aria-label=\"Tensors\">\n<table>\n<thead><tr><th scope=\"col\">target</th><th scope=\"col\">role</th><th \
         scope=\"col\">dtype</th><th scope=\"col\">shape</th></tr></thead>\n<tbody>\n",
        counted(tensors.len(), "tensor")
    );
    for tensor in tensors {
        let shape: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{}.{}</td><td>{}</td><td>[{}]</td></tr>",
            escaped(&tensor.target),
            tensor.kind,
            tensor.role,
            tensor.dtype,
            shape.join(", ")
        );
    }
    out.push_str("</tbody>\n</table>\n</div>\n</details>\n");
}
