use fitment_core::model::Rounding;
use fitment_core::tensor::Dtype;

/// Why interventions cannot act on these states.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A weight is NaN or infinite.
    #[error("{file}: weight {weight} is not a finite number")]
    Weight {
        /// The adapter.
        file: String,
        /// Its weight.
        weight: f64,
    },
    /// The states are narrower or wider than an intervention asks.
    #[error("{site}: {file} fits states of width {expected}, these have {found}")]
    Width {
        /// The adapter.
        file: String,
        /// The site's label.
        site: String,
        /// What it asks: a width, or the part of one.
        expected: String,
        /// The width of the states.
        found: usize,
    },
    /// Several files act at one site, and not one after the other.
    #[error(
        "{site}: {file} wants the interventions of the site {overlap}, which is not defined with those of another file"
    )]
    Overlap {
        /// The adapter.
        file: String,
        /// The site's label.
        site: String,
        /// Its word for overlaps.
        overlap: &'static str,
    },
    /// An intervention's tensors have a dtype without arithmetic.
    #[error(
        "{site}: {file} stores {role} as {dtype}; interventions are computed from F64, F32, F16 and BF16"
    )]
    Dtype {
        /// The adapter.
        file: String,
        /// The site's label.
        site: String,
        /// The role.
        role: &'static str,
        /// Its dtype.
        dtype: Dtype,
    },
    /// The tensors of an intervention do not fit each other.
    #[error("{site}: {file}")]
    Map {
        /// The adapter.
        file: String,
        /// The site's label.
        site: String,
        /// What does not fit.
        #[source]
        source: fitment_math::Error,
    },
    /// An intervention reads the states of another site, which the caller did not give.
    #[error(
        "{site}: {file} reads the states of {input}, which were not given: they are computed after this site, or not kept"
    )]
    Input {
        /// The adapter.
        file: String,
        /// The site's label.
        site: String,
        /// The site that it reads.
        input: String,
    },
    /// A pass does not have the rows or columns of the states.
    #[error("the states are {found:?} tokens, the attention mask {expected:?}")]
    Mask {
        /// Rows and columns of the mask.
        expected: [usize; 2],
        /// Rows and columns of the states.
        found: [usize; 2],
    },
    /// A pass says something of more or fewer rows than it has.
    #[error("{what} has {found} numbers for {expected} rows")]
    Rows {
        /// Which argument.
        what: &'static str,
        /// Rows of the mask.
        expected: usize,
        /// Its length.
        found: usize,
    },
}

/// Something that a user should know of a plan for a site.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Note {
    /// The rounding that a file names needs states of another dtype.
    #[error(
        "{site}: {file} names the rounding {}, which needs states of the dtype of its weights; computed in f32",
        rounding.name()
    )]
    RoundedOnce {
        /// The adapter.
        file: String,
        /// The site's label.
        site: String,
        /// The rounding that is named.
        rounding: Rounding,
    },
}
