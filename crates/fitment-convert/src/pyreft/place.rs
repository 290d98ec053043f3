//! Where an intervention acts: by the config's representation, or by the name of its file.

use super::rules;
use fitment_core::Finding;
use fitment_core::model::{ModuleSite, Site, SiteComponent};
use serde_json::Value;

pub(super) const PREFIX: &str = "intkey_";
pub(super) const SUFFIX: &str = ".bin";

/// Fields of pyvene's RepresentationConfig since July 2024; before it had fewer.
const FIELDS: &[&str] = &[
    "layer",
    "component",
    "unit",
    "max_number_of_units",
    "low_rank_dimension",
    "intervention_type",
    "intervention",
    "subspace_partition",
    "group_key",
    "intervention_link_key",
    "moe_key",
    "source_representation",
    "hidden_source_representation",
    "latent_dim",
];

/// What of them older versions lacked, by their number.
const LACKED: &[(usize, &[&str])] = &[
    (14, &[]),
    (13, &["latent_dim"]),
    (12, &["latent_dim", "intervention"]),
    (11, &["latent_dim", "intervention", "moe_key"]),
    (10, &["latent_dim", "intervention", "moe_key", "hidden_source_representation"]),
    (
        8,
        &[
            "latent_dim",
            "intervention",
            "moe_key",
            "hidden_source_representation",
            "source_representation",
            "intervention_type",
        ],
    ),
];

/// One representation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) layer: u64,
    pub(super) component: String,
    pub(super) unit: String,
    pub(super) units: u64,
    /// What the config says; the tensors count.
    pub(super) rank: Option<u64>,
    /// What the config says beside the representation; the tensors count.
    pub(super) width: Option<u64>,
    pub(super) subspaces: bool,
}

impl Place {
    /// A representation in any of its forms.
    pub(super) fn of(value: &Value) -> Result<Self, String> {
        let field = |name: &str| -> Option<Value> {
            match value {
                Value::Array(items) => items.get(position(items.len(), name)?).cloned(),
                Value::Object(fields) => fields.get(name).cloned(),
                Value::String(text) => spelled(text, name),
                _ => None,
            }
        };
        if let Value::Array(items) = value
            && !LACKED.iter().any(|(count, _)| *count == items.len())
        {
            return Err(format!("a list of {} fields, known are 8 and 10 to 14", items.len()));
        }
        let component = field("component").and_then(|value| value.as_str().map(str::to_owned));
        let number = |name: &str| field(name).and_then(|value| value.as_u64());
        Ok(Self {
            layer: number("layer").unwrap_or(0),
            component: component.ok_or("no component")?,
            unit: field("unit")
                .and_then(|value| value.as_str().map(str::to_owned))
                .unwrap_or("pos".to_owned()),
            units: number("max_number_of_units").unwrap_or(1),
            rank: number("low_rank_dimension"),
            width: None,
            subspaces: field("subspace_partition").is_some_and(|value| !value.is_null()),
        })
    }

    /// What a file name says: `layer_0_comp_block_output_unit_pos_nunit_1#0`, older with dots.
    pub(super) fn of_name(stem: &str) -> Option<(Self, u64)> {
        let (stem, number) = stem.rsplit_once('#')?;
        let between = ['_', '.'].iter().find_map(|between| {
            let cut = |text: &'_ str, word: &str| -> Option<(String, String)> {
                let word = format!("{between}{word}{between}");
                text.rsplit_once(word.as_str()).map(|(a, b)| (a.to_owned(), b.to_owned()))
            };
            let (front, units) = cut(stem, "nunit")?;
            let (front, unit) = cut(&front, "unit")?;
            let layer = front.strip_prefix(&format!("layer{between}")).and_then(|rest| {
                let (layer, component) = rest.split_once(&format!("{between}comp{between}"))?;
                Some((layer.parse().ok()?, component.to_owned()))
            });
            let path = || Some((0, front.strip_prefix(&format!("comp{between}"))?.to_owned()));
            let (layer, component) = layer.or_else(path)?;
            Some((layer, component, unit, units.parse().ok()?))
        });
        let (layer, component, unit, units) = between?;
        let place = Self { layer, component, unit, units, rank: None, width: None, subspaces: false };
        Some((place, number.parse().ok()?))
    }

    /// The names that a file of this place may have, behind the prefix and before its number.
    pub(super) fn stems(&self) -> [String; 2] {
        let Self { layer, component, unit, units, .. } = self;
        let joined = unit.replace('.', "_");
        if component.contains('.') {
            let path = component.replace('.', "_");
            [
                format!("comp_{path}_unit_{joined}_nunit_{units}"),
                format!("comp.{component}.unit.{unit}.nunit.{units}"),
            ]
        } else {
            [
                format!("layer_{layer}_comp_{component}_unit_{joined}_nunit_{units}"),
                format!("layer.{layer}.comp.{component}.unit.{unit}.nunit.{units}"),
            ]
        }
    }

    /// The site, in the words of the model.
    pub(super) fn site(&self, file: &str) -> Result<Site, Finding> {
        let unsupported = |message: String| Finding::new(&rules::R_UNSUPPORTED, file, message);
        if matches!(&*self.unit, "h" | "h.pos" | "h_pos") {
            return Err(unsupported(format!(
                "its unit is {:?}: which heads it changes is said when the model runs and no file holds it, a site here has every head",
                self.unit
            )));
        }
        if self.unit != "pos" || self.units != 1 {
            return Err(unsupported(format!(
                "it acts on {} units {:?}, not on one position",
                self.units, self.unit
            )));
        }
        if self.subspaces {
            return Err(unsupported("its states are cut into subspaces".to_owned()));
        }
        if let Some(component) = SiteComponent::from_name(&self.component) {
            if component.is_per_head() {
                let message = format!(
                    "its component is {}, its unit \"pos\": pyvene runs heads by the unit \"h.pos\" only",
                    component.name()
                );
                return Err(unsupported(message));
            }
            return Ok(Site::Layer { layer: self.layer, component });
        }
        // A PEFT model calls what it wraps `base_model.model`.
        let path = self.component.strip_prefix("base_model.model.").unwrap_or(&self.component);
        let path = path.replace('[', ".").replace(']', "");
        let is_path = path.contains('.');
        match ModuleSite::new(path) {
            Ok(module) if is_path => Ok(Site::Module(module)),
            _ => Err(unsupported(format!(
                "no component {:?} is known, and it is no path of a module",
                self.component
            ))),
        }
    }
}

