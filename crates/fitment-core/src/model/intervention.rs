use super::words::words;
use super::{ComponentName, Origin, Positions, name_fault};
use crate::error::Error;
use crate::tensor::Tensor;
use std::fmt;

/// A change of hidden states at one site (spec section 5.6):
///
/// `h' = h + s·(U(act(W x + b) − [subtract](P h + p)) + c)`, for the states `h` of the addressed positions.
///
/// `h` is the last axis of what the site holds, or its part `dims`; `x` is `h`, or what `input_site` holds. Missing
/// `W`, `P` and biases are 0; a missing `P` is `Uᵀ`; a missing `U` is the identity. Its width is `d`, its rank `r`
/// (`d` without `U`), the width of `x` is `i`.
///
/// Covers the six classes of pyreft 0.1.0, the ReFT methods of adapters 1.3.0, steering and control vectors, and
/// bottleneck adapters without norms or gates.
#[derive(Clone, Debug)]
pub struct Intervention<'a> {
    /// Part of a pipeline; `None` for a single model.
    pub component: Option<ComponentName>,
    /// Whose states change.
    pub site: Site,
    /// Where `x` is read, when not at the site itself.
    pub input_site: Option<Site>,
    /// The part `start..end` of the last axis that is `h`; all of it when `None`.
    pub dims: Option<[u64; 2]>,
    /// The multiplier `s`.
    pub scale: f64,
    /// `act`; the identity when `None`.
    pub activation: Option<Activation>,
    /// Whether `P h + p` is subtracted.
    pub subtract: bool,
    /// The columns of `U` are orthonormal, within 1e-4.
    pub orthonormal: bool,
    /// `U`, `[d, r]`.
    pub up: Option<Tensor<'a>>,
    /// `c`, `[d]`.
    pub up_bias: Option<Tensor<'a>>,
    /// `W`, `[r, i]`.
    pub source_weight: Option<Tensor<'a>>,
    /// `b`, `[r]`.
    pub source_bias: Option<Tensor<'a>>,
    /// `P`, `[r, d]`; only with `subtract`.
    pub proj: Option<Tensor<'a>>,
    /// `p`, `[r]`; only with `subtract`.
    pub proj_bias: Option<Tensor<'a>>,
    /// Which tokens it acts on.
    pub positions: Positions,
    /// How it goes with other interventions of its site.
    pub overlap: Overlap,
    /// The order of rounding of the class that it came from.
    pub rounding: Rounding,
    /// Provenance, outside the content id.
    pub origin: Origin,
}

impl<'a> Intervention<'a> {
    /// With no role and no flag, strength 1, rounded once: what a caller fills in.
    pub fn at(site: Site, positions: Positions) -> Self {
        Self {
            component: None,
            site,
            input_site: None,
            dims: None,
            scale: 1.0,
            activation: None,
            subtract: false,
            orthonormal: false,
            up: None,
            up_bias: None,
            source_weight: None,
            source_bias: None,
            proj: None,
            proj_bias: None,
            positions,
            overlap: Overlap::Sequential,
            rounding: Rounding::F32,
            origin: Origin::default(),
        }
    }

    /// The label of stored names and messages: `@block_output.15`, behind `component/` in a pipeline.
    pub fn label(&self) -> String {
        match &self.component {
            Some(component) => format!("{component}/@{}", self.site),
            None => format!("@{}", self.site),
        }
    }

    /// Its tensors by role, in the order of role names.
    pub fn tensors(&self) -> Vec<(&'static str, &Tensor<'a>)> {
        let roles = [
            ("proj", &self.proj),
            ("proj.bias", &self.proj_bias),
            ("source.bias", &self.source_bias),
            ("source.weight", &self.source_weight),
            ("up", &self.up),
            ("up.bias", &self.up_bias),
        ];
        roles.into_iter().filter_map(|(role, tensor)| Some((role, tensor.as_ref()?))).collect()
    }

