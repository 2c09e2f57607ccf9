//! Power cuts of a whole virtual machine: builds the machine (a kernel of Debian's, busybox, our worker), and starts the
//! program that runs it and cuts its power (`crates/proof/examples/power`).
//!
//! It needs root (loop devices), qemu and the file systems' tools. Packages are only unpacked, never installed.

use crate::Result;
use crate::cargo::{Workspace, run as run_command};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the standard run does, one after the other: the promise over several file systems, ways of mounting them and
/// ways of writing the log; SQLite beside it; and twice a writer that must lose, or nothing of this would prove anything.
const STANDARD: [&[&str]; 11] = [
    &["--engine", "walmend"],
    &["--engine", "walmend", "--log", "direct"],
    &[
        "--engine",
        "walmend",
        "--pages",
        "raw",
        "--mount",
        "data=writeback",
    ],
    &[
        "--engine",
        "walmend",
        "--mount",
        "lazytime,data=writeback",
        "--log",
        "direct",
    ],
    &["--engine", "walmend", "--file-system", "xfs"],
    &["--engine", "walmend", "--file-system", "btrfs", "--pages", "raw"],
    &["--engine", "turns"],
    &["--engine", "turns", "--mount", "lazytime"],
    &["--engine", "sqlite-full"],
    &["--engine", "walmend-without-syncs", "--lives", "1"],
    &["--engine", "sqlite-off", "--lives", "1"],
];

/// What the kernel needs for the disk, the lines and the file systems; ext4 is built in.
const MODULES: [&str; 7] = [
    "drivers/virtio",
    "drivers/block/virtio_blk.ko",
    "drivers/char/virtio_console.ko",
    "fs/xfs",
    "fs/btrfs",
    "lib",
    "crypto",
];

/// The machine's first program. Pages that nobody syncs are written back early, so that there are many writes in between.
const INIT: &str = r#"#!/bin/busybox sh
file_system=$1 options=$2
shift 2
/bin/busybox --install /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
echo 20 > /proc/sys/vm/dirty_writeback_centisecs
echo 50 > /proc/sys/vm/dirty_expire_centisecs
modprobe -a virtio_pci virtio_blk virtio_console
[ "$file_system" = ext4 ] || modprobe "$file_system"
# The devices appear when the drivers have found them.
until [ -b /dev/vda ] && [ -c /dev/vport1p1 -o -c /dev/vport0p1 ]; do usleep 10000; done
lines=$(echo /dev/vport*p1)
if mount -t "$file_system" -o "$options" /dev/vda /disk; then
    RUST_BACKTRACE=1 /bin/power worker "$@" > "$lines"
else
    echo "failed: the disk cannot be mounted" > "$lines"
fi
poweroff -f
"#;

/// The task.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result {
    let standard = !args.iter().any(|arg| arg == "--engine");
    let file_systems: Vec<&str> = ["ext4", "xfs", "btrfs"]
        .into_iter()
        .filter(|name| *name == "ext4" || standard || args.iter().any(|arg| arg == name))
        .collect();
    preconditions(&file_systems)?;
    // With debug assertions: they shall hold here as well.
    let build = ["build", "-p", "walmend-cli", "-p", "walmend-proof"];
    run_command(
        workspace
            .cargo(build)
            .args(["--bin", "walmend", "--example", "power"]),
    )?;
    let program = workspace.target_dir().join("debug/examples/power");
    let folder = workspace.target_dir().join("power");
    let machine = machine(&folder.join("machine"), &program)?;
    let start = |options: &[&str]| {
        let mut command = Command::new(&program);
        command.arg("run");
        for (name, path) in [
            ("--kernel", machine.join("vmlinuz")),
            ("--initramfs", machine.join("initramfs")),
            ("--walmend", workspace.target_dir().join("debug/walmend")),
            ("--dir", folder.join("run")),
        ] {
            command.arg(name).arg(path);
        }
        // Whoever names an option means it for every run.
        let own = options
            .chunks(2)
            .filter(|pair| !args.iter().any(|arg| arg == pair[0]));
        run_command(command.args(own.flatten()).args(args))
    };
    match standard {
        true => STANDARD.iter().try_for_each(|options| start(options)),
        false => start(&[]),
    }
}

