//! A disk for a virtual machine, over the NBD protocol (its document `proto.md`; fixed newstyle handshake, simple
//! replies): reads, writes and flushes, each written down when it arrives and when it is answered.
//!
//! Writes are visible to reads at once, as in a disk's cache. Answers can be held back, so that requests overlap as they
//! do on a real disk. One thread does it all, so the order of the recording is the order of what happened.

use super::recording::Recorder;
use crate::Random;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const GO: u32 = 7;
const ABORT: u32 = 2;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_UNSUPPORTED: u32 = 0x8000_0001;
/// Flags of the handshake: fixed newstyle, no padding.
const HANDSHAKE: u16 = 0b11;
/// Flags of the export: they are flags; flushes are understood. No FUA: the client makes a flush of it.
const EXPORT: u16 = 0b101;
const INVALID: u32 = 22;
const REQUEST: usize = 28;
/// The largest request that is announced.
const LARGEST: u32 = 32 << 20;
/// How long to wait for a request before looking whether it is time to end.
const LOOK: Duration = Duration::from_millis(50);

/// How long answers are held back.
#[derive(Debug, Clone, Copy)]
pub struct Delays {
    /// A flush, at most.
    pub flush: Duration,
    /// A write, at most, where it is held back.
    pub write: Duration,
    /// One write in so many is.
    pub one_write_in: u64,
}

/// Why the serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was told to.
    Told,
    /// The machine is gone.
    Gone,
}

/// A disk that is being served.
#[derive(Debug)]
pub struct Served {
    disk: UnixStream,
    /// Where the machine's lines come from, once it has connected.
    lines: (UnixListener, Option<UnixStream>),
    half_line: Vec<u8>,
    image: File,
    recorder: Recorder,
    delays: Delays,
    random: Random,
    /// What came in and is not a whole request yet.
    incoming: Vec<u8>,
    /// Answers that are held back, and until when.
    held: Vec<(Instant, Answer)>,
    requests: u64,
}

#[derive(Debug)]
struct Answer {
    id: u64,
    handle: u64,
    flush: bool,
}

struct Request {
    kind: u16,
    handle: u64,
    offset: u64,
    len: u32,
}

impl Served {
    /// Waits for the machine at `disk`, and lets it have `image`; at `lines` it will speak.
    ///
    /// # Errors
    /// Of the files and sockets; `InvalidData` for a client that speaks another protocol.
    pub fn accept(
        disk: &UnixListener,
        lines: UnixListener,
        image: &Path,
        recorder: Recorder,
        delays: Delays,
        random: Random,
    ) -> io::Result<Self> {
        lines.set_nonblocking(true)?;
        let image = OpenOptions::new().read(true).write(true).open(image)?;
        let (mut disk, _) = disk.accept()?;
        negotiate(&mut disk, image.metadata()?.len())?;
        Ok(Self {
            disk,
            lines: (lines, None),
            half_line: Vec::new(),
            image,
            recorder,
            delays,
            random,
            incoming: Vec::new(),
            held: Vec::new(),
            requests: 0,
        })
    }

    /// Serves until `tell`, which gets each line and now and then none, says that it is enough, or the machine is gone.
    ///
    /// # Errors
    /// Of the files and sockets; `InvalidData` for requests that make no sense.
    pub fn serve(mut self, mut tell: impl FnMut(Option<&str>) -> bool) -> io::Result<End> {
        let mut buffer = vec![0; 1 << 20];
        let end = 'serving: loop {
            self.answer_due()?;
            while let Some(request) = self.next_request()? {
                // Whatever it said before it sent this counts before this.
                if self.listen(&mut tell)? {
                    break 'serving End::Told;
                }
                if !self.take(&request)? {
                    break 'serving End::Gone;
                }
            }
            if self.listen(&mut tell)? || tell(None) {
                break End::Told;
            }
            let due = self.held.iter().map(|(due, _)| *due).min();
            let wait = due.map_or(LOOK, |due| {
                due.saturating_duration_since(Instant::now()).min(LOOK)
            });
            self.disk
                .set_read_timeout(Some(wait.max(Duration::from_micros(1))))?;
            match self.disk.read(&mut buffer) {
                Ok(0) => break End::Gone,
                Ok(read) => self.incoming.extend_from_slice(&buffer[..read]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break End::Gone,
                Err(error) => return Err(error),
            }
        };
        self.listen(&mut tell)?;
        self.recorder.finish()?;
        Ok(end)
    }

