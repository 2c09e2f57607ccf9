//! SQLite as a writer, for comparison, and as a reader that knows nothing of walmend.

use crate::database;
use crate::settings::{Engine, Work};
use crate::worker::{Turns, say};
use rusqlite::{Connection, TransactionBehavior};
use std::path::Path;
use std::time::Duration;
use walmend_proof::power::{Body, Found, Groups};
use walmend_sync::thread;

/// Several connections that write.
pub(crate) fn work(work: &Work, db: &Path) -> Result<(), String> {
    let text = |error: rusqlite::Error| error.to_string();
    let first = connect(work, db).map_err(text)?;
    let found = rows(&first, work.groups).map_err(text)?;
    let mut versions = Vec::new();
    for group in 0..work.groups.0 {
        let Found::Whole(body) = found[work.groups.ids(group).start as usize] else {
            return Err(format!("group {group} is not whole"));
        };
        say(&format!("seen {group} {}", body.version));
        versions.push(body.version);
    }
    say("ready");
    thread::scope(|scope| {
        let writers: Vec<_> = (0..work.writers)
            .map(|writer| {
                let versions = &versions;
                scope.spawn(move || -> rusqlite::Result<()> {
                    let mut connection = connect(work, db)?;
                    let mut turns = Turns::new(work, writer, versions);
                    loop {
                        commit(&mut connection, work.groups, &mut turns)?;
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().map_err(|_| "a thread panicked")?.map_err(text)?;
        }
        Ok(())
    })
}

/// `count` commits by one connection, which then closes: the log is brought into the database, and removed.
pub(crate) fn a_few(work: &Work, db: &Path, turns: &mut Turns, count: u64) -> Result<(), String> {
    let text = |error: rusqlite::Error| error.to_string();
    let mut connection = connect(work, db).map_err(text)?;
    for _ in 0..count {
        commit(&mut connection, work.groups, turns).map_err(text)?;
    }
    connection.close().map_err(|(_, error)| text(error))
}

fn connect(work: &Work, db: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(db)?;
    connection.busy_timeout(Duration::from_secs(60))?;
    let synchronous = match work.engine {
        Engine::SqliteOff => "OFF",
        _ => "FULL",
    };
    connection.execute_batch(&format!(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous={synchronous}; PRAGMA wal_autocheckpoint=300;"
    ))?;
    Ok(connection)
}

fn commit(connection: &mut Connection, groups: Groups, turns: &mut Turns) -> rusqlite::Result<()> {
    let (group, version) = turns.next();
    let txn = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for id in groups.ids(group) {
        let row = database::row(Body { id, version });
        txn.execute("UPDATE t SET body = ?2 WHERE id = ?1", (id, row))?;
    }
    txn.commit()?;
    say(&format!("ack {group} {version}"));
    Ok(())
}

/// What SQLite finds in each row, after its own recovery.
pub(crate) fn rows(connection: &Connection, groups: Groups) -> rusqlite::Result<Vec<Found>> {
    let mut all = vec![Found::Nothing; groups.len() as usize];
    let mut statement = connection.prepare("SELECT id, body FROM t")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (id, body): (u32, Vec<u8>) = (row.get(0)?, row.get(1)?);
        if let Some(place) = all.get_mut(id as usize) {
            *place = database::found(&body);
        }
    }
    Ok(all)
}

/// What its integrity check says: `ok`.
pub(crate) fn integrity(connection: &Connection) -> rusqlite::Result<String> {
    connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))
}
