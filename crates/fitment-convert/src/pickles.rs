use crate::files::Files;
use fitment_core::Finding;
use fitment_torch::TorchFile;

/// Endings under which torch files are shared.
const ENDINGS: &[&str] = &[".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"];

/// What is wrong with the torch files among some files that are of no known format: whether they would run code is worth
/// knowing all the same. `None` when there are none.
pub fn torch_findings(files: &Files<'_>) -> Option<Vec<Finding>> {
    let mut findings = None;
    for (path, bytes) in files.iter().filter(|(path, _)| ENDINGS.iter().any(|ending| path.ends_with(ending)))
    {
        let found: &mut Vec<Finding> = findings.get_or_insert_default();
        found.extend(TorchFile::read(path, bytes).err().into_iter().flat_map(|error| error.findings()));
    }
    findings
}
