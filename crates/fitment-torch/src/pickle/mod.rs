//! Pickles, read as data: an interpreter of protocols 0 to 5 that builds numbers, texts, containers, storages and
//! tensors, and nothing else. There is no way from a name in a pickle to anything that runs.

mod call;
mod globals;
mod heap;
mod machine;
mod op;

pub(crate) use globals::{dtype_name, storage_class};
pub(crate) use heap::{Heap, Id, Node};
pub(crate) use machine::{Outcome, run};
