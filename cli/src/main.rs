//! The `fitment` command line.

fn main() {}
