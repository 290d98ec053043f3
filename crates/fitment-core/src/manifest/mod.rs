//! The manifest: wire types by version, and the way between them and the model.

pub mod v1;
