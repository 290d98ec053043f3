//! What decides where the extents of a parameter do not: the release of PEFT, and the class.

use super::Columns;
use crate::error::Error;
use crate::formats::Ask;
use crate::pass::stacks::{SAY_TRANSPOSED, Stacks, TRANSPOSED, TURNED_ON_LOADING, text_model};
use crate::peft::config::{Config, Version};
use crate::read::ReadOptions;
use fitment_core::model::Source;
use serde_json::{Map, Value};

/// Over which axis `A` is, by the release that wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::peft) enum Layout {
    /// 0.17.0 to 0.18.x.
    First,
    /// 0.19.0 alone.
    Second,
    /// From 0.19.1.
    Current,
}

/// The values of `--moe-layout`: the release that a layout begins with.
const NAMES: [(&str, Layout); 3] =
    [("0.17", Layout::First), ("0.19.0", Layout::Second), ("0.19.1", Layout::Current)];

/// The values of `--moe-b-layout`.
const COLUMNS: [(&str, Columns); 2] =
    [("rank-major", Columns::RankMajor), ("expert-major", Columns::ExpertMajor)];

impl Layout {
    /// The axis of the class's `[E, x, y]` that `A` is over; `flagged`: whether the class says `is_transposed`, if that is known.
    pub(super) fn axis(self, flagged: Option<bool>) -> Option<u64> {
        match self {
            Layout::First => Some(1),
            Layout::Second => flagged.map(|flagged| if flagged { 2 } else { 1 }),
            Layout::Current => flagged.map(|flagged| if flagged { 1 } else { 2 }),
        }
    }

    /// By what a source says: the option that it was read with, else its version.
    pub(super) fn recorded(source: &Source<'_>) -> Option<Layout> {
        let option = source.options.get(key(Ask::MoeLayout));
        let by_option = option.and_then(|name| NAMES.iter().find(|(known, _)| known == name));
        let by_version = || source.version.as_deref().and_then(Layout::of_version);
        by_option.map(|(_, layout)| *layout).or_else(by_version)
    }

    fn name(self) -> &'static str {
        NAMES.iter().find(|(_, layout)| *layout == self).map_or("", |(name, _)| *name)
    }

    /// The layout of a release. Development versions of 0.18 and 0.19 may have either of two.
    pub(super) fn of_version(text: &str) -> Option<Layout> {
        let version = Version::parse(text)?;
        let patch = text.split('.').nth(2).unwrap_or("0");
        let number: String = patch.chars().take_while(char::is_ascii_digit).collect();
        let is_release = !text.contains("dev") && number.len() == patch.len();
        match (number.parse::<u64>().ok()?, is_release) {
            _ if version >= Version::new(0, 20) => Some(Layout::Current),
            _ if version < Version::new(0, 18) => Some(Layout::First),
            (_, false) => None,
            _ if version < Version::new(0, 19) => Some(Layout::First),
            (0, true) => Some(Layout::Second),
            (_, true) => Some(Layout::Current),
        }
    }
}

/// Whether today's PEFT has `A` over the inputs of a stack that is stored as `[E, in, out]`, by the model's config; `None` where that
/// does not name a known model.
pub(in crate::peft) fn reads_inputs(config: &Map<String, Value>) -> Option<bool> {
    let model = text_model(config)?;
    let known = [SAY_TRANSPOSED, TRANSPOSED, TURNED_ON_LOADING].iter().any(|models| models.contains(&model));
    known.then(|| !TRANSPOSED.contains(&model))
}

/// How the axis of `A` is known where no extents show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Option,
    Version,
    /// No version in a config whose keys are those of 0.17, which wrote none.
    Keys,
}

/// What options, config and class say about layouts.
#[derive(Clone, Debug)]
pub(in crate::peft) struct Said {
    layout: Option<(Layout, By)>,
    pub(in crate::peft) columns: Columns,
    version: Option<String>,
    has_columns_option: bool,
}

impl Said {
    /// Reads options and config.
    ///
    /// # Errors
    /// [`Error::Option`] for a value that is none.
    pub(in crate::peft) fn new(config: &Config, options: &ReadOptions<'_>) -> Result<Self, Error> {
        let by_option = options.moe_layout.map(|name| value(Ask::MoeLayout, &NAMES, name)).transpose()?;
        let by_version = || config.version_text.as_deref().and_then(Layout::of_version);
        let by_keys = || {
            let first = config.version_text.is_none() && config.dated() == Some(Version::new(0, 17));
            first.then_some((Layout::First, By::Keys))
        };
        let layout = by_option
            .map(|layout| (layout, By::Option))
            .or_else(|| by_version().map(|layout| (layout, By::Version)))
            .or_else(by_keys);
        let columns = options.moe_b_layout.map(|name| value(Ask::MoeBLayout, &COLUMNS, name)).transpose()?;
        Ok(Self {
            layout,
            columns: columns.unwrap_or_default(),
            version: config.version_text.clone(),
            has_columns_option: columns.is_some(),
        })
    }

    /// The axis of the class's tensor that `A` is over, by all but its extents.
    pub(super) fn axis(&self, class: Class) -> Option<u64> {
        self.layout?.0.axis(class.flagged)
    }

    /// Whether an option says it.
    pub(super) fn is_by_option(&self) -> bool {
        matches!(self.layout, Some((_, By::Option)))
    }

