//! Threads, or one: the callers see no difference.

/// Runs every job; the results stand in the order of the jobs.
#[cfg(feature = "parallel")]
pub(crate) fn map<J: Send, R: Send>(jobs: Vec<J>, run: impl Fn(J) -> R + Send + Sync) -> Vec<R> {
    use rayon::iter::{IntoParallelIterator, ParallelIterator};
    jobs.into_par_iter().map(run).collect()
}

/// Runs every job; the results stand in the order of the jobs.
#[cfg(not(feature = "parallel"))]
pub(crate) fn map<J: Send, R: Send>(jobs: Vec<J>, run: impl Fn(J) -> R + Send + Sync) -> Vec<R> {
    jobs.into_iter().map(run).collect()
}
