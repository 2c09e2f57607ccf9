//! An append-only log of events in streams, on `walmend-commit` alone: the file format and the two halves of the
//! writer are all that an engine adds.
//!
//! ```text
//! record   u64 XXH3 of all that follows, u32 stream, u32 bytes of the event, u64 commit number, event
//! ```
//!
//! Whoever appends says which event of the stream it saw last, and loses if there is a newer one: streams stand
//! where another engine has pages.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use walmend_commit::{
    Append, AppendFailure, BatchEntry, CommitRequest, CommitSeq, Cx, Error, FirstCommitterWins, GroupCommit,
    GroupConfig, LoopEnd, LoopReport, PageNumber, Result, Sender, Ticket, TxnId, WalBatchSync,
    WalBatchWriter, WriteSet, channel, spawn,
};
use xxhash_rust::xxh3::xxh3_64;

const HEAD: usize = 24;

/// What the group commit carries.
pub(crate) struct Event {
    stream: PageNumber,
    body: Vec<u8>,
}

/// Where an event lies.
#[derive(Clone, Copy)]
struct Place {
    seq: CommitSeq,
    offset: u64,
    len: usize,
}

type Index = BTreeMap<PageNumber, Vec<Place>>;

/// An open log. Many threads may append and read.
pub(crate) struct EventLog {
    file: LogFile,
    sender: Sender<Event>,
    cx: Cx,
    thread: std::thread::JoinHandle<LoopReport>,
    /// Bytes of a torn record that opening cut off.
    pub(crate) cut: u64,
}

impl EventLog {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = LogFile::open(path)?;
        let (end, last, cut) = file.recover()?;

        // What conflicts is known from the start, or the first append to an old stream would see it empty.
        let heads: Vec<_> = file
            .index
            .lock()
            .unwrap()
            .iter()
            .filter_map(|(stream, places)| Some((*stream, places.last()?.seq)))
            .collect();
        let validator = FirstCommitterWins::new(0).with_versions(heads);

        // Nobody says what the oldest snapshot is: an appender may have seen its stream as long ago as it likes.
        let config = GroupConfig::default().last_seq(last);
        let (sender, receiver) = channel(256);
        let cx = Cx::new();
        let writer = Writer {
            file: file.clone(),
            end,
            before: end,
        };
        let thread = spawn(GroupCommit::new(writer, validator, config), receiver, cx.clone())?;
        Ok(Self {
            file,
            sender,
            cx,
            thread,
            cut,
        })
    }

    /// Appends an event to a stream of which the caller knows everything up to commit `seen`; 0 for a new one.
    /// The ticket is answered once the event is on the disk.
    pub(crate) fn append(&self, stream: PageNumber, seen: CommitSeq, body: &[u8]) -> Result<Ticket> {
        let event = Event {
            stream,
            body: body.to_vec(),
        };
        let permit = self.sender.reserve()?;
        let txn = TxnId(permit.number());
        Ok(permit.send(CommitRequest::new(txn, seen, WriteSet::new([stream]), event))?)
    }

    /// The events of a stream, the oldest first.
    pub(crate) fn read(&self, stream: PageNumber) -> Result<Vec<(CommitSeq, Vec<u8>)>> {
        let places = self.file.index.lock().unwrap().get(&stream).cloned();
        places
            .unwrap_or_default()
            .into_iter()
            .map(|place| Ok((place.seq, self.file.read(place)?)))
            .collect()
    }

    /// Commits what was sent, and ends.
    pub(crate) fn close(self) -> Result<LoopReport> {
        self.cx.cancel();
        let report = self.thread.join().expect("the loop catches panics");
        match &report.end {
            LoopEnd::Panicked(what) => Err(Error::Internal(what.clone())),
            _ => Ok(report),
        }
    }
}

/// The file and what is known of it: the half of the log that syncs and publishes.
#[derive(Clone)]
struct LogFile {
    path: PathBuf,
    file: Arc<File>,
    index: Arc<Mutex<Index>>,
}

