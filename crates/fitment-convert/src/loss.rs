use fitment_core::model::Edit;
use fitment_core::tensor::Dtype;
use std::fmt;

/// What a conversion dropped or took for granted. Closed on purpose: nothing else is ever lost or assumed.
#[derive(Clone, Debug, PartialEq)]
pub enum Loss {
    /// A file of the folder is not carried along.
    FileLeft {
        /// Its path.
        path: String,
    },
    /// A tokenizer with tokens that the base's vocabulary lacks is not carried along.
    TokenizerLeft {
        /// Its path.
        path: String,
        /// The first token beyond the base's vocabulary.
        token: String,
    },
    /// A prediction head that was trained beside the adapter is not carried along.
    HeadLeft {
        /// Its path.
        path: String,
    },
    /// Another adapter of the same folder is not converted.
    AdapterLeft {
        /// Its sub-folder; empty for the one at the root.
        folder: String,
    },
    /// Without a base: names and shapes of the targets are expectations, checked when the adapter is applied.
    Unbound {
        /// How many targets.
        targets: usize,
    },
    /// The adapter calls its modules otherwise than the base on disk. Every target was found in the base.
    Renamed {
        /// Prefix, or family of names, in the adapter.
        from: String,
        /// What the base has instead.
        to: String,
        /// How many targets.
        targets: usize,
    },
    /// The base has linear layers fused, or apart, that the adapter has the other way.
    Refitted {
        /// The last words of the adapter's modules.
        from: String,
        /// Those of the base's.
        to: String,
        /// How many targets of the adapter.
        targets: usize,
    },
    /// Square matrices are read as `[out, in]`, as all classes but GPT-2's Conv1D store them.
    AssumedLinear {
        /// The first of them.
        target: String,
        /// How many.
        targets: usize,
    },
    /// Without a base: a saved head is taken for new to the base.
    AssumedNew {
        /// The tensor.
        target: String,
    },
    /// The file does not say which version wrote it; its keys do, and patterns are read by that version's rule.
    AssumedVersion {
        /// The rule, by its range of versions.
        rule: String,
    },
    /// The file does not say which version wrote it; its keys do, and factors of experts are read by that version's layout.
    AssumedLayout {
        /// The version.
        rule: String,
    },
    /// The adapter's class has no language-model head: an edit of the tied embedding changes the head too.
    AssumedHeadless {
        /// The embedding.
        target: String,
    },
    /// For a look at an adapter without its base, something was taken for the usual that only the base can tell.
    AssumedToShow {
        /// The target.
        target: String,
        /// What it is that only the base can tell.
        reason: String,
    },
    /// The written format names modules as the model's class does, which need not be as the checkpoint on disk does.
    AssumedNames {
        /// The first target.
        target: String,
    },
    /// The written format cannot hold an edit, which is left out.
    NotHeld {
        /// The edit's target, or the config key.
        target: String,
        /// The edit's kind.
        kind: &'static str,
        /// Why.
        reason: String,
    },
    /// A rank was padded with zeros, since no alpha gives the exact scale at the rank it had.
    RankPadded {
        /// The target.
        target: String,
        /// The rank it had.
        from: u64,
        /// The rank that is written.
        to: u64,
    },
    /// The written format holds numbers of another dtype, to which some were rounded.
    Rounded {
        /// The target.
        target: String,
        /// The dtype that is written.
        to: Dtype,
        /// How many elements are not what they were.
        elements: u64,
    },
    /// Scales went into factors, some of which are the nearest numbers of F32.
    ScaleFolded {
        /// The first target.
        target: String,
        /// How many targets.
        targets: usize,
    },
    /// The written format has a number for the scale that is not as fine as ours: it is the nearest one.
    ScaleRounded {
        /// The first target.
        target: String,
        /// What is written.
        alpha: f32,
        /// How many targets.
        targets: usize,
    },
    /// The carried config no longer says what the adapter does; a new one is written.
    ConfigRemade {
        /// What differs.
        reason: String,
    },
    /// Facts that the written format has no place for and that do not change the function.
    FactsLeft {
        /// Which.
        what: &'static str,
    },
}

impl Loss {
    /// An edit that the written format cannot hold.
    pub(crate) fn not_held(edit: &Edit<'_>, reason: &str) -> Self {
        let target = match edit {
            Edit::Config(config) => config.value.key().to_owned(),
            _ => edit.label().unwrap_or_default(),
        };
        Loss::NotHeld { target, kind: edit.kind(), reason: reason.to_owned() }
    }

