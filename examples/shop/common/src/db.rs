//! An embedded SQL database in one file, which several processes on a machine may share (WAL).

use rusqlite::{Connection, ErrorCode};
use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How long a statement waits for another writer.
const BUSY: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}: {1}; check that DATA_DIR exists and can be written")]
    Open(String, rusqlite::Error),
    #[error("{0}")]
    Sql(#[from] rusqlite::Error),
    #[error("the call was ended: {0}")]
    Ended(#[from] tokio::task::JoinError),
}

#[derive(Debug, Clone)]
pub struct Db(Arc<Mutex<Connection>>);

impl Db {
    /// Opens `<dir>/<name>.db` and runs `schema`, which must be repeatable. Blocks; for start-up.
    ///
    /// # Errors
    /// The file can't be made or opened, or `schema` is wrong.
    pub fn open(dir: &Path, name: &str, schema: &str) -> Result<Self, Error> {
        let file = dir.join(format!("{name}.db"));
        let deadline = Instant::now() + BUSY;
        loop {
            match connect(&file, schema) {
                Ok(connection) => return Ok(Self(Arc::new(Mutex::new(connection)))),
                // The switch to WAL does not wait for the other replica by itself.
                Err(e)
                    if e.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                        && Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(e) => return Err(Error::Open(file.display().to_string(), e)),
            }
        }
    }

    /// Runs `work` on a blocking thread.
    ///
    /// # Errors
    /// What `work` returns.
    pub async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let connection = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || {
            // A panic in an earlier call rolled its transaction back: the connection is good.
            work(&mut connection.lock().unwrap_or_else(PoisonError::into_inner))
        })
        .await?;
        Ok(done?)
    }
}

fn connect(file: &Path, schema: &str) -> rusqlite::Result<Connection> {
    let connection = Connection::open(file)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "cache_size", -256)?;
    connection.execute_batch(&format!("BEGIN IMMEDIATE;{schema};COMMIT"))?;
    Ok(connection)
}
