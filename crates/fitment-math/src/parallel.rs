//! Threads, or one: the callers see no difference, as no job depends on another.

/// Runs every job.
#[cfg(feature = "parallel")]
pub(crate) fn for_each<J: Send>(jobs: Vec<J>, run: impl Fn(J) + Send + Sync) {
    use rayon::iter::{IntoParallelIterator, ParallelIterator};
    jobs.into_par_iter().for_each(run);
}

/// Runs every job.
#[cfg(not(feature = "parallel"))]
pub(crate) fn for_each<J: Send>(jobs: Vec<J>, run: impl Fn(J) + Send + Sync) {
    jobs.into_iter().for_each(run);
}

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
