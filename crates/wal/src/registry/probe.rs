//! Whether a process is still there.

use super::owner::{LockOwner, Stat, proc_is_ours};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Tells whether the owner of a lock is alive. What cannot be known counts as alive: a lock that is kept too long
/// costs a wait, one that is released too early costs data.
pub trait LivenessProbe {
    /// `false` only for an owner that is proven to be gone.
    fn is_alive(&self, owner: &LockOwner) -> bool;
}

impl<F: Fn(&LockOwner) -> bool> LivenessProbe for F {
    fn is_alive(&self, owner: &LockOwner) -> bool {
        self(owner)
    }
}

/// The probe that asks the system (Linux).
///
/// | owner | answer |
/// |---|---|
/// | pid 0 | dead |
/// | another boot | dead |
/// | another PID namespace, or an unknown one | alive: its number says nothing here |
/// | no such process | dead |
/// | ended, but not yet waited for (a zombie) | dead; not where other threads of it go on |
/// | there, started at another time | dead: the number was given out again |
/// | there, started at the same time | alive |
/// | there, and nothing more is to be had (no permission, hidden `/proc`) | alive |
#[derive(Debug, Clone)]
pub struct OsProbe {
    us: LockOwner,
}

impl OsProbe {
    /// A probe as seen from this process.
    pub fn new() -> Self {
        Self {
            us: LockOwner::current(),
        }
    }
}

impl Default for OsProbe {
    fn default() -> Self {
        Self::new()
    }
}

impl LivenessProbe for OsProbe {
    fn is_alive(&self, owner: &LockOwner) -> bool {
        let Some(pid) = i32::try_from(owner.pid).ok().and_then(Pid::from_raw) else {
            return false;
        };
        if owner.boot_id != 0 && self.us.boot_id != 0 && owner.boot_id != self.us.boot_id {
            return false;
        }
        if owner.pid_namespace == 0 || owner.pid_namespace != self.us.pid_namespace {
            return true;
        }
        // While it is open, the number cannot be given out again: what /proc says is of this very process.
        let process = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => Some(process),
            Err(Errno::SRCH) => return false,
            // No such call, no permission, no descriptors left, or the number of a thread: /proc has to do.
            Err(_) => None,
        };
        if let Some(process) = &process {
            // Readable once all of its threads have ended, waited for or not (pidfd_open(2)).
            let mut watched = [PollFd::new(process, PollFlags::IN)];
            let now = Timespec::default();
            if poll(&mut watched, Some(&now)) == Ok(1) && watched[0].revents().contains(PollFlags::IN) {
                return false;
            }
        }
        if owner.start_time == 0 || !proc_is_ours(self.us.pid) {
            return true;
        }
        match Stat::read(owner.pid) {
            None => true,
            Some(stat) if stat.start_time != owner.start_time => false,
            // A leader that has ended shows as a zombie although other threads of its process go on.
            Some(stat) => process.is_some() || !matches!(stat.state, 'Z' | 'X') || stat.threads > 1,
        }
    }
}
