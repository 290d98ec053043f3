use fitment_core::model::{Activation, Phase, SiteComponent};

/// Why an intervention cannot be folded into weights: what a weight would have to do that it cannot.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Obstacle {
    /// It acts on some tokens of a prompt.
    #[error("it acts on some tokens only, and weights act on all")]
    SomeTokens,
    /// It acts while the prompt is read, or only behind it.
    #[error("it acts on {} only, and weights always act", phase_text(*.0))]
    SomePhase(Phase),
    /// It is not linear.
    #[error("its activation {} is not linear, and weights are", .0.name())]
    Activation(Activation),
    /// It reads another site.
    #[error("it reads the states of another site, {site}")]
    InputSite {
        /// That site.
        site: String,
    },
    /// It multiplies the residual stream, on which no weight lies.
    #[error(
        "{} is the residual stream: the next norm depends on what it multiplies, and the stream passes every weight by; only a constant could be folded",
        .0.name()
    )]
    Residual(SiteComponent),
    /// Nothing of the layer's weights makes or reads these states alone.
    #[error("no linear layer makes or reads {site} alone: {reason}")]
    NoWeight {
        /// The site.
        site: String,
        /// What does.
        reason: &'static str,
    },
    /// A constant has no place in this architecture.
    #[error("a constant there has no weight to go into: {0}")]
    NoConstant(&'static str),
    /// The layer has no bias, and its config cannot give it one.
    #[error("{module} has no bias for the constant part, and a {model_type} config cannot give it one")]
    NoBias {
        /// The linear layer.
        module: String,
        /// The base's kind.
        model_type: String,
    },
    /// The base does not say what it is, or is of a kind whose sites are not known.
    #[error("where {site} lies in a model of type {model_type} is not known")]
    UnknownModel {
        /// The site.
        site: String,
        /// `model_type`, or `none named`.
        model_type: String,
    },
    /// The site is none of a layer's modules.
    #[error("{site} is no module whose weights are known")]
    UnknownModule {
        /// The site.
        site: String,
    },
    /// The base lacks the weight.
    #[error("the base has no tensor {tensor}")]
    MissingTensor {
        /// Its name.
        tensor: String,
    },
    /// States and weight have different widths.
    #[error("it fits states of width {expected}, those of {module} have {found}")]
    Width {
        /// What it asks.
        expected: u64,
        /// The linear layer.
        module: String,
        /// What that has.
        found: u64,
    },
    /// The dtype has no arithmetic.
    #[error("{tensor} is stored without arithmetic")]
    Dtype {
        /// The tensor.
        tensor: String,
    },
    /// What stays at the site acts between the weight and this one.
    #[error("{other} acts between the weight and it, and cannot be folded itself")]
    Behind {
        /// The other intervention's label.
        other: String,
    },
    /// What stays reads states that the fold would change.
    #[error("{other} reads these states, and cannot be folded itself")]
    ReadElsewhere {
        /// The other intervention's label.
        other: String,
    },
    /// The weight is edited in a way that is not a plain sum.
    #[error("{tensor} is changed by an edit {kind} too: apply that one first, then fold what is left")]
    Edited {
        /// The tensor.
        tensor: String,
        /// The edit's kind.
        kind: &'static str,
    },
    /// The adapter is for a pipeline.
    #[error("it belongs to the component {component}, the base is a single model")]
    Component {
        /// The component.
        component: String,
    },
}

fn phase_text(phase: Phase) -> &'static str {
    match phase {
        Phase::Prompt => "the prompt",
        Phase::Decode => "what is generated",
        Phase::EveryForward => "every pass",
    }
}
