//! Targets on all cores, where the feature is on. The results stand in the order of the items either way.

#[cfg(feature = "parallel")]
pub(crate) fn map<T: Sync, R: Send>(items: &[T], each: impl Fn(&T) -> R + Send + Sync) -> Vec<R> {
    use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
    items.par_iter().map(each).collect()
}

#[cfg(not(feature = "parallel"))]
pub(crate) fn map<T: Sync, R: Send>(items: &[T], each: impl Fn(&T) -> R + Send + Sync) -> Vec<R> {
    items.iter().map(each).collect()
}

/// The [`Each`](fitment_core::check::Each) of this build.
pub(crate) fn each(count: usize, call: &(dyn Fn(usize) + Sync)) {
    let numbers: Vec<usize> = (0..count).collect();
    map(&numbers, |number| call(*number));
}