fn position(count: usize, name: &str) -> Option<usize> {
    let (_, lacked) = LACKED.iter().find(|(fields, _)| *fields == count)?;
    FIELDS.iter().filter(|field| !lacked.contains(field)).position(|field| *field == name)
}

/// A field of `RepresentationConfig(layer=4, component='block_output', …)`.
fn spelled(text: &str, name: &str) -> Option<Value> {
    let inside = text.strip_prefix("RepresentationConfig(")?.strip_suffix(')')?;
    let start = inside
        .match_indices(&format!("{name}="))
        .map(|(at, _)| at)
        .find(|at| *at == 0 || inside[..*at].ends_with(", "))?;
    let value = &inside[start + name.len() + 1..];
    if let Some(quoted) = value.strip_prefix('\'') {
        return quoted.split_once('\'').map(|(word, _)| Value::String(word.to_owned()));
    }
    let word = value.split(',').next()?.trim();
    match word {
        "None" => Some(Value::Null),
        word => word.parse::<u64>().ok().map(Value::from).or(Some(Value::String(word.to_owned()))),
    }
}

#[cfg(test)]
mod tests {
    use super::Place;
    use serde_json::json;

    #[test]
    fn names_of_both_generations() {
        let (place, number) =
            Place::of_name("layer_15_comp_block_output_unit_pos_nunit_1#1").expect("a name");
        assert_eq!((place.layer, place.component.as_str(), number), (15, "block_output", 1));
        let (old, _) = Place::of_name("layer.15.comp.block_output.unit.pos.nunit.1#1").expect("a name");
        assert_eq!(old, place);
        let (path, _) = Place::of_name("comp.model.layers[2].output.unit.pos.nunit.1#0").expect("a name");
        assert_eq!(path.component, "model.layers[2].output");
        assert!(Place::of_name("layer_x_unit_pos").is_none());
    }

    #[test]
    fn paths_are_those_of_the_model_itself() {
        let place = |component: &str| Place {
            layer: 0,
            component: component.to_owned(),
            unit: "pos".to_owned(),
            units: 1,
            rank: None,
            width: None,
            subspaces: false,
        };
        let site = |component: &str| place(component).site("file").map(|site| site.to_string()).ok();
        assert_eq!(site("model.layers[15].output").as_deref(), Some("model.layers.15.output"));
        assert_eq!(
            site("base_model.model.model.layers[15].output").as_deref(),
            Some("model.layers.15.output")
        );
        assert_eq!(site("block_outputs"), None);
    }

    #[test]
    fn heads_have_their_file_and_are_refused_by_what_they_lack() {
        let component = "head_attention_value_output";
        let heads = Place::of(&json!([1, component, "h.pos", 1, 2, null, null, null])).expect("a place");
        let stem = format!("layer_1_comp_{component}_unit_h_pos_nunit_1");
        assert_eq!(heads.stems()[0], stem);
        let (named, _) = Place::of_name(&format!("{stem}#0")).expect("a name");
        let positions = Place { unit: "pos".to_owned(), ..named.clone() };
        for (place, reason) in [(heads, "which heads"), (named, "which heads"), (positions, "by the unit")] {
            let finding = place.site("file").expect_err("no site");
            assert!(finding.code.0 == "R010" && finding.message.contains(reason), "{}", finding.message);
        }
    }

    #[test]
    fn representations_of_all_forms() {
        let wanted = Place {
            layer: 4,
            component: "block_output".to_owned(),
            unit: "pos".to_owned(),
            units: 1,
            rank: Some(3),
            width: None,
            subspaces: false,
        };
        let list = json!([4, "block_output", "pos", 1, 3, null, null, null, null, 0, null, null, true, null]);
        assert_eq!(Place::of(&list).as_ref(), Ok(&wanted));
        assert_eq!(
            Place::of(&json!([4, "block_output", "pos", 1, 3, null, null, null])).as_ref(),
            Ok(&wanted)
        );
        let text = "RepresentationConfig(layer=4, component='block_output', unit='pos', max_number_of_units=1, low_rank_dimension=3, subspace_partition=None)";
        assert_eq!(Place::of(&json!(text)).as_ref(), Ok(&wanted));
        assert!(Place::of(&json!([1, 2, 3])).is_err());
        assert!(
            Place::of(&json!([0, "block_output", "pos", 1, 3, [[0, 4]], null, null]))
                .is_ok_and(|p| p.subspaces)
        );
    }
}
