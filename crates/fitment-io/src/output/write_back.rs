use crate::sys;
use std::fs::File;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

/// A thread that keeps the disk busy while others compute, so that the last sync has little left to do. It ends when
/// nobody can ask any more.
#[derive(Clone, Debug)]
pub(crate) struct WriteBack {
    sender: Sender<Arc<File>>,
}

impl WriteBack {
    pub(crate) fn start() -> Self {
        let (sender, receiver) = channel::<Arc<File>>();
        // Without the thread the requests lead nowhere, and the last sync does all the work.
        let _ = std::thread::Builder::new().name("write back".to_owned()).spawn(move || {
            while let Ok(file) = receiver.recv() {
                sys::start_write_back(&file);
            }
        });
        Self { sender }
    }

    /// Asks for a file's bytes to be written to the disk soon.
    pub(crate) fn request(&self, file: &Arc<File>) {
        let _ = self.sender.send(Arc::clone(file));
    }
}
