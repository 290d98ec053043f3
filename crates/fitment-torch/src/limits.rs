//! Every bound of the reader, each with its reason.

/// Bytes of one pickle: a state dict takes about 200 for a tensor, so this is 300,000 tensors.
pub const MAX_PICKLE_BYTES: u64 = 64 << 20;

/// Values that one pickle may make: about 15 for a tensor, so that no file takes more than some hundred megabytes.
pub const MAX_VALUES: usize = 4 << 20;

/// Entries of a pickle's memo: no value has more than one in what torch writes.
pub const MAX_MEMO: usize = MAX_VALUES;

/// Containers inside containers: training checkpoints nest less than ten deep.
pub const MAX_DEPTH: usize = 100;

/// How often each value may count when dicts are laid flat, on average: values may be shared, so that a short pickle can
/// stand for more leaves than any memory has. Those of state dicts count once.
pub const MAX_SHARING: usize = 16;

/// Members of an archive: every tensor with a storage of its own, and torch's few beside them.
pub const MAX_MEMBERS: usize = fitment_core::limits::MAX_TENSORS + 1000;

/// How many times the file's own size its tensors may take together. Expanded tensors (stride 0) and shared storages
/// take more than they store; ties and links of real models stay below 4.
pub const MAX_GROWTH: u64 = 16;

/// What small files may take beyond [`MAX_GROWTH`].
pub const FREE_GROWTH: u64 = 1 << 20;

/// Refused names that are listed; the rest is counted.
pub const MAX_LISTED: usize = 16;

/// Characters of a refused name that are kept: names of classes are shorter.
pub const MAX_SHOWN: usize = 200;

/// Bytes of a key in a dict: names of tensors have at most 512, and keys are compared with each other.
pub const MAX_KEY_BYTES: usize = 4096;

/// Arguments of a call: torch's longest has eight.
pub const MAX_ARGUMENTS: usize = 16;
