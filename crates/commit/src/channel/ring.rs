//! A slab whose entries are also linked in a row, by index: O(1) at both ends and in the middle.

/// "No entry", as an index.
const NONE: u32 = u32::MAX;

/// Entries keep their index, the key, from [`push_back`](Ring::push_back) until [`remove`](Ring::remove).
/// Freed entries are used again, so after the first few pushes nothing is allocated.
#[derive(Debug)]
pub(crate) struct Ring<T> {
    entries: Vec<Entry<T>>,
    free: u32,
    head: u32,
    tail: u32,
    held: usize,
}

#[derive(Debug)]
struct Entry<T> {
    value: Option<T>,
    /// In a free entry, `next` links the free list.
    next: u32,
    prev: u32,
    linked: bool,
}

impl<T> Ring<T> {
    pub(crate) fn new() -> Self {
        Self {
            entries: Vec::new(),
            free: NONE,
            head: NONE,
            tail: NONE,
            held: 0,
        }
    }

    /// How many entries are held, linked or not.
    pub(crate) fn len(&self) -> usize {
        self.held
    }

    /// Adds an entry at the end of the row and gives its key.
    pub(crate) fn push_back(&mut self, value: T) -> u32 {
        let entry = Entry {
            value: Some(value),
            next: NONE,
            prev: self.tail,
            linked: true,
        };
        let key = if self.free == NONE {
            self.entries.push(entry);
            (self.entries.len() - 1) as u32
        } else {
            let key = self.free;
            self.free = self.entries[key as usize].next;
            self.entries[key as usize] = entry;
            key
        };
        match self.tail {
            NONE => self.head = key,
            tail => self.entries[tail as usize].next = key,
        }
        self.tail = key;
        self.held += 1;
        key
    }

    /// The key of the first entry of the row.
    pub(crate) fn front(&self) -> Option<u32> {
        (self.head != NONE).then_some(self.head)
    }

    /// The key of the entry after this one.
    pub(crate) fn after(&self, key: u32) -> Option<u32> {
        let next = self.entries[key as usize].next;
        (next != NONE).then_some(next)
    }

    pub(crate) fn get(&self, key: u32) -> Option<&T> {
        self.entries.get(key as usize)?.value.as_ref()
    }

    pub(crate) fn get_mut(&mut self, key: u32) -> Option<&mut T> {
        self.entries.get_mut(key as usize)?.value.as_mut()
    }

    /// Takes the entry out of the row; it keeps its key.
    pub(crate) fn unlink(&mut self, key: u32) {
        let entry = &mut self.entries[key as usize];
        if !std::mem::take(&mut entry.linked) {
            return;
        }
        let (prev, next) = (entry.prev, entry.next);
        match prev {
            NONE => self.head = next,
            prev => self.entries[prev as usize].next = next,
        }
        match next {
            NONE => self.tail = prev,
            next => self.entries[next as usize].prev = prev,
        }
    }

    /// Takes the entry out altogether; the key may be given out again.
    pub(crate) fn remove(&mut self, key: u32) -> Option<T> {
        let value = self.entries.get_mut(key as usize)?.value.take()?;
        self.unlink(key);
        self.entries[key as usize].next = self.free;
        self.free = key;
        self.held -= 1;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ring: &Ring<char>) -> String {
        let mut row = String::new();
        let mut at = ring.front();
        while let Some(key) = at {
            row.extend(ring.get(key));
            at = ring.after(key);
        }
        row
    }

    #[test]
    fn entries_leave_from_both_ends_and_from_the_middle() {
        let mut ring = Ring::new();
        let keys: Vec<u32> = "abcde".chars().map(|value| ring.push_back(value)).collect();
        assert_eq!(ring.remove(keys[2]), Some('c'));
        assert_eq!(row(&ring), "abde");
        assert_eq!(ring.remove(keys[0]), Some('a'));
        assert_eq!(ring.remove(keys[4]), Some('e'));
        assert_eq!(row(&ring), "bd");
        assert_eq!(ring.remove(keys[4]), None);
        ring.push_back('f');
        ring.push_back('g');
        assert_eq!((row(&ring).as_str(), ring.len()), ("bdfg", 4));
        assert_eq!(ring.entries.len(), 5, "freed entries are used again");
    }

    #[test]
    fn an_unlinked_entry_keeps_its_key_until_it_is_removed() {
        let mut ring = Ring::new();
        let keys: Vec<u32> = "abc".chars().map(|value| ring.push_back(value)).collect();
        ring.unlink(keys[0]);
        ring.unlink(keys[0]);
        assert_eq!((row(&ring).as_str(), ring.len()), ("bc", 3));
        assert_ne!(ring.push_back('d'), keys[0]);
        assert_eq!(ring.remove(keys[0]), Some('a'));
        assert_eq!((row(&ring).as_str(), ring.len()), ("bcd", 3));
    }
}
