//! How one run of bytes becomes settings and files.

/// Bytes that are taken from the front. What is not there reads as zeros.
#[derive(Debug)]
pub(super) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> u8 {
        let (first, rest) = self
            .0
            .split_first()
            .map_or((0, self.0), |(first, rest)| (*first, rest));
        self.0 = rest;
        first
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// `N` files: the lengths of all but the last, three bytes each, then the files.
    pub(super) fn files<const N: usize>(mut self) -> [&'a [u8]; N] {
        let mut lens = [usize::MAX; N];
        for len in &mut lens[..N - 1] {
            *len = [0, 8, 16]
                .map(|shift| usize::from(self.byte()) << shift)
                .iter()
                .sum();
        }
        lens.map(|len| self.take(len))
    }
}

/// Puts settings and files together, as the targets take them apart.
pub fn join(settings: &[u8], files: &[&[u8]]) -> Vec<u8> {
    let mut data = settings.to_vec();
    for file in &files[..files.len().saturating_sub(1)] {
        data.extend_from_slice(&file.len().to_le_bytes()[..3]);
    }
    data.extend(files.concat());
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_joined_comes_apart_again() {
        let data = join(&[7, 9], &[b"one", b"", b"three"]);
        let mut input = Input::new(&data);
        assert_eq!((input.byte(), input.byte()), (7, 9));
        assert_eq!(input.files::<3>(), [&b"one"[..], b"", b"three"]);
    }

    #[test]
    fn lengths_that_lie_are_cut() {
        assert_eq!(Input::new(&[9, 9, 9, 1, 2]).files::<2>(), [&[1, 2][..], &[]]);
        assert_eq!(Input::new(&[]).files::<2>().concat().len(), 0);
    }
}
