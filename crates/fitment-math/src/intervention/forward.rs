use super::activation::activate;
use super::state::round_to;
use crate::Error;
use crate::round::Element;
use fitment_core::model::{Activation, Rounding};
use ndarray::{ArrayView1, ArrayView2, ArrayViewMut2, Axis};

/// What a [`Map`] computes: the roles and flags of an intervention, in f32. `d` is `width`, `i` `input_width`, `r` the
/// rank, `d` where no role has one.
#[derive(Clone, Debug)]
pub struct Formula<'f> {
    /// Extent of `h`.
    pub width: usize,
    /// Extent of `x`.
    pub input_width: usize,
    /// The multiplier `s`.
    pub scale: f32,
    /// `act`; the identity when `None`.
    pub activation: Option<Activation>,
    /// Whether `P h + p` is subtracted.
    pub subtract: bool,
    /// Where results are rounded.
    pub rounding: Rounding,
    /// `T` of those roundings: the dtype in which `W` is stored.
    pub source: Element,
    /// `U`, `[d, r]`.
    pub up: Option<ArrayView2<'f, f32>>,
    /// `c`, `[d]`.
    pub up_bias: Option<ArrayView1<'f, f32>>,
    /// `W`, `[r, i]`.
    pub source_weight: Option<ArrayView2<'f, f32>>,
    /// `b`, `[r]`.
    pub source_bias: Option<ArrayView1<'f, f32>>,
    /// `P`, `[r, d]`.
    pub proj: Option<ArrayView2<'f, f32>>,
    /// `p`, `[r]`.
    pub proj_bias: Option<ArrayView1<'f, f32>>,
}

impl Formula<'_> {
    /// No role, strength 1, everything in f32: `h' = h` for states of that width.
    pub fn of_width(width: usize) -> Self {
        Self {
            width,
            input_width: width,
            scale: 1.0,
            activation: None,
            subtract: false,
            rounding: Rounding::F32,
            source: Element::F32,
            up: None,
            up_bias: None,
            source_weight: None,
            source_bias: None,
            proj: None,
            proj_bias: None,
        }
    }

    fn rank(&self) -> usize {
        let up = self.up.map(|up| up.ncols());
        let weight = || self.source_weight.map(|weight| weight.nrows());
        let proj = || self.proj.map(|proj| proj.nrows());
        up.or_else(weight).or_else(proj).unwrap_or(self.width)
    }

    fn check(&self) -> Result<(), Error> {
        let (width, rank) = (self.width, self.rank());
        if self.up.is_none() && rank != width {
            return Err(Error::Rank { up: width, other: "the source", found: rank });
        }
        let matrices = [
            ("up", self.up, [width, rank]),
            ("source.weight", self.source_weight, [rank, self.input_width]),
            ("proj", self.proj, [rank, width]),
        ];
        for (what, matrix, expected) in matrices {
            let found = matrix.map_or(expected, |matrix| [matrix.nrows(), matrix.ncols()]);
            if found != expected {
                return Err(Error::Shape { what, expected, found });
            }
        }
        let vectors = [
            ("numbers of up.bias", self.up_bias, width),
            ("numbers of source.bias", self.source_bias, rank),
            ("numbers of proj.bias", self.proj_bias, rank),
        ];
        for (what, vector, expected) in vectors {
            let found = vector.map_or(expected, |vector| vector.len());
            if found != expected {
                return Err(Error::Length { what, expected, found });
            }
        }
        Ok(())
    }
}

/// The map of one intervention, laid out for tokens to pass through.
#[derive(Clone, Debug)]
pub struct Map {
    width: usize,
    input_width: usize,
    rank: usize,
    scale: f32,
    activation: Option<Activation>,
    subtract: bool,
    rounding: Rounding,
    source: Element,
    up: Option<Columns>,
    up_bias: Option<Vec<f32>>,
    source_weight: Option<Columns>,
    source_bias: Option<Vec<f32>>,
    /// `P`, or `Uᵀ`; the identity when `None`.
    proj: Option<Columns>,
    proj_bias: Option<Vec<f32>>,
}

/// A matrix by columns: a product with a vector then adds whole columns, index by index.
#[derive(Clone, Debug)]
struct Columns {
    rows: usize,
    numbers: Vec<f32>,
}

impl Columns {
    fn of(matrix: ArrayView2<'_, f32>) -> Self {
        let mut numbers = Vec::with_capacity(matrix.len());
        for column in matrix.axis_iter(Axis(1)) {
            numbers.extend(column);
        }
        Self { rows: matrix.nrows(), numbers }
    }

    /// `matrix · vector`: sums from 0, over ascending indices.
    fn times(&self, vector: &[f32]) -> Vec<f32> {
        let mut sums = vec![0.0_f32; self.rows];
        for (column, factor) in self.numbers.chunks_exact(self.rows.max(1)).zip(vector) {
            for (sum, number) in sums.iter_mut().zip(column) {
                *sum += number * factor;
            }
        }
        sums
    }
}

/// In which dtype each result of a token is rounded.
#[derive(Clone, Copy)]
struct Order {
    /// Of `W x + b` and `act`.
    source: Element,
    /// Of everything behind.
    rest: Element,
}

