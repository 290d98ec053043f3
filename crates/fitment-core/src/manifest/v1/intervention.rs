//! Interventions on the wire (spec section 5.6), and `when` (4.5).

use super::edit::{Origin, is_false};
use crate::model;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Enums that have one word for each variant, the same as in the model.
macro_rules! words {
    ($($(#[$doc:meta])* $name:ident { $($(#[$each:meta])* $variant:ident = $word:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        pub enum $name {
            $(
                $(#[$each])*
                #[serde(rename = $word)]
                $variant,
            )*
        }

        impl From<model::$name> for $name {
            fn from(word: model::$name) -> Self {
                match word {
                    $(model::$name::$variant => $name::$variant,)*
                }
            }
        }

        impl From<$name> for model::$name {
            fn from(word: $name) -> Self {
                match word {
                    $($name::$variant => model::$name::$variant,)*
                }
            }
        }
    )*};
}

words! {
    /// Points of a layer.
    SiteComponent {
        /// Input of the layer.
        BlockInput = "block_input",
        /// Output of the layer.
        BlockOutput = "block_output",
        /// Input of the feed-forward module.
        MlpInput = "mlp_input",
        /// Output of its activation function.
        MlpActivation = "mlp_activation",
        /// Output of the feed-forward module.
        MlpOutput = "mlp_output",
        /// Input of the attention module.
        AttentionInput = "attention_input",
        /// Input of the attention's output projection.
        AttentionValueOutput = "attention_value_output",
        /// The same, for each head alike.
        HeadAttentionValueOutput = "head_attention_value_output",
        /// Output of the attention module.
        AttentionOutput = "attention_output",
        /// Input of the cross-attention module.
        CrossAttentionInput = "cross_attention_input",
        /// Output of the cross-attention module.
        CrossAttentionOutput = "cross_attention_output",
        /// Output of the query projection.
        QueryOutput = "query_output",
        /// Output of the key projection.
        KeyOutput = "key_output",
        /// Output of the value projection.
        ValueOutput = "value_output",
        /// Output of the query projection, for each head alike.
        HeadQueryOutput = "head_query_output",
        /// Output of the key projection, for each of its heads alike.
        HeadKeyOutput = "head_key_output",
        /// Output of the value projection, for each of its heads alike.
        HeadValueOutput = "head_value_output",
    }

    /// Activation functions.
    Activation {
        /// With the error function.
        Gelu = "gelu",
        /// With tanh.
        GeluTanh = "gelu_new",
        /// With a sigmoid of 1.702 x.
        QuickGelu = "quick_gelu",
        /// `max(x, 0)`.
        Relu = "relu",
        /// Its square.
        SquaredRelu = "relu2",
        /// At most 6.
        Relu6 = "relu6",
        /// With the slope 0.01 below 0.
        LeakyRelu = "leaky_relu",
        /// `x · σ(x)`.
        Silu = "silu",
        /// `tanh(x)`.
        Tanh = "tanh",
        /// `σ(x)`.
        Sigmoid = "sigmoid",
        /// `x · tanh(ln(1 + eˣ))`.
        Mish = "mish",
    }

    /// When an edit acts.
    Phase {
        /// On the prompt.
        Prompt = "prompt",
        /// After it.
        Decode = "decode",
        /// On all tokens, counted anew in each pass.
        EveryForward = "every_forward",
    }

    /// How first and last tokens shrink in a short prompt.
    ShortPrompt {
        /// Each at most the half, rounded down.
        FloorHalf = "floor_half",
        /// Each at most the half; rounded up for the last.
        Paper = "paper",
        /// Each at most all.
        Overlap = "overlap",
    }

    /// Which of the first and last tokens.
    Group {
        /// The first.
        Prefix = "prefix",
        /// The last.
        Suffix = "suffix",
        /// Both.
        Both = "both",
    }

    /// What an intervention reads where others of its site act as well.
    Overlap {
        /// What the one before left.
        Sequential = "sequential",
        /// What stood there before all; changes are added.
        Sum = "sum",
        /// What stood there before all; the last is written.
        LastWins = "last_wins",
    }

    /// Where numbers are rounded.
    Rounding {
        /// Once.
        F32 = "f32",
        /// As LoreftIntervention.
        Loreft = "loreft",
        /// As NoreftIntervention and NodireftIntervention.
        Noreft = "noreft",
        /// As DireftIntervention.
        Direft = "direft",
    }
}

/// Change of hidden states.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct InterventionEdit {
    /// Part of a pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// Whose states change.
    pub site: Site,
    /// Where the source is read; absent for the site itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_site: Option<Site>,
    /// First element of the last axis that changes, one past the last; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dims: Option<[u64; 2]>,
    /// The multiplier.
    pub scale: f64,
    /// Absent for the identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
    /// Whether `P h + p` is subtracted.
    #[serde(default, skip_serializing_if = "is_false")]
    pub subtract: bool,
    /// The columns of `up` are orthonormal.
    #[serde(default, skip_serializing_if = "is_false")]
    pub orthonormal: bool,
    /// Which tokens.
    pub positions: Positions,
    /// Absent for `sequential`.
    #[serde(default = "sequential", skip_serializing_if = "is_sequential")]
    pub overlap: Overlap,
    /// Absent for `f32`.
    #[serde(default = "f32_rounding", skip_serializing_if = "is_f32_rounding")]
    pub rounding: Rounding,
    /// Role (`up`, `up.bias`, `source.weight`, `source.bias`, `proj`, `proj.bias`) → stored name; absent without any.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tensors: BTreeMap<String, String>,
    /// Provenance.
    #[serde(default, skip_serializing_if = "Origin::is_empty")]
    pub origin: Origin,
    /// Unknown optional fields.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl InterventionEdit {
    /// The label of stored names and messages.
    pub fn label(&self) -> String {
        match &self.component {
            Some(component) => format!("{component}/@{}", self.site.label()),
            None => format!("@{}", self.site.label()),
        }
    }
}

