//! Starting, stopping, killing, removing containers, and waiting for them.

use super::{
    exec::not_running,
    foreground,
    life::{self, inner_id},
    options::{self, Restart},
    record::{Home, Record},
    show,
};
use crate::error::Error;
use clap::Args;
use knarr_runtime::State;
use std::{future::Future, time::Duration};

/// Longer than anything runs.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);
/// How long the kernel may take to end one that is killed.
const KILLED: Duration = Duration::from_secs(10);

#[derive(Args)]
pub struct StopArguments {
    /// Seconds it has to end by itself; -1 = for ever
    #[arg(
        short = 't',
        long,
        alias = "timeout",
        allow_negative_numbers = true,
        value_name = "SECONDS"
    )]
    time: Option<i64>,
    /// Which signal asks it, instead of its own
    #[arg(short, long, value_name = "SIGNAL")]
    signal: Option<String>,
    #[arg(required = true)]
    pub names: Vec<String>,
}

impl StopArguments {
    pub fn new(names: Vec<String>, time: Option<i64>, signal: Option<String>) -> StopArguments {
        StopArguments {
            time,
            signal,
            names,
        }
    }

    /// # Errors
    /// For a signal that is none.
    pub fn how(&self) -> Result<How, Error> {
        let signal = self.signal.as_deref().map(options::signal).transpose();
        Ok(How {
            time: self.time,
            signal: signal.map_err(Error::Input)?,
        })
    }
}

/// How a container is asked to end, where it differs from what it says itself.
#[derive(Clone, Copy)]
pub struct How {
    time: Option<i64>,
    signal: Option<i32>,
}

/// `rm`: each, and its name; with force it's no failure when there is none.
pub async fn rm_all(home: &Home, names: &[String], force: bool, volumes: bool) -> u8 {
    let mut code = 0;
    for name in names {
        match rm(home, name, force, volumes).await {
            Ok(()) => println!("{name}"),
            Err(error) => {
                eprintln!("knarr: {error}");
                // it's gone, as was wanted
                let gone = force && error.to_string().starts_with("No such container");
                code = if gone { code } else { 1 };
            }
        }
    }
    code
}

/// Does it to each, prints each one's name, and fails when one failed.
pub async fn each<'a, F: Future<Output = Result<(), Error>>>(
    names: &'a [String],
    mut work: impl FnMut(&'a String) -> F,
) -> Result<u8, Error> {
    let mut code = 0;
    for name in names {
        match work(name).await {
            Ok(()) => println!("{name}"),
            Err(error) => {
                eprintln!("knarr: {error}");
                code = 1;
            }
        }
    }
    Ok(code)
}

fn runs(home: &Home, record: &Record) -> bool {
    matches!(show::state(home, record), State::Running { .. })
}

async fn prepared(home: &Home, name: &str) -> Result<Option<Record>, Error> {
    let mut record = home.find(name)?;
    if runs(home, &record) {
        return Ok(None);
    }
    // its end may not have been seen to
    life::ended(home, &record.id, None).await?;
    record = home.find(name)?;
    record.stopped = false;
    record.restarts = 0;
    super::network::allocated(home, &record)?;
    Ok(Some(record))
}

pub async fn start(home: &Home, name: &str) -> Result<(), Error> {
    if let Some(mut record) = prepared(home, name).await? {
        drop(life::start(home, &mut record, false, None).await?);
    }
    Ok(())
}

pub async fn start_attached(
    home: &Home,
    name: &str,
    input: bool,
    keys: &foreground::Keys,
) -> Result<u8, Error> {
    let how = foreground::How {
        input,
        ..keys.how()?
    };
    let signals = keys.signals();
    let Some(mut record) = prepared(home, name).await? else {
        let record = home.find(name)?;
        let runtime = life::open(home, &record).await?;
        let attachment = runtime
            .attach(&inner_id(&record))
            .await
            .map_err(not_running)?;
        return foreground::follow(home, &record, signals, Some(runtime), attachment, &how).await;
    };
    let runtime = life::start(home, &mut record, true, None).await?;
    let attachment = runtime
        .attach(&inner_id(&record))
        .await
        .map_err(life::failed)?;
    foreground::follow(
        home,
        &record,
        signals,
        Some(runtime),
        attachment,
        &foreground::How {
            input: input && record.interactive,
            ..how
        },
    )
    .await
}

