//! The file that a backup becomes: written under a name of its own, proven, then renamed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use walmend_types::{Error, PageSize, Result, SyncMode};
use walmend_vfs::{LockKind, LockRange, OpenFlags, ReadSource, Vfs, VfsFile};
use walmend_wal::{Companion, Generation, PageDigest, PageKind, with_suffix};

/// Bytes that are copied, digested and compared together. A multiple of every page size.
pub(super) const CHUNK: usize = 1 << 20;

/// Files that would count as part of a database of the target's name.
const COMPANIONS: [&str; 6] = ["-wal", "-wal-meta", "-journal", "-shm", "-wal-fec", "-fec"];

/// Keeps two backups to one target apart. Released by the system when the process dies.
const ONE_BACKUP: LockRange = LockRange { start: 0, len: 1 };

pub(super) struct Target<'a> {
    vfs: &'a dyn Vfs,
    path: PathBuf,
    partial: PathBuf,
    file: Arc<dyn VfsFile>,
    len: u64,
    /// The digest of each chunk; the last one may be shorter.
    digests: Vec<PageDigest>,
    /// A companion was made, and has to go if the backup fails.
    described: bool,
    published: bool,
}

impl<'a> Target<'a> {
    /// A new, empty target with the permissions of `original`. What an earlier backup that was killed has left of
    /// it is overwritten.
    pub(super) fn create(vfs: &'a dyn Vfs, path: &Path, original: &Path) -> Result<Self> {
        for suffix in [""].into_iter().chain(COMPANIONS) {
            refuse_existing(vfs, path, suffix)?;
        }
        refuse_companion(vfs, path, original)?;
        let partial = with_suffix(path, "-backup-partial");
        let inode = |path: &Path| Ok::<_, Error>(vfs.info(path)?.map(|info| info.inode));
        let found = inode(&partial)?;
        // Another disk may use the same number.
        if found.is_some()
            && found == inode(original)?
            && vfs.canonical(&partial)? == vfs.canonical(original)?
        {
            return Err(Error::Invalid(format!(
                "{} is where a backup to {} grows, and it is the database itself: choose another target",
                partial.display(),
                path.display()
            )));
        }
        let file = vfs.open(&partial, OpenFlags::CREATE)?;
        Self::claim(vfs, path, partial, file, original)
    }

    /// Takes a partial file that is open already, and empties it.
    fn claim(
        vfs: &'a dyn Vfs,
        path: &Path,
        partial: PathBuf,
        file: Arc<dyn VfsFile>,
        original: &Path,
    ) -> Result<Self> {
        if !file.try_lock(ONE_BACKUP, LockKind::Exclusive)? || !leads_to(vfs, &partial, &*file)? {
            return Err(Error::Locked {
                path: path.to_path_buf(),
                holder: "another backup to the same target".into(),
            });
        }
        let target = Self {
            vfs,
            path: path.to_path_buf(),
            partial,
            file,
            len: 0,
            digests: Vec::new(),
            described: false,
            published: false,
        };
        vfs.copy_permissions(original, &target.partial)?;
        target.file.truncate(0)?;
        Ok(target)
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Begins anew.
    pub(super) fn clear(&mut self) -> Result<()> {
        self.file.truncate(0)?;
        self.len = 0;
        self.digests.clear();
        Ok(())
    }

    /// Writes what follows: a whole chunk, or the last part.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_at(bytes, self.len)?;
        self.digests.push(PageDigest::of(bytes));
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Cuts the file off, or lets it grow by zeros.
    pub(super) fn resize(&mut self, len: u64) -> Result<()> {
        // The chunk in which the shorter one ends, unless it ends with a whole one.
        let kept = self.len.min(len);
        let whole = kept / CHUNK as u64;
        let rest = usize::try_from(kept % CHUNK as u64).unwrap_or(CHUNK);
        let mut chunk = if rest > 0 { self.chunk(whole)? } else { Vec::new() };
        chunk.truncate(rest);
        self.len = whole * CHUNK as u64;
        self.file.truncate(self.len)?;
        self.digests
            .truncate(usize::try_from(whole).unwrap_or(usize::MAX));
        while self.len < len {
            let wanted = usize::try_from((len - self.len).min(CHUNK as u64)).unwrap_or(CHUNK);
            chunk.resize(wanted, 0);
            self.append(&chunk)?;
            chunk.clear();
        }
        Ok(())
    }

    /// Overwrites pages within one chunk: `(byte offset in the chunk, page)`.
    pub(super) fn patch<'p>(
        &mut self,
        chunk: u64,
        pages: impl Iterator<Item = (usize, &'p [u8])>,
    ) -> Result<()> {
        let mut bytes = self.chunk(chunk)?;
        for (at, page) in pages {
            bytes[at..at + page.len()].copy_from_slice(page);
        }
        self.file.write_at(&bytes, chunk * CHUNK as u64)?;
        self.digests[usize::try_from(chunk).unwrap_or(usize::MAX)] = PageDigest::of(&bytes);
        Ok(())
    }

    /// A chunk as it was written.
    fn chunk(&self, chunk: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.length_of(chunk)];
        self.file.read_exact_at(&mut bytes, chunk * CHUNK as u64)?;
        self.compare(chunk, &bytes)?;
        Ok(bytes)
    }

