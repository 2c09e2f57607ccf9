//! System calls that are tried again when a signal interrupts them.

use nix::errno::Errno;

/// Calls until no signal interrupts.
pub(super) fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

/// An offset or length as system calls take it. The checks at the entry of every call keep it in range.
pub(super) fn signed(offset: u64) -> nix::libc::off_t {
    nix::libc::off_t::try_from(offset).unwrap_or(nix::libc::off_t::MAX)
}
