//! Every bound of the format, each with its reason. The spec lists them in section 2.4.

/// Bytes of a container header: what the Hub's JavaScript parser takes, so that every viewer can open the file.
pub const MAX_HEADER_BYTES: u64 = 25_000_000;

/// Bytes of a foreign container header: the `safetensors` crate's own bound.
pub const MAX_FOREIGN_HEADER_BYTES: u64 = 100_000_000;

/// Tensors in one container: ten times the largest mixture of experts on disk today, and cheap to hold.
pub const MAX_TENSORS: usize = 1_000_000;

/// Axes of a tensor: 3-D convolution kernels have 5, stacked ones 6.
pub const MAX_AXES: usize = 8;

/// Bytes of a tensor name: longer than any module path seen, short enough to print.
pub const MAX_NAME_BYTES: usize = 512;

/// Edits in one file.
pub const MAX_EDITS: usize = 1_000_000;

/// Base tensors that one bundle (`{e}`) may stand for.
pub const MAX_EXPERTS: u64 = 65_536;

/// Ranges in one slice axis: enough for interleavings written out, small enough to check pairwise order in one pass.
pub const MAX_RANGES: usize = 65_536;

/// Base tensors recorded in one manifest, bundles counted out.
pub const MAX_BASE_TENSORS: u64 = 1_000_000;

/// Largest integer that every JSON reader holds exactly (2⁵³; RFC 8785 section 3.2.2.3).
pub const MAX_SAFE_INTEGER: u64 = 1 << 53;

/// Bytes of a foreign config file that is parsed (not merely carried).
pub const MAX_CONFIG_BYTES: usize = 16_000_000;

/// Positions that one intervention lists: more than any method names, few enough to resolve for each prompt.
pub const MAX_POSITIONS: usize = 65_536;
