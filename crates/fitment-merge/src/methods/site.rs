use super::Params;
use fitment_math::ndarray::Array2;

/// One adapter's low-rank update of a target: `Δ = up·diag(scales)·down`, its weight apart.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    /// `wᵢ`.
    pub(crate) weight: f64,
    /// `[out, rᵢ]`, as stored.
    pub(crate) up: Array2<f64>,
    /// `sᵢ` of each of the `rᵢ` directions: several edits of one adapter may have different ones.
    pub(crate) scales: Vec<f64>,
    /// `[rᵢ, in]`.
    pub(crate) down: Array2<f64>,
}

impl Task {
    /// `up·diag(scales)·factor`.
    pub(crate) fn scaled_up(&self, factor: f64) -> Array2<f64> {
        let mut up = self.up.clone();
        for (mut column, scale) in up.columns_mut().into_iter().zip(&self.scales) {
            column.mapv_inplace(|value| value * scale * factor);
        }
        up
    }
}

/// What a method of factors sees of a target. There is at least one task, all of one shape.
pub(crate) struct Core<'c> {
    pub(crate) tasks: &'c [Task],
    /// Place of each task's adapter in the list of the command.
    pub(crate) places: &'c [usize],
    /// Weights of all adapters of the command, also of those that do not touch the target.
    pub(crate) weights: &'c [f64],
    pub(crate) params: &'c Params,
}

/// What a method of elements sees of a target.
pub(crate) struct Dense<'d> {
    /// `wᵢ` and `Δᵢ`, row-major, without the weight, of the adapters that touch the target: finite, and of one length.
    pub(crate) tasks: &'d [(f64, Vec<f32>)],
    /// Place of each task's adapter in the list of the command, for what is drawn at random.
    pub(crate) places: &'d [usize],
    /// Extents of the update.
    pub(crate) dims: &'d [u64],
    /// The target's label, for what is drawn at random.
    pub(crate) name: &'d str,
    pub(crate) params: &'d Params,
}

/// Why a target cannot be merged by a method.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The method has no result for such updates.
    Undefined(String),
    /// A decomposition failed.
    Math(fitment_math::Error),
}

impl From<fitment_math::Error> for Failure {
    fn from(error: fitment_math::Error) -> Self {
        Failure::Math(error)
    }
}

impl Dense<'_> {
    /// The elements of an update.
    pub(crate) fn elements(&self) -> usize {
        self.tasks.first().map_or(0, |(_, values)| values.len())
    }
}

impl Core<'_> {
    /// `Δ` of several tasks as one product: factors side by side, the weights in `up`.
    pub(crate) fn weighted(&self) -> super::Factors {
        let rank: usize = self.tasks.iter().map(|task| task.up.ncols()).sum();
        let (rows, columns) = self.tasks.first().map_or((0, 0), |task| (task.up.nrows(), task.down.ncols()));
        let (mut up, mut down) = (Array2::zeros((rows, rank)), Array2::zeros((rank, columns)));
        let mut at = 0;
        for task in self.tasks {
            let scaled = task.scaled_up(task.weight);
            for of in 0..task.up.ncols() {
                up.column_mut(at).assign(&scaled.column(of));
                down.row_mut(at).assign(&task.down.row(of));
                at += 1;
            }
        }
        (up, down)
    }
}
