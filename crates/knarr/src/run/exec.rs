//! `exec`: a command in a container that runs.

use super::{
    at_once, foreground,
    life::{self, inner_id},
    record::{Home, Record},
    show,
};
use crate::{error::Error, paths::Paths};
use clap::Args;
use knarr_runtime::ExecSpec;
use std::{convert::Infallible, io::IsTerminal};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    sync::watch,
};

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
    /// The container's name, or what was taken for it.
    pub fn name(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

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

pub fn not_running(error: knarr_runtime::Error) -> Error {
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
    let gone = matches!(&error, Error::Failed(e) if e.contains("no such file or directory"));
    match super::code_of(&error) {
        _ if gone => super::NOT_FOUND,
        super::NOT_STARTED if !matches!(&error, Error::Failed(e) if e.contains("is not running")) => {
            super::NOT_EXECUTABLE
        }
        super::NOT_STARTED => 1,
        code => code,
    }
}

pub async fn exec(home: &Home, arguments: ContainerExec) -> Result<u8, Error> {
    let (name, command) = arguments.split()?;
    let record = home.find(name)?;
    arguments.keys.how()?;
    if record.paused
        && matches!(
            show::state(home, &record),
            knarr_runtime::State::Running { .. }
        )
    {
        return Err(Error::Failed(format!(
            "Container {name} is paused, unpause the container before exec"
        )));
    }
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
        env: super::variables::exec_variables(&arguments.env, &arguments.env_file)?,
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
pub fn alone(paths: &Paths, name: &str) -> Option<Record> {
    Home::new(paths).find(name).ok()
}

/// `knarr exec NAME …` of a stand-alone container, when that is what NAME is.
pub async fn exec_alone(paths: &Paths, arguments: ContainerExec) -> Option<Result<u8, Error>> {
    alone(paths, arguments.words.first()?)?;
    Some(exec(&Home::new(paths), arguments).await)
}
