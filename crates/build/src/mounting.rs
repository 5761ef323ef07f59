//! `RUN --mount`: what is put where, how it counts for the key, and what is held while the command runs.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use knarr_dockerfile::{Mount, MountKind, Sharing};
use knarr_runtime as runtime;

use crate::{
    cache::{Key, touch},
    copy::{self, Tree},
    error::{Error, blocking, io},
    folder,
    graph::Graph,
    instructions::At,
    overlay::Mounted,
    ssh,
    state::{State, clean},
    step::{Step, copy_folder},
};

/// A mount with what it needs found.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    mount: Mount,
    /// Absolute.
    pub(crate) target: String,
    /// Bind and cache: the layers it shows, topmost first.
    lower: Vec<PathBuf>,
    /// Of those.
    source: Option<Key>,
    /// Secret: what it is.
    secret: Option<Vec<u8>>,
}

impl Planned {
    /// What of it the command's result depends on.
    pub(crate) fn key(&self) -> String {
        let m = &self.mount;
        let source = self.source.as_ref().map_or("", Key::text);
        format!(
            "{:?} {} {} {source} {} {} {:?} {:?} {:?} {:?}",
            m.kind, self.target, m.source, m.read_only, m.size, m.mode, m.uid, m.gid, m.env
        )
    }
    /// The name of a secret, cache or agent.
    fn id(&self) -> String {
        let m = &self.mount;
        match m.kind {
            MountKind::Secret if !m.source.is_empty() => m.source.clone(),
            MountKind::Secret if m.id.is_empty() => last_part(&m.target),
            MountKind::Cache if m.id.is_empty() => clean(&m.target),
            MountKind::Ssh if m.id.is_empty() => "default".into(),
            _ => m.id.clone(),
        }
    }
}

