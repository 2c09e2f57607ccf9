//! Asking the real SQLite.

use rusqlite::Connection;
use rusqlite::types::Value;
use std::path::Path;

/// `SQLITE_BUSY`.
pub(crate) const BUSY: i32 = 5;
/// `SQLITE_NOTADB`.
pub(crate) const NOTADB: i32 = 26;

/// A connection that does not wait for locks, and does not checkpoint by itself.
pub(crate) fn connect(db: &Path) -> Connection {
    let connection = Connection::open(db).unwrap();
    connection.busy_timeout(std::time::Duration::ZERO).unwrap();
    // Needs no file, so it answers even where the database is locked or none.
    connection.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
    connection
}

/// The primary result code of a failed call.
#[track_caller]
pub(crate) fn code<T>(result: rusqlite::Result<T>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(error) => error.sqlite_error().unwrap().extended_code & 0xff,
    }
}

/// `(busy, frames in the log, frames checkpointed)`. Mode NOOP only tells.
pub(crate) fn try_checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<(i32, i32, i32)> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
    })
}

/// As [`try_checkpoint`].
#[track_caller]
pub(crate) fn checkpoint(connection: &Connection, mode: &str) -> (i32, i32, i32) {
    try_checkpoint(connection, mode).unwrap()
}

pub(crate) fn integrity(connection: &Connection) -> String {
    connection
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap()
}

pub(crate) fn page_count(connection: &Connection) -> u32 {
    connection
        .query_row("PRAGMA page_count", [], |row| row.get(0))
        .unwrap()
}

pub(crate) fn count(connection: &Connection, table: &str) -> u64 {
    let count: i64 = connection
        .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))
        .unwrap();
    count.unsigned_abs()
}

/// Every row of every table, the schema first.
pub(crate) fn rows(connection: &Connection) -> Vec<String> {
    let mut rows = Vec::new();
    let mut tables = vec!["sqlite_schema".to_string()];
    {
        let mut schema = connection
            .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
            .unwrap();
        tables.extend(
            schema
                .query_map([], |row| row.get::<_, String>(0))
                .unwrap()
                .map(Result::unwrap),
        );
    }
    for table in tables {
        let mut all = connection
            .prepare(&format!("SELECT rowid, * FROM \"{table}\" ORDER BY rowid"))
            .unwrap();
        let columns = all.column_count();
        let mut found = all.query([]).unwrap();
        while let Some(row) = found.next().unwrap() {
            let values: Vec<Value> = (0..columns).map(|column| row.get(column).unwrap()).collect();
            rows.push(format!("{table} {values:?}"));
        }
    }
    rows
}

/// Says which row differs first, instead of printing all of them.
#[track_caller]
pub(crate) fn assert_same_rows(left: &[String], right: &[String], what: &str) {
    let differing = left.iter().zip(right).find(|(left, right)| left != right);
    assert_eq!(differing, None, "{what}: first row that differs");
    assert_eq!(left.len(), right.len(), "{what}: number of rows");
}

/// What a connection gets for a read, a write and a checkpoint: the primary result codes.
pub(crate) fn probe(db: &Path) -> [i32; 3] {
    let read = code(
        connect(db).query_row("SELECT count(*) FROM sqlite_schema", [], |row| {
            row.get::<_, i64>(0)
        }),
    );
    let write = code(connect(db).execute_batch("CREATE TABLE written_by_the_probe(x)"));
    let checkpoint = match try_checkpoint(&connect(db), "TRUNCATE") {
        Ok((busy, _, _)) => busy * BUSY,
        failed => code(failed),
    };
    [read, write, checkpoint]
}

/// A database that SQLite has written in WAL mode, with `rows` rows in table t, still connected.
pub(crate) fn written_by_sqlite(db: &Path, rows: u32) -> Connection {
    let connection = connect(db);
    connection
        .execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(x)")
        .unwrap();
    insert(&connection, rows);
    connection
}

/// Inserts rows into table t, each in a transaction of its own.
pub(crate) fn insert(connection: &Connection, rows: u32) {
    for row in 0..rows {
        connection
            .execute("INSERT INTO t VALUES (?1)", [format!("row {row}").repeat(60)])
            .unwrap();
    }
}
