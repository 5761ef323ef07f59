//! What is done to stand-alone containers once they are there.

use super::{
    at_once, export, foreground,
    life::{self, inner_id},
    logs::{self, LogsFlags},
    named,
    options::{self, Restart},
    record::{Home, Record},
    show,
};
use crate::{error::Error, listing::Filters, paths::Paths};
use clap::{Args, Subcommand};
use knarr_runtime::{ExecSpec, State};
use std::{convert::Infallible, future::Future, io::IsTerminal, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    sync::watch,
};

/// Longer than anything runs.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

#[derive(Subcommand)]
pub enum ContainerVerb {
    /// List them
    #[command(visible_alias = "ps", alias = "list")]
    Ls(super::PsArguments),
    /// Start containers that have ended, or were never started
    Start {
        /// Join its output and pass signals on
        #[arg(short, long)]
        attach: bool,
        #[command(flatten)]
        keys: foreground::Keys,
        /// Join its input, too
        #[arg(short, long)]
        interactive: bool,
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Ask containers to stop, and end them when they don't
    Stop {
        /// Seconds to wait
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
        names: Vec<String>,
    },
    /// Stop and start
    Restart {
        /// How long it has to end by itself
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
        names: Vec<String>,
    },
    /// Send a signal
    Kill {
        /// By name or number
        #[arg(short, long, default_value = "KILL")]
        signal: String,
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove containers
    #[command(visible_alias = "remove")]
    Rm {
        /// Also those that run; it's no failure when there is none
        #[arg(short, long)]
        force: bool,
        /// With their volumes without a name
        #[arg(short, long)]
        volumes: bool,
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove all that have ended
    Prune {
        /// Don't ask: nothing is asked anyway
        #[arg(short, long)]
        force: bool,
        /// Only those of which this holds: until=24h, label=NAME=value; may be repeated
        #[arg(long, value_name = "KEY=VALUE")]
        filter: Vec<String>,
    },
    /// Wait until containers have ended, and print their exit codes
    Wait {
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// What a container has written
    Logs {
        #[command(flatten)]
        flags: LogsFlags,
        name: String,
    },
    /// Run a command in a running container
    Exec(ContainerExec),
    /// Join a running container's streams; Ctrl-P Ctrl-Q leaves it
    Attach {
        /// Not its input
        #[arg(long)]
        no_stdin: bool,
        #[command(flatten)]
        keys: foreground::Keys,
        name: String,
    },
    /// Copy files out of a container, or into one
    Cp(super::copy::CopyArguments),
    /// What a container's files differ in from its image's: A added, C changed, D deleted
    Diff { name: String },
    /// Make an image of a container
    Commit(super::deeds::CommitArguments),
    /// Give a container another name
    Rename { name: String, new: String },
    /// Stop all of a container's processes where they are
    Pause {
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Let them go on
    Unpause {
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// A container's processes
    Top {
        name: String,
        /// What `ps` is asked with, e.g. -o pid,comm
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "OPTIONS"
        )]
        options: Vec<String>,
    },
    /// What containers use
    Stats(super::deeds::StatsArguments),
    /// Which ports of the machine lead to a container
    Port {
        name: String,
        /// Only this one of its own, e.g. 80 or 53/udp
        port: Option<String>,
    },
    /// Change limits, also of one that runs
    Update(super::deeds::UpdateArguments),
    /// Make a container without starting it
    Create(Box<super::RunArguments>),
    /// Write a container's root file system as a tar; `knarr image import` makes an image of it
    Export {
        /// Here instead of standard output
        #[arg(short, long, value_name = "FILE")]
        output: Option<std::path::PathBuf>,
        name: String,
    },
    /// All that is known of containers, as `docker inspect` tells it
    Inspect(named::Inspect),
    /// Sees to a container's end: its shim's last act
    #[command(hide = true)]
    Ended { id: String },
    /// Asks whether a container is well, as long as it runs
    #[command(hide = true)]
    Health { id: String },
}

#[derive(Args, Clone)]
pub struct ContainerExec {
    /// Pass standard input on
    #[arg(short, long, alias = "stdin")]
    pub interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Don't wait for it
    #[arg(short, long)]
    detach: bool,
    /// NAME=value
    #[arg(short, long)]
    env: Vec<String>,
    /// USER[:GROUP], by name or number
    #[arg(short, long)]
    user: Option<String>,
    /// The folder it starts in
    #[arg(short, long, value_name = "FOLDER")]
    workdir: Option<String>,
    /// A file of variables, one a line; may be repeated
    #[arg(long, value_name = "FILE")]
    env_file: Vec<std::path::PathBuf>,
    #[command(flatten)]
    keys: foreground::Keys,
    /// With all powers
    #[arg(long)]
    privileged: bool,
    /// The container, the command and its arguments
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, allow_hyphen_values = true, value_names = ["NAME", "COMMAND"])]
    words: Vec<String>,
}

impl ContainerExec {
    /// The container's name, and the command.
    ///
    /// # Errors
    /// When there is none.
    pub fn split(&self) -> Result<(&str, &[String]), Error> {
        let (name, command) = self
            .words
            .split_first()
            .ok_or_else(|| Error::Input("a container's name is needed".into()))?;
        let command = match command {
            [dashes, command @ ..] if dashes == "--" => command,
            command => command,
        };
        match command.is_empty() {
            true => Err(Error::Input("a command is needed".into())),
            false => Ok((name, command)),
        }
    }

    /// Is nothing asked for but the command? (Keys that leave a container are only for a terminal.)
    pub fn is_plain(&self) -> bool {
        !self.interactive && !self.tty && !self.beyond_kubernetes()
    }

    /// Is something asked for that Kubernetes has no word for?
    pub fn beyond_kubernetes(&self) -> bool {
        self.detach
            || self.privileged
            || self.user.is_some()
            || self.workdir.is_some()
            || !self.env.is_empty()
            || !self.env_file.is_empty()
    }
}

pub async fn container(paths: &Paths, verb: ContainerVerb) -> Result<u8, Error> {
    crate::connect::require_readable(paths)?;
    let home = Home::new(paths);
    match verb {
        ContainerVerb::Ls(arguments) => show::ps(paths, arguments).await,
        ContainerVerb::Start {
            attach,
            interactive,
            keys,
            names,
        } => {
            if attach || interactive {
                let [name] = names.as_slice() else {
                    return Err(Error::Input(
                        "you cannot start and attach multiple containers at once".into(),
                    ));
                };
                return start_attached(&home, name, interactive, &keys).await;
            }
            each(&names, |name| start(&home, name)).await
        }
        ContainerVerb::Stop {
            time,
            signal,
            names,
        } => {
            let signal = signal
                .map(|text| options::signal(&text))
                .transpose()
                .map_err(Error::Input)?;
            each(&names, |name| stop(&home, name, time, signal)).await
        }
        ContainerVerb::Restart {
            time,
            signal,
            names,
        } => {
            let signal = signal
                .map(|text| options::signal(&text))
                .transpose()
                .map_err(Error::Input)?;
            each(&names, async |name| {
                stop(&home, name, time, signal).await?;
                start(&home, name).await
            })
            .await
        }
        ContainerVerb::Kill { signal, names } => {
            let number = options::signal(&signal).map_err(Error::Input)?;
            each(&names, |name| kill(&home, name, number)).await
        }
        ContainerVerb::Rm {
            force,
            volumes,
            names,
        } => each(&names, |name| rm(&home, name, force, volumes)).await,
        ContainerVerb::Prune { force: _, filter } => {
            let filters = Filters::read(&filter, &["until", "label", "label!"])?;
            let until = filters
                .values("until")
                .map(logs::moment)
                .collect::<Result<Vec<_>, _>>()?;
            for (record, state) in show::settled(&home).await {
                let made = jiff::Timestamp::try_from(record.created).unwrap_or_default();
                let asked = filters.labels(&record.labels) && until.iter().all(|at| made < *at);
                if asked && !matches!(state, State::Running { .. }) {
                    life::remove(&home, &record, None).await?;
                    println!("{}", record.id);
                }
            }
            Ok(0)
        }
        ContainerVerb::Wait { names } => {
            for name in names {
                println!("{}", wait(&home, &home.find(&name)?).await?);
            }
            Ok(0)
        }
        ContainerVerb::Logs { flags, name } => {
            let record = home.find(&name)?;
            let printed = tokio::task::spawn_blocking(move || logs::print(&home, &record, &flags));
            printed.await.map_err(|e| Error::Failed(e.to_string()))??;
            Ok(0)
        }
        ContainerVerb::Exec(arguments) => exec(&home, arguments).await,
        ContainerVerb::Attach {
            no_stdin,
            keys,
            name,
        } => {
            let record = home.find(&name)?;
            let signals = keys.signals();
            let runtime = life::open(&home, &record).await?;
            let attachment = runtime
                .attach(&inner_id(&record))
                .await
                .map_err(not_running)?;
            drop(runtime);
            foreground::follow(
                &home,
                &record,
                signals,
                None,
                attachment,
                &foreground::How {
                    input: record.interactive && !no_stdin,
                    ..keys.how()?
                },
            )
            .await
        }
        ContainerVerb::Cp(arguments) => {
            let copied = tokio::task::spawn_blocking(move || super::copy::run(&home, &arguments));
            copied.await.map_err(|e| Error::Failed(e.to_string()))?
        }
        ContainerVerb::Diff { name } => super::deeds::diff(&home, &name),
        ContainerVerb::Commit(arguments) => super::deeds::commit(&home, &arguments),
        ContainerVerb::Rename { name, new } => super::deeds::rename(&home, &name, &new),
        ContainerVerb::Pause { names } => {
            each(&names, |name| super::deeds::pause(&home, name, true)).await
        }
        ContainerVerb::Unpause { names } => {
            each(&names, |name| super::deeds::pause(&home, name, false)).await
        }
        ContainerVerb::Top { name, options } => super::deeds::top(&home, &name, &options).await,
        ContainerVerb::Stats(arguments) => super::deeds::stats(&home, &arguments).await,
        ContainerVerb::Port { name, port } => super::deeds::port(&home, &name, port.as_deref()),
        ContainerVerb::Update(arguments) => super::deeds::update(&home, &arguments).await,
        ContainerVerb::Create(arguments) => super::create(paths, *arguments).await,
        ContainerVerb::Export { output, name } => {
            let record = home.find(&name)?;
            export::export(&home, &record, output).await?;
            Ok(0)
        }
        ContainerVerb::Inspect(asked) => asked.print(|name| {
            let record = home.find(name)?;
            let state = show::state(&home, &record);
            Ok(show::inspected(&home, &record, &state))
        }),
        ContainerVerb::Ended { id } => {
            life::ended(&home, &id, None).await?;
            Ok(0)
        }
        ContainerVerb::Health { id } => {
            super::health::watch(&home, &id).await?;
            Ok(0)
        }
    }
}

/// The command line of a command in the background, without that it is.
fn again(arguments: &ContainerExec) -> Vec<String> {
    let mut words = Vec::new();
    let mut flag = |name: &str, value: &str| words.push(format!("--{name}={value}"));
    for variable in &arguments.env {
        flag("env", variable);
    }
    for file in &arguments.env_file {
        flag("env-file", &file.display().to_string());
    }
    for (name, value) in [("user", &arguments.user), ("workdir", &arguments.workdir)] {
        if let Some(value) = value {
            flag(name, value);
        }
    }
    if arguments.privileged {
        words.push("--privileged".into());
    }
    words.extend(arguments.words.iter().cloned());
    words
}

fn not_running(error: knarr_runtime::Error) -> Error {
    match error {
        knarr_runtime::Error::NotRunning(_) | knarr_runtime::Error::NoContainer(_) => {
            Error::Failed("the container is not running; `knarr container start` starts it".into())
        }
        other => life::failed(other),
    }
}

/// Tells why a command could not be run in a container; its exit code.
pub fn not_started(error: knarr_runtime::Error) -> u8 {
    let error = not_running(error);
    eprintln!("knarr: {error}");
    // SOURCE: moby `container/exec`: what a running container can't do is no fault of making it
    match super::code_of(&error) {
        super::NOT_STARTED if !matches!(&error, Error::Failed(e) if e.contains("is not running")) => {
            super::NOT_EXECUTABLE
        }
        super::NOT_STARTED => 1,
        code => code,
    }
}

/// Does it to each, prints each one's name, and fails when one failed.
async fn each<'a, F: Future<Output = Result<(), Error>>>(
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

async fn start(home: &Home, name: &str) -> Result<(), Error> {
    if let Some(mut record) = prepared(home, name).await? {
        drop(life::start(home, &mut record, false, None).await?);
    }
    Ok(())
}

async fn start_attached(
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

async fn stop(
    home: &Home,
    name: &str,
    time: Option<i64>,
    signal: Option<i32>,
) -> Result<(), Error> {
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
    let asked = signal.unwrap_or(record.stop_signal);
    let _ = runtime.signal(&id, asked).await; // it may just have ended
    // SOURCE: moby `daemon/stop.go`: -1 waits for ever
    let time = time.unwrap_or(record.stop_timeout);
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

async fn kill(home: &Home, name: &str, signal: i32) -> Result<(), Error> {
    let mut record = home.find(name)?;
    if signal == libc::SIGKILL && record.restart != Restart::No {
        record.stopped = true;
        home.save(&record)?;
    }
    let runtime = life::open(home, &record).await?;
    let sent = runtime.signal(&inner_id(&record), signal).await;
    sent.map_err(|_| {
        Error::Failed(format!(
            "cannot kill container: {name}: container {} is not running",
            record.id
        ))
    })
}

async fn rm(home: &Home, name: &str, force: bool, volumes: bool) -> Result<(), Error> {
    let record = match home.find(name) {
        // it's gone, as was wanted
        Err(error) if force && error.to_string().starts_with("No such container") => {
            eprintln!("knarr: {error}");
            return Ok(());
        }
        found => found?,
    };
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

async fn wait(home: &Home, record: &Record) -> Result<i32, Error> {
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

async fn exec(home: &Home, arguments: ContainerExec) -> Result<u8, Error> {
    let (name, command) = arguments.split()?;
    let record = home.find(name)?;
    arguments.keys.how()?;
    if arguments.tty
        && arguments.interactive
        && !arguments.detach
        && !std::io::stdin().is_terminal()
    {
        return Err(Error::Failed("the input device is not a TTY".into()));
    }
    if arguments.detach {
        return super::deeds::in_background(home, &record, &again(&arguments));
    }
    let spec = ExecSpec {
        args: command.to_vec(),
        env: super::exec_variables(&arguments.env, &arguments.env_file)?,
        tty: arguments.tty,
        stdin: arguments.interactive,
        user: match &arguments.user {
            Some(user) => Some(super::deeds::user_inside(home, &record, user)?),
            None => None,
        },
        cwd: arguments.workdir.map(Into::into),
        privileged: arguments.privileged,
        ..ExecSpec::default()
    };
    if let Some(code) = at_once::exec(home, &record, &spec) {
        return Ok(code);
    }
    let runtime = life::open(home, &record).await?;
    let mut process = match runtime.exec(&inner_id(&record), spec).await {
        Ok(process) => process,
        Err(error) => return Ok(not_started(error)),
    };
    // aside: the kernel takes its time to take the mount off that the program was started from
    drop(tokio::task::spawn_blocking(move || drop(runtime)));
    let raw = (arguments.tty && arguments.interactive && std::io::stdin().is_terminal())
        .then(foreground::Raw::enter)
        .flatten();
    let tty = process.tty.take();
    let (stdout, stderr) = (process.stdout.take(), process.stderr.take());
    let input = (process.stdin.take(), tty.clone());
    let (tell, over) = watch::channel(false);
    let ended = async {
        let code = process.wait().await;
        tell.send_replace(true);
        code
    };
    let copies = async {
        tokio::join!(
            ended,
            copy(stdout, tokio::io::stdout(), over.clone()),
            copy(stderr, tokio::io::stderr(), over.clone()),
            copy(tty.clone(), tokio::io::stdout(), over.clone()),
        )
        .0
    };
    let typed = async {
        match input {
            (_, Some(tty)) if arguments.interactive => drop(foreground::type_in(tty, &[]).await),
            (Some(to), None) => drop(foreground::type_in(to, &[]).await),
            _ => {}
        }
        std::future::pending::<Infallible>().await
    };
    let sizes = async {
        use tokio::signal::unix::{SignalKind, signal};
        if let (Some(tty), Ok(mut changed)) = (&tty, signal(SignalKind::window_change())) {
            loop {
                if let Some((columns, rows)) = foreground::size() {
                    tty.resize(columns, rows);
                }
                changed.recv().await;
            }
        }
        std::future::pending::<Infallible>().await
    };
    let code = tokio::select! {
        code = copies => code,
        never = typed => match never {},
        never = sizes => match never {},
    };
    drop(raw);
    Ok(u8::try_from(code & 0xff).unwrap_or(1))
}

/// Until the end; when the command is `over`, until what it left running has said nothing for [`at_once::AFTER`].
async fn copy(
    from: Option<impl AsyncRead + Unpin>,
    mut to: impl AsyncWrite + Unpin,
    mut over: watch::Receiver<bool>,
) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; 16 << 10];
    loop {
        let is_over = *over.borrow();
        let read = match is_over {
            true => match tokio::time::timeout(at_once::AFTER, from.read(&mut buffer)).await {
                Ok(read) => read,
                Err(_) => return,
            },
            false => tokio::select! {
                read = from.read(&mut buffer) => read,
                _ = over.wait_for(|over| *over) => continue,
            },
        };
        match read {
            Ok(n @ 1..) => foreground::write(&mut to, &buffer[..n]).await,
            _ => return,
        }
    }
}

/// The stand-alone container that an app's verb may be about: when nothing of that name runs in the platform.
fn alone(paths: &Paths, name: &str) -> Option<Record> {
    Home::new(paths).find(name).ok()
}

/// `knarr exec NAME …` of a stand-alone container, when that is what NAME is.
pub async fn exec_alone(paths: &Paths, arguments: ContainerExec) -> Option<Result<u8, Error>> {
    alone(paths, arguments.words.first()?)?;
    Some(exec(&Home::new(paths), arguments).await)
}

/// `knarr logs NAME` of a stand-alone container, when that is what NAME is.
pub async fn logs_alone(paths: &Paths, name: &str, flags: LogsFlags) -> Option<Result<u8, Error>> {
    alone(paths, name)?;
    let verb = ContainerVerb::Logs {
        flags,
        name: name.to_string(),
    };
    Some(Box::pin(container(paths, verb)).await)
}
