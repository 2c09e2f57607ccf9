//! The file system of the machine.

mod direct;
mod file;
mod probe;
mod sys;

use crate::names::SharedRandom;
use crate::{DirectWrites, FileInfo, OpenFlags, Vfs, VfsFile, checks};
use file::UnixFile;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, renameat2};
use nix::sys::stat::Mode;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;
use walmend_types::{Error, Result};

/// Permissions of a new file, before the process's umask: the same as SQLite's.
const NEW_FILE: Mode = Mode::from_bits_truncate(0o644);

/// The file system of the machine (Linux: it relies on open file description locks and on `/proc`).
///
/// - All descriptors are closed on exec. Only regular files can be opened.
/// - [`open`](Vfs::open) with `create` syncs the directory even where the file was there already: whoever
///   created it may have been killed before its own sync.
/// - A file that may be read but not written is [`Error::ReadOnly`] when opened for writing.
/// - A sync is `fdatasync` or `fsync`, as [`SyncMode`](crate::SyncMode) says, never both.
/// - Whether direct writes are faster is measured once per file system and process, with a nameless file.
/// - Locks are those of `F_OFD_SETLK`. They exclude POSIX locks of the same and of other processes, hence
///   SQLite. Closing any descriptor of a file drops the *POSIX* locks that this process has on it, so an
///   SQLite connection of the same process loses its locks when a file opened here is dropped.
/// - [`read_from_device`](VfsFile::read_from_device) reads with `O_DIRECT` through a second descriptor. Where
///   the file system has no such thing it asks the kernel to drop the cached pages, reads, and says
///   [`ReadSource::Cache`](crate::ReadSource::Cache).
#[derive(Debug, Clone, Default)]
pub struct UnixVfs {}

impl UnixVfs {
    /// The file system of the machine.
    pub fn new() -> Self {
        Self {}
    }
}

impl Vfs for UnixVfs {
    fn open(&self, path: &Path, flags: OpenFlags) -> Result<Arc<dyn VfsFile>> {
        checks::open_flags(path, flags)?;
        // Opening a pipe must not wait for its other end; regular files do not know the flag.
        let mut how = OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        how |= if flags.write {
            OFlag::O_RDWR
        } else {
            OFlag::O_RDONLY
        };
        if flags.create {
            how |= OFlag::O_CREAT;
        }
        if flags.exclusive {
            how |= OFlag::O_EXCL;
        }
        let descriptor = sys::retry(|| nix::fcntl::open(path, how, NEW_FILE))
            .map_err(|errno| open_error(path, flags, errno))?;
        let file = File::from(descriptor);
        let metadata = file
            .metadata()
            .map_err(|source| Error::io("inspect", path, None, source))?;
        if !metadata.is_file() {
            return Err(irregular(path, &metadata));
        }
        if flags.create {
            // A link may have led to another directory.
            sync_directory_of(&self.canonical(path)?)?;
        }
        Ok(Arc::new(UnixFile::new(file, path, flags)))
    }

    fn info(&self, path: &Path) -> Result<Option<FileInfo>> {
        match fs::metadata(path) {
            Ok(metadata) => Ok(Some(FileInfo {
                len: metadata.len(),
                inode: metadata.ino(),
                regular: metadata.is_file(),
                modified: metadata.modified().ok(),
            })),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(Error::io("inspect", path, None, error)),
        }
    }

