//! What is done to stand-alone containers once they are there.

use super::{
    ContainerExec,
    exec::{exec, not_running},
    export, foreground, inspected,
    life::{self, inner_id},
    lifecycle::{self, each, kill, start, start_attached, stop, wait},
    logs::{self, LogsFlags},
    named, options,
    record::Home,
    show,
};
use crate::{error::Error, paths::Paths};
use clap::Subcommand;
use knarr_runtime::State;

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
    Stop(lifecycle::StopArguments),
    /// Stop and start
    Restart(lifecycle::StopArguments),
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
        /// Not containers, but links: /CONTAINER/ALIAS
        #[arg(short, long)]
        link: bool,
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove all that have ended
    Prune(named::Prune),
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
        ContainerVerb::Stop(a) => {
            let how = a.how()?;
            each(&a.names, |name| stop(&home, name, how)).await
        }
        ContainerVerb::Restart(a) => {
            let how = a.how()?;
            each(&a.names, async |name| {
                stop(&home, name, how).await?;
                start(&home, name).await
            })
            .await
        }
        ContainerVerb::Kill { signal, names } => {
            let number = options::signal(&signal);
            let number = number.map_err(|why| {
                let name = names.first().map_or("", String::as_str);
                Error::Input(format!("cannot kill container: {name}: {why}"))
            })?;
            each(&names, |name| kill(&home, name, number)).await
        }
        ContainerVerb::Rm {
            force,
            volumes,
            link: false,
            names,
        } => Ok(lifecycle::rm_all(&home, &names, force, volumes).await),
        ContainerVerb::Rm { names, .. } => {
            each(&names, async |name| super::links::remove(&home, name)).await
        }
        ContainerVerb::Prune(asked) => {
            let asked = asked.read()?;
            let mut pruned = named::Reclaimed::new("Containers");
            for (record, state) in show::settled(&home).await {
                let made = jiff::Timestamp::try_from(record.created).unwrap_or_default();
                let asked = asked.fits(made, &record.labels);
                if asked && !matches!(state, State::Running { .. }) {
                    let bytes = show::bytes_written(&home, &record);
                    life::remove(&home, &record, None).await?;
                    pruned.say(&record.id, bytes);
                }
            }
            pruned.total();
            Ok(0)
        }
        ContainerVerb::Wait { names } => {
            let mut code = 0;
            for name in names {
                let waited = async { wait(&home, &home.find(&name)?).await };
                match waited.await {
                    Ok(exit) => println!("{exit}"),
                    Err(error) => {
                        eprintln!("knarr: {error}");
                        code = 1;
                    }
                }
            }
            Ok(code)
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
            match show::state(&home, &record) {
                State::Running { .. } if record.paused => {
                    return Err(Error::Failed(
                        "You cannot attach to a paused container, unpause it first".into(),
                    ));
                }
                State::Running { .. } => {}
                _ => {
                    return Err(Error::Failed(
                        "You cannot attach to a stopped container, start it first".into(),
                    ));
                }
            }
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
            Ok(inspected::inspected(&home, &record, &state))
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

/// `knarr logs NAME` of a stand-alone container, when that is what NAME is.
pub async fn logs_alone(paths: &Paths, name: &str, flags: LogsFlags) -> Option<Result<u8, Error>> {
    super::exec::alone(paths, name)?;
    let verb = ContainerVerb::Logs {
        flags,
        name: name.to_string(),
    };
    Some(Box::pin(container(paths, verb)).await)
}