fn last_part(path: &str) -> String {
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

/// Mounts that are ready, and what keeps them so.
#[derive(Default)]
pub(crate) struct Ready {
    pub(crate) mounts: Vec<runtime::Mount>,
    pub(crate) env: Vec<String>,
    /// In the order in which they go.
    agents: Vec<ssh::Agent>,
    mounted: Vec<Mounted>,
    locks: Vec<fs::File>,
}

impl Ready {
    pub(crate) fn bind(&mut self, source: PathBuf, target: &str, read_only: bool) {
        self.mounts.push(runtime::Mount {
            source,
            destination: target.into(),
            read_only,
            propagation: "private".into(),
            recursive_read_only: false,
        });
    }
    pub(crate) fn hold(&mut self, mounted: Mounted) -> PathBuf {
        let path = mounted.path().to_owned();
        self.mounted.push(mounted);
        path
    }
}

impl Graph<'_> {
    /// What the mounts of a `RUN` show.
    pub(crate) async fn plan(
        &self,
        at: &At<'_>,
        state: &State,
        mounts: Vec<Mount>,
    ) -> Result<Vec<Planned>, Error> {
        let mut all = vec![];
        for mount in mounts {
            // a secret and an agent have places of their own
            let placed = matches!(mount.kind, MountKind::Secret | MountKind::Ssh);
            let target = match mount.target.as_str() {
                "" if placed => String::new(),
                target => state.absolute(target),
            };
            if target == "/" {
                return Err(self.wrong_at(at, "invalid mount target \"/\"".into()));
            }
            let mut planned = Planned {
                mount,
                target,
                lower: vec![],
                source: None,
                secret: None,
            };
            match planned.mount.kind {
                MountKind::Bind => self.plan_bind(at, state, &mut planned).await?,
                MountKind::Cache if !planned.mount.from.is_empty() => {
                    self.plan_bind(at, state, &mut planned).await?;
                }
                MountKind::Secret => {
                    let id = planned.id();
                    planned.secret = self
                        .request
                        .secret(&id)
                        .await
                        .map_err(|e| self.wrong_at(at, e.to_string()))?;
                    if planned.secret.is_none() && planned.mount.required {
                        return Err(self.wrong_at(at, format!("secret {id}: not found")));
                    }
                    if planned.target.is_empty() && planned.mount.env.is_none() {
                        planned.target = format!("/run/secrets/{}", last_part(&id));
                    }
                }
                MountKind::Ssh => {
                    let id = planned.id();
                    if planned.mount.required && !self.request.ssh.contains_key(&id) {
                        let why = format!("no SSH key {id:?} forwarded from the client");
                        return Err(self.wrong_at(at, why));
                    }
                }
                MountKind::Cache | MountKind::Tmpfs => {}
            }
            all.push(planned);
        }
        Ok(all)
    }

    async fn plan_bind(
        &self,
        at: &At<'_>,
        state: &State,
        planned: &mut Planned,
    ) -> Result<(), Error> {
        let m = &mut planned.mount;
        let from = match m.from.as_str() {
            "" => None,
            name => Some(self.from(name, at.stage, &state.platform).await?),
        };
        let tree = match &from {
            None => Some(&self.context),
            Some(from) => from.folder(),
        };
        if let Some(source) = from.as_ref().and_then(|f| f.state()) {
            planned.lower = source.lower();
            // a part is known by what is in it; all of a stage by the stage, for to read all of it takes long
            planned.source = Some(match clean(&m.source).as_str() {
                "/" => source.key.clone(),
                path => self.content_key(source, path).await.map_err(|e| {
                    let (first, last) = at.lines();
                    self.step_failed(first, last, &self.step_name(at, state), e.to_string())
                })?,
            });
            return Ok(());
        }
        let Some(tree) = tree else { return Ok(()) };
        // files of this machine: taken as COPY would, so that what the ignore file leaves out isn't there
        let source = clean(&m.source);
        let placed = |e: Error| {
            let (first, last) = at.lines();
            self.step_failed(first, last, &self.step_name(at, state), e.to_string())
        };
        let (key, tree) = self.folder_key(tree, &source).await.map_err(placed)?;
        let step = Step {
            name: format!("{}load {source} of {}", at.prefix, tree.name()),
            key: Key::new("bind", [key.text()]),
            description: format!("mount of {source}"),
            no_cache: false,
            varies: false,
            lines: at.lines(),
        };
        m.source = match folder::open(tree.path(), &source, rustix::fs::OFlags::DIRECTORY) {
            Ok(_) => String::new(),
            Err(_) => last_part(&source),
        };
        let work = move |files: &Path| copy_folder(&tree, &source, files).map(|()| vec![]);
        let (record, files) = self.blocking_step(step, work).await?;
        planned.source = Some(record.result);
        planned.lower = vec![files];
        Ok(())
    }

    /// Makes what was planned; `temp` is on the cache's file system and goes with the step.
    pub(crate) async fn ready(
        &self,
        state: &State,
        planned: &[Planned],
        temp: &Path,
        ready: &mut Ready,
    ) -> Result<(), Error> {
        let mut agents = 0;
        for (number, one) in planned.iter().enumerate() {
            let m = &one.mount;
            match m.kind {
                MountKind::Bind => {
                    let (mounts, lower) = (self.mounts(), one.lower.clone());
                    let upper = temp.join(format!("bind-{number}"));
                    let (source, read_only) = (m.source.clone(), m.read_only);
                    let (mounted, path) = blocking(move || {
                        let mounted = match read_only {
                            true => Mounted::read_only(&mounts, &lower)?,
                            false => {
                                fs::create_dir(&upper).map_err(io(&upper))?;
                                Mounted::writable(&mounts, &lower, &upper)?
                            }
                        };
                        let path = folder::real(mounted.path(), &source)
                            .map_err(|e| no_source(&source, e))?;
                        Ok((mounted, path))
                    })
                    .await?;
                    ready.hold(mounted);
                    ready.bind(path, &one.target, read_only);
                }
                MountKind::Tmpfs => {
                    let (mounts, size) = (self.mounts(), m.size);
                    let mounted = blocking(move || Mounted::memory(&mounts, size)).await?;
                    let path = ready.hold(mounted);
                    ready.bind(path, &one.target, m.read_only);
                }
                MountKind::Cache => {
                    let (path, lock) = self.cache_mount(one).await?;
                    ready.locks.push(lock);
                    ready.bind(path, &one.target, m.read_only);
                }
                MountKind::Secret => self.ready_secret(one, ready).await?,
                MountKind::Ssh => {
                    let target = match one.target.as_str() {
                        "" => format!("/run/buildkit/ssh_agent.{agents}"),
                        target => target.to_owned(),
                    };
                    agents += 1;
                    // said whether there is an agent or not
                    if state.scope.run_env().all(|(k, _)| k != "SSH_AUTH_SOCK")
                        && !ready.env.iter().any(|e| e.starts_with("SSH_AUTH_SOCK="))
                    {
                        ready.env.push(format!("SSH_AUTH_SOCK={target}"));
                    }
                    let Some(socket) = self.request.ssh.get(&one.id()) else {
                        continue;
                    };
                    let owner = (m.uid.unwrap_or(0), m.gid.unwrap_or(0));
                    let at = temp.join(format!("agent-{number}"));
                    let agent = ssh::Agent::new(&at, socket, owner, m.mode.unwrap_or(0o600))?;
                    ready.bind(at, &target, false);
                    ready.agents.push(agent);
                }
            }
        }
        Ok(())
    }

    async fn ready_secret(&self, one: &Planned, ready: &mut Ready) -> Result<(), Error> {
        let Some(bytes) = one.secret.clone() else {
            return Ok(());
        };
        if let Some(name) = &one.mount.env {
            let name = if name.is_empty() {
                one.id()
            } else {
                name.clone()
            };
            ready
                .env
                .push(format!("{name}={}", String::from_utf8_lossy(&bytes)));
        }
        if one.target.is_empty() {
            return Ok(());
        }
        let (mounts, m) = (self.mounts(), one.mount.clone());
        // never on a disk
        let mounted = blocking(move || {
            let mounted = Mounted::memory(&mounts, 0)?;
            let path = mounted.path().join("secret");
            fs::write(&path, bytes).map_err(io(&path))?;
            let mode = fs::Permissions::from_mode(m.mode.unwrap_or(0o400));
            fs::set_permissions(&path, mode).map_err(io(&path))?;
            std::os::unix::fs::chown(&path, Some(m.uid.unwrap_or(0)), Some(m.gid.unwrap_or(0)))
                .map_err(io(&path))?;
            Ok(mounted)
        })
        .await?;
        let path = ready.hold(mounted).join("secret");
        ready.bind(path, &one.target, true);
        Ok(())
    }

    /// A cache's folder, and the lock that says it's used.
    async fn cache_mount(&self, one: &Planned) -> Result<(PathBuf, fs::File), Error> {
        use rustix::fs::FlockOperation::{LockExclusive, LockShared, NonBlockingLockExclusive};
        let source = one.source.as_ref().map_or("", Key::text).to_owned();
        let name = Key::new("mount", [one.id().as_str(), &source, &one.mount.source]);
        let (all, mounts) = (self.cache.mounts(), self.mounts());
        let (m, lower) = (one.mount.clone(), one.lower.clone());
        let cache = self.cache.clone();
        blocking(move || {
            let sharing = m.sharing.unwrap_or_default();
            let mut number = 0;
            let (dir, lock) = loop {
                let dir = match number {
                    0 => all.join(name.text()),
                    n => all.join(format!("{}.{n}", name.text())),
                };
                fs::create_dir_all(&dir).map_err(io(&dir))?;
                let path = dir.join("lock");
                let mut open = fs::OpenOptions::new();
                let file = open.create(true).truncate(false).write(true).open(&path);
                let file = file.map_err(io(&path))?;
                let how = match sharing {
                    Sharing::Shared => LockShared,
                    Sharing::Locked => LockExclusive,
                    Sharing::Private => NonBlockingLockExclusive,
                };
                match rustix::fs::flock(&file, how) {
                    Ok(()) => break (dir, file),
                    // another build has it: the next copy
                    Err(rustix::io::Errno::WOULDBLOCK) => number += 1,
                    Err(e) => return Err(io(path)(e.into())),
                }
            };
            touch(&dir);
            let files = dir.join("fs");
            if !files.is_dir() {
                let temp = cache.temp()?;
                let new = temp.path().join("fs");
                fs::create_dir(&new).map_err(io(&new))?;
                if !lower.is_empty() {
                    let mounted = Mounted::read_only(&mounts, &lower)?;
                    let tree = Tree::root("cache", mounted.path())?;
                    copy_folder(&tree, &clean(&m.source), &new)?;
                }
                let mode = fs::Permissions::from_mode(m.mode.unwrap_or(0o755));
                fs::set_permissions(&new, mode).map_err(io(&new))?;
                std::os::unix::fs::chown(&new, Some(m.uid.unwrap_or(0)), Some(m.gid.unwrap_or(0)))
                    .map_err(io(&new))?;
                match fs::rename(&new, &files) {
                    // another that shares it was first
                    Err(_) if files.is_dir() => {}
                    other => other.map_err(io(&files))?,
                }
            }
            Ok((files, lock))
        })
        .await
    }
}

fn no_source(path: &str, e: std::io::Error) -> Error {
    match e.kind() {
        std::io::ErrorKind::NotFound => copy::Error::NotFound {
            tree: "mount".into(),
            path: clean(path),
        }
        .into(),
        _ => io(path)(e),
    }
}