    fn remove(&self, path: &Path) -> Result<()> {
        match fs::remove_file(path) {
            Ok(()) => sync_directory_of(path),
            // Whoever removed it may have been killed before its own sync.
            Err(error) if is_absent(&error) && parent(path).is_dir() => sync_directory_of(path),
            Err(error) if is_absent(&error) => Ok(()),
            Err(error) => Err(Error::io("remove", path, None, error)),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        fs::rename(from, to).map_err(|error| Error::io("rename", from, None, error))?;
        sync_renamed(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> Result<()> {
        let flags = RenameFlags::RENAME_NOREPLACE;
        match sys::retry(|| renameat2(AT_FDCWD, from, AT_FDCWD, to, flags)) {
            Ok(()) => {}
            // Not every file system has it; a link refuses an existing name as well.
            Err(Errno::EINVAL | Errno::ENOSYS) => {
                fs::hard_link(from, to).map_err(|error| Error::io("create", to, None, error))?;
                fs::remove_file(from).map_err(|error| Error::io("remove", from, None, error))?;
            }
            Err(errno) => return Err(Error::io("create", to, None, errno.into())),
        }
        sync_renamed(from, to)
    }

    fn copy_permissions(&self, original: &Path, copy: &Path) -> Result<()> {
        fs::metadata(original)
            .and_then(|metadata| fs::set_permissions(copy, metadata.permissions()))
            .map_err(|error| Error::io("set the permissions of", copy, None, error))
    }

    fn canonical(&self, path: &Path) -> Result<PathBuf> {
        fs::canonicalize(path).map_err(|error| Error::io("resolve", path, None, error))
    }

    fn random(&self) -> u64 {
        getrandom::u64().unwrap_or_else(|error| {
            tracing::warn!(target: "walmend::vfs::unix", %error, "no random numbers from the system");
            // Salts have to differ, not to be secret. The clock and the process number see to that.
            static CLOCK: OnceLock<SharedRandom> = OnceLock::new();
            CLOCK
                .get_or_init(|| {
                    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                    let nanos = since.map_or(0, |since| since.as_nanos() as u64);
                    SharedRandom::new(nanos ^ (u64::from(std::process::id()) << 40))
                })
                .next()
        })
    }

    fn direct_writes(&self, path: &Path) -> DirectWrites {
        probe::direct_writes(parent(path))
    }

    fn boot_id(&self) -> String {
        fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map(|id| id.trim().to_owned())
            .unwrap_or_default()
    }
}

/// Whether the error says that there is no such file.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Why a file could not be opened, in terms of what it is.
fn open_error(path: &Path, flags: OpenFlags, errno: Errno) -> Error {
    let op = if flags.exclusive { "create" } else { "open" };
    let error = Error::io(op, path, None, errno.into());
    if errno == Errno::EEXIST {
        return error;
    }
    if let Ok(metadata) = fs::metadata(path)
        && !metadata.is_file()
    {
        return irregular(path, &metadata);
    }
    // EPERM is what an immutable file answers.
    let refused = matches!(
        errno,
        Errno::EACCES | Errno::EPERM | Errno::EROFS | Errno::ETXTBSY
    );
    if flags.write && refused && File::open(path).is_ok() {
        return Error::ReadOnly {
            path: path.to_path_buf(),
        };
    }
    error
}

fn irregular(path: &Path, metadata: &fs::Metadata) -> Error {
    let detail = if metadata.is_dir() {
        "it is a directory"
    } else {
        "it is not a regular file"
    };
    Error::NotADatabase {
        path: path.to_path_buf(),
        detail: detail.into(),
    }
}

/// The directory that holds the name.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        // The root is its own directory; a bare name lies in the current one.
        _ if path.has_root() => path,
        _ => Path::new("."),
    }
}

/// The new name first: between the two syncs the file may have both names, but never none.
fn sync_renamed(from: &Path, to: &Path) -> Result<()> {
    sync_directory_of(to)?;
    if parent(from) != parent(to) {
        sync_directory_of(from)?;
    }
    Ok(())
}

/// Makes the names in the directory of `path` durable.
fn sync_directory_of(path: &Path) -> Result<()> {
    let path = parent(path);
    let directory = match File::open(path) {
        Ok(directory) => directory,
        // A directory that may be searched but not read cannot be synced by this user at all.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            tracing::warn!(target: "walmend::vfs::unix", path = %path.display(), "not allowed to sync this directory");
            return Ok(());
        }
        Err(error) => return Err(Error::io("open", path, None, error)),
    };
    match sys::retry(|| nix::unistd::fsync(&directory)) {
        Ok(()) => Ok(()),
        // Some network and user space file systems cannot sync directories at all. Refusing them would
        // lose more than it saves: there the names are as durable as the server makes them.
        Err(Errno::EINVAL) => {
            tracing::debug!(target: "walmend::vfs::unix", path = %path.display(), "no sync of directories here");
            Ok(())
        }
        Err(errno) => Err(Error::io("sync", path, None, errno.into())),
    }
}
