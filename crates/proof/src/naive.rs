//! SQLite's rule of what counts in a log, written from its format description alone, without walmend's code.

/// What SQLite makes of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix {
    /// Bytes of a page.
    pub page_size: usize,
    /// Frames up to the first that is not valid.
    pub valid: u32,
    /// Frames up to the last commit frame of these.
    pub committed: u32,
    /// Commit frames.
    pub commits: u32,
    /// The database size in the last commit frame, in pages; 0 without one.
    pub db_pages: u32,
}

/// Reads a log as SQLite's recovery does; `None` if its header does not verify or its version is not known.
pub fn prefix(log: &[u8]) -> Option<Prefix> {
    let header = log.get(..32)?;
    let little = match word(header, 0) {
        0x377f_0682 => true,
        0x377f_0683 => false,
        _ => return None,
    };
    let page_size = word(header, 8) as usize;
    if !(512..=65536).contains(&page_size) || !page_size.is_power_of_two() {
        return None;
    }
    let mut sums = sum((0, 0), &header[..24], little);
    if sums != (word(header, 24), word(header, 28)) || word(header, 4) != 3_007_000 {
        return None;
    }
    let mut prefix = Prefix {
        page_size,
        valid: 0,
        committed: 0,
        commits: 0,
        db_pages: 0,
    };
    for frame in log[32..].chunks_exact(24 + page_size) {
        sums = sum(sums, &frame[..8], little);
        sums = sum(sums, &frame[24..], little);
        let stored = (word(frame, 16), word(frame, 20));
        if frame[8..16] != header[16..24] || word(frame, 0) == 0 || sums != stored {
            break;
        }
        prefix.valid += 1;
        if word(frame, 4) != 0 {
            prefix.committed = prefix.valid;
            prefix.commits += 1;
            prefix.db_pages = word(frame, 4);
        }
    }
    Some(prefix)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn sum((mut s0, mut s1): (u32, u32), bytes: &[u8], little: bool) -> (u32, u32) {
    for pair in bytes.chunks_exact(8) {
        let (mut x, mut y) = (word(pair, 0), word(pair, 4));
        if little {
            (x, y) = (x.swap_bytes(), y.swap_bytes());
        }
        s0 = s0.wrapping_add(x).wrapping_add(s1);
        s1 = s1.wrapping_add(y).wrapping_add(s0);
    }
    (s0, s1)
}

/// Writes a log anew with the other byte order of its checksums, as a big-endian machine would have written it.
/// What does not verify stays as it is.
pub fn to_big_endian(log: &mut [u8]) {
    let Some(found) = prefix(log) else { return };
    log[..4].copy_from_slice(&0x377f_0683_u32.to_be_bytes());
    let mut sums = sum((0, 0), &log[..24], false);
    let put = |place: &mut [u8], sums: (u32, u32)| {
        place[..4].copy_from_slice(&sums.0.to_be_bytes());
        place[4..8].copy_from_slice(&sums.1.to_be_bytes());
    };
    put(&mut log[24..32], sums);
    let frames = log[32..].chunks_exact_mut(24 + found.page_size);
    for frame in frames.take(found.valid as usize) {
        sums = sum(sum(sums, &frame[..8], false), &frame[24..], false);
        put(&mut frame[16..24], sums);
    }
}