pub async fn stop(home: &Home, name: &str, how: How) -> Result<(), Error> {
    let mut record = home.find(name)?;
    record.stopped = true;
    home.save(&record)?;
    if !runs(home, &record) {
        return life::ended(home, &record.id, None).await.map(drop);
    }
    let runtime = life::open(home, &record).await?;
    let id = inner_id(&record);
    if record.paused {
        runtime.freeze(&id, false).map_err(life::failed)?;
    }
    let asked = how.signal.unwrap_or(record.stop_signal);
    let _ = runtime.signal(&id, asked).await; // it may just have ended
    // SOURCE: moby `daemon/stop.go`: -1 waits for ever
    let time = how.time.unwrap_or(record.stop_timeout);
    let patience = u64::try_from(time).map_or(FOR_EVER, Duration::from_secs);
    if tokio::time::timeout(patience, runtime.wait(&id))
        .await
        .is_err()
    {
        let _ = runtime.signal(&id, libc::SIGKILL).await;
        runtime.wait(&id).await.map_err(life::failed)?;
    }
    life::ended(home, &record.id, Some(runtime)).await.map(drop)
}

pub async fn kill(home: &Home, name: &str, signal: i32) -> Result<(), Error> {
    let mut record = home
        .find(name)
        .map_err(|error| Error::Failed(format!("cannot kill container: {name}: {error}")))?;
    if signal == libc::SIGKILL && record.restart != Restart::No {
        record.stopped = true;
        home.save(&record)?;
    }
    let told = |why: String| Error::Failed(format!("cannot kill container: {name}: {why}"));
    if !runs(home, &record) {
        return Err(told(format!("container {} is not running", record.id)));
    }
    let runtime = life::open(home, &record).await?;
    let id = inner_id(&record);
    let sent = runtime.signal(&id, signal).await;
    sent.map_err(|_| told(format!("container {} is not running", record.id)))?;
    // SOURCE: moby `daemon/kill.go`: who is killed has ended when the command has
    if signal == libc::SIGKILL
        && tokio::time::timeout(KILLED, runtime.wait(&id))
            .await
            .is_ok()
    {
        life::ended(home, &record.id, Some(runtime)).await?;
    }
    Ok(())
}

pub async fn rm(home: &Home, name: &str, force: bool, volumes: bool) -> Result<(), Error> {
    let record = home.find(name)?;
    if runs(home, &record) && !force {
        return Err(Error::Failed(format!(
            "cannot remove container \"{}\": container is running: stop the container before removing or force remove",
            record.name
        )));
    }
    life::remove(home, &record, None).await?;
    match volumes {
        true => super::volumes::forget_unnamed(home, &record),
        false => Ok(()),
    }
}

pub async fn wait(home: &Home, record: &Record) -> Result<i32, Error> {
    let code = |record: &Record| record.exit.as_ref().map(|exit| exit.code);
    if let Some(code) = code(record) {
        return Ok(code);
    }
    let id = inner_id(record);
    // The runtime isn't held while it runs: who attaches is told of the end, and holds nobody up.
    let runtime = life::open(home, record).await?;
    if let Ok(attachment) = runtime.attach(&id).await {
        drop(runtime);
        while attachment.voice.next().await.is_some() {}
    }
    let runtime = life::open(home, record).await;
    let exit = match &runtime {
        Ok(runtime) => runtime.wait(&id).await.ok(),
        Err(_) => None,
    };
    let exit = exit.or_else(|| home.load(&record.id)?.exit);
    life::ended(home, &record.id, runtime.ok()).await?;
    exit.map(|exit| exit.code).ok_or_else(|| {
        Error::Failed(format!(
            "{} has never been started, or was removed",
            record.name
        ))
    })
}
