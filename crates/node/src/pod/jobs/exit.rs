//! How a container ended: its exit record and its last words, in the API's terms.

use std::{path::Path, sync::Arc};

use jiff::Timestamp;
use knarr_runtime::Exit;
use tokio::time::Instant;

use super::{Done, Ended};
use crate::{context::Context, spec::build};

const MESSAGE_BYTES_MAX: usize = 4096;
const LOG_MESSAGE_BYTES_MAX: usize = 2048;
const LOG_MESSAGE_LINES_MAX: usize = 80;

pub(crate) fn time(at: std::time::SystemTime) -> Timestamp {
    Timestamp::try_from(at).unwrap_or_else(|_| Timestamp::now())
}

/// Where the container's last words are.
pub(crate) struct Words {
    pub uid: Box<str>,
    pub container: Box<str>,
    pub attempt: u32,
    /// terminationMessagePolicy FallbackToLogsOnError
    pub from_logs: bool,
}

/// Resolves when the container has ended.
pub(crate) async fn exit(
    context: Arc<Context>,
    index: usize,
    id: Box<str>,
    since: Option<Timestamp>,
    words: Words,
) -> Done {
    let exit = context.engine.wait(&id).await;
    let ended = match exit {
        Ok(exit) => {
            // Boxed: most of its life this job waits above, once for each container.
            Box::pin(async {
                let work = ended(&context.data_dir, id, since, exit, words);
                context.turns.end(work).await
            })
            .await
        }
        Err(message) => Ended {
            id,
            exit_code: 137,
            reason: "ContainerStatusUnknown".into(),
            message: Some(format!("The container could not be located: {message}").into()),
            started_at: since,
            finished_at: Timestamp::now(),
            finished: Instant::now(),
        },
    };
    Done::Exited {
        index,
        ended: Box::new(ended),
    }
}

/// An exit record in the API's terms.
async fn ended(
    data_dir: &Path,
    id: Box<str>,
    since: Option<Timestamp>,
    exit: Exit,
    words: Words,
) -> Ended {
    let exit_code = exit.signal.map_or(exit.code, |signal| 128 + signal);
    let reason = match (exit.oom_killed, exit_code) {
        (true, _) => "OOMKilled",
        (false, 0) => "Completed",
        _ => "Error",
    };
    let path = build::message_path(data_dir, &words.uid, &words.container, words.attempt);
    let log = build::log_path(data_dir, &words.uid, &words.container, words.attempt);
    let wants_logs = words.from_logs && exit_code != 0;
    let message = tokio::task::spawn_blocking(move || {
        let text = head(&path, MESSAGE_BYTES_MAX);
        if text.is_empty() && wants_logs {
            crate::logs::tail_text(&log, LOG_MESSAGE_LINES_MAX, LOG_MESSAGE_BYTES_MAX)
        } else {
            text
        }
    })
    .await
    .unwrap_or_default();
    let age = exit.at.elapsed().unwrap_or_default();
    let now = Instant::now();
    Ended {
        id,
        exit_code,
        reason: reason.into(),
        message: Some(message).filter(|m| !m.is_empty()).map(Into::into),
        started_at: since,
        finished_at: time(exit.at),
        finished: now.checked_sub(age).unwrap_or(now),
    }
}

fn head(path: &Path, bytes_max: usize) -> String {
    use std::io::Read;
    let Ok(file) = std::fs::File::open(path) else {
        return String::new();
    };
    let mut bytes = Vec::new();
    let _ = file.take(bytes_max as u64).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}
