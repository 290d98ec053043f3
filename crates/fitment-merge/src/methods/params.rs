use std::fmt;

/// What methods are told beside the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Params {
    /// Share of elements that stay, above 0 up to 1.
    pub density: Option<f64>,
    /// Multiplies the result.
    pub lambda: Option<f64>,
    /// Half width of the probabilities of `della`; absolute values up to this count for nothing in `ram`.
    pub epsilon: Option<f64>,
    /// Share of the largest elements that `breadcrumbs` takes away.
    pub gamma: Option<f64>,
    /// Where between two adapters: 0 for the first, 1 for the second.
    pub t: Option<f64>,
    /// How much of the updates' own lengths `ctm` keeps when it looks for bases: 0 for all alike, 1 for all of them.
    pub beta: Option<f64>,
    /// How much of the second adapter `np-lora` takes away where the first acts: 1 for all of it.
    pub eta: Option<f64>,
    /// Of random choices. With the target's name and the adapter's place it decides every draw, whatever the order and threads.
    pub seed: u64,
}

/// A parameter that a method takes, with its default.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Param {
    /// [`Params::density`].
    Density(f64),
    /// [`Params::lambda`].
    Lambda(f64),
    /// [`Params::epsilon`].
    Epsilon(f64),
    /// [`Params::gamma`].
    Gamma(f64),
    /// [`Params::t`].
    T(f64),
    /// [`Params::beta`].
    Beta(f64),
    /// [`Params::eta`].
    Eta(f64),
    /// [`Params::seed`].
    Seed,
}

impl Param {
    /// The option's name.
    pub fn name(self) -> &'static str {
        match self {
            Param::Density(_) => "density",
            Param::Lambda(_) => "lambda",
            Param::Epsilon(_) => "epsilon",
            Param::Gamma(_) => "gamma",
            Param::T(_) => "t",
            Param::Beta(_) => "beta",
            Param::Eta(_) => "eta",
            Param::Seed => "seed",
        }
    }

    /// Its value where nothing is said.
    pub fn default(self) -> f64 {
        match self {
            Param::Density(value)
            | Param::Lambda(value)
            | Param::Epsilon(value)
            | Param::Gamma(value)
            | Param::T(value)
            | Param::Beta(value)
            | Param::Eta(value) => value,
            Param::Seed => 0.0,
        }
    }
}

impl fmt::Display for Param {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (default {})", self.name(), self.default())
    }
}

/// Every parameter; the values are of no meaning.
const ALL: &[Param] = &[
    Param::Density(0.0),
    Param::Lambda(0.0),
    Param::Epsilon(0.0),
    Param::Gamma(0.0),
    Param::T(0.0),
    Param::Beta(0.0),
    Param::Eta(0.0),
    Param::Seed,
];

impl Params {
    /// What was said of a parameter.
    pub fn said(&self, param: Param) -> Option<f64> {
        match param {
            Param::Density(_) => self.density,
            Param::Lambda(_) => self.lambda,
            Param::Epsilon(_) => self.epsilon,
            Param::Gamma(_) => self.gamma,
            Param::T(_) => self.t,
            Param::Beta(_) => self.beta,
            Param::Eta(_) => self.eta,
            Param::Seed => (self.seed != 0).then_some(self.seed as f64),
        }
    }

    /// The first of which something was said.
    pub(crate) fn first_said(&self) -> Option<Param> {
        ALL.iter().copied().find(|param| self.said(*param).is_some())
    }

    /// Why the values are of no use, for a method that takes `params`.
    pub(crate) fn fault(&self, method: &str, params: &[Param]) -> Option<String> {
        let takes = |param: Param| params.iter().any(|taken| taken.name() == param.name());
        for param in ALL.iter().copied() {
            let Some(value) = self.said(param) else { continue };
            if !takes(param) {
                let taken: Vec<&str> = params.iter().map(|param| param.name()).collect();
                let taken = if taken.is_empty() { "none".to_owned() } else { taken.join(", ") };
                return Some(format!("{method} takes no {}; of these it takes {taken}", param.name()));
            }
            let is_share = matches!(
                param,
                Param::Density(_) | Param::Gamma(_) | Param::T(_) | Param::Beta(_) | Param::Eta(_)
            );
            let is_in = value.is_finite()
                && (!is_share || (0.0..=1.0).contains(&value))
                && !(matches!(param, Param::Density(_)) && value == 0.0);
            if !is_in {
                let range = if is_share { "a share from 0 to 1" } else { "a finite number" };
                return Some(format!("{} is {value}: it is {range}", param.name()));
            }
        }
        self.probabilities_fault(params)
    }

    /// Probabilities around a density stay within 0 and 1.
    fn probabilities_fault(&self, params: &[Param]) -> Option<String> {
        let value = |name: &str| {
            let param = params.iter().find(|param| param.name() == name)?;
            Some(self.said(*param).unwrap_or_else(|| param.default()))
        };
        let (density, epsilon) = (value("density")?, value("epsilon")?);
        let is_in = density >= 1.0 || (density - epsilon.abs() > 0.0 && density + epsilon.abs() < 1.0);
        (!is_in).then(|| {
            format!(
                "density {density} and epsilon {epsilon} give probabilities from {} to {}: they are between 0 and 1",
                density - epsilon.abs(),
                density + epsilon.abs()
            )
        })
    }
}