    fn length_of(&self, chunk: u64) -> usize {
        let left = self.len.saturating_sub(chunk * CHUNK as u64);
        usize::try_from(left.min(CHUNK as u64)).unwrap_or(CHUNK)
    }

    fn compare(&self, chunk: u64, bytes: &[u8]) -> Result<()> {
        let expected = usize::try_from(chunk)
            .ok()
            .and_then(|chunk| self.digests.get(chunk));
        let found = PageDigest::of(bytes);
        if expected == Some(&found) {
            return Ok(());
        }
        let expected = expected.map(ToString::to_string).unwrap_or_default();
        let lost = std::io::Error::other(format!(
            "what was written is not what is there: digest {found}, expected {expected}; the disk may be failing, \
             try another one"
        ));
        Err(Error::io(
            "verify",
            &self.partial,
            Some(chunk * CHUNK as u64),
            lost,
        ))
    }

    /// Says beside the target what its pages are: a Raw database has no room for that.
    pub(super) fn describe_raw(&mut self, page_size: PageSize, last_commit: u64) -> Result<()> {
        let path = with_suffix(&self.path, "-wal-meta");
        refuse_existing(self.vfs, &self.path, "-wal-meta")?;
        self.described = true;
        let mut companion = Companion::open(self.vfs, &path)?;
        self.vfs.copy_permissions(&self.partial, &path)?;
        companion.write_generation(Generation {
            kind: PageKind::Raw,
            page_size: page_size.get(),
            reserved_seq: last_commit,
            base_seq: last_commit,
            ..Generation::default()
        })?;
        companion.sync()
    }

    /// Proves what was written, and gives it its name; answers its length, and where it was read back from.
    pub(super) fn publish(mut self, progress: super::Progress<'_>) -> Result<(u64, ReadSource)> {
        self.file.sync(SyncMode::Full)?;
        let mut source = ReadSource::Device;
        for chunk in 0..self.digests.len() as u64 {
            let mut bytes = vec![0; self.length_of(chunk)];
            let read = self.file.read_from_device(&mut bytes, chunk * CHUNK as u64)?;
            bytes.truncate(read.bytes);
            self.compare(chunk, &bytes)?;
            if read.source == ReadSource::Cache {
                source = ReadSource::Cache;
            }
            progress(self.len + chunk * CHUNK as u64, self.len * 2);
        }
        self.vfs
            .rename_new(&self.partial, &self.path)
            .map_err(|error| match error {
                Error::Io { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists => {
                    exists(&self.path)
                }
                other => other,
            })?;
        self.published = true;
        Ok((self.len, source))
    }
}

impl Drop for Target<'_> {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        let mut removed = self.vfs.remove(&self.partial);
        if self.described {
            removed = removed.and(self.vfs.remove(&with_suffix(&self.path, "-wal-meta")));
        }
        if let Err(error) = removed {
            tracing::warn!(target: "walmend::store::backup", %error, "a part of a failed backup stays");
        }
    }
}

/// Whether the name still leads to this open file. The backup that had it before may have finished in between: then
/// the file is that backup, under its own name by now. A lock on a byte that nobody else would choose tells.
fn leads_to(vfs: &dyn Vfs, name: &Path, file: &dyn VfsFile) -> Result<bool> {
    let chosen = LockRange {
        start: 1 + vfs.random() % (1 << 62),
        len: 1,
    };
    if !file.try_lock(chosen, LockKind::Exclusive)? {
        return Ok(false);
    }
    let held = match vfs.open(name, OpenFlags::READ) {
        Ok(named) => named.lock_holder(chosen, LockKind::Shared)?.is_some(),
        Err(Error::NotFound { .. }) => false,
        Err(error) => return Err(error),
    };
    file.unlock(chosen)?;
    Ok(held)
}

/// A copy must not get the name of a file that counts as a part of its original.
fn refuse_companion(vfs: &dyn Vfs, path: &Path, original: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = vfs.canonical(folder.unwrap_or(Path::new(".")));
    let (Ok(folder), Ok(original), Some(name)) = (folder, vfs.canonical(original), path.file_name()) else {
        return Ok(());
    };
    let target = folder.join(name);
    if COMPANIONS
        .iter()
        .all(|suffix| with_suffix(&original, suffix) != target)
    {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "{} would count as part of {}: choose another target",
        path.display(),
        original.display()
    )))
}

fn refuse_existing(vfs: &dyn Vfs, path: &Path, suffix: &str) -> Result<()> {
    let path = with_suffix(path, suffix);
    match vfs.info(&path)? {
        None => Ok(()),
        Some(_) if suffix.is_empty() => Err(exists(&path)),
        Some(_) => Err(Error::Invalid(format!(
            "{} exists, and would count as part of the backup: move it away, or choose another target",
            path.display()
        ))),
    }
}

