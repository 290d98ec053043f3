use fitment_core::checkpoint::quantised::Scheme;
use fitment_core::tensor::{Dtype, Shape};
use serde_json::Value;

/// One thing that keeps an adapter from being applied.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Culprit {
    /// A weight is NaN or infinite.
    #[error("{file}: weight {weight} is not a finite number")]
    Weight {
        /// The adapter.
        file: String,
        /// Its weight.
        weight: f64,
    },
    /// Weights are not stored as numbers that can be added to.
    #[error("the base is quantised: {scheme} ({evidence})")]
    Quantised {
        /// How.
        scheme: Scheme,
        /// What shows it.
        evidence: String,
    },
    /// `dtype` of the options is not a weight dtype.
    #[error("results can be written as F64, F32, F16 or BF16, not as {dtype}")]
    OutputDtype {
        /// What was asked for.
        dtype: Dtype,
    },
    /// A pattern of `skip` names no target.
    #[error("--skip {pattern:?} matches no target")]
    SkipWithoutMatch {
        /// The pattern.
        pattern: String,
    },
    /// The adapter is for one part of a pipeline.
    #[error("{file}: {target} belongs to the component {component}, the base is a single model")]
    Component {
        /// The adapter.
        file: String,
        /// The target.
        target: String,
        /// Its component.
        component: String,
    },
    /// An edit acts on hidden states, not on weights.
    #[error("{site}: {file} acts on hidden states there, which is no edit of a weight")]
    HiddenStates {
        /// The adapter.
        file: String,
        /// The label of the site.
        site: String,
    },
    /// An edit acts on some tokens only.
    #[error("{target}: {file} changes it for some tokens only (when), which a checkpoint cannot hold")]
    When {
        /// The adapter.
        file: String,
        /// The target.
        target: String,
    },
    /// The base has no tensor of that name.
    #[error("{target}: the base has no such tensor, which {file} changes{}", nearest_text(nearest.as_deref()))]
    MissingTarget {
        /// The adapter.
        file: String,
        /// The name.
        target: String,
        /// The base's nearest name.
        nearest: Option<String>,
    },
    /// The base has a tensor that an edit creates.
    #[error("{target}: the base already has this tensor, which {file} creates")]
    AlreadyThere {
        /// The adapter.
        file: String,
        /// The name.
        target: String,
        /// The adapter is not bound and its tensor has the base's shape: bound to this base, it changes the tensor.
        rebinds: bool,
    },
    /// The base is the result of a bit-exact change.
    #[error("already applied: {target} is the result of {file}, not its base")]
    AlreadyApplied {
        /// The adapter.
        file: String,
        /// A tensor that has the bits which the adapter makes.
        target: String,
    },
    /// The base's tensor has another shape than the edit.
    #[error("{target}: {what} of {file} fits {expected}, the base has {found}")]
    WrongShape {
        /// The adapter.
        file: String,
        /// The target.
        target: String,
        /// What does not fit.
        what: &'static str,
        /// What it asks of the base's tensor, or of its slice.
        expected: String,
        /// What the base has.
        found: String,
    },
    /// The adapter was made for a base whose tensor had another shape.
    #[error("{target}: {file} was made for shape {recorded}, the base has {found}")]
    RecordedShape {
        /// The adapter.
        file: String,
        /// The target.
        target: String,
        /// What the adapter recorded.
        recorded: Shape,
        /// The base's.
        found: Shape,
    },
    /// An adapter that is not bound has another number of rows for a tensor that is no embedding and no head.
    #[error(
        "{target}: {file} has {given} for it, the base {found}, and only embeddings and heads of the vocabulary may get other rows from a file that is not bound"
    )]
    Resized {
        /// The adapter.
        file: String,
        /// The target.
        target: String,
        /// What the adapter would make of it.
        given: Shape,
        /// The base's.
        found: Shape,
    },
    /// The adapter was made for a base whose tensor had another dtype.
    #[error("{target}: {file} was made for {recorded}, the base has {found}")]
    RecordedDtype {
        /// The adapter.
        file: String,
        /// The target.
        target: String,
        /// What the adapter recorded.
        recorded: Dtype,
        /// The base's.
        found: Dtype,
        /// It is changed bit by bit, which no other dtype can be.
        exact: bool,
    },
    /// Two adapters were bound to different bases.
    #[error("{target}: {first} and {second} were made for different bases")]
    DifferentBases {
        /// The target.
        target: String,
        /// One adapter.
        first: String,
        /// The other.
        second: String,
    },
    /// The base's tensor has a dtype without arithmetic.
    #[error("{target}: the base stores it as {dtype}; {file} can be applied to F64, F32, F16 and BF16")]
    Dtype {
        /// The adapter.
        file: String,
        /// The target.
        target: String,
        /// The base's dtype.
        dtype: Dtype,
    },
    /// An edit contradicts itself: it did not come from a checked file.
    #[error("{target}: {file}: {message}")]
    Malformed {
        /// The adapter.
        file: String,
        /// The target.
        target: String,
        /// What is wrong.
        message: String,
    },
    /// A stored weight is NaN or infinite.
    #[error("{target}: {role} of {file} is not finite at element {position}")]
    NotFinite {
        /// The adapter.
        file: String,
        /// The target.
        target: String,
        /// The tensor's role.
        role: &'static str,
        /// The first such element.
        position: usize,
    },
    /// An edit that either happens or not has a weight between.
    #[error("{target}: {file} has weight {weight}, but {what} only whole: weight 1")]
    NotScalable {
        /// The adapter.
        file: String,
        /// The target.
        target: String,
        /// Its weight.
        weight: f64,
        /// What the edit does.
        what: &'static str,
    },
    /// Two adapters set one element, to different values or not both with weight 1.
    #[error("{target}: {first} and {second} both set {place}{}", if *equal { ", with weights other than 1 or further edits" } else { ", to different values" })]
    SetTwice {
        /// The target.
        target: String,
        /// One adapter.
        first: String,
        /// The other.
        second: String,
        /// The first element that both set.
        place: String,
        /// Whether the values are equal.
        equal: bool,
    },
    /// One adapter removes what another one changes.
    #[error("{target}: {remover} removes it, {other} changes it")]
    RemovedAndChanged {
        /// The target.
        target: String,
        /// Who removes.
        remover: String,
        /// Who changes.
        other: String,
    },
    /// Two adapters replace a tensor with different dtypes.
    #[error("{target}: the adapters leave it as {first} and as {second}")]
    TwoDtypes {
        /// The target.
        target: String,
        /// One result.
        first: Dtype,
        /// The other.
        second: Dtype,
    },
    /// Two adapters set one config value differently.
    #[error("config: {first} sets {key} to {first_value}, {second} to {second_value}")]
    ConfigTwice {
        /// The key.
        key: &'static str,
        /// One adapter.
        first: String,
        /// Its value.
        first_value: Value,
        /// The other.
        second: String,
        /// Its value.
        second_value: Value,
    },
    /// The config edits keep tied what the weight edits untie.
    #[error("{target}: {file} edits single uses of it, yet the config stays tied")]
    StaysTied {
        /// The adapter.
        file: String,
        /// The tied tensor.
        target: String,
    },
    /// A use that the adapter takes for tied is a tensor of its own in the base.
    #[error("{target}: {file} takes {other} for the same tensor, but the base stores it with other values")]
    NotTied {
        /// The adapter.
        file: String,
        /// The tied tensor.
        target: String,
        /// Its other name.
        other: String,
    },
    /// A tensor is edited under its own name and as a use of another one.
    #[error("{other}: edited as itself and as a use of {target}")]
    UseEditedTwice {
        /// The tied tensor.
        target: String,
        /// Its other name.
        other: String,
    },
    /// An edit names a use that nobody declared.
    #[error("{target}: {file} edits the use {other}, which its base does not list")]
    UnknownUse {
        /// The adapter.
        file: String,
        /// The tied tensor.
        target: String,
        /// The use.
        other: String,
    },
    /// The base could not be read while the adapters were checked.
    #[error("the base cannot be read: {message}")]
    Unreadable {
        /// The base tensor and the reason.
        message: String,
    },
}

