//! Items of work and the threads that take them.

use super::compute::Scratch;
use super::error::Error;
use crate::plan::{Expected, Output, Plan};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// One tensor to make, or one base tensor to look at.
pub(super) struct Item<'p> {
    pub(super) task: Task<'p>,
    /// Digests that the base tensor must have which this item reads.
    pub(super) expected: &'p [Expected],
    pub(super) allow_mismatch: bool,
}

pub(super) enum Task<'p> {
    Make(&'p Output<'p>),
    /// No output reads this base tensor, but a digest of it was recorded.
    Verify(&'p str),
}

/// Everything to do, the largest first, so that no thread ends long after the others.
pub(super) fn items<'p>(plan: &'p Plan<'_>) -> Vec<Item<'p>> {
    let mut read = BTreeSet::new();
    let mut items = Vec::with_capacity(plan.outputs.len());
    for output in &plan.outputs {
        let from = output.job.reads().filter(|name| read.insert(*name));
        let expected = from.and_then(|name| plan.digests.get(name)).map_or(&[][..], Vec::as_slice);
        items.push(Item { task: Task::Make(output), expected, allow_mismatch: allows(plan, expected) });
    }
    // Stable: equal sizes keep the order of names.
    items.sort_by_key(|item| match item.task {
        Task::Make(output) => std::cmp::Reverse(super::byte_len(&output.tensor)),
        Task::Verify(_) => std::cmp::Reverse(0),
    });
    let unread = plan.digests.iter().filter(|(name, _)| !read.contains(name.as_str()));
    items.extend(unread.map(|(name, expected)| {
        let allow_mismatch = allows(plan, expected);
        Item { task: Task::Verify(name), expected, allow_mismatch }
    }));
    items
}

/// A bit-exact change makes sense of its own base only, whatever the plan allows.
fn allows(plan: &Plan<'_>, expected: &[Expected]) -> bool {
    plan.allow_base_mismatch && expected.iter().all(|expected| expected.result.is_none())
}

/// Runs every item; at most `threads` threads take them in order. The error is that of the first failed item.
pub(super) fn run<I: Sync>(
    items: &[I],
    (stop, threads): (&AtomicBool, usize),
    work: impl Fn(&I, &mut Scratch) -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    let next = AtomicUsize::new(0);
    let failed: Mutex<Option<(usize, Error)>> = Mutex::new(None);
    let worker = || {
        let mut scratch = Scratch::default();
        while !stop.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { break };
            let Err(error) = work(item, &mut scratch) else { continue };
            // Whoever set `stop` has the reason; the others only noticed.
            let reason = !(matches!(error, Error::Cancelled) && stop.load(Ordering::Relaxed));
            stop.store(true, Ordering::Relaxed);
            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
            if reason && failed.as_ref().is_none_or(|(first, _)| index < *first) {
                *failed = Some((index, error));
            }
        }
    };
    on_cores(threads.min(items.len()), &worker);
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.map_or(Ok(()), |(_, error)| Err(error))
}

#[cfg(feature = "parallel")]
fn on_cores(most: usize, worker: &(dyn Fn() + Sync)) {
    rayon::scope(|scope| {
        for _ in 0..rayon::current_num_threads().min(most) {
            scope.spawn(|_| worker());
        }
    });
}

#[cfg(not(feature = "parallel"))]
fn on_cores(_most: usize, worker: &(dyn Fn() + Sync)) {
    worker();
}
