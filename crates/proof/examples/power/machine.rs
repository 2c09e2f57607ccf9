//! One life of the machine: it starts on a disk, works, and is stopped where it stands.

use crate::settings::Settings;
use std::fs::File;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use walmend_proof::Random;
use walmend_proof::power::{Delays, End, Recorder, Served};

/// By then it works, on a busy machine as well.
const START: Duration = Duration::from_secs(180);
/// As on a disk that has a cache and no battery.
const DELAYS: Delays = Delays {
    flush: Duration::from_millis(3),
    write: Duration::from_millis(2),
    one_write_in: 4,
};

/// Runs the machine on `image`, which is changed, and records what its disk is asked.
///
/// # Errors
/// If it does not come to work, or the worker ends by itself.
pub(crate) fn live(settings: &Settings, seed: u64, image: &Path, recording: &Path) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    let socket = |name: &str| settings.dir.join(name);
    let listen = |name: &str| {
        // One of a run before this.
        let _ = std::fs::remove_file(socket(name));
        UnixListener::bind(socket(name)).map_err(|error| format!("{}: {error}", socket(name).display()))
    };
    let (disk, lines) = (listen("disk.socket")?, listen("lines.socket")?);
    let console = settings.dir.join("console.txt");
    let mut machine = Machine(
        qemu(settings, seed, &socket("disk.socket"), &socket("lines.socket"))
            .stdin(Stdio::null())
            .stdout(File::create(&console).map_err(text)?)
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|error| format!("qemu-system-x86_64: {error}"))?,
    );
    let recorder = Recorder::create(recording).map_err(text)?;
    let served = Served::accept(&disk, lines, image, recorder, DELAYS, Random(seed)).map_err(text)?;
    let started = Instant::now();
    let mut ready = None;
    let mut said = String::new();
    let mut failed = None;
    let end = served.serve(|line| {
        if let Some(line) = line {
            said = line.to_owned();
            if line == "ready" {
                ready = Some(Instant::now());
            }
            if let Some(why) = line.strip_prefix("failed: ") {
                failed = Some(why.to_owned());
            }
        }
        let over = ready.is_some_and(|ready| ready.elapsed() >= settings.working);
        over || failed.is_some() || (ready.is_none() && started.elapsed() > START)
    });
    machine.stop();
    let end = end.map_err(text)?;
    let console = console.display();
    match (end, failed, ready) {
        (_, Some(why), _) => Err(format!("the worker failed: {why}")),
        (End::Gone, ..) => Err(format!("the machine ended by itself; {console} has its words")),
        (End::Told, None, None) => Err(format!("it did not come to work; last words: {said}; {console}")),
        (End::Told, None, Some(_)) => Ok(()),
    }
}

fn qemu(settings: &Settings, seed: u64, disk: &Path, lines: &Path) -> Command {
    let work = crate::settings::Work {
        seed,
        ..settings.work.clone()
    };
    // What follows the two dashes the kernel hands on to the first program.
    let mut kernel = format!(
        "console=ttyS0 quiet panic=-1 random.trust_cpu=on -- {} {}",
        settings.file_system, settings.mount
    );
    for word in work.words() {
        kernel.push(' ');
        kernel.push_str(&word);
    }
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args([
        "-accel",
        "tcg,thread=multi",
        "-machine",
        "q35",
        "-cpu",
        "max",
        "-smp",
        "2",
    ])
    .args([
        "-m",
        "512",
        "-nodefaults",
        "-no-reboot",
        "-display",
        "none",
        "-serial",
        "stdio",
    ])
    .arg("-kernel")
    .arg(&settings.kernel)
    .arg("-initrd")
    .arg(&settings.initramfs)
    .args(["-append", &kernel])
    .arg("-blockdev")
    .arg(format!(
        "driver=nbd,node-name=disk,server.type=unix,server.path={}",
        disk.display()
    ))
    .args(["-device", "virtio-blk-pci,drive=disk,write-cache=on"])
    .arg("-chardev")
    .arg(format!("socket,id=lines,path={}", lines.display()))
    .args([
        "-device",
        "virtio-serial-pci",
        "-device",
        "virtserialport,chardev=lines",
    ]);
    qemu
}

/// A machine that is stopped at the latest when it is dropped.
struct Machine(Child);

impl Machine {
    fn stop(&mut self) {
        // An error means that it has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
    }
}