/// Says what is missing, all of it at once.
fn preconditions(file_systems: &[&str]) -> Result {
    let mut missing = Vec::new();
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        missing.push("Linux on x86-64".to_owned());
    }
    let id = Command::new("id").arg("-u").output()?;
    if id.stdout.trim_ascii() != b"0" {
        missing.push("root, for loop devices".into());
    }
    let mut programs = vec![
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("mount", "mount"),
        ("ldd", "libc-bin"),
        ("dpkg-deb", "dpkg"),
    ];
    programs.extend(file_systems.iter().map(|name| match *name {
        "xfs" => ("mkfs.xfs", "xfsprogs"),
        "btrfs" => ("mkfs.btrfs", "btrfs-progs"),
        _ => ("mkfs.ext4", "e2fsprogs"),
    }));
    for (program, package) in programs {
        let found = Command::new("sh")
            .args(["-c", "command -v \"$0\"", program])
            .stdout(Stdio::null())
            .status()?;
        if !found.success() {
            missing.push(format!("{program} (of Debian's {package})"));
        }
    }
    match missing.is_empty() {
        true => Ok(()),
        false => Err(format!("this needs: {}", missing.join("; ")).into()),
    }
}

/// The folder with `vmlinuz` and `initramfs`. The packages are fetched once; a kernel and a busybox of one's own can be
/// put into `packages` instead.
fn machine(folder: &Path, program: &Path) -> Result<PathBuf> {
    let packages = folder.join("packages");
    fs::create_dir_all(&packages)?;
    if with_ending(&packages, ".deb")?.is_empty() {
        fetch(&packages)?;
    }
    let unpacked = folder.join("unpacked");
    let _ = fs::remove_dir_all(&unpacked);
    for package in with_ending(&packages, ".deb")? {
        run_command(Command::new("dpkg-deb").arg("-x").arg(package).arg(&unpacked))?;
    }
    let boot = with_ending(&unpacked.join("boot"), "-amd64")?;
    let is_kernel = |path: &&PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
    };
    let kernel = boot.iter().find(is_kernel).ok_or("no package holds a kernel")?;
    fs::copy(kernel, folder.join("vmlinuz"))?;

    let root = folder.join("root");
    let _ = fs::remove_dir_all(&root);
    for name in ["bin", "dev", "proc", "disk", "lib/modules"] {
        fs::create_dir_all(root.join(name))?;
    }
    let busybox = unpacked.join("bin/busybox");
    fs::copy(&busybox, root.join("bin/busybox"))?;
    fs::copy(program, root.join("bin/power"))?;
    fs::write(root.join("init"), INIT)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    copy_libraries(program, &root)?;
    let versions = with_ending(&unpacked.join("lib/modules"), "")?;
    let modules = versions.first().ok_or("no package holds modules")?;
    let version = modules.file_name().ok_or("no version of a kernel")?;
    let to = root.join("lib/modules").join(version);
    for part in MODULES {
        let part = Path::new("kernel").join(part);
        fs::create_dir_all(to.join(&part).parent().unwrap_or(&to))?;
        run_command(
            Command::new("cp")
                .arg("-r")
                .arg(modules.join(&part))
                .arg(to.join(&part)),
        )?;
    }
    fs::copy(modules.join("modules.builtin"), to.join("modules.builtin"))?;
    run_command(
        Command::new(&busybox)
            .arg("depmod")
            .arg("-b")
            .arg(&root)
            .arg(version),
    )?;
    let archive = "find . | \"$0\" cpio -o -H newc -R 0:0 > ../initramfs 2>/dev/null";
    run_command(
        Command::new("sh")
            .current_dir(&root)
            .args(["-c", archive])
            .arg(busybox.canonicalize()?),
    )?;
    Ok(folder.to_path_buf())
}

/// Fetches the kernel that Debian has now, made for virtual machines, and a busybox that needs no libraries.
fn fetch(packages: &Path) -> Result {
    let newest = Command::new("apt-cache")
        .args(["depends", "linux-image-cloud-amd64"])
        .output()?;
    let newest = String::from_utf8_lossy(&newest.stdout).into_owned();
    let kernel = newest
        .split_whitespace()
        .find(|word| word.starts_with("linux-image-") && *word != "linux-image-cloud-amd64")
        .ok_or("apt-cache knows no linux-image-cloud-amd64: run `apt-get update`")?;
    let mut download = Command::new("apt-get");
    run_command(
        download
            .current_dir(packages)
            .args(["download", kernel, "busybox-static"]),
    )
}

/// The shared libraries of a program, at the paths where it looks for them.
fn copy_libraries(program: &Path, root: &Path) -> Result {
    let listed = Command::new("ldd").arg(program).output()?;
    for library in String::from_utf8_lossy(&listed.stdout)
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        let to = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap_or(root))?;
        fs::copy(library, to)?;
    }
    Ok(())
}

/// What lies in a folder and ends so, in order.
fn with_ending(folder: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
