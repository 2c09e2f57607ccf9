//! A file system of its own that runs full: ext4 on a loop device over a small tmpfs. It needs root.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system, gone when this is dropped.
pub(crate) struct Disk {
    folder: PathBuf,
    device: Option<String>,
    /// Bytes of the tmpfs below, in MiB.
    backing: u32,
}

fn run(program: &str, args: &[&dyn AsRef<OsStr>]) -> Result<String, String> {
    let output = Command::new(program)
        .args(args.iter().map(|arg| arg.as_ref()))
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{program}: {}", said.trim()))
}

impl Disk {
    /// A file system of `image` MiB for which there are `backing` MiB: where that is less, writes that were taken fail
    /// when they are written back. It has a journal: without one ext4 loses what it knows of its files, with all that was
    /// synced in them, when a block of its own cannot be written.
    ///
    /// # Errors
    /// Why this machine does not allow it.
    pub(crate) fn make(folder: &Path, backing: u32, image: u64) -> Result<Self, String> {
        let mut disk = Self {
            folder: folder.to_owned(),
            device: None,
            backing,
        };
        for part in [disk.below(), disk.path()] {
            fs::create_dir_all(part).map_err(|error| error.to_string())?;
        }
        let size = format!("size={backing}m");
        run("mount", &[&"-t", &"tmpfs", &"-o", &size, &"tmpfs", &disk.below()])?;
        let file = disk.below().join("image");
        let made = fs::File::create(&file).and_then(|file| file.set_len(image << 20));
        made.map_err(|error| error.to_string())?;
        let options: [&dyn AsRef<OsStr>; 10] = [
            &"-q",
            &"-b",
            &"4096",
            &"-m",
            &"0",
            &"-O",
            &"has_journal",
            &"-E",
            &"lazy_journal_init=1",
            &file,
        ];
        run("mkfs.ext4", &options)?;
        let device = run("losetup", &[&"--find", &"--show", &file])?;
        let queue = Path::new("/sys/block")
            .join(device.trim_start_matches("/dev/"))
            .join("queue");
        disk.device = Some(device);
        // A loop device calls a request done of which only the first pages found room; so a request is one page.
        fs::write(queue.join("max_sectors_kb"), "4").map_err(|error| error.to_string())?;
        disk.mount()?;
        Ok(disk)
    }

    fn below(&self) -> PathBuf {
        self.folder.join("below")
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join("disk")
    }

    fn mount(&self) -> Result<(), String> {
        let device = self.device.as_deref().unwrap_or_default();
        let options = "dioread_lock";
        run("mount", &[&"-t", &"ext4", &"-o", &options, &device, &self.path()]).map(drop)
    }

    /// Forgets everything that is cached: what is there afterwards is on the disk.
    ///
    /// # Errors
    /// What mount says.
    pub(crate) fn remount(&self) -> Result<(), String> {
        run("umount", &[&self.path()])?;
        self.mount()
    }

    /// Gives the tmpfs below more room.
    ///
    /// # Errors
    /// What mount says.
    pub(crate) fn grow(&mut self, mib: u32) -> Result<(), String> {
        self.backing += mib;
        let size = format!("remount,size={}m", self.backing);
        run("mount", &[&"-o", &size, &self.below()]).map(drop)
    }

    /// Fills it with a file, to the last byte if it can be.
    pub(crate) fn fill(&self) {
        if let Ok(mut file) = fs::File::create(self.path().join("filler")) {
            let bytes = vec![1; 1 << 16];
            // Until there is no more room, whatever the error.
            while file.write_all(&bytes).is_ok() {}
        }
    }

    /// Takes that file away.
    pub(crate) fn free(&self) {
        let _ = fs::remove_file(self.path().join("filler"));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily where it is busy: nothing may be left of it.
        for part in [self.path(), self.below()] {
            if part == self.below()
                && let Some(device) = &self.device
            {
                let _ = run("losetup", &[&"-d", device]);
            }
            if run("umount", &[&part]).is_err() {
                let _ = run("umount", &[&"-l", &part]);
            }
        }
    }
}
