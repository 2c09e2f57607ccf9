//! A key-value store: a B+tree whose nodes are the pages of a [`Store`].
//!
//! The root is always page 1; what splits moves its upper half to the next page behind the end. Each change of a
//! key writes the leaf that holds it, and each split writes the node that it splits, so the page conflicts of the
//! store are all the concurrency control there is: no lock in this file. As page conflicts look at what is
//! *written*, a transaction that decides by keys which it only reads can be skewed; write those keys too.

use super::node::{LARGEST_ENTRY, Node};
use std::path::Path;
use walmend::{CheckpointMode, CommitOutcome, CommitSeq, Options, PageNumber, Store, Txn};

#[derive(Debug, thiserror::Error)]
pub(crate) enum KvError {
    #[error(transparent)]
    Store(#[from] walmend::Error),
    #[error("a key and its value have {0} bytes together, and may have at most {LARGEST_ENTRY}")]
    TooLarge(usize),
    #[error("page {page} holds no node of a tree: this is some other database")]
    NotANode { page: PageNumber },
}

/// A key and its value.
pub(crate) type Pair = (Vec<u8>, Vec<u8>);

type Result<T, E = KvError> = std::result::Result<T, E>;

/// The store. Clones are one, and may be used from many threads.
#[derive(Clone)]
pub(crate) struct Kv(Store);

impl Kv {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let (store, report) = Store::open(path, Options::new())?;
        let kv = Self(store);
        // Not `report.created`: a crash may have come between creating the file and the first commit.
        if report.db_pages == 0 {
            kv.update(|tree| tree.write(PageNumber::ONE, &Node::Leaf(Vec::new())))?;
        }
        Ok(kv)
    }

    /// Runs a transaction, again and again while others get in its way; once this returns, it is durable.
    pub(crate) fn update<T>(&self, mut work: impl FnMut(&mut Tree) -> Result<T>) -> Result<(T, CommitSeq)> {
        loop {
            let mut tree = Tree(self.0.begin()?);
            let value = work(&mut tree)?;
            match tree.0.commit() {
                // The winner is visible by now, so there is nothing to wait for.
                CommitOutcome::Conflict(_) => {}
                outcome => return Ok((value, outcome.into_result()?)),
            }
        }
    }

    pub(crate) fn set(&self, key: &[u8], value: &[u8]) -> Result<CommitSeq> {
        Ok(self.update(|tree| tree.set(key, value))?.1)
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Tree(self.0.begin()?).get(key)
    }

    pub(crate) fn delete(&self, key: &[u8]) -> Result<bool> {
        Ok(self.update(|tree| tree.delete(key))?.0)
    }

    /// All pairs at one moment, in the order of their keys.
    pub(crate) fn all(&self) -> Result<Vec<Pair>> {
        Tree(self.0.begin()?).all()
    }

    /// Brings the log into the database file, so that it does not grow for ever.
    pub(crate) fn checkpoint(&self) -> Result<()> {
        self.0.checkpoint(CheckpointMode::Restart)?;
        Ok(())
    }

    pub(crate) fn close(self) -> Result<()> {
        Ok(self.0.close()?)
    }
}

/// The tree as one transaction sees it.
pub(crate) struct Tree(Txn);

impl Tree {
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let (_, entries) = self.leaf(key)?;
        let found = entries.binary_search_by(|(own, _)| own.as_slice().cmp(key));
        Ok(found.ok().map(|at| entries[at].1.clone()))
    }

    pub(crate) fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if key.len() + value.len() > LARGEST_ENTRY {
            return Err(KvError::TooLarge(key.len() + value.len()));
        }
        let (path, mut entries) = self.leaf(key)?;
        match entries.binary_search_by(|(own, _)| own.as_slice().cmp(key)) {
            Ok(at) => entries[at].1 = value.to_vec(),
            Err(at) => entries.insert(at, (key.to_vec(), value.to_vec())),
        }
        self.store(path, Node::Leaf(entries))
    }

    /// Leaves may become empty; they are used again, and never given back.
    pub(crate) fn delete(&mut self, key: &[u8]) -> Result<bool> {
        let (path, mut entries) = self.leaf(key)?;
        let Ok(at) = entries.binary_search_by(|(own, _)| own.as_slice().cmp(key)) else {
            return Ok(false);
        };
        entries.remove(at);
        self.store(path, Node::Leaf(entries))?;
        Ok(true)
    }

    pub(crate) fn all(&self) -> Result<Vec<Pair>> {
        let mut pairs = Vec::new();
        let mut open = vec![PageNumber::ONE];
        while let Some(page) = open.pop() {
            match self.node(page)? {
                Node::Leaf(entries) => pairs.extend(entries),
                Node::Inner { first, rest } => {
                    open.extend(rest.iter().rev().map(|(_, child)| *child));
                    open.push(first);
                }
            }
        }
        Ok(pairs)
    }

    fn node(&self, page: PageNumber) -> Result<Node> {
        Node::decode(page, &self.0.read(page)?)
    }

    fn write(&mut self, page: PageNumber, node: &Node) -> Result<()> {
        let size = self.0.page_size().as_usize();
        Ok(self.0.write(page, node.encode(size))?)
    }

    /// The leaf for this key, and the pages that lead to it, the root first.
    fn leaf(&self, key: &[u8]) -> Result<(Vec<PageNumber>, Vec<Pair>)> {
        let mut path = vec![PageNumber::ONE];
        let mut page = PageNumber::ONE;
        loop {
            match self.node(page)? {
                Node::Leaf(entries) => return Ok((path, entries)),
                Node::Inner { first, rest } => {
                    let before = rest.partition_point(|(own, _)| own.as_slice() <= key);
                    page = before.checked_sub(1).map_or(first, |at| rest[at].1);
                    path.push(page);
                }
            }
        }
    }

    /// Writes a node to the last page of `path`. What has outgrown its page is split, up to the root if need be.
    fn store(&mut self, mut path: Vec<PageNumber>, mut node: Node) -> Result<()> {
        while let Some(page) = path.pop() {
            if node.size() <= self.0.page_size().as_usize() {
                return self.write(page, &node);
            }
            let (key, upper) = node.split();
            let upper_page = self.append(&upper)?;
            let Some(parent) = path.last() else {
                // The root stays where it is, so that nobody has to be told where it went.
                let first = self.append(&node)?;
                let rest = vec![(key, upper_page)];
                return self.write(page, &Node::Inner { first, rest });
            };
            self.write(page, &node)?;
            let Node::Inner { first, mut rest } = self.node(*parent)? else {
                return Err(KvError::NotANode { page: *parent });
            };
            rest.insert(rest.partition_point(|(own, _)| *own < key), (key, upper_page));
            node = Node::Inner { first, rest };
        }
        Ok(())
    }

    /// Writes a node to the page behind the end. Two transactions that grow the tree at once want the same page,
    /// and one of them comes again.
    fn append(&mut self, node: &Node) -> Result<PageNumber> {
        let mut number = self.0.db_pages() + 1;
        // The one page that no database of this format can use.
        if number == self.0.page_size().lock_page() {
            number += 1;
        }
        let page = PageNumber::new(number)?;
        self.write(page, node)?;
        Ok(page)
    }
}