impl LogFile {
    fn open(path: &Path) -> Result<Self> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let opened = options.open(path).and_then(|file| {
            // A new name is durable only with its folder.
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
            Ok(file)
        });
        Ok(Self {
            path: path.into(),
            file: Arc::new(opened.map_err(|error| Error::io("open", path, None, error))?),
            index: Arc::default(),
        })
    }

    fn io<T>(&self, op: &'static str, offset: u64, result: std::io::Result<T>) -> Result<T> {
        result.map_err(|error| Error::io(op, &self.path, Some(offset), error))
    }

    /// Indexes all whole records, and cuts off what a crash left of the next one. Answers the end, the last commit
    /// number, and how many bytes went.
    fn recover(&self) -> Result<(u64, CommitSeq, u64)> {
        let len = self.io("read", 0, self.file.metadata())?.len();
        let (mut end, mut last) = (0, CommitSeq(0));
        let mut index = self.index.lock().unwrap();
        while let Some((stream, place)) = self.record(end, len)? {
            index.entry(stream).or_default().push(place);
            (end, last) = (end + (HEAD + place.len) as u64, place.seq);
        }
        if end < len {
            self.cut_off(end)?;
        }
        Ok((end, last, len - end))
    }

    /// The record at `offset`, if a whole one is there.
    fn record(&self, offset: u64, len: u64) -> Result<Option<(PageNumber, Place)>> {
        let mut head = [0; HEAD];
        if len - offset < HEAD as u64 {
            return Ok(None);
        }
        self.io("read", offset, self.file.read_exact_at(&mut head, offset))?;
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let place = Place {
            seq: CommitSeq(u64::from(word(16)) | u64::from(word(20)) << 32),
            offset,
            len: word(12) as usize,
        };
        let whole = len - offset >= (HEAD + place.len) as u64;
        match PageNumber::new(word(8)) {
            Ok(stream) if whole && self.read(place).is_ok() => Ok(Some((stream, place))),
            _ => Ok(None),
        }
    }

    fn read(&self, place: Place) -> Result<Vec<u8>> {
        let mut record = vec![0; HEAD + place.len];
        self.io(
            "read",
            place.offset,
            self.file.read_exact_at(&mut record, place.offset),
        )?;
        if record[..8] != xxh3_64(&record[8..]).to_le_bytes() {
            let message = format!("{} is damaged at offset {}", self.path.display(), place.offset);
            return Err(Error::Invalid(message));
        }
        Ok(record.split_off(HEAD))
    }

    fn cut_off(&self, end: u64) -> Result<()> {
        self.io("truncate", end, self.file.set_len(end))?;
        self.io("sync", end, self.file.sync_all())
    }
}

impl WalBatchSync<Vec<(PageNumber, Place)>> for LogFile {
    fn sync(&self, batch: &Vec<(PageNumber, Place)>) -> Result<()> {
        let offset = batch.first().map_or(0, |(_, place)| place.offset);
        self.io("sync", offset, self.file.sync_data())
    }

    fn publish(&self, batch: Vec<(PageNumber, Place)>) {
        let mut index = self.index.lock().unwrap();
        for (stream, place) in batch {
            index.entry(stream).or_default().push(place);
        }
    }
}

/// The half of the log that appends.
struct Writer {
    file: LogFile,
    end: u64,
    /// The end before the last append.
    before: u64,
}

impl WalBatchWriter<Event> for Writer {
    type Mark = Vec<(PageNumber, Place)>;
    type Sync = LogFile;

    fn sync_half(&self) -> LogFile {
        self.file.clone()
    }

    fn append_batch(&mut self, batch: &[BatchEntry<'_, Event>]) -> Result<Append<Self::Mark>, AppendFailure> {
        self.before = self.end;
        let mut bytes = Vec::new();
        let mut mark = Vec::with_capacity(batch.len());
        for entry in batch {
            let Event { stream, body } = &entry.request.payload;
            let start = bytes.len();
            bytes.extend_from_slice(&[0; 8]);
            bytes.extend_from_slice(&stream.get().to_le_bytes());
            bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&entry.commit_seq.0.to_le_bytes());
            bytes.extend_from_slice(body);
            let hash = xxh3_64(&bytes[start + 8..]);
            bytes[start..start + 8].copy_from_slice(&hash.to_le_bytes());
            let place = Place {
                seq: entry.commit_seq,
                offset: self.end + start as u64,
                len: body.len(),
            };
            mark.push((*stream, place));
        }
        self.file
            .io("write", self.end, self.file.file.write_all_at(&bytes, self.end))?;
        self.end += bytes.len() as u64;
        Ok(Append {
            offsets: mark.iter().map(|(_, place)| place.offset).collect(),
            tokens: Vec::new(),
            mark,
        })
    }

    fn discard_append(&mut self) -> Result<()> {
        self.end = self.before;
        self.file.cut_off(self.end)
    }
}