    /// The rank: extent of the axis between `U` and `W`; `None` when only `c` is there, or nothing.
    pub fn rank(&self) -> Option<u64> {
        let extent = |tensor: &Option<Tensor<'_>>, axis: usize| tensor.as_ref()?.dims().get(axis).copied();
        extent(&self.up, 1)
            .or_else(|| extent(&self.source_weight, 0))
            .or_else(|| extent(&self.source_bias, 0))
            .or_else(|| extent(&self.proj, 0))
            .or_else(|| extent(&self.proj_bias, 0))
    }

    /// The width of `h`: number of elements that change; `None` when neither `dims` nor a tensor says so.
    pub fn width(&self) -> Option<u64> {
        let extent = |tensor: &Option<Tensor<'_>>, axis: usize| tensor.as_ref()?.dims().get(axis).copied();
        self.dims
            .map(|[start, end]| end.saturating_sub(start))
            .or_else(|| extent(&self.up, 0))
            .or_else(|| extent(&self.up_bias, 0))
            .or_else(|| extent(&self.proj, 1))
            .or_else(|| self.rank())
    }
}

/// A point of the model's forward pass at which hidden states are read or changed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Site {
    /// A point of a layer.
    Layer {
        /// Number of the layer, from 0.
        layer: u64,
        /// The point.
        component: SiteComponent,
    },
    /// Input or output of a module.
    Module(ModuleSite),
}

/// As in labels: `block_output.15`, or the path of a module.
impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Site::Layer { layer, component } => write!(f, "{}.{layer}", component.name()),
            Site::Module(module) => f.write_str(module.as_str()),
        }
    }
}

/// Path of a module as the model names it, then `.input` or `.output`: `model.layers.2.mlp.output`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModuleSite(String);

impl ModuleSite {
    /// Checks the path.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it breaks the rules of names, holds brackets or white space, or does not end in a
    /// module's `.input` or `.output`.
    pub fn new(path: impl Into<String>) -> Result<Self, Error> {
        let path = path.into();
        match module_site_fault(&path) {
            None => Ok(Self(path)),
            Some(message) => Err(Error::Invalid { place: format!("site {path:?}"), message }),
        }
    }

    /// The whole path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The module's name, and whether its output is meant (else its first input).
    pub fn split(&self) -> (&str, bool) {
        match self.0.strip_suffix(".output") {
            Some(module) => (module, true),
            None => (self.0.strip_suffix(".input").unwrap_or(&self.0), false),
        }
    }
}

/// What is wrong with the path of a module site, if anything (spec section 5.6).
pub(crate) fn module_site_fault(path: &str) -> Option<String> {
    if let Some(fault) = name_fault(path) {
        return Some(fault);
    }
    let module = path.strip_suffix(".output").or_else(|| path.strip_suffix(".input"));
    let Some(module) = module else {
        return Some("does not end in `.input` or `.output`".to_owned());
    };
    let sound = |part: &str| {
        !part.is_empty() && !part.contains(['[', ']', '/']) && !part.contains(char::is_whitespace)
    };
    (!module.split('.').all(sound))
        .then(|| "is no module's name: parts joined by dots, numbers without brackets".to_owned())
}

