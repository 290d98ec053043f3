use crate::error::{Error, Result};
use crate::file::{self, Blob};
use elsa::sync::FrozenVec;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Pieces up to this size stay in memory: a file of its own is dearer.
const SMALL: usize = 256 * 1024;

/// Bytes put aside in files without names, beside an output, and read through maps from then on: what is made piece by piece
/// and needed as a whole takes no memory of its own. All is gone when this program ends, however it ends.
pub struct Room {
    folder: PathBuf,
    kept: FrozenVec<Box<Blob>>,
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Room").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Room {
    /// Room in the folder of an output. Nothing is created yet.
    pub fn beside(output: &Path) -> Self {
        let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty());
        Self { folder: folder.unwrap_or(Path::new(".")).to_owned(), kept: FrozenVec::new() }
    }

    /// Puts bytes aside, from any thread; gives them back as they lie there.
    ///
    /// # Errors
    /// When the disk is full, or does not work.
    pub fn keep(&self, bytes: Vec<u8>) -> Result<&[u8]> {
        let blob = if bytes.len() <= SMALL { Blob::Read(bytes) } else { self.mapped(&bytes)? };
        Ok(self.kept.push_get(Box::new(blob)).as_slice())
    }

    fn mapped(&self, bytes: &[u8]) -> Result<Blob> {
        let failed = |doing| Error::io(&self.folder, doing);
        let mut file = tempfile::tempfile_in(&self.folder).map_err(failed("create a temporary in"))?;
        file.write_all(bytes).map_err(failed("write a temporary in"))?;
        // The map outlives the handle.
        file::map(&self.folder, &file).map(Blob::Map)
    }
}

#[cfg(test)]
mod tests {
    use super::Room;

    #[test]
    fn pieces_of_any_size_stay_where_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let room = Room::beside(&folder.path().join("out"));
        let pieces: Vec<Vec<u8>> = [0, 7, 300_000, 1_000_000].map(|len| vec![len as u8 ^ 3; len]).into();
        let kept: Vec<&[u8]> = pieces.iter().map(|piece| room.keep(piece.clone()).unwrap()).collect();
        assert!(kept.iter().zip(&pieces).all(|(kept, piece)| kept == piece));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "files have no names");
    }
}
