//! A tiny Redis client: RESP2 on one connection that is made anew when it breaks.
//! Source: <https://redis.io/docs/latest/develop/reference/protocol-spec/>

use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::Mutex,
    time::timeout,
};

/// For a command, waiting for the connection and connecting included.
const LIMIT: Duration = Duration::from_secs(1);
const LINE_MAX: u64 = 1024;
const BULK_MAX: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}: {1}; is Redis running there (REDIS_ADDR)?")]
    Io(String, std::io::Error),
    #[error("{0} did not answer within {LIMIT:?}")]
    Late(String),
    #[error("Redis says: {0}")]
    Refused(String),
    #[error("not what the command answers: {0}")]
    Answer(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Integer(i64),
    Bulk(Option<Vec<u8>>),
}

#[derive(Debug, Clone)]
pub struct Redis {
    address: Arc<str>,
    connection: Arc<Mutex<Option<BufReader<TcpStream>>>>,
}

impl Redis {
    /// Connects at the first command.
    #[must_use]
    pub fn new(address: &str) -> Self {
        Self {
            address: address.into(),
            connection: Arc::default(),
        }
    }

    /// Sends a command that may be repeated: on a broken connection it is sent once more on a new one.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn repeatable(&self, arguments: &[&str]) -> Result<Value, Error> {
        self.send(arguments, 2).await
    }

    /// Sends a command at most once.
    ///
    /// # Errors
    /// [`Error`]; unless it is [`Error::Refused`], it may have been done all the same.
    pub async fn once(&self, arguments: &[&str]) -> Result<Value, Error> {
        self.send(arguments, 1).await
    }

    async fn send(&self, arguments: &[&str], attempts: u32) -> Result<Value, Error> {
        timeout(LIMIT, async {
            let mut slot = self.connection.lock().await;
            let mut attempt = 1;
            loop {
                // Taken out: a call that fails or is dropped half-way must not leave its answer for the next.
                let done = match slot.take() {
                    Some(mut c) => exchange(&mut c, arguments).await.map(|v| (v, c)),
                    None => self.fresh(arguments).await,
                };
                match done {
                    Ok((Ok(value), connection)) => {
                        *slot = Some(connection);
                        return Ok(value);
                    }
                    Ok((Err(refused), connection)) => {
                        *slot = Some(connection);
                        return Err(Error::Refused(refused));
                    }
                    Err(_) if attempt < attempts => attempt += 1,
                    Err(e) => return Err(Error::Io(self.address.to_string(), e)),
                }
            }
        })
        .await
        .map_err(|_| Error::Late(self.address.to_string()))?
    }

    async fn fresh(
        &self,
        arguments: &[&str],
    ) -> std::io::Result<(Result<Value, String>, BufReader<TcpStream>)> {
        let stream = TcpStream::connect(&*self.address).await?;
        stream.set_nodelay(true)?;
        let mut connection = BufReader::with_capacity(1024, stream);
        let answer = exchange(&mut connection, arguments).await?;
        Ok((answer, connection))
    }
}

impl Value {
    /// # Errors
    /// [`Error::Answer`] if it is no integer.
    pub fn integer(self) -> Result<i64, Error> {
        match self {
            Self::Integer(n) => Ok(n),
            Self::Bulk(None) => Ok(0),
            Self::Bulk(Some(bytes)) => std::str::from_utf8(&bytes)
                .ok()
                .and_then(|t| t.parse().ok())
                .ok_or_else(|| Error::Answer("no integer".into())),
            Self::Text(text) => Err(Error::Answer(text)),
        }
    }
}

/// The outer error is the connection's; the inner one is Redis's own answer.
async fn exchange(
    connection: &mut BufReader<TcpStream>,
    arguments: &[&str],
) -> std::io::Result<Result<Value, String>> {
    let mut out = format!("*{}\r\n", arguments.len());
    for a in arguments {
        out.push_str(&format!("${}\r\n{a}\r\n", a.len()));
    }
    connection.get_mut().write_all(out.as_bytes()).await?;

    let bad = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_string());
    let mut line = String::new();
    (&mut *connection)
        .take(LINE_MAX)
        .read_line(&mut line)
        .await?;
    let Some(line) = line.strip_suffix("\r\n") else {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    };
    let (kind, rest) = line
        .split_at_checked(1)
        .ok_or_else(|| bad("an empty answer"))?;
    Ok(match kind {
        "+" => Ok(Value::Text(rest.into())),
        "-" => Err(rest.into()),
        ":" => Ok(Value::Integer(rest.parse().map_err(|_| bad("a number"))?)),
        "$" if rest == "-1" => Ok(Value::Bulk(None)),
        "$" => {
            let size: usize = rest.parse().map_err(|_| bad("a length"))?;
            if size > BULK_MAX {
                return Err(bad("too long an answer"));
            }
            let mut bytes = vec![0; size + 2];
            connection.read_exact(&mut bytes).await?;
            bytes.truncate(size);
            Ok(Value::Bulk(Some(bytes)))
        }
        _ => return Err(bad("an answer of another kind")),
    })
}