words! {
    /// The points of a layer, by pyvene's words (0.1.8).
    SiteComponent {
        /// Input of the layer: the residual stream.
        BlockInput = "block_input",
        /// Output of the layer: the residual stream.
        BlockOutput = "block_output",
        /// Input of the feed-forward module.
        MlpInput = "mlp_input",
        /// Output of its activation function.
        MlpActivation = "mlp_activation",
        /// Output of the feed-forward module.
        MlpOutput = "mlp_output",
        /// Input of the attention module.
        AttentionInput = "attention_input",
        /// Input of the attention's output projection: the heads' values, joined.
        AttentionValueOutput = "attention_value_output",
        /// The same, for each head alike.
        HeadAttentionValueOutput = "head_attention_value_output",
        /// Output of the attention module.
        AttentionOutput = "attention_output",
        /// Input of the cross-attention module.
        CrossAttentionInput = "cross_attention_input",
        /// Output of the cross-attention module.
        CrossAttentionOutput = "cross_attention_output",
        /// Output of the query projection, before positions enter.
        QueryOutput = "query_output",
        /// Output of the key projection, before positions enter.
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
}

impl SiteComponent {
    /// Whether the last axis is that of one head, and the intervention acts on every head alike.
    pub fn is_per_head(self) -> bool {
        matches!(
            self,
            SiteComponent::HeadAttentionValueOutput
                | SiteComponent::HeadQueryOutput
                | SiteComponent::HeadKeyOutput
                | SiteComponent::HeadValueOutput
        )
    }
}

words! {
    /// Activation functions, by transformers' words; each has one word. Formulas: spec section 5.6.
    Activation {
        /// `x/2 · (1 + erf(x/√2))`.
        Gelu = "gelu",
        /// `x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))`; also `gelu_pytorch_tanh` and `gelu_fast`.
        GeluTanh = "gelu_new",
        /// `x · σ(1.702·x)`.
        QuickGelu = "quick_gelu",
        /// `max(x, 0)`.
        Relu = "relu",
        /// `max(x, 0)²`.
        SquaredRelu = "relu2",
        /// `min(max(x, 0), 6)`.
        Relu6 = "relu6",
        /// `x` where it is above 0, `0.01·x` elsewhere.
        LeakyRelu = "leaky_relu",
        /// `x · σ(x)`; also `swish`.
        Silu = "silu",
        /// `tanh(x)`.
        Tanh = "tanh",
        /// `σ(x) = 1/(1 + e⁻ˣ)`.
        Sigmoid = "sigmoid",
        /// `x · tanh(ln(1 + eˣ))`.
        Mish = "mish",
    }
}

words! {
    /// What an intervention reads where others of its site act on the same token. One for all interventions of a site.
    Overlap {
        /// What the one before left (hooks in order: pyvene).
        Sequential = "sequential",
        /// What stood there before all of them; the changes are added.
        Sum = "sum",
        /// What stood there before all of them; the last one is written (adapters 1.3.0).
        LastWins = "last_wins",
    }
}

words! {
    /// Where numbers are rounded (spec section 11.1). `T` is the dtype of `W`, the states' own.
    Rounding {
        /// Everything in binary32, rounded once to the states' dtype.
        F32 = "f32",
        /// pyreft's LoreftIntervention: `W h + b` and `act` in `T`, the rest in binary32.
        Loreft = "loreft",
        /// pyreft's NoreftIntervention and NodireftIntervention: everything in `T`.
        Noreft = "noreft",
        /// pyreft's DireftIntervention: `h` cast to `T`, `W h + b` and `act` in `T`, the rest in binary32.
        Direft = "direft",
    }
}

#[cfg(test)]
mod tests {
    use super::{Intervention, ModuleSite, Positions, Site, SiteComponent};
    use crate::model::ComponentName;

    #[test]
    fn labels_say_where() {
        let site = Site::Layer { layer: 15, component: SiteComponent::BlockOutput };
        let mut edit = Intervention::at(site, Positions::EVERYWHERE);
        assert_eq!(edit.label(), "@block_output.15");
        edit.component = Some(ComponentName::new("unet").unwrap());
        edit.site = Site::Module(ModuleSite::new("mid_block.attentions.0.output").unwrap());
        assert_eq!(edit.label(), "unet/@mid_block.attentions.0.output");
    }

    #[test]
    fn module_sites_end_in_input_or_output() {
        let split =
            |path: &str| ModuleSite::new(path).map(|site| (site.split().0.to_owned(), site.split().1));
        assert_eq!(split("h.0.mlp.output").unwrap(), ("h.0.mlp".to_owned(), true));
        assert_eq!(split("output.input").unwrap(), ("output".to_owned(), false));
        for wrong in ["", "output", ".output", "h.0", "h[0].output", "h..0.output", "a b.input", "a::b.input"]
        {
            assert!(split(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for component in SiteComponent::ALL {
            assert_eq!(SiteComponent::from_name(component.name()), Some(*component));
        }
        assert_eq!(SiteComponent::from_name("residual"), None);
    }
}
