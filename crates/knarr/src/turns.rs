//! One `up` of a project at a time: two that write the same resources would undo each other's work.
//!
//! The turn is a lock on a file, which the kernel gives back however the program ends.

use crate::{
    error::{Error, io},
    paths::Paths,
};
use std::{
    fs::{File, TryLockError},
    time::Duration,
};

/// Held for as long as the turn lasts.
pub struct Turn(#[allow(dead_code, reason = "dropping it gives the lock back")] File);

/// Waits until no other `up` of the project is at work.
///
/// # Errors
/// When one still is after `deadline`; when there is no lock to be had.
pub async fn turn(paths: &Paths, project: &str, deadline: Duration) -> Result<Turn, Error> {
    paths.create()?;
    let folder = paths.sub("turns");
    std::fs::create_dir_all(&folder).map_err(io(folder.display().to_string()))?;
    let path = folder.join(project);
    let context = path.display().to_string();
    let file = File::create(&path).map_err(io(&context))?;
    match file.try_lock() {
        Ok(()) => return Ok(Turn(file)),
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(e)) => return Err(io(&context)(e)),
    }
    eprintln!("another `up` of {project} is at work: waiting for it");
    // Not one of the runtime's own threads: those are waited for at the program's end.
    let (told, got) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let locked = file.lock().map(|()| file);
        let _ = told.send(locked);
    });
    match tokio::time::timeout(deadline, got).await {
        Ok(Ok(Ok(file))) => Ok(Turn(file)),
        Ok(Ok(Err(e))) => Err(io(&context)(e)),
        _ => Err(Error::TimedOut(format!(
            "another `up` of {project} has not ended after {} s: stop it, then try again",
            deadline.as_secs()
        ))),
    }
}
