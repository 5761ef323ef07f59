//! `RUN`: a command in a container on top of the stage's layers.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use knarr_dockerfile::{CommandLine, Heredoc, Mount, Network, Run, Security};
use knarr_runtime::{AppArmor, ContainerSpec, SandboxSpec, User};

use crate::{
    accounts,
    cache::Key,
    error::{Error, blocking, io},
    folder::Stubs,
    follow::Follow,
    graph::Graph,
    instructions::At,
    mounting::{Planned, Ready},
    network::Net,
    overlay::Mounted,
    request::Entitlement,
    running::Running,
    state::{State, clean},
    step::{Begun, Failure, Making, Step},
};

/// SOURCE: moby oci/caps DefaultCapabilities
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];
/// The folder that a script in a heredoc is seen in. SOURCE: dockerfile2llb dispatchRun
const SCRIPTS: &str = "/dev/pipes";
const PROXIES: [&str; 5] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

/// A step's output on the disk, twice, in bytes: more than is ever shown.
const LOG_MAX: u64 = 4 << 20;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// What a `RUN` runs.
struct Program {
    args: Vec<String>,
    /// (name, text) of a script that the command line names.
    script: Option<(String, String)>,
}

/// SOURCE: dockerfile2llb dispatchRun
fn program(state: &State, run: &Run) -> Program {
    let text = match &run.line {
        CommandLine::Exec(words) => {
            return Program {
                args: words.clone(),
                script: None,
            };
        }
        CommandLine::Shell(text) => text,
    };
    let shell = |text: &str| Program {
        args: state.doc.shell(text),
        script: None,
    };
    let alone = |d: &Heredoc| is_heredoc_alone(text, d);
    match run.heredocs.as_slice() {
        [] => shell(text),
        [document, ..] if alone(document) => {
            if document.content.starts_with("#!") {
                let path = format!("{SCRIPTS}/{}", document.name);
                return Program {
                    args: state.doc.shell(&path),
                    script: Some((document.name.clone(), document.text())),
                };
            }
            shell(&document.text())
        }
        documents => {
            let mut full = text.clone();
            for document in documents {
                full += &format!("\n{}{}", document.content, document.name);
            }
            shell(&full)
        }
    }
}

/// The line is nothing but the start of a here-document.
fn is_heredoc_alone(text: &str, document: &Heredoc) -> bool {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let Some(rest) = text[digits..].strip_prefix("<<") else {
        return false;
    };
    let rest = rest.strip_prefix('-').unwrap_or(rest).trim_start();
    let plain: String = rest.chars().filter(|c| !"'\"\\".contains(*c)).collect();
    plain == document.name
}

/// What the history says: the arguments that count, then the command. SOURCE: dockerfile2llb runCommandString
fn said(state: &State, args: &[String]) -> String {
    let mut known: Vec<(String, String)> = vec![];
    for (name, value) in &state.args {
        let visible = state.scope.run_env().find(|(k, _)| k == name);
        let value = match visible {
            Some((_, value)) => value.to_owned(),
            None => value.clone().unwrap_or_default(),
        };
        match known.iter_mut().find(|(k, _)| k == name) {
            Some((_, old)) => *old = value,
            None => known.push((name.clone(), value)),
        }
    }
    let mut words = vec![];
    if !known.is_empty() {
        words.push(format!("|{}", known.len()));
        words.extend(known.iter().map(|(k, v)| format!("{k}={v}")));
    }
    words.extend(args.iter().cloned());
    words.join(" ")
}

/// All that a command is run with.
struct Command {
    args: Vec<String>,
    script: Option<(String, String)>,
    env: Vec<String>,
    cwd: String,
    user: String,
    network: Network,
    insecure: bool,
    lower: Vec<PathBuf>,
    planned: Vec<Planned>,
}

