//! What happened on a disk, in the order in which it happened.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// One thing that happened. A request is named by a number of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Bytes arrived. From here on any part of them may be on the medium.
    Write {
        /// The request.
        id: u64,
        /// Where on the disk, in bytes.
        offset: u64,
        /// How many bytes.
        len: u32,
        /// Where they are in the file of the recording.
        at: u64,
    },
    /// The machine is told that a write is done; it may still be in the disk's cache.
    Written(u64),
    /// A flush arrived: it is about all writes that the machine was told of before.
    Flush(u64),
    /// The machine is told that the flush is done: what it is about is on the medium for good.
    Flushed(u64),
    /// A line that the machine said, by another way than the disk.
    Said(String),
}

/// Writes a recording.
#[derive(Debug)]
pub struct Recorder {
    file: BufWriter<File>,
}

impl Recorder {
    /// A new recording; a file that is there is emptied.
    ///
    /// # Errors
    /// Of creating the file.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: BufWriter::with_capacity(1 << 20, File::create(path)?),
        })
    }

    /// A write of `bytes` at `offset` arrived.
    ///
    /// # Errors
    /// Of writing to the recording, here as everywhere.
    pub fn write(&mut self, id: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.put(b'W', id)?;
        self.file.write_all(&offset.to_le_bytes())?;
        self.bytes(bytes)
    }

    /// The answer to a write goes out.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn written(&mut self, id: u64) -> io::Result<()> {
        self.put(b'w', id)
    }

    /// A flush arrived.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn flush(&mut self, id: u64) -> io::Result<()> {
        self.put(b'F', id)
    }

    /// The answer to a flush goes out.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn flushed(&mut self, id: u64) -> io::Result<()> {
        self.put(b'f', id)
    }

    /// The machine said something.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn said(&mut self, line: &str) -> io::Result<()> {
        self.put(b'S', 0)?;
        self.bytes(line.as_bytes())
    }

    /// The end: everything is in the file.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn finish(mut self) -> io::Result<()> {
        self.file.flush()
    }

    fn put(&mut self, tag: u8, id: u64) -> io::Result<()> {
        self.file.write_all(&[tag])?;
        self.file.write_all(&id.to_le_bytes())
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        self.file.write_all(&len.to_le_bytes())?;
        self.file.write_all(bytes)
    }
}

/// A recording that is complete.
#[derive(Debug)]
pub struct Recording {
    file: File,
    /// What happened, first things first.
    pub events: Vec<Event>,
}

impl Recording {
    /// Reads what a [`Recorder`] wrote; the bytes of the writes stay in the file.
    ///
    /// # Errors
    /// Of reading, and `InvalidData` where it is no recording.
    pub fn load(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let end = file.metadata()?.len();
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let mut events = Vec::new();
        let mut position = 0;
        while position < end {
            let mut tag = [0];
            reader.read_exact(&mut tag)?;
            let id = u64::from_le_bytes(take(&mut reader)?);
            position += 9;
            events.push(match tag[0] {
                b'W' => {
                    let offset = u64::from_le_bytes(take(&mut reader)?);
                    let len = u32::from_le_bytes(take(&mut reader)?);
                    position += 12;
                    let at = position;
                    reader.seek_relative(i64::from(len))?;
                    position += u64::from(len);
                    Event::Write { id, offset, len, at }
                }
                b'w' => Event::Written(id),
                b'F' => Event::Flush(id),
                b'f' => Event::Flushed(id),
                b'S' => {
                    let len = u32::from_le_bytes(take(&mut reader)?);
                    let mut line = vec![0; len as usize];
                    reader.read_exact(&mut line)?;
                    position += 4 + u64::from(len);
                    Event::Said(String::from_utf8_lossy(&line).into_owned())
                }
                other => {
                    let what = format!("byte {position}: {other} is no event of a recording");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                }
            });
        }
        let mut file = reader.into_inner();
        file.seek(SeekFrom::Start(0))?;
        Ok(Self { file, events })
    }

    /// The bytes of a write: `len` of them, from `at` in the file.
    ///
    /// # Errors
    /// Of reading.
    pub fn bytes(&self, at: u64, len: u32) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len as usize];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }
}

fn take<const N: usize>(reader: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_comes_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recording");
        let mut recorder = Recorder::create(&path).unwrap();
        recorder.write(1, 512, b"abc").unwrap();
        recorder.said("ready").unwrap();
        recorder.written(1).unwrap();
        recorder.flush(2).unwrap();
        recorder.write(3, 0, b"").unwrap();
        recorder.flushed(2).unwrap();
        recorder.finish().unwrap();
        let recording = Recording::load(&path).unwrap();
        let [
            Event::Write {
                id: 1,
                offset: 512,
                len: 3,
                at,
            },
            Event::Said(line),
            Event::Written(1),
            Event::Flush(2),
            Event::Write {
                id: 3,
                offset: 0,
                len: 0,
                ..
            },
            Event::Flushed(2),
        ] = &recording.events[..]
        else {
            panic!("{:?}", recording.events);
        };
        assert_eq!(line, "ready");
        assert_eq!(recording.bytes(*at, 3).unwrap(), b"abc");
    }

    #[test]
    fn rubbish_and_half_a_recording_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recording");
        std::fs::write(&path, [b'?', 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        let error = Recording::load(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        std::fs::write(&path, b"w123").unwrap();
        assert!(Recording::load(&path).is_err());
    }
}