    /// What says it, for messages.
    pub(super) fn source(&self) -> String {
        match self.layout {
            Some((layout, By::Option)) => format!("{} {}", Ask::MoeLayout.option(), layout.name()),
            Some((_, By::Version)) => {
                format!("peft_version {}", self.version.as_deref().unwrap_or_default())
            }
            Some((_, By::Keys)) => "a config without peft_version".to_owned(),
            None => "nothing".to_owned(),
        }
    }

    /// The option and the version, where they have `A` over different axes of such a class.
    pub(super) fn contradiction(&self, class: Class) -> Option<String> {
        let version = self.version.as_deref()?;
        let (axis, other) = (self.axis(class)?, Layout::of_version(version)?.axis(class.flagged)?);
        (self.is_by_option() && axis != other).then(|| {
            format!(
                "{version} has A of experts over the other axis than {} says, and no shape tells: the option counts",
                self.source()
            )
        })
    }

    /// What was taken for granted, when it is asked.
    pub(super) fn assumed(&self) -> Option<&'static str> {
        matches!(self.layout, Some((_, By::Keys))).then_some("PEFT 0.17")
    }

    /// The error of a parameter whose axis nothing tells.
    pub(super) fn unknown(&self, name: &str, class: Class) -> Error {
        let known = self.layout.is_some();
        let hint = match (known, class.flagged, class.has_config) {
            (true, None, false) => "name the base with --base, as a folder with its config.json".to_owned(),
            (true, None, true) => {
                "its class comes with the checkpoint: merge it with PEFT (merge_and_unload)".to_owned()
            }
            _ => format!(
                "say which PEFT wrote it with {} 0.17 (up to 0.18), 0.19.0, or 0.19.1 (from there on)",
                Ask::MoeLayout.option()
            ),
        };
        let reason = "the matrices of its experts are square, and releases of PEFT mean different things by the same factors";
        Error::Ambiguous { what: name.to_owned(), reason: reason.to_owned(), hint }
    }

    /// The options that were given, for the manifest.
    pub(in crate::peft) fn options(&self) -> Vec<(String, String)> {
        let layout = self.layout.filter(|_| self.is_by_option());
        let layout = layout.map(|(layout, _)| (Ask::MoeLayout, layout.name()));
        let columns = COLUMNS.iter().find(|(_, columns)| *columns == self.columns);
        let columns = columns.filter(|_| self.has_columns_option).map(|(name, _)| (Ask::MoeBLayout, *name));
        let both = [layout, columns].into_iter().flatten();
        both.map(|(ask, name)| (key(ask).to_owned(), name.to_owned())).collect()
    }
}

/// What a manifest calls an option.
pub(super) fn key(ask: Ask) -> &'static str {
    ask.option().trim_start_matches('-')
}

impl Columns {
    /// What a manifest recorded.
    pub(in crate::peft) fn recorded(options: &std::collections::BTreeMap<String, String>) -> Self {
        let name = options.get(key(Ask::MoeBLayout));
        let known = COLUMNS.iter().find(|(known, _)| Some(*known) == name.map(String::as_str));
        known.map(|(_, columns)| *columns).unwrap_or_default()
    }
}

fn value<T: Copy>(ask: Ask, known: &[(&str, T)], name: &str) -> Result<T, Error> {
    let found = known.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        Error::Option {
            option: format!("{} {}", ask.option(), crate::error::one_line(name)),
            reason: "is no layout".to_owned(),
            hint: format!("there are {}", names.join(", ")),
        }
    })
}

/// What is known of the model's class.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Class {
    /// Whether it says `is_transposed`.
    pub(super) flagged: Option<bool>,
    pub(super) stacks: Stacks,
    has_config: bool,
}

impl Class {
    /// One that says `is_transposed`, or one that does not.
    pub(super) fn of_flag(flagged: bool) -> Self {
        Self { flagged: Some(flagged), ..Self::default() }
    }

    /// By the base's config, where there is one.
    pub(super) fn of(config: Option<&Map<String, Value>>) -> Self {
        let Some(config) = config else { return Self::default() };
        let model = text_model(config).filter(|_| !config.contains_key("auto_map"));
        Self {
            flagged: model.map(|model| SAY_TRANSPOSED.contains(&model)),
            stacks: Stacks::of(Some(config)),
            has_config: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Layout;

    #[test]
    fn releases_have_their_layouts() {
        for (version, layout) in [
            ("0.17.0", Some(Layout::First)),
            ("0.17.2.dev0", Some(Layout::First)),
            ("0.18.1", Some(Layout::First)),
            ("0.18.2.dev0@4f21d3", None),
            ("0.19.0", Some(Layout::Second)),
            ("0.19.0rc1", None),
            ("0.19.1", Some(Layout::Current)),
            ("0.19.1.dev0", None),
            ("0.20.0.dev0", Some(Layout::Current)),
            ("0.21.2", Some(Layout::Current)),
            ("1.0.0", Some(Layout::Current)),
            ("x", None),
        ] {
            assert_eq!(Layout::of_version(version), layout, "{version}");
        }
    }

    #[test]
    fn axes_are_those_of_the_releases() {
        let axes = |layout: Layout| [Some(false), Some(true), None].map(|flagged| layout.axis(flagged));
        assert_eq!(axes(Layout::First), [Some(1), Some(1), Some(1)]);
        assert_eq!(axes(Layout::Second), [Some(1), Some(2), None]);
        assert_eq!(axes(Layout::Current), [Some(2), Some(1), None]);
    }
}
