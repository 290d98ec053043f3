use super::{ComponentName, Phase, TensorName};
use std::fmt;

/// What a weight edit changes: one base tensor, one slice of it, or a bundle of per-expert tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Part of a pipeline; `None` for a single model.
    pub component: Option<ComponentName>,
    /// The tensor's name on disk; holds one `{e}` exactly when `experts` is there.
    pub name: TensorName,
    /// The numbers that `{e}` stands for.
    pub experts: Option<ExpertRange>,
    /// Which part of the stored base tensor `W` is; empty for all of it. Axes ascend.
    pub slice: Vec<AxisSlice>,
    /// The uses of a tied tensor that get this edit, by the names they have when untied; empty for all uses.
    pub uses: Vec<TensorName>,
    /// When the edit acts; `None` for always, as in a checkpoint.
    pub when: Option<When>,
}

impl Target {
    /// The whole tensor of that name in a single model.
    pub fn whole(name: TensorName) -> Self {
        Self { component: None, name, experts: None, slice: Vec::new(), uses: Vec::new(), when: None }
    }

    /// The label of stored names and messages: the name, behind `component/` in a pipeline.
    pub fn label(&self) -> String {
        match &self.component {
            Some(component) => format!("{component}/{}", self.name),
            None => self.name.to_string(),
        }
    }

    /// Names of the base tensors that this target stands for: one, or one for each expert.
    pub fn base_names(&self) -> impl Iterator<Item = String> + '_ {
        let range = self.experts.unwrap_or(ExpertRange { start: 0, end: 1 });
        (range.start..range.end).map(move |expert| match self.experts {
            Some(_) => self.name.as_str().replacen("{e}", &expert.to_string(), 1),
            None => self.name.to_string(),
        })
    }
}

/// When a weight edit acts (feature `when`): only while the model runs, never in a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct When {
    /// The tokens whose activations see the edited weights.
    pub phase: Phase,
    /// Only tokens from the last occurrence of this sequence on, its own tokens included (activated LoRA); empty for
    /// no such condition. A prompt without the sequence sees the unedited weights.
    pub after_tokens: Vec<u64>,
}

/// Experts `start..end` of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExpertRange {
    /// First expert.
    pub start: u64,
    /// One past the last.
    pub end: u64,
}

impl ExpertRange {
    /// Number of experts.
    pub fn count(self) -> u64 {
        self.end.saturating_sub(self.start)
    }
}

/// Indices of one axis of the stored base tensor, in the order in which `W` has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AxisSlice {
    /// The axis.
    pub axis: u64,
    /// Ranges, ascending and disjoint.
    pub ranges: Vec<IndexRange>,
}

impl AxisSlice {
    /// How many indices the ranges hold.
    pub fn len(&self) -> u64 {
        self.ranges.iter().map(|range| range.len()).sum()
    }

    /// Whether no index is in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Indices `start, start + step, …` below `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexRange {
    /// First index.
    pub start: u64,
    /// Bound, not included.
    pub end: u64,
    /// Distance of two indices, at least 1.
    pub step: u64,
}

impl IndexRange {
    /// How many indices the range holds.
    pub fn len(&self) -> u64 {
        self.end.saturating_sub(self.start).div_ceil(self.step.max(1))
    }

    /// Whether no index is in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The indices.
    pub fn indices(&self) -> impl Iterator<Item = u64> + use<> {
        (self.start..self.end).step_by(usize::try_from(self.step.max(1)).unwrap_or(usize::MAX))
    }
}

impl fmt::Display for IndexRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.start, self.end)?;
        if self.step != 1 {
            write!(f, ":{}", self.step)?;
        }
        Ok(())
    }
}

impl fmt::Display for AxisSlice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "axis {} ", self.axis)?;
        for (index, range) in self.ranges.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{range}")?;
        }
        Ok(())
    }
}
