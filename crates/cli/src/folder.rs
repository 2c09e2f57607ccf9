//! Where `drill` and `bench` work, and how they clean up, whatever ends them.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use tempfile::TempDir;
use walmend_error::{Error, Result};
use walmend_sync::{Mutex, thread};

/// A command's own folder. A temporary one is removed at the end, unless it is kept.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    shared: Arc<Mutex<Shared>>,
}

/// What a signal has to clean up.
#[derive(Debug)]
struct Shared {
    temporary: Option<TempDir>,
    child: Option<Child>,
}

impl Folder {
    /// The folder `wanted`, which must be new or empty, or a temporary one. From now on SIGINT, SIGTERM and
    /// SIGHUP kill the child and remove a temporary folder. Call it before any thread is started.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a folder that holds something, I/O errors.
    pub(crate) fn new(wanted: Option<&Path>) -> Result<Self> {
        let Some(path) = wanted else {
            return Self::temporary("walmend-drill-", &std::env::temp_dir());
        };
        create(path)?;
        let mut entries = fs::read_dir(path).map_err(|error| Error::io("list", path, None, error))?;
        if entries.next().is_some() {
            return Err(Error::Invalid(format!(
                "{} is not empty: give --dir a new or an empty folder",
                path.display()
            )));
        }
        Self::watched(path.to_path_buf(), None)
    }

    /// A temporary folder in `parent`, which is created where it is missing, and stays. Signals as for
    /// [`new`](Self::new).
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn temporary(prefix: &str, parent: &Path) -> Result<Self> {
        create(parent)?;
        let temporary = tempfile::Builder::new()
            .prefix(prefix)
            .tempdir_in(parent)
            .map_err(|error| Error::io("create a folder in", parent, None, error))?;
        Self::watched(temporary.path().to_path_buf(), Some(temporary))
    }

    fn watched(path: PathBuf, temporary: Option<TempDir>) -> Result<Self> {
        let shared = Shared {
            temporary,
            child: None,
        };
        let folder = Self {
            path,
            shared: Arc::new(Mutex::new(shared)),
        };
        folder.clean_up_on_signals()?;
        Ok(folder)
    }

    /// The path of a file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether its files live in memory, where a sync costs and proves nothing.
    pub(crate) fn is_in_memory(&self) -> bool {
        statfs(&self.path).is_ok_and(|system| system.filesystem_type() == TMPFS_MAGIC)
    }

    /// Leaves the files where they are.
    pub(crate) fn keep(&self) {
        if let Some(temporary) = self.shared.lock().temporary.take() {
            // `keep` answers the path, which is known already.
            let _ = temporary.keep();
        }
    }

    /// Registers the child that a signal has to kill.
    pub(crate) fn adopt(&self, child: Child) {
        self.shared.lock().child = Some(child);
    }

    /// Sends SIGKILL to the child.
    ///
    /// # Errors
    /// [`Error::Internal`] if there is none, I/O errors.
    pub(crate) fn kill_child(&self) -> Result<()> {
        match &mut self.shared.lock().child {
            Some(child) => child.kill().map_err(child_error),
            None => Err(no_child()),
        }
    }

    /// Waits for the child, which is about to end. Its locks are gone then.
    ///
    /// # Errors
    /// [`Error::Internal`] if there is none, I/O errors.
    pub(crate) fn bury_child(&self) -> Result<ExitStatus> {
        // A signal that comes meanwhile waits for it as well.
        let mut shared = self.shared.lock();
        let mut child = shared.child.take().ok_or_else(no_child)?;
        child.wait().map_err(child_error)
    }

    fn clean_up_on_signals(&self) -> Result<()> {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
            .into_iter()
            .collect();
        signals
            .thread_block()
            .map_err(|errno| Error::Internal(format!("signals cannot be blocked: {errno}")))?;
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || {
            let Ok(signal) = signals.wait() else { return };
            let mut shared = shared.lock();
            if let Some(mut child) = shared.child.take() {
                // It may have died just now; either way it is gone before its folder is.
                let _ = child.kill();
                let _ = child.wait();
            }
            drop(shared.temporary.take());
            std::process::exit(128 + signal as i32);
        });
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // The thread that waits for signals holds the other reference, and never ends.
        drop(self.shared.lock().temporary.take());
    }
}

/// Makes a folder and those above it, as far as they are missing.
///
/// # Errors
/// [`Error::Invalid`] where something else has that name, I/O errors.
pub(crate) fn create(path: &Path) -> Result<()> {
    if path.exists() && !path.is_dir() {
        return Err(Error::Invalid(format!(
            "{} is a file; give a folder",
            path.display()
        )));
    }
    fs::create_dir_all(path).map_err(|error| Error::io("create", path, None, error))
}

fn no_child() -> Error {
    Error::Internal("there is no child".into())
}

fn child_error(error: std::io::Error) -> Error {
    Error::io("run", "the child process".as_ref(), None, error)
}
