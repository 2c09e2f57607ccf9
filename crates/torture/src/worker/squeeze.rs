//! Limits of this very process that go down while it works, and up again.

use super::Bench;
use crate::protocol::Squeeze;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;
use walmend::Error;
use walmend_proof::Random;
use walmend_sync::thread;

/// Lowers a limit at random moments, for as long as the process lives.
pub(super) fn run(bench: &Bench, squeeze: Squeeze) {
    let resource = match squeeze {
        Squeeze::Descriptors => Resource::RLIMIT_NOFILE,
        Squeeze::Memory => Resource::RLIMIT_AS,
        Squeeze::FileSize => Resource::RLIMIT_FSIZE,
    };
    let Ok((usual, most)) = getrlimit(resource) else {
        return;
    };
    let mut random = Random(bench.task.seed ^ 0x7371_7565);
    // The first one early: opening shall meet it too.
    let mut pause = 4;
    loop {
        thread::sleep(Duration::from_millis(random.below(pause)));
        pause = 400;
        let Some(low) = low(bench, squeeze, &mut random) else {
            continue;
        };
        let lowered = setrlimit(resource, low.min(usual), most);
        thread::sleep(Duration::from_millis(20 + random.below(300)));
        let raised = setrlimit(resource, usual, most);
        if let Err(errno) = lowered.and(raised) {
            let error = Error::Internal(format!("a limit cannot be set: {errno}"));
            bench.fault(0, "limit", &error);
            return;
        }
    }
}

fn low(bench: &Bench, squeeze: Squeeze, random: &mut Random) -> Option<rlim_t> {
    match squeeze {
        Squeeze::Descriptors => {
            // Not the one by which the list is read.
            let ours = |to: &std::path::Path| !to.starts_with("/proc");
            let open = fs::read_dir("/proc/self/fd").ok()?.flatten();
            let used: BTreeSet<u64> = open
                .filter(|entry| fs::read_link(entry.path()).is_ok_and(|to| ours(&to)))
                .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
                .collect();
            // What was inherited may have a high number: the free ones below it count.
            let free = (0..).find(|number| !used.contains(number))?;
            Some(free + random.below(2))
        }
        Squeeze::Memory => {
            let pages = fs::read_to_string("/proc/self/statm").ok()?;
            let mapped: u64 = pages.split(' ').next()?.parse().ok()?;
            Some(mapped * 4096 + random.below(4 << 20))
        }
        Squeeze::FileSize => {
            let store = random.pick(&bench.task.stores);
            let file = crate::files::with(&store.path, random.pick::<&str>(&crate::files::SUFFIXES));
            let len = fs::metadata(file).map_or(0, |metadata| metadata.len());
            let about = len.saturating_sub(random.below(64 << 10)) + random.below(256 << 10);
            Some(about)
        }
    }
}