impl Graph<'_> {
    pub(crate) async fn run_step(
        &self,
        at: &At<'_>,
        state: &mut State,
        run: &Run,
    ) -> Result<(), Error> {
        let Program { args, script } = program(state, run);
        let (mounts, network) = self.run_asked(at, state, run)?;
        let insecure = run.security == Security::Insecure;
        let command = Command {
            env: state
                .scope
                .run_env()
                .map(|(k, v)| format!("{k}={v}"))
                .collect(),
            cwd: clean(state.workdir()),
            user: state.doc.config.user.clone(),
            network,
            insecure,
            lower: state.lower(),
            planned: self.plan(at, state, mounts).await?,
            args,
            script,
        };
        let said = format!("RUN {} # buildkit", said(state, &command.args));
        let step = Step {
            name: self.step_name(at, state),
            key: self.run_key(state, &command),
            description: said.clone(),
            no_cache: at.no_cache,
            varies: true,
            lines: at.lines(),
        };
        let (record, files) = match self.begin(step).await? {
            Begun::Found(kept) => kept,
            Begun::Make(making) => {
                let made = self.run_container(state, &command, &making).await;
                self.finish(making, made).await?
            }
        };
        state.push(&record, files);
        state.doc.history(said, true);
        Ok(())
    }

    /// A command's mounts and network, when it may have them.
    pub(crate) fn run_asked(
        &self,
        at: &At<'_>,
        state: &State,
        run: &Run,
    ) -> Result<(Vec<Mount>, Network), Error> {
        let mounts = {
            let mut expand = |text: &str| {
                let expanded = state.scope.expand(text, self.file.escape);
                expanded.map(|e| e.text).map_err(|e| e.to_string())
            };
            run.mounts(&mut expand).map_err(|why| {
                // SOURCE: instructions/commands_runmount.go: of all that is wrong with mounts this alone is found early
                let why = match why.starts_with("'from' doesn't support") {
                    true => format!("dockerfile parse error on line {}: {why}", at.lines().0),
                    false => why,
                };
                self.wrong_at(at, why)
            })?
        };
        let network = self.network(at, run.network)?;
        if run.security == Security::Insecure {
            self.allowed(at, Entitlement::SecurityInsecure, "security.insecure")?;
        }
        Ok((mounts, network))
    }

    /// SOURCE: buildkit solver/llbsolver/ops/exec.go CacheMap: proxies and the addresses of hosts don't count.
    fn run_key(&self, state: &State, c: &Command) -> Key {
        let mut parts = vec![
            state.key.text().to_owned(),
            state.platform.to_string(),
            c.cwd.clone(),
            c.user.clone(),
            format!("{:?} {}", c.network, c.insecure),
        ];
        let lists = [
            c.args.clone(),
            c.env.clone(),
            c.planned.iter().map(Planned::key).collect(),
            self.request
                .add_hosts
                .iter()
                .map(|(n, _)| n.clone())
                .collect(),
            c.script.iter().map(|(_, text)| text.clone()).collect(),
        ];
        for list in lists {
            parts.push(list.len().to_string());
            parts.extend(list);
        }
        Key::new("run", parts.iter().map(String::as_str))
    }

    async fn run_container(
        &self,
        state: &State,
        c: &Command,
        making: &Making<'_>,
    ) -> Result<(), Failure> {
        let runtime = self.engine.session.runtime().await?;
        let temp = making.temp.path().to_owned();
        let mut ready = Ready::default();
        self.ready(state, &c.planned, &temp, &mut ready).await?;
        if let Some((name, text)) = &c.script {
            let (dir, name, text) = (temp.join("pipes"), name.clone(), text.clone());
            let path = dir.clone();
            blocking(move || write_script(&dir, &name, &text)).await?;
            ready.bind(path, SCRIPTS, true);
        }
        let net = self.net(c.network).await;
        for (name, text) in self.system_files(net)? {
            let path = temp.join(&name);
            std::fs::write(&path, text).map_err(io(&path))?;
            ready.bind(path, &format!("/etc/{name}"), true);
        }
        if self.request.shm_size > 0 {
            let (mounts, size) = (self.mounts(), self.request.shm_size);
            let mounted = blocking(move || Mounted::memory(&mounts, size)).await?;
            let path = ready.hold(mounted);
            ready.bind(path, "/dev/shm", false);
        }
        let places: Vec<String> = ready
            .mounts
            .iter()
            .map(|m| m.destination.to_string_lossy().into_owned())
            .collect();
        let (account, stubs, before) = {
            let (mounts, user) = (self.mounts(), c.user.clone());
            let (mut lower, command) = (c.lower.clone(), c.args.join(" "));
            if lower.is_empty() {
                let empty = temp.join("empty");
                std::fs::create_dir(&empty).map_err(io(&empty))?;
                lower.push(empty);
            }
            blocking(move || {
                let root = Mounted::read_only(&mounts, &lower)?;
                let account = accounts::find(root.path(), &user).map_err(|why| {
                    Error::Request(format!(
                        "process {command:?} did not complete successfully: {why}"
                    ))
                })?;
                let stubs = Stubs::new(root.path(), places);
                Ok((account, stubs, (root, lower)))
            })
            .await?
        };
        let (root, lower) = before;
        let mut env = c.env.clone();
        self.add_proxies(&mut env);
        env.append(&mut ready.env);
        if !env.iter().any(|e| e.starts_with("HOME=")) {
            // SOURCE: runc setupUser
            let home = if account.home.is_empty() {
                "/"
            } else {
                &account.home
            };
            env.push(format!("HOME={home}"));
        }
        let id = format!("s{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let log = temp.join("log").join("output");
        std::fs::create_dir(temp.join("log")).map_err(io(&temp))?;
        let insecure = c.insecure;
        let apparmor = blocking(move || {
            AppArmor::default()
                .profile_for("", insecure)
                .map_err(|error| Error::Request(error.to_string()))
        })
        .await?;
        let spec = ContainerSpec {
            id: id.clone(),
            sandbox: id.clone(),
            apparmor,
            lower,
            args: c.args.clone(),
            env,
            cwd: c.cwd.clone().into(),
            user: User {
                uid: account.uid,
                gid: account.gid,
                // SOURCE: buildkit executor/oci GetUser: its own group is one of them
                additional_gids: std::iter::once(account.gid)
                    .chain(account.groups.into_iter().filter(|g| *g != account.gid))
                    .collect(),
                umask: None,
            },
            mounts: std::mem::take(&mut ready.mounts),
            cgroup: id.clone(),
            privileged: c.insecure,
            capabilities: match c.insecure {
                true => vec![],
                false => CAPABILITIES.iter().map(|c| (*c).to_owned()).collect(),
            },
            log_path: log.clone(),
            log_max_bytes: LOG_MAX,
            log_files_max: 2,
            rlimits: self.request.ulimits.clone(),
            ..ContainerSpec::default()
        };
        let sandbox = SandboxSpec {
            id: id.clone(),
            hostname: self.hostname(),
            host_network: net == Net::Machine,
            ..SandboxSpec::default()
        };
        let networks = match net {
            Net::Own => self.engine.options.networks.clone(),
            _ => None,
        };
        let mut running = Running::begin(runtime.clone(), networks, sandbox);
        running.begun().await?;
        let mut follow = Follow::new(&log)?;
        let ended = async {
            runtime.run(spec).await?;
            runtime.wait(&id).await
        };
        let ended = tokio::select! {
            ended = ended => ended,
            Err(e) = follow.run(&making.telling) => return Err(e.into()),
        };
        follow.read(&making.telling)?;
        let failed = match &ended {
            Ok(exit) if exit.code == 0 => None,
            Ok(exit) if exit.oom_killed => {
                Some(format!("exit code: {}: cannot allocate memory", exit.code))
            }
            Ok(exit) => Some(format!("exit code: {}", exit.code)),
            Err(knarr_runtime::Error::Create(text)) => Some(text.clone()),
            Err(_) => None,
        };
        if let Some(why) = failed {
            running.end().await?;
            let command = c.args.join(" ");
            let log = follow.tail();
            if let Some(hint) = crate::network::hint(net, &log) {
                self.told.warn(hint);
            }
            let host = knarr_dockerfile::Platform::host();
            if why.contains("exec format error") && state.platform.architecture != host.architecture
            {
                self.told.warn(format!(
                    "the step is for {}, and this machine ({host}) knows no emulator for it: \
                     register one with binfmt_misc, e.g. by installing qemu-user-static",
                    state.platform
                ));
            }
            return Err(Failure {
                why: Error::Request(format!(
                    "process {command:?} did not complete successfully: {why}"
                )),
                log,
            });
        }
        ended?;
        let (upper, files) = (runtime.upper(&id), making.files.clone());
        blocking(move || {
            std::fs::rename(&upper, &files).map_err(io(&upper))?;
            stubs.clean(root.path(), &files);
            Ok(())
        })
        .await?;
        running.end().await?;
        drop(ready);
        Ok(())
    }

    /// Build arguments that name proxies are for commands only, and never kept.
    fn add_proxies(&self, env: &mut Vec<String>) {
        for (name, value) in &self.request.args {
            let upper = name.to_uppercase();
            if !PROXIES.contains(&upper.as_str()) {
                continue;
            }
            for name in [upper.clone(), upper.to_lowercase()] {
                if !env.iter().any(|e| e.split('=').next() == Some(&name)) {
                    env.push(format!("{name}={value}"));
                }
            }
        }
    }
}

fn write_script(dir: &Path, name: &str, text: &str) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir(dir).map_err(io(dir))?;
    let path = dir.join(name);
    std::fs::write(&path, text).map_err(io(&path))?;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&path, mode).map_err(io(&path))
}
