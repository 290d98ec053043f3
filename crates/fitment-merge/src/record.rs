//! What the result says of its own making.

use crate::error::Error;
use crate::input::{DYNAMIC, Input, Limit, Merged, Note, Options, SiteRule};
use crate::methods::Param;
use crate::parallel::each;
use crate::weights::{Values, WeightRule};
use fitment_core::encode_checked_each;
use serde_json::{Map, Value, json};

/// The manifest's field, spec section 9.1.
const FIELD: &str = "merge";

/// Writes the record: the method, its options, and every parent with its content id and weight.
pub(crate) fn record(
    merged: &mut Merged<'_>,
    inputs: &[Input<'_>],
    options: &Options<'_>,
) -> Result<(), Error> {
    let mut parents = Vec::new();
    for input in inputs {
        let id = match &input.id {
            Some(id) => id.clone(),
            None => encode_checked_each(input.adapter, &each)?.manifest.id,
        };
        parents.push(json!({"id": id, "weight": input.weight}));
    }
    let mut record = Map::new();
    let method = options.method.map_or("exact", |method| method.name);
    record.insert("method".to_owned(), method.into());
    record.insert("parents".to_owned(), parents.into());
    let mut chosen = Map::new();
    for param in options.method.map_or(&[][..], |method| method.params) {
        let value = match param {
            Param::Seed => whole(options.params.seed),
            _ => options.params.said(*param).unwrap_or_else(|| param.default()).into(),
        };
        chosen.insert(param.name().to_owned(), value);
    }
    if options.site_rule == SiteRule::Sum {
        chosen.insert("at_one_site".to_owned(), "sum".into());
    }
    if let Some(directions) = options.subspace {
        chosen.insert("subspace".to_owned(), directions.to_vec().into());
    }
    if !options.weights.rules.is_empty() {
        let rules: Vec<Value> = options.weights.rules.iter().map(rule).collect();
        chosen.insert("weights".to_owned(), rules.into());
    }
    match options.limit {
        Some(Limit::Rank(rank)) => {
            chosen.insert("rank".to_owned(), rank.into());
        }
        Some(Limit::Error(error)) => {
            chosen.insert("max_error".to_owned(), error.into());
        }
        Some(Limit::Dynamic { rule, value, most }) => {
            let name = DYNAMIC.iter().find(|(_, known)| *known == rule).map_or("", |(name, _)| name);
            chosen.insert("dynamic".to_owned(), format!("{name}={value}").into());
            chosen.extend(most.map(|most| ("rank".to_owned(), most.into())));
        }
        None => {}
    }
    let mismatched = merged.notes.iter().find_map(|note| match note {
        Note::OtherBase { tensors, .. } => Some(tensors.clone()),
        _ => None,
    });
    if let Some(tensors) = mismatched {
        chosen.insert("base_mismatch".to_owned(), tensors.into());
    }
    if !chosen.is_empty() {
        record.insert("options".to_owned(), Value::Object(chosen));
    }
    merged.adapter.extra.insert(FIELD.to_owned(), Value::Object(record));
    Ok(())
}

/// A number; as text where binary64 does not hold it.
fn whole(number: u64) -> Value {
    if number <= 1 << 53 { number.into() } else { number.to_string().into() }
}

fn rule(rule: &WeightRule) -> Value {
    let mut fields = Map::new();
    fields.insert("match".to_owned(), rule.pattern.clone().into());
    if let Some(place) = rule.adapter {
        fields.insert("adapter".to_owned(), (place + 1).into());
    }
    for (name, values) in [("weight", &rule.weight), ("density", &rule.density), ("lambda", &rule.lambda)] {
        let value = match values {
            None => continue,
            Some(Values::One(value)) => (*value).into(),
            Some(Values::Layers(values)) => values.clone().into(),
        };
        fields.insert(name.to_owned(), value);
    }
    Value::Object(fields)
}
