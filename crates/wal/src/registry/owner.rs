//! Who a process is, for as long as anybody remembers it.

use std::fs;
use std::sync::OnceLock;

/// A process that cannot be mistaken for another one. Its number alone would not do: numbers are given out again
/// soon (pid_max can be 32768), and mean another process after a reboot and in another PID namespace.
///
/// A field that could not be found out is 0, and never taken as proof of anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LockOwner {
    /// The boot of the machine: `/proc/sys/kernel/random/boot_id` as a number.
    pub boot_id: u128,
    /// The PID namespace: the inode of `/proc/self/ns/pid`.
    pub pid_namespace: u64,
    /// The number of the process in that namespace.
    pub pid: u32,
    /// When the process started, in clock ticks since boot: field 22 of `/proc/<pid>/stat`.
    pub start_time: u64,
}

impl LockOwner {
    /// Bytes of [`to_bytes`](Self::to_bytes).
    pub const BYTES: usize = 36;

    /// This process. A forked child is another one.
    pub fn current() -> Self {
        // What cannot change is read once; a fork changes the rest.
        static BOOT: OnceLock<u128> = OnceLock::new();
        let pid = std::process::id();
        Self {
            boot_id: *BOOT.get_or_init(boot_id),
            pid_namespace: pid_namespace(),
            pid,
            start_time: Stat::read(pid)
                .filter(|_| proc_is_ours(pid))
                .map_or(0, |stat| stat.start_time),
        }
    }

    /// Boot id (u128), namespace (u64), start time (u64), pid (u32), little-endian.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(&self.boot_id.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.pid_namespace.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.start_time.to_le_bytes());
        bytes[32..].copy_from_slice(&self.pid.to_le_bytes());
        bytes
    }

    /// The reverse of [`to_bytes`](Self::to_bytes). All bytes are some owner.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
            std::array::from_fn(|place| bytes[at + place])
        }
        Self {
            boot_id: u128::from_le_bytes(part(bytes, 0)),
            pid_namespace: u64::from_le_bytes(part(bytes, 16)),
            start_time: u64::from_le_bytes(part(bytes, 24)),
            pid: u32::from_le_bytes(part(bytes, 32)),
        }
    }
}

/// What `/proc/<pid>/stat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) state: char,
    pub(super) threads: u64,
    pub(super) start_time: u64,
}

impl Stat {
    pub(super) fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name of the program stands in parentheses and may itself hold any of them, so fields are counted from
    /// the last one (proc_pid_stat(5): state is field 3, num_threads 20, starttime 22).
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let threads = fields.nth(16)?.parse().ok()?;
        let start_time = fields.nth(1)?.parse().ok()?;
        Some(Self {
            state,
            threads,
            start_time,
        })
    }
}

/// Whether `/proc` counts processes as this process does; it may be mounted from another PID namespace.
pub(super) fn proc_is_ours(pid: u32) -> bool {
    fs::read_link("/proc/self").is_ok_and(|target| target.to_str() == Some(&pid.to_string()))
}

fn boot_id() -> u128 {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    u128::from_str_radix(&text.trim().replace('-', ""), 16).unwrap_or(0)
}

fn pid_namespace() -> u64 {
    // The link reads `pid:[4026531836]`.
    let link = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let number = link
        .to_str()
        .and_then(|text| text.strip_prefix("pid:[")?.strip_suffix(']'));
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_call_itself_anything() {
        let stat = |name: &str| {
            let text = format!(
                "71 ({name}) Z 1 71 71 0 -1 4227084 0 0 0 0 1 2 3 4 20 0 1 0 987654 0 0 18446744073709551615"
            );
            Stat::parse(&text).unwrap()
        };
        let expected = Stat {
            state: 'Z',
            threads: 1,
            start_time: 987_654,
        };
        for name in ["sh", "a b", ") R 1 1 (", "", "((", "))"] {
            assert_eq!(stat(name), expected, "{name:?}");
        }
        for broken in [
            "",
            "1 (a",
            "1 (a) R 1 2",
            "1 (a) R 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 x 1 2 3",
        ] {
            assert_eq!(Stat::parse(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn owners_come_back_from_their_bytes() {
        let owner = LockOwner {
            boot_id: 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10,
            pid_namespace: u64::MAX - 1,
            pid: 77,
            start_time: 1 << 40,
        };
        assert_eq!(LockOwner::from_bytes(&owner.to_bytes()), owner);
    }

    #[test]
    fn this_process_knows_all_about_itself() {
        let us = LockOwner::current();
        assert_eq!(us.pid, std::process::id());
        assert!(
            us.boot_id != 0 && us.pid_namespace != 0 && us.start_time != 0,
            "{us:?}"
        );
        assert_eq!(LockOwner::current(), us);
    }
}