impl Culprit {
    /// What resolves it, where something does.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Culprit::Quantised { .. } | Culprit::Dtype { .. } => {
                Some("apply to the base's 16-bit original, then quantise the result")
            }
            Culprit::MissingTarget { .. } => {
                Some("check that the adapter is for this base; --skip PATTERN leaves targets out")
            }
            Culprit::RecordedShape { .. } => Some("the adapter was made for another base: check the base"),
            Culprit::Resized { .. } => Some(
                "the adapter was made for another model: check the base, or bind it to its own, `fitment convert FILE --base BASE`",
            ),
            Culprit::RecordedDtype { exact: true, .. } => {
                Some("a bit-exact change is of one base alone: apply it to that, or take the diff again")
            }
            Culprit::RecordedDtype { exact: false, .. } => {
                Some("--allow-base-mismatch accepts other dtypes and digests, and lists them")
            }
            Culprit::NotFinite { .. } => {
                Some("training diverged or the file is damaged: fetch or export it again")
            }
            Culprit::SetTwice { .. } => {
                Some("apply one of the adapters, or leave the tensor out of the other with --skip")
            }
            Culprit::AlreadyThere { rebinds: true, .. } => Some(
                "the adapter was converted without a base: `fitment convert FILE --base BASE --force` binds it to this one",
            ),
            Culprit::AlreadyThere { rebinds: false, .. } => Some(
                "the adapter was made for a base without this tensor, or with one of another size: check the base",
            ),
            Culprit::NotTied { .. } => Some("convert the adapter again with --base this base"),
            Culprit::Component { .. } => Some("apply the adapter to that component's own folder"),
            Culprit::HiddenStates { .. } => {
                Some("fold it into weights first, where that is exact, or run it beside the model")
            }
            Culprit::When { .. } => {
                Some("run the adapter beside the model; --skip PATTERN leaves targets out")
            }
            _ => None,
        }
    }
}

fn nearest_text(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!("; nearest is {name}"))
}