fn exists(path: &Path) -> Error {
    Error::Invalid(format!(
        "{} exists: a backup replaces nothing, choose another target or move it away",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use walmend_vfs::MemoryVfs;
    use walmend_vfs::sim::SimVfs;

    fn target(vfs: &dyn Vfs) -> Target<'_> {
        Target::create(vfs, Path::new("/copy.db"), Path::new("/a.db")).unwrap()
    }

    #[test]
    fn a_copy_that_the_disk_got_wrong_gets_no_name() {
        for (offset, what) in [(5, "first"), (CHUNK as u64 + 9, "last")] {
            let vfs = SimVfs::new(1);
            let mut target = target(&vfs);
            target.append(&vec![7; CHUNK]).unwrap();
            target.append(&[8; 512]).unwrap();
            assert!(vfs.flip_bit(Path::new("/copy.db-backup-partial"), offset, 3));
            let error = target.publish(&mut |_, _| {}).unwrap_err();
            assert!(
                error
                    .to_string()
                    .contains("what was written is not what is there"),
                "{what}: {error}"
            );
            assert_eq!(vfs.files(), Vec::<PathBuf>::new());
        }
    }

    #[test]
    fn two_backups_to_one_target_keep_out_of_each_others_way() {
        let vfs = MemoryVfs::new();
        let mut first = target(&vfs);
        let second = Target::create(&vfs, Path::new("/copy.db"), Path::new("/a.db"));
        assert!(matches!(second, Err(Error::Locked { .. })));
        first.append(&[1; 512]).unwrap();
        first.publish(&mut |_, _| {}).unwrap();
        let second = Target::create(&vfs, Path::new("/copy.db"), Path::new("/a.db"));
        assert!(matches!(second, Err(Error::Invalid(_))));
    }

    #[test]
    fn a_backup_that_was_finished_while_another_one_began_is_not_emptied() {
        let vfs = MemoryVfs::new();
        let (path, original) = (Path::new("/copy.db"), Path::new("/a.db"));
        let partial = with_suffix(path, "-backup-partial");
        let mut first = target(&vfs);
        first.append(&[1; 512]).unwrap();
        // The second one has seen no target, and opens what the first one is about to rename.
        let file = vfs.open(&partial, OpenFlags::CREATE).unwrap();
        first.publish(&mut |_, _| {}).unwrap();
        let second = Target::claim(&vfs, path, partial, file, original);
        assert!(matches!(second, Err(Error::Locked { .. })));
        assert_eq!(vfs.info(path).unwrap().unwrap().len, 512);
    }

    #[test]
    fn a_backup_does_not_become_the_log_of_its_original() {
        let folder = tempfile::tempdir().unwrap();
        let original = folder.path().join("a.db");
        std::fs::write(&original, [1; 512]).unwrap();
        let vfs = walmend_vfs::UnixVfs::new();
        for suffix in COMPANIONS {
            let refused = Target::create(&vfs, &with_suffix(&original, suffix), &original);
            assert!(matches!(refused, Err(Error::Invalid(_))), "{suffix}");
        }
        assert!(Target::create(&vfs, &folder.path().join("b.db"), &original).is_ok());
    }

    #[test]
    fn a_database_with_the_name_of_a_partial_backup_is_not_emptied() {
        let vfs = MemoryVfs::new();
        let original = Path::new("/copy.db-backup-partial");
        let file = vfs.open(original, OpenFlags::CREATE).unwrap();
        file.write_at(&[1; 512], 0).unwrap();
        let refused = Target::create(&vfs, Path::new("/copy.db"), original);
        assert!(matches!(refused, Err(Error::Invalid(_))));
        assert_eq!(file.len().unwrap(), 512);
    }

    #[test]
    fn growing_and_shrinking_keep_what_is_left_and_its_digests() {
        let vfs = MemoryVfs::new();
        let chunk = CHUNK as u64;
        for from in [0, 512, chunk - 512, chunk, chunk + 512, 2 * chunk] {
            for to in [0, 512, 1024, chunk, chunk + 512, 2 * chunk + 1024] {
                let mut target = target(&vfs);
                let mut expected = vec![7; from as usize];
                for part in expected.chunks(CHUNK) {
                    target.append(part).unwrap();
                }
                target.resize(to).unwrap();
                expected.resize(to as usize, 0);
                if to > 512 {
                    target.patch(0, [(512, [9; 512].as_slice())].into_iter()).unwrap();
                    expected[512..1024].fill(9);
                }
                target.publish(&mut |_, _| {}).unwrap();
                let file = vfs.open(Path::new("/copy.db"), OpenFlags::READ).unwrap();
                let mut found = vec![0; to as usize + 1];
                assert_eq!(file.read_at(&mut found, 0).unwrap() as u64, to, "{from} to {to}");
                assert!(found[..to as usize] == expected, "{from} to {to}");
                vfs.remove(Path::new("/copy.db")).unwrap();
            }
        }
    }
}