    /// Records what the machine has said by now; answers whether it is enough.
    fn listen(&mut self, tell: &mut impl FnMut(Option<&str>) -> bool) -> io::Result<bool> {
        if self.lines.1.is_none() {
            match self.lines.0.accept() {
                Ok((lines, _)) => {
                    lines.set_nonblocking(true)?;
                    self.lines.1 = Some(lines);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        let Some(lines) = &mut self.lines.1 else {
            return Ok(false);
        };
        let mut buffer = [0; 4096];
        loop {
            match lines.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => self.half_line.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let mut enough = false;
        while let Some(end) = self.half_line.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.half_line.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            self.recorder.said(line.trim_end())?;
            enough |= tell(Some(line.trim_end()));
        }
        Ok(enough)
    }

    /// The next request that is whole, with the bytes of a write still in front of [`incoming`](Self::incoming).
    fn next_request(&mut self) -> io::Result<Option<Request>> {
        let Some(head) = self.incoming.get(..REQUEST) else {
            return Ok(None);
        };
        let field = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let long = |at: usize| (u64::from(field(at)) << 32) | u64::from(field(at + 4));
        let request = Request {
            kind: (field(4) & 0xffff) as u16,
            handle: long(8),
            offset: long(16),
            len: field(24),
        };
        if field(0) != REQUEST_MAGIC {
            return Err(nonsense("a request with another magic number"));
        }
        if request.kind == 1 && self.incoming.len() < REQUEST + request.len as usize {
            return Ok(None);
        }
        self.incoming.drain(..REQUEST);
        Ok(Some(request))
    }

    /// Does what is asked; answers whether to go on.
    fn take(&mut self, request: &Request) -> io::Result<bool> {
        self.requests += 1;
        let id = self.requests;
        let len = request.len as usize;
        match request.kind {
            0 if request.len <= LARGEST => {
                let mut reply = simple_reply(request.handle, 0);
                let start = reply.len();
                reply.resize(start + len, 0);
                self.image.read_exact_at(&mut reply[start..], request.offset)?;
                self.disk.write_all(&reply)?;
            }
            1 => {
                let bytes: Vec<u8> = self.incoming.drain(..len).collect();
                self.image.write_all_at(&bytes, request.offset)?;
                self.recorder.write(id, request.offset, &bytes)?;
                let held = self.random.one_in(self.delays.one_write_in);
                let longest = if held { self.delays.write } else { Duration::ZERO };
                self.hold(longest, id, request.handle, false);
                self.answer_due()?;
            }
            2 => return Ok(false),
            3 => {
                self.recorder.flush(id)?;
                self.hold(self.delays.flush, id, request.handle, true);
            }
            _ => self.disk.write_all(&simple_reply(request.handle, INVALID))?,
        }
        Ok(true)
    }

    fn hold(&mut self, longest: Duration, id: u64, handle: u64, flush: bool) {
        let micros = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX);
        let wait = Duration::from_micros(self.random.below(micros));
        let answer = Answer { id, handle, flush };
        self.held.push((Instant::now() + wait, answer));
    }

    fn answer_due(&mut self) -> io::Result<()> {
        let now = Instant::now();
        while let Some(place) = self.held.iter().position(|(due, _)| *due <= now) {
            let (_, answer) = self.held.remove(place);
            match answer.flush {
                true => self.recorder.flushed(answer.id)?,
                false => self.recorder.written(answer.id)?,
            }
            self.disk.write_all(&simple_reply(answer.handle, 0))?;
        }
        Ok(())
    }
}

fn simple_reply(handle: u64, error: u32) -> Vec<u8> {
    let mut reply = SIMPLE_REPLY_MAGIC.to_be_bytes().to_vec();
    reply.extend(error.to_be_bytes());
    reply.extend(handle.to_be_bytes());
    reply
}

/// The handshake, up to the point where requests come.
fn negotiate(client: &mut UnixStream, size: u64) -> io::Result<()> {
    client.write_all(b"NBDMAGIC")?;
    client.write_all(&OPTION_MAGIC.to_be_bytes())?;
    client.write_all(&HANDSHAKE.to_be_bytes())?;
    let _flags: [u8; 4] = take(client)?;
    loop {
        if u64::from_be_bytes(take(client)?) != OPTION_MAGIC {
            return Err(nonsense("an option with another magic number"));
        }
        let option = u32::from_be_bytes(take(client)?);
        let len = u32::from_be_bytes(take(client)?);
        if len > 1 << 16 {
            return Err(nonsense("an option that is too long"));
        }
        let mut data = vec![0; len as usize];
        client.read_exact(&mut data)?;
        match option {
            GO => {
                let mut export = vec![0, 0];
                export.extend(size.to_be_bytes());
                export.extend(EXPORT.to_be_bytes());
                option_reply(client, option, REPLY_INFO, &export)?;
                let mut blocks = vec![0, 3];
                for bytes in [512, 4096, LARGEST] {
                    blocks.extend(bytes.to_be_bytes());
                }
                option_reply(client, option, REPLY_INFO, &blocks)?;
                return option_reply(client, option, REPLY_ACK, &[]);
            }
            ABORT => {
                option_reply(client, option, REPLY_ACK, &[])?;
                return Err(nonsense("a client that left at once"));
            }
            _ => option_reply(client, option, REPLY_UNSUPPORTED, &[])?,
        }
    }
}

fn option_reply(client: &mut UnixStream, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
    let mut reply = REPLY_MAGIC.to_be_bytes().to_vec();
    for field in [option, kind, u32::try_from(data.len()).unwrap_or(u32::MAX)] {
        reply.extend(field.to_be_bytes());
    }
    reply.extend(data);
    client.write_all(&reply)
}

fn take<const N: usize>(client: &mut UnixStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    client.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn nonsense(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("NBD: {what}"))
}

#[cfg(test)]
mod tests {
    use super::super::recording::{Event, Recording};
    use super::*;
    use std::fs;
    use walmend_sync::thread;

    const AT_ONCE: Delays = Delays {
        flush: Duration::ZERO,
        write: Duration::ZERO,
        one_write_in: 1,
    };

    /// Serves a disk of 8 KiB to `client`, which gets the connection, and answers what was recorded.
    fn session(
        client: impl FnOnce(&mut UnixStream, &mut UnixStream) + Send,
    ) -> (io::Result<End>, Vec<Event>) {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("image"), [0; 8192]).unwrap();
        let disk = UnixListener::bind(path("disk")).unwrap();
        let lines = UnixListener::bind(path("lines")).unwrap();
        let recorder = Recorder::create(&path("recording")).unwrap();
        let end = thread::scope(|scope| {
            let client = scope.spawn(|| {
                let mut lines = UnixStream::connect(path("lines")).unwrap();
                let mut disk = UnixStream::connect(path("disk")).unwrap();
                client(&mut disk, &mut lines);
            });
            let served = Served::accept(&disk, lines, &path("image"), recorder, AT_ONCE, Random(1));
            let end = served.and_then(|served| served.serve(|line| line == Some("enough")));
            client.join().unwrap();
            end
        });
        let events = Recording::load(&path("recording")).map(|recording| recording.events);
        (end, events.unwrap_or_default())
    }

    fn option(disk: &mut UnixStream, option: u32, data: &[u8]) {
        let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
        disk.write_all(&bytes).unwrap();
    }

    /// Kind and data of the answer to an option.
    fn answer(disk: &mut UnixStream) -> (u32, Vec<u8>) {
        assert_eq!(u64::from_be_bytes(take(disk).unwrap()), REPLY_MAGIC);
        let _option: [u8; 4] = take(disk).unwrap();
        let kind = u32::from_be_bytes(take(disk).unwrap());
        let mut data = vec![0; u32::from_be_bytes(take(disk).unwrap()) as usize];
        disk.read_exact(&mut data).unwrap();
        (kind, data)
    }

    fn shake_hands(disk: &mut UnixStream) {
        let greeting: [u8; 18] = take(disk).unwrap();
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        disk.write_all(&[0, 0, 0, 3]).unwrap();
        option(disk, 8, &[]);
        assert_eq!(answer(disk).0, REPLY_UNSUPPORTED);
        option(disk, GO, &[0; 6]);
        let (kind, export) = answer(disk);
        assert_eq!(
            (kind, &export[..10]),
            (REPLY_INFO, &[0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0][..])
        );
        assert_eq!(answer(disk).0, REPLY_INFO);
        assert_eq!(answer(disk).0, REPLY_ACK);
    }

    fn request(disk: &mut UnixStream, kind: u8, offset: u64, len: u32, data: &[u8]) {
        let mut bytes = REQUEST_MAGIC.to_be_bytes().to_vec();
        bytes.extend([0, 0, 0, kind]);
        bytes.extend(7u64.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        bytes.extend(data);
        disk.write_all(&bytes).unwrap();
    }

    /// The error that a simple reply carries.
    fn reply(disk: &mut UnixStream) -> u32 {
        assert_eq!(u32::from_be_bytes(take(disk).unwrap()), SIMPLE_REPLY_MAGIC);
        let error = u32::from_be_bytes(take(disk).unwrap());
        assert_eq!(u64::from_be_bytes(take(disk).unwrap()), 7);
        error
    }

    #[test]
    fn requests_answers_and_lines_are_recorded_in_their_order() {
        let (end, events) = session(|disk, lines| {
            shake_hands(disk);
            request(disk, 1, 512, 4, b"abcd");
            assert_eq!(reply(disk), 0);
            lines.write_all(b"ack 1 1\nack").unwrap();
            request(disk, 3, 0, 0, &[]);
            assert_eq!(reply(disk), 0);
            lines.write_all(b" 1 2\n").unwrap();
            request(disk, 0, 510, 8, &[]);
            assert_eq!(reply(disk), 0);
            assert_eq!(&take::<8>(disk).unwrap(), b"\0\0abcd\0\0");
            request(disk, 2, 0, 0, &[]);
        });
        assert_eq!(end.unwrap(), End::Gone);
        let said = |line: &str| Event::Said(line.into());
        assert!(matches!(
            events[0],
            Event::Write {
                id: 1,
                offset: 512,
                len: 4,
                ..
            }
        ));
        let rest = [
            Event::Written(1),
            said("ack 1 1"),
            Event::Flush(2),
            Event::Flushed(2),
            said("ack 1 2"),
        ];
        assert_eq!(events[1..], rest);
    }

    #[test]
    fn what_it_does_not_know_is_refused_and_it_ends_when_told() {
        let (end, events) = session(|disk, lines| {
            shake_hands(disk);
            request(disk, 4, 0, 4096, &[]);
            assert_eq!(reply(disk), INVALID);
            lines.write_all(b"enough\n").unwrap();
            let mut rest = Vec::new();
            disk.read_to_end(&mut rest).unwrap();
        });
        assert_eq!(end.unwrap(), End::Told);
        assert_eq!(events, [Event::Said("enough".into())]);
    }

    #[test]
    fn a_client_that_speaks_something_else_is_an_error() {
        let (end, _) = session(|disk, _| {
            let _greeting: [u8; 18] = take(disk).unwrap();
            disk.write_all(&[9; 64]).unwrap();
            // Until the server has hung up; whether that is an end or a reset is no matter.
            let _ = disk.read_to_end(&mut Vec::new());
        });
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