fn sequential() -> Overlap {
    Overlap::Sequential
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
fn is_sequential(overlap: &Overlap) -> bool {
    *overlap == Overlap::Sequential
}

fn f32_rounding() -> Rounding {
    Rounding::F32
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
fn is_f32_rounding(rounding: &Rounding) -> bool {
    *rounding == Rounding::F32
}

/// A point of the forward pass: `layer` and `component`, or `path` alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Number of the layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<u64>,
    /// Point of the layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<SiteComponent>,
    /// A module's name, then `.input` or `.output`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

impl Site {
    /// As it stands behind the `@` of labels.
    pub fn label(&self) -> String {
        match (&self.path, self.component) {
            (Some(path), _) => path.clone(),
            (None, Some(component)) => {
                let component = model::SiteComponent::from(component);
                format!("{}.{}", component.name(), self.layer.unwrap_or_default())
            }
            (None, None) => String::new(),
        }
    }
}

/// Which tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Positions {
    /// In which passes.
    pub phase: Phase,
    /// Which of their tokens.
    pub select: Select,
}

/// Which tokens of a prompt, or of a pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Select {
    /// All of them.
    All,
    /// Some at the beginning and some at the end.
    FirstLast(FirstLast),
    /// Those numbers: from 0, or negative from the end.
    Explicit(Vec<i64>),
}

/// First and last tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct FirstLast {
    /// Tokens at the beginning.
    pub first: u64,
    /// Tokens at the end.
    pub last: u64,
    /// 0 or −1; absent for 0.
    #[serde(default, skip_serializing_if = "is_no_offset")]
    pub end_offset: i64,
    /// What becomes of both in a short prompt.
    pub short: ShortPrompt,
    /// Absent for `both`.
    #[serde(default = "both", skip_serializing_if = "is_both")]
    pub group: Group,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
fn is_no_offset(offset: &i64) -> bool {
    *offset == 0
}

fn both() -> Group {
    Group::Both
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
fn is_both(group: &Group) -> bool {
    *group == Group::Both
}

/// When a weight edit acts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct When {
    /// Absent for `every_forward`.
    #[serde(default = "every_forward", skip_serializing_if = "is_every_forward")]
    pub phase: Phase,
    /// Only from the last occurrence of this token sequence on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after_tokens: Vec<u64>,
}

impl When {
    #[allow(clippy::ref_option, reason = "serde's skip_serializing_if passes a reference")]
    pub(super) fn says_nothing(when: &Option<When>) -> bool {
        when.as_ref().is_none_or(|when| is_every_forward(&when.phase) && when.after_tokens.is_empty())
    }
}

fn every_forward() -> Phase {
    Phase::EveryForward
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
fn is_every_forward(phase: &Phase) -> bool {
    *phase == Phase::EveryForward
}