    /// Whether the result computes something else than the input; such a loss needs the user's leave.
    pub fn changes_function(&self) -> bool {
        match self {
            Loss::TokenizerLeft { .. }
            | Loss::HeadLeft { .. }
            | Loss::AssumedToShow { .. }
            | Loss::NotHeld { .. }
            | Loss::Rounded { .. } => true,
            Loss::FileLeft { .. }
            | Loss::AdapterLeft { .. }
            | Loss::Unbound { .. }
            | Loss::Renamed { .. }
            | Loss::Refitted { .. }
            | Loss::AssumedLinear { .. }
            | Loss::AssumedNew { .. }
            | Loss::AssumedVersion { .. }
            | Loss::AssumedLayout { .. }
            | Loss::AssumedHeadless { .. }
            | Loss::AssumedNames { .. }
            | Loss::RankPadded { .. }
            // No more than every engine that computes in F32 rounds it by.
            | Loss::ScaleRounded { .. }
            | Loss::ScaleFolded { .. }
            | Loss::ConfigRemade { .. }
            | Loss::FactsLeft { .. } => false,
        }
    }

    /// Its name in JSON: stable.
    pub fn id(&self) -> &'static str {
        match self {
            Loss::FileLeft { .. } => "file_left",
            Loss::TokenizerLeft { .. } => "tokenizer_left",
            Loss::HeadLeft { .. } => "head_left",
            Loss::AdapterLeft { .. } => "adapter_left",
            Loss::Unbound { .. } => "unbound",
            Loss::Renamed { .. } => "renamed",
            Loss::Refitted { .. } => "refitted",
            Loss::AssumedLinear { .. } => "assumed_linear",
            Loss::AssumedNew { .. } => "assumed_new",
            Loss::AssumedVersion { .. } => "assumed_version",
            Loss::AssumedLayout { .. } => "assumed_layout",
            Loss::AssumedHeadless { .. } => "assumed_headless",
            Loss::AssumedToShow { .. } => "assumed_to_show",
            Loss::AssumedNames { .. } => "assumed_names",
            Loss::NotHeld { .. } => "not_held",
            Loss::RankPadded { .. } => "rank_padded",
            Loss::Rounded { .. } => "rounded",
            Loss::ScaleRounded { .. } => "scale_rounded",
            Loss::ScaleFolded { .. } => "scale_folded",
            Loss::ConfigRemade { .. } => "config_remade",
            Loss::FactsLeft { .. } => "facts_left",
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Loss::FileLeft { path } => write!(f, "{path} is left out (--keep-files carries it)"),
            Loss::TokenizerLeft { path, token } => {
                write!(
                    f,
                    "{path} is left out, with the token {token:?} that the base lacks (--keep-files carries it)"
                )
            }
            Loss::HeadLeft { path } => {
                write!(f, "the prediction head in {path} is left out (--keep-files carries it)")
            }
            Loss::AdapterLeft { folder } if folder.is_empty() => {
                f.write_str("the adapter at the root is left out")
            }
            Loss::AdapterLeft { folder } => write!(f, "the adapter in {folder} is left out"),
            Loss::Unbound { targets } => {
                write!(
                    f,
                    "assumed, for want of a base: names and shapes of the targets ({targets}; checked at apply)"
                )
            }
            Loss::Renamed { from, to, targets } => {
                write!(
                    f,
                    "assumed: {from} of the adapter is {to} of the base (targets: {targets}, all found)"
                )
            }
            Loss::Refitted { from, to, targets } => {
                write!(f, "fitted to the base, which has {to}: {from} of the adapter (targets: {targets})")
            }
            Loss::AssumedLinear { target, targets } => {
                write!(f, "assumed: square matrices are stored as [out, in] ({targets}, such as {target})")
            }
            Loss::AssumedNew { target } => write!(f, "assumed: the base has no {target} (checked at apply)"),
            Loss::AssumedVersion { rule } => {
                write!(f, "assumed from the keys of the config: patterns by the rule of {rule}")
            }
            Loss::AssumedLayout { rule } => {
                write!(f, "assumed from the keys of the config: factors of experts as {rule} laid them out")
            }
            Loss::AssumedHeadless { target } => {
                write!(
                    f,
                    "assumed: the model of the adapter has no head, so the tied {target} is changed in all its uses"
                )
            }
            Loss::AssumedToShow { target, reason } => {
                write!(f, "{target}: {reason}: shown as it stands (--base decides it)")
            }
            Loss::AssumedNames { target } => {
                write!(
                    f,
                    "assumed: the model's class names its modules as the base on disk does, such as {target}"
                )
            }
            Loss::NotHeld { target, kind, reason } => write!(f, "{kind} of {target} is left out: {reason}"),
            Loss::RankPadded { target, from, to } => {
                write!(f, "{target}: rank {from} padded with zeros to {to}, which changes nothing")
            }
            Loss::Rounded { target, to, elements } => {
                write!(f, "{elements} elements of {target} are rounded to {to}")
            }
            Loss::ScaleRounded { target, alpha, targets } => write!(
                f,
                "the scale is rounded to that of alpha {alpha}, the nearest number of 32 bits ({targets}, such as {target})"
            ),
            Loss::ScaleFolded { target, targets } => {
                write!(f, "scales are folded into factors, rounded once to F32 ({targets}, such as {target})")
            }
            Loss::ConfigRemade { reason } => write!(f, "the config is made anew: {reason}"),
            Loss::FactsLeft { what } => write!(f, "{what} is left out"),
        }
    }
}
