//! SQLite in WAL mode with synchronous=FULL. Its busy handler lets some threads starve, so an application lock
//! makes the writers take turns; everything else is left as it is, automatic checkpoints included.

use super::{Engine, VALUE, told};
use rusqlite::Connection;
use std::path::Path;
use walmend_error::Result;
use walmend_sync::Mutex;

struct Sqlite {
    turn: Mutex<()>,
    connections: Vec<Mutex<Connection>>,
}

pub(super) fn open(folder: &Path, writers: usize) -> Result<Box<dyn Engine>> {
    let path = folder.join("a.db");
    let connect = |_| {
        let connection = Connection::open(&path).map_err(told)?;
        connection
            .pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0))
            .map_err(told)?;
        connection
            .pragma_update(None, "synchronous", "full")
            .map_err(told)?;
        Ok(Mutex::new(connection))
    };
    let connections: Vec<_> = (0..writers).map(connect).collect::<Result<_>>()?;
    if let Some(first) = connections.first() {
        let first = first.lock();
        first
            .execute_batch("create table kv(id integer primary key, value blob not null)")
            .map_err(told)?;
        for writer in 0..writers {
            first
                .execute(
                    "insert into kv values (?1, zeroblob(?2))",
                    (writer as i64, VALUE as i64),
                )
                .map_err(told)?;
        }
    }
    let turn = Mutex::new(());
    Ok(Box::new(Sqlite { turn, connections }))
}

impl Engine for Sqlite {
    fn commit(&self, writer: usize, value: &[u8]) -> Result<()> {
        let connection = self.connections[writer].lock();
        let _turn = self.turn.lock();
        let mut statement = connection
            .prepare_cached("update kv set value = ?2 where id = ?1")
            .map_err(told)?;
        statement.execute((writer as i64, value)).map(drop).map_err(told)
    }
}