impl Map {
    /// Checks the shapes and lays out the matrices.
    ///
    /// # Errors
    /// [`Error::Rank`], [`Error::Shape`] or [`Error::Length`] when roles do not fit each other or the widths.
    pub fn new(formula: &Formula<'_>) -> Result<Self, Error> {
        formula.check()?;
        let vector = |role: Option<ArrayView1<'_, f32>>| role.map(|role| role.to_vec());
        let proj = formula.proj.or(formula.up.map(|up| up.reversed_axes()));
        Ok(Self {
            width: formula.width,
            input_width: formula.input_width,
            rank: formula.rank(),
            scale: formula.scale,
            activation: formula.activation,
            subtract: formula.subtract,
            rounding: formula.rounding,
            source: formula.source,
            up: formula.up.map(Columns::of),
            up_bias: vector(formula.up_bias),
            source_weight: formula.source_weight.map(Columns::of),
            source_bias: vector(formula.source_bias),
            proj: proj.filter(|_| formula.subtract).map(Columns::of),
            proj_bias: vector(formula.proj_bias),
        })
    }

    /// Extent of `h`.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Extent of `x`.
    pub fn input_width(&self) -> usize {
        self.input_width
    }

    /// Whether states of that dtype can be rounded where the formula says; else everything is computed in f32.
    pub fn follows_rounding(&self, states: Element) -> bool {
        match self.rounding {
            Rounding::F32 | Rounding::Direft => true,
            Rounding::Loreft | Rounding::Noreft => states == self.source,
        }
    }

    /// The change `s·(…)` of each token: `h` is `[tokens, d]`, `x` `[tokens, i]`, `out` `[tokens, d]`. Both hold numbers of
    /// the dtype `states`, in which `h + change` is to be rounded.
    ///
    /// # Errors
    /// [`Error::Shape`] when the three do not fit the map and each other.
    pub fn change(
        &self,
        h: ArrayView2<'_, f32>,
        x: ArrayView2<'_, f32>,
        states: Element,
        mut out: ArrayViewMut2<'_, f32>,
    ) -> Result<(), Error> {
        let tokens = h.nrows();
        let shapes = [
            ("the block of states", [h.nrows(), h.ncols()], self.width),
            ("the block of inputs", [x.nrows(), x.ncols()], self.input_width),
            ("the block of changes", [out.nrows(), out.ncols()], self.width),
        ];
        for (what, found, width) in shapes {
            let expected = [tokens, width];
            if found != expected {
                return Err(Error::Shape { what, expected, found });
            }
        }
        let order = self.order(states);
        for ((h, x), mut out) in h.outer_iter().zip(x.outer_iter()).zip(out.outer_iter_mut()) {
            let change = self.token(&h.to_vec(), x, order);
            out.iter_mut().zip(change).for_each(|(out, change)| *out = change);
        }
        Ok(())
    }

    fn order(&self, states: Element) -> Order {
        let exact = Element::F32;
        match self.rounding {
            Rounding::Noreft if states == self.source => Order { source: self.source, rest: self.source },
            Rounding::Loreft if states == self.source => Order { source: self.source, rest: exact },
            Rounding::Direft => Order { source: self.source, rest: exact },
            Rounding::F32 | Rounding::Loreft | Rounding::Noreft => Order { source: exact, rest: exact },
        }
    }

    fn token(&self, h: &[f32], x: ArrayView1<'_, f32>, order: Order) -> Vec<f32> {
        let mut y = self.source(x, order.source);
        if self.subtract {
            let mut projected = match &self.proj {
                Some(proj) => proj.times(h),
                None => h.to_vec(),
            };
            add(&mut projected, self.proj_bias.as_deref(), order.rest);
            for (y, projected) in y.iter_mut().zip(projected) {
                *y = round_to(order.rest, *y - projected);
            }
        }
        if let Some(up) = &self.up {
            y = up.times(&y);
        }
        add(&mut y, self.up_bias.as_deref(), order.rest);
        if self.scale != 1.0 {
            y.iter_mut().for_each(|y| *y = round_to(order.rest, self.scale * *y));
        }
        y
    }

    /// `act(W x + b)`.
    fn source(&self, x: ArrayView1<'_, f32>, element: Element) -> Vec<f32> {
        let mut source = match &self.source_weight {
            Some(weight) => {
                let x: Vec<f32> = x.iter().map(|x| round_to(element, *x)).collect();
                weight.times(&x)
            }
            None => vec![0.0; self.rank],
        };
        add(&mut source, self.source_bias.as_deref(), element);
        if let Some(activation) = self.activation {
            source.iter_mut().for_each(|a| *a = round_to(element, activate(activation, *a)));
        }
        source
    }
}

/// Adds a bias to a product, and rounds.
fn add(sums: &mut [f32], bias: Option<&[f32]>, element: Element) {
    if let Some(bias) = bias {
        sums.iter_mut().zip(bias).for_each(|(sum, bias)| *sum += bias);
    }
    sums.iter_mut().for_each(|sum| *sum = round_to(element, *sum));
}
