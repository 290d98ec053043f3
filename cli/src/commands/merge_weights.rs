//! `--weights FILE` of `fitment merge`.

use crate::console::{Exit, Failure};
use anyhow::anyhow;
use fitment_merge::{Values, WeightRule, Weights};
use serde::Deserialize;
use std::path::Path;

/// The file: TOML, or JSON where its name ends in that.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    rule: Vec<Rule>,
}

/// `[[rule]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    #[serde(rename = "match")]
    pattern: String,
    adapter: Option<Adapter>,
    weight: Option<Numbers>,
    density: Option<Numbers>,
    lambda: Option<Numbers>,
}

/// An adapter by its place in the command, from 1, or by its path there.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "adapter is its place in the command, from 1, or its path there")]
enum Adapter {
    Place(usize),
    Path(String),
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a number or a list of numbers is asked for")]
enum Numbers {
    One(f64),
    Layers(Vec<f64>),
}

/// Reads the rules; adapters are named as in `adapters`, without their weights.
pub(crate) fn read(path: &Path, adapters: &[&Path]) -> Result<Weights, Failure> {
    let unusable = |message: String| {
        let error = anyhow!("{}: {message}", path.display());
        let hint = "a rule is: [[rule]] match = \"*.mlp.*\", weight = 0.5 (or [0.2, 0.8] over the layers)";
        Failure::new(Exit::Unusable, error).hint(hint)
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::new(Exit::Unusable, anyhow!("{}: {error}", path.display())))?;
    let is_json = path.extension().is_some_and(|ending| ending == "json");
    let document: Document = match is_json {
        true => serde_json::from_str(&text).map_err(|error| unusable(error.to_string()))?,
        // The crate's messages have lines of their own for the place.
        false => toml::from_str(&text).map_err(|error| unusable(one_line(&error, &text)))?,
    };
    let place = |adapter: &Adapter| match adapter {
        Adapter::Place(place) => {
            place.checked_sub(1).ok_or_else(|| unusable("adapters count from 1".to_owned()))
        }
        Adapter::Path(name) => {
            let found = adapters.iter().position(|path| *path == Path::new(name));
            found.ok_or_else(|| unusable(format!("no adapter of the command is {name:?}")))
        }
    };
    let rules = document.rule.into_iter().map(|rule| {
        Ok(WeightRule {
            adapter: rule.adapter.as_ref().map(place).transpose()?,
            weight: rule.weight.map(values),
            density: rule.density.map(values),
            lambda: rule.lambda.map(values),
            pattern: rule.pattern,
        })
    });
    Ok(Weights { rules: rules.collect::<Result<Vec<_>, Failure>>()? })
}

fn values(numbers: Numbers) -> Values {
    match numbers {
        Numbers::One(value) => Values::One(value),
        Numbers::Layers(values) => Values::Layers(values),
    }
}

fn one_line(error: &toml::de::Error, text: &str) -> String {
    let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    let place = line.map_or(String::new(), |line| format!("line {line}: "));
    format!("{place}{}", error.message().replace('\n', "; "))
}
