/// Why a kernel refused its arguments. Arguments are checked before anything is written.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A buffer does not have the length that the other arguments demand.
    #[error("{what}: expected {expected}, found {found}")]
    Length {
        /// The buffer and its unit.
        what: &'static str,
        /// The length demanded.
        expected: usize,
        /// Its length.
        found: usize,
    },
    /// A product without a single pair of factors has no shape.
    #[error("a product needs at least one pair of factors")]
    NoFactors,
    /// The factors of a product do not share a rank.
    #[error("the factors disagree on the rank: up has {up}, {other} has {found}")]
    Rank {
        /// The rank of `up`; of `mid`, where `down` disagrees with that.
        up: usize,
        /// The factor that disagrees.
        other: &'static str,
        /// Its rank.
        found: usize,
    },
    /// Matrices that are added have different shapes.
    #[error("{what} has the shape {found:?}, expected {expected:?}")]
    Shape {
        /// The matrix.
        what: &'static str,
        /// The shape demanded.
        expected: [usize; 2],
        /// Its shape.
        found: [usize; 2],
    },
    /// A factor of a convolution does not have the dimensions of its role.
    #[error("the factor {role} must have the shape {expected}, found {found:?}")]
    FactorShape {
        /// `up`, `mid` or `down`.
        role: &'static str,
        /// The shapes allowed.
        expected: &'static str,
        /// Its shape.
        found: Vec<usize>,
    },
    /// A block does not have the columns of what is applied to it.
    #[error("expected a block of {expected} columns, found {found}")]
    Columns {
        /// The columns demanded.
        expected: usize,
        /// The columns of the block.
        found: usize,
    },
    /// Rows that a product does not have.
    #[error("rows {first} to {end} were asked for, of {available}")]
    Rows {
        /// The first row.
        first: usize,
        /// The row after the last.
        end: usize,
        /// The rows that there are.
        available: usize,
    },
    /// Row blocks must come in order, as the sum over them has a fixed order.
    #[error("expected the block that starts at row {expected}, found row {found}")]
    RowOrder {
        /// The row that comes next.
        expected: usize,
        /// The first row of the block.
        found: usize,
    },
    /// A magnitude cannot be applied along a vector of length zero: the direction is undefined.
    #[error("the norm at index {index} of the kept axis is zero")]
    ZeroNorm {
        /// Index along the kept axis.
        index: usize,
    },
    /// A norm is infinite or NaN, because the weights are, or overflow when squared.
    #[error("the norm at index {index} of the kept axis is {norm}")]
    NonFiniteNorm {
        /// Index along the kept axis.
        index: usize,
        /// The norm.
        norm: f64,
    },
    /// A matrix to approximate holds a number that is not finite.
    #[error("the matrix holds a number that is not finite")]
    NotFinite,
    /// The singular values of a matrix were not found.
    #[error("the singular values of the matrix do not converge")]
    NoConvergence,
    /// A packed factor does not fit into memory.
    #[error("a factor of rank {rank} and width {width} is too large")]
    TooLarge {
        /// The rank.
        rank: usize,
        /// The other dimension.
        width: usize,
    },
}
