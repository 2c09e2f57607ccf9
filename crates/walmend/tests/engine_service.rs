//! The service of `examples/service`, under load, while it is shut down and while it is killed.

#[path = "../examples/service/app.rs"]
mod app;
mod common;

use common::child::{self, Child};
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use walmend::{Options, PageNumber, Store};
use walmend_sync::atomic::{AtomicU64, Ordering};

const COUNTERS: usize = 4;
const CLIENTS: usize = 12;
const KILLS: u64 = 20;

/// What the clients know of each counter.
#[derive(Default)]
struct Counter {
    /// What was asked for, answered or not.
    asked: AtomicU64,
    /// What was answered.
    answered: AtomicU64,
    /// The largest value in an answer.
    seen: AtomicU64,
}

type Counters = Arc<[Counter; COUNTERS]>;

/// Adds on one connection until that is gone, or `stop` answers have come to all clients together.
async fn client(port: u16, which: usize, counters: Counters, stop: u64, enough: Arc<tokio::sync::Notify>) {
    let counter = &counters[which];
    let Ok(stream) = TcpStream::connect(("127.0.0.1", port)).await else {
        return;
    };
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let request = format!("POST /counters/{which} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1");
    loop {
        counter.asked.fetch_add(1, Ordering::Relaxed);
        if write.write_all(request.as_bytes()).await.is_err() {
            return;
        }
        let Some((status, body)) = response(&mut read).await else {
            return;
        };
        assert_eq!(status, 200, "{body}");
        counter.answered.fetch_add(1, Ordering::Relaxed);
        counter
            .seen
            .fetch_max(body.trim().parse().unwrap(), Ordering::Relaxed);
        let total: u64 = counters.iter().map(|c| c.answered.load(Ordering::Relaxed)).sum();
        if total >= stop {
            enough.notify_one();
        }
    }
}

/// The status and the body of one answer; `None` if the connection ends before its end.
async fn response(read: &mut (impl AsyncBufReadExt + Unpin)) -> Option<(u16, String)> {
    let mut line = String::new();
    read.read_line(&mut line).await.ok()?;
    let status = line.split(' ').nth(1)?.parse().ok()?;
    let mut length = 0;
    loop {
        line.clear();
        if read.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    read.read_exact(&mut body).await.ok()?;
    Some((status, String::from_utf8(body).ok()?))
}

/// Loads the service until `stop` requests were answered, then does `end` to it, and waits for the clients.
async fn load(port: u16, counters: &Counters, stop: u64, end: impl FnOnce()) {
    let enough = Arc::new(tokio::sync::Notify::new());
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let (counters, enough) = (Arc::clone(counters), Arc::clone(&enough));
        clients.spawn(client(port, number % COUNTERS, counters, stop, enough));
    }
    enough.notified().await;
    end();
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
}

/// What was answered is there, and nothing that was never asked for.
fn check(db: &Path, counters: &Counters) {
    let (store, _) = Store::open(db, Options::new()).unwrap();
    let snapshot = store.snapshot().unwrap();
    for (number, counter) in (2..).zip(counters.iter()) {
        let page = snapshot.read(PageNumber::new(number).unwrap()).unwrap();
        let value = u64::from_le_bytes(page[..8].try_into().unwrap());
        assert!(
            value >= counter.answered.load(Ordering::Relaxed),
            "an answered request is lost"
        );
        assert!(
            value >= counter.seen.load(Ordering::Relaxed),
            "a value that was shown is gone"
        );
        assert!(
            value <= counter.asked.load(Ordering::Relaxed),
            "a request was done twice"
        );
    }
    drop(snapshot);
    store.close().unwrap();
}

#[tokio::test]
async fn a_shutdown_under_load_loses_no_answered_request() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("counters.db");
    let counters = Counters::default();
    let (store, _) = Store::open(&db, Options::new()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (stop, stopped) = oneshot::channel();
    let server = tokio::spawn(app::run(store, listener, async {
        let _ = stopped.await;
    }));
    load(port, &counters, 1000, || stop.send(()).unwrap()).await;
    server.await.unwrap().unwrap();
    check(&db, &counters);
}

#[test]
fn twenty_kills_under_load_lose_no_answered_request() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    if let Some((_, db)) = child::role() {
        return runtime.block_on(async {
            let (store, _) = Store::open(db, Options::new()).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            child::say(&listener.local_addr().unwrap().port().to_string());
            app::run(store, listener, std::future::pending()).await.unwrap();
        });
    }
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("counters.db");
    let counters = Counters::default();
    for kill in 1..=KILLS {
        let mut child = Child::start("twenty_kills_under_load_lose_no_answered_request", "serve", &db);
        let port = child.hear().parse().unwrap();
        runtime.block_on(load(port, &counters, kill * 300, || child.kill()));
        check(&db, &counters);
    }
}

#[tokio::test]
async fn what_is_asked_wrongly_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(folder.path().join("counters.db"), Options::new()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(app::run(store, listener, std::future::pending()));
    let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    for (line, body, status, part) in [
        ("POST /counters/1", "x", 400, "a number"),
        ("POST /counters/200000", "1", 400, "100000 counters"),
        ("GET /counters/7", "", 200, "0"),
        ("GET /stats", "", 200, "commit_seq"),
    ] {
        let request = format!(
            "{line} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.get_mut().write_all(request.as_bytes()).await.unwrap();
        let (answered, text) = response(&mut stream).await.unwrap();
        assert_eq!(answered, status, "{text}");
        assert!(text.contains(part), "{text}");
    }
}
