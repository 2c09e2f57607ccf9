//! The way of a batch through the log, without a disk: append, sync, watermark, publication over a file system in
//! memory. What is left is what the log itself costs: headers, checksums, the index, and one copy of the pages.

use criterion::{BenchmarkId, Criterion, Throughput};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use walmend::{MemoryVfs, Vfs};
use walmend_types::{
    BatchEntry, CommitRequest, CommitSeq, PageImage, PageNumber, PagePayload, PageSize, Result, TxnId,
    WalBatchSync, WalBatchWriter, WriteSet,
};
use walmend_vfs::OpenFlags;
use walmend_wal::{ByteOrder, CheckpointMode, Checksum, FileSet, Log, LogConfig, LogWriter, PageKind};

const PAGE: usize = 4096;
/// The log is begun anew after so many frames, outside of the measurement.
const FRAMES: u32 = 4096;

struct Pages(Vec<PageImage>);

impl PagePayload for Pages {
    fn images(&self) -> &[PageImage] {
        &self.0
    }
}

fn main() -> Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("log/batch");
    for commits in [1u32, 8, 64] {
        let mut bench = Bench::open()?;
        let requests: Vec<CommitRequest<Pages>> = (0..commits).map(request).collect::<Result<_>>()?;
        group.throughput(Throughput::Elements(commits.into()));
        group.bench_function(BenchmarkId::from_parameter(commits), |bencher| {
            bencher.iter_custom(|batches| {
                let mut took = Duration::ZERO;
                for _ in 0..batches {
                    bench.make_room(commits).expect("nothing fails in memory");
                    let started = Instant::now();
                    bench.batch(&requests).expect("nothing fails in memory");
                    took += started.elapsed();
                }
                took
            });
        });
    }
    group.finish();
    criterion.final_summary();
    Ok(())
}

/// One page of 4 KiB, with its part of the checksum, as a transaction of a store hands it over.
fn request(number: u32) -> Result<CommitRequest<Pages>> {
    let page = PageNumber::new(number + 1)?;
    let part = |data: &[u8]| Checksum::part(ByteOrder::Little, data).pair();
    let image = PageImage::new(page, vec![number as u8; PAGE]).with_checksum_part(part);
    let writes = WriteSet::new([page]);
    Ok(CommitRequest::new(
        TxnId(number.into()),
        CommitSeq(0),
        writes,
        Pages(vec![image]),
    ))
}

struct Bench {
    log: Log,
    writer: LogWriter,
    last: CommitSeq,
}

impl Bench {
    fn open() -> Result<Self> {
        let vfs: Arc<dyn Vfs> = Arc::new(MemoryVfs::new());
        let files = FileSet::of(Path::new("/bench.db"));
        let db = vfs.open(&files.db, OpenFlags::CREATE)?;
        let config = LogConfig::new(files, db, PageSize::new(PAGE as u32)?, PageKind::Raw, 0);
        let log = Log::open(vfs, config)?.0;
        Ok(Self {
            writer: log.writer(),
            last: log.status().commit_seq,
            log,
        })
    }

    fn make_room(&self, commits: u32) -> Result<()> {
        if self.log.frames() + commits > FRAMES {
            self.log.checkpoint(CheckpointMode::Restart, Duration::ZERO)?;
        }
        Ok(())
    }

    fn batch(&mut self, requests: &[CommitRequest<Pages>]) -> Result<()> {
        let numbers = self.last.0 + 1..;
        let entries: Vec<BatchEntry<'_, Pages>> = requests
            .iter()
            .zip(numbers)
            .map(|(request, seq)| BatchEntry {
                request,
                commit_seq: CommitSeq(seq),
            })
            .collect();
        self.last.0 += requests.len() as u64;
        let appended = self
            .writer
            .append_batch(&entries)
            .map_err(|failed| failed.error)?;
        let sync = WalBatchWriter::<Pages>::sync_half(&self.writer);
        sync.sync(&appended.mark)?;
        sync.publish(appended.mark);
        Ok(())
    }
}
