//! Passes over tensors, on all cores with the feature `parallel`: one code path for both.

use std::sync::OnceLock;

/// The [`fitment_core::check::Each`] of this build.
#[cfg(feature = "parallel")]
pub fn each(count: usize, call: &(dyn Fn(usize) + Sync)) {
    use rayon::iter::{IndexedParallelIterator as _, IntoParallelIterator, ParallelIterator};
    // Tensors differ in size by orders of magnitude: stealing one at a time keeps the cores even.
    (0..count).into_par_iter().with_max_len(1).for_each(call);
}

/// The [`fitment_core::check::Each`] of this build.
#[cfg(not(feature = "parallel"))]
pub fn each(count: usize, call: &(dyn Fn(usize) + Sync)) {
    fitment_core::check::in_order(count, call);
}

/// A function of every item, in the order of the items.
pub fn map<T: Sync, R: Send + Sync>(items: &[T], function: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let results: Vec<OnceLock<R>> = items.iter().map(|_| OnceLock::new()).collect();
    each(items.len(), &|index| {
        if let (Some(item), Some(result)) = (items.get(index), results.get(index)) {
            result.get_or_init(|| function(item));
        }
    });
    results.into_iter().filter_map(OnceLock::into_inner).collect()
}

#[cfg(test)]
mod tests {
    use super::map;

    #[test]
    fn results_stand_in_the_order_of_the_items() {
        let items: Vec<u64> = (0..1000).collect();
        assert_eq!(map(&items, |item| item * 2), items.iter().map(|item| item * 2).collect::<Vec<_>>());
    }
}
