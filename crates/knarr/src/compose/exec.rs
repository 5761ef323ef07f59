//! Into running containers: `exec`, `attach`, `cp`.

use super::{
    Asked, Target,
    containers::{Container, containers, running},
};
use crate::error::{Error, io};
use clap::Args;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    api::{AttachParams, AttachedProcess},
};
use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How long a command that is run by the way may take.
const QUIETLY_MAX: std::time::Duration = std::time::Duration::from_secs(60);

#[derive(Args)]
pub struct ExecArguments {
    /// Return at once, and leave the command running
    #[arg(short, long)]
    detach: bool,
    /// Set a variable: KEY=VALUE, or KEY as it is here; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// Which container of the service
    #[arg(long, default_value = "0", value_name = "NUMBER")]
    index: usize,
    /// No terminal for the command
    #[arg(short = 'T', long = "no-tty", alias = "no-TTY")]
    no_tty: bool,
    /// As another user: NAME or NUMBER, perhaps with :GROUP
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// In another folder
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// With all capabilities
    #[arg(long)]
    privileged: bool,
    /// As every exec does
    #[arg(short, long, hide = true, num_args = 0..=1, require_equals = true)]
    interactive: Option<Option<String>>,
    #[arg(short = 't', long = "tty", hide = true)]
    tty: bool,
    service: String,
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// What a command in a container is to have that Kubernetes has no words for.
#[derive(Default)]
pub struct More {
    pub env: Vec<String>,
    pub workdir: Option<String>,
    /// uid, gid, further groups
    pub user: Option<String>,
    pub privileged: bool,
}

impl More {
    /// For the query of the request; see `exec_more` of the platform.
    fn query(&self, token: Option<String>) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for pair in &self.env {
            query.append_pair("knarr.dev/env", pair);
        }
        if let Some(dir) = &self.workdir {
            query.append_pair("knarr.dev/workdir", dir);
        }
        if let Some(user) = &self.user {
            query.append_pair("knarr.dev/user", user);
        }
        if self.privileged {
            query.append_pair("knarr.dev/privileged", "true");
        }
        if let Some(token) = token.filter(|_| self.user.is_some() || self.privileged) {
            query.append_pair("knarr.dev/token", &token);
        }
        query.finish()
    }
}

/// Leaves what shows that we may write where the platform keeps everything, for one request.
fn token(paths: &crate::paths::Paths) -> Result<String, Error> {
    let token = uuid::Uuid::new_v4().simple().to_string();
    let folder = paths.tokens();
    std::fs::create_dir_all(&folder).map_err(io(folder.display().to_string()))?;
    std::fs::write(folder.join(&token), "").map_err(io(folder.display().to_string()))?;
    Ok(token)
}

/// A client whose commands in containers ask for more.
fn asking(client: &Client, query: String) -> Client {
    let inner = client.clone();
    let service = tower::service_fn(move |mut request: http::Request<kube::client::Body>| {
        let uri = request.uri().to_string();
        if !query.is_empty()
            && request.uri().path().ends_with("/exec")
            && let Ok(uri) = format!("{uri}&{query}").parse()
        {
            *request.uri_mut() = uri;
        }
        let inner = inner.clone();
        async move { inner.send(request).await }
    });
    Client::new(service, client.default_namespace().to_string())
}

/// The numbers of a user by the container's own accounts.
async fn numbers(c: &Container, user: &str) -> Result<String, Error> {
    let pid = process_of(c).ok_or_else(|| {
        Error::Failed(format!(
            "the process of {} is not found: is this the machine it runs on?",
            c.pod_name()
        ))
    })?;
    let user = user.to_string();
    let found = tokio::task::spawn_blocking(move || crate::docker::user(pid, &user)).await;
    let found = found
        .map_err(|e| Error::Failed(e.to_string()))?
        .map_err(Error::Failed)?;
    let all = [found.uid, found.gid]
        .into_iter()
        .chain(found.additional_gids);
    Ok(all.map(|n| n.to_string()).collect::<Vec<_>>().join(":"))
}

/// A process of a container, by its cgroup.
pub fn process_of(c: &Container) -> Option<i32> {
    let (uid, id) = (c.pod.uid()?, c.id());
    let all = std::fs::read_dir("/proc").ok()?.flatten();
    let pids = all.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    let mut own = pids.filter(|pid| {
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        !id.is_empty() && groups.contains(&uid) && groups.contains(&id)
    });
    own.next()
}

pub async fn exec(asked: &Asked<'_>, a: ExecArguments) -> Result<u8, Error> {
    let target = asked.target().await?;
    let c = running(&target, &a.service, a.index).await?;
    let env = a.env.iter().filter_map(|pair| match pair.contains('=') {
        true => Some(pair.clone()),
        false => Some(format!("{pair}={}", std::env::var(pair).ok()?)),
    });
    let user = match &a.user {
        Some(user) => Some(numbers(&c, user).await?),
        None => None,
    };
    let more = More {
        env: env.collect(),
        workdir: a.workdir.clone(),
        user,
        privileged: a.privileged,
    };
    let token = match more.user.is_some() || more.privileged {
        true => Some(token(asked.paths)?),
        false => None,
    };
    let client = asking(&target.client, more.query(token));
    let tty =
        !a.no_tty && !a.detach && std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let api: Api<Pod> = Api::namespaced(client, &target.namespace);
    let stdin = !a.detach && !matches!(&a.interactive, Some(Some(v)) if v == "false");
    let parameters = AttachParams::default()
        .container(&c.name)
        .stdin(stdin)
        .stdout(true)
        .stderr(!tty)
        .tty(tty);
    let command = match a.detach {
        false => a.command.clone(),
        // It lives on without the connection's streams.
        true => {
            let line = ["/bin/sh", "-c", "\"$@\" </dev/null >/dev/null 2>&1 &", "sh"];
            line.iter()
                .map(|w| w.to_string())
                .chain(a.command.clone())
                .collect()
        }
    };
    let process = api.exec(&c.pod_name(), &command, &parameters).await?;
    crate::exec::join(process, tty).await
}

/// Runs a command and shows nothing of it.
pub async fn quietly(
    client: &Client,
    namespace: &str,
    c: &Container,
    command: &[String],
) -> Result<(), Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let parameters = AttachParams::default()
        .container(&c.name)
        .stdout(false)
        .stderr(true);
    let run = async {
        let process = api.exec(&c.pod_name(), command, &parameters).await?;
        let (said, code) = heard(process, tokio::io::sink()).await?;
        match code {
            0 => Ok(()),
            _ => Err(Error::Failed(format!(
                "{}: {}: {said}",
                c.pod_name(),
                command.join(" ")
            ))),
        }
    };
    match tokio::time::timeout(QUIETLY_MAX, run).await {
        Ok(done) => done,
        Err(_) => Err(Error::TimedOut(format!(
            "{}: {} has not ended",
            c.pod_name(),
            command.join(" ")
        ))),
    }
}

/// A process's output, what it said of errors, and its code.
async fn heard(
    mut process: AttachedProcess,
    mut to: impl tokio::io::AsyncWrite + Unpin,
) -> Result<(String, i32), Error> {
    let status = process.take_status();
    let mut said = Vec::new();
    let (out, err) = (process.stdout(), process.stderr());
    let copied = async {
        match out {
            Some(mut out) => tokio::io::copy(&mut out, &mut to).await.map(drop),
            None => Ok(()),
        }
    };
    let told = async {
        if let Some(err) = err {
            let _ = err.take(4096).read_to_end(&mut said).await;
        }
    };
    let (copied, ()) = tokio::join!(copied, told);
    copied.map_err(io("what the container sends"))?;
    let status = match status {
        Some(status) => status.await,
        None => None,
    };
    let said = String::from_utf8_lossy(&said).trim().to_string();
    Ok((said, crate::exec::code(status)?))
}

#[derive(Args)]
pub struct AttachArguments {
    service: String,
    /// Which of its containers, from 1; 0: any
    #[arg(long, default_value = "0", value_name = "NUMBER")]
    index: usize,
    /// Pass no input on
    #[arg(long)]
    no_stdin: bool,
    #[arg(long, hide = true)]
    detach_keys: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1)]
    sig_proxy: Option<Option<String>>,
}

pub async fn attach(asked: &Asked<'_>, a: AttachArguments) -> Result<u8, Error> {
    let target = asked.target().await?;
    let c = running(&target, &a.service, a.index).await?;
    join(&target, &c, !a.no_stdin).await
}

/// Joins the container's own process.
pub async fn join(target: &Target, c: &Container, input: bool) -> Result<u8, Error> {
    let spec = c.pod.spec.iter().flat_map(|s| &s.containers);
    let own = spec.filter(|own| own.name == c.name);
    let (mut tty, mut stdin) = (false, false);
    for own in own {
        tty = own.tty.unwrap_or(false);
        stdin = own.stdin.unwrap_or(false);
    }
    let api: Api<Pod> = Api::namespaced(target.client.clone(), &target.namespace);
    let parameters = AttachParams::default()
        .container(&c.name)
        .stdin(stdin && input)
        .stdout(true)
        .stderr(!tty)
        .tty(tty);
    let process = api.attach(&c.pod_name(), &parameters).await?;
    crate::exec::join(process, tty).await
}

#[derive(Args)]
pub struct CpArguments {
    /// Owners and groups as they are there
    #[arg(short, long)]
    archive: bool,
    /// What links lead to, instead of the links
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Which container of the service; into all when none is said
    #[arg(long, default_value = "0", value_name = "NUMBER")]
    index: usize,
    #[arg(long, hide = true)]
    all: bool,
    /// SERVICE:PATH, a path here, or - for a tar archive on standard input
    source: String,
    /// SERVICE:PATH, a path here, or - for a tar archive on standard output
    destination: String,
}

fn inside(text: &str) -> Option<(&str, &str)> {
    let (service, path) = text.split_once(':')?;
    (!service.contains('/') && !service.is_empty() && service != ".").then_some((service, path))
}

pub async fn cp(asked: &Asked<'_>, a: CpArguments) -> Result<u8, Error> {
    match (inside(&a.source), inside(&a.destination)) {
        (Some(_), Some(_)) => Err(Error::Input(
            "copying between services is not supported".into(),
        )),
        (None, None) => Err(Error::Input(
            "unknown copy direction: say SERVICE:PATH for one of the two".into(),
        )),
        (Some((service, path)), None) => {
            let target = asked.target().await?;
            let c = running(&target, service, a.index).await?;
            from(&target, &c, path, &a).await
        }
        (None, Some((service, path))) => {
            let target = asked.target().await?;
            let all = match a.index {
                0 => containers(&target, &[service.to_string()]).await?,
                n => vec![running(&target, service, n).await?],
            };
            let all: Vec<&Container> = all.iter().filter(|c| c.is_running()).collect();
            if all.is_empty() {
                return Err(Error::Failed(format!(
                    "service \"{service}\" is not running"
                )));
            }
            for c in all {
                into(&target, c, path, &a).await?;
            }
            Ok(0)
        }
    }
}

/// The folder and the name of what is asked for; `.` at the end: what the folder holds. `..` goes by the words: no name
/// leads out of where it is put.
fn parts(path: &str) -> (String, String) {
    let (mut words, mut contents) = (Vec::new(), true);
    for word in path.split('/') {
        match word {
            "" => continue,
            "." => {}
            ".." => drop(words.pop()),
            word => {
                words.push(word);
                contents = false;
                continue;
            }
        }
        contents = true;
    }
    let name = match contents {
        true => ".",
        false => words.pop().unwrap_or("."),
    };
    (format!("/{}", words.join("/")), name.into())
}

async fn from(target: &Target, c: &Container, path: &str, a: &CpArguments) -> Result<u8, Error> {
    let (folder, name) = parts(path);
    let mut command = vec!["tar".to_string(), "-c".into(), "-f".into(), "-".into()];
    if a.follow_link {
        command.push("-h".into());
    }
    command.extend(["-C".into(), folder, name.clone()]);
    let api: Api<Pod> = Api::namespaced(target.client.clone(), &target.namespace);
    let parameters = AttachParams::default()
        .container(&c.name)
        .stdout(true)
        .stderr(true);
    let process = api.exec(&c.pod_name(), &command, &parameters).await?;
    if a.destination == "-" {
        let (said, code) = heard(process, tokio::io::stdout()).await?;
        return done(c, &said, code);
    }
    let to = PathBuf::from(&a.destination);
    let parent = match to.is_dir() || name == "." {
        true => to.clone(),
        false => to
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."))
            .into(),
    };
    if !parent.is_dir() && name != "." {
        return Err(Error::Input(format!("{} is no folder", parent.display())));
    }
    // Whole before anything stands where it was asked for.
    let temp = tempfile::Builder::new()
        .prefix(".knarr-cp")
        .tempdir_in(if parent.is_dir() {
            &parent
        } else {
            Path::new(".")
        });
    let temp = temp.map_err(io(parent.display().to_string()))?;
    let (reader, writer) = tokio::io::duplex(64 << 10);
    let unpacked = {
        let (folder, owners) = (temp.path().to_path_buf(), a.archive);
        let mut reader = tokio_util::io::SyncIoBridge::new(reader);
        tokio::task::spawn_blocking(move || {
            let mut archive = tar::Archive::new(&mut reader);
            archive.set_preserve_ownerships(owners);
            archive.set_preserve_permissions(true);
            // No name leads out of the folder: the archive's reader sees to that.
            archive.unpack(folder)
        })
    };
    let (heard, unpacked) = tokio::join!(heard(process, writer), unpacked);
    let (said, code) = heard?;
    done(c, &said, code)?;
    unpacked
        .map_err(|e| Error::Failed(e.to_string()))?
        .map_err(io("what the container sends"))?;
    let moved = match name.as_str() {
        "." => std::fs::create_dir_all(&to).and_then(|()| merge(temp.path(), &to)),
        name if to.is_dir() => place(&temp.path().join(name), &to.join(name)),
        name => place(&temp.path().join(name), &to),
    };
    moved.map_err(io(a.destination.clone()))?;
    Ok(0)
}

/// Moves what came from a container to where it belongs. What came may be a link that leads anywhere: it is never
/// followed.
fn place(from: &Path, to: &Path) -> std::io::Result<()> {
    match from.symlink_metadata()?.is_dir() && to.is_dir() {
        true => merge(from, to),
        false => std::fs::rename(from, to),
    }
}

/// Moves what is in one folder into another.
fn merge(from: &Path, to: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let there = to.join(entry.file_name());
        match entry.file_type()?.is_dir() && there.is_dir() {
            true => merge(&entry.path(), &there)?,
            false => std::fs::rename(entry.path(), &there)?,
        }
    }
    Ok(())
}

fn done(c: &Container, said: &str, code: i32) -> Result<u8, Error> {
    match code {
        0 => Ok(0),
        _ => Err(Error::Failed(format!(
            "{}: {said}: copying needs tar in the container",
            c.pod_name()
        ))),
    }
}

/// Whether a path in the container is a folder: looked up from outside, which needs nothing of the image.
async fn is_folder(target: &Target, c: &Container, path: &str) -> bool {
    use rustix::fs::{Mode, OFlags, ResolveFlags};
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if let Some(pid) = process_of(c)
        && let Ok(root) = rustix::fs::open(format!("/proc/{pid}/root"), flags, Mode::empty())
    {
        let found = rustix::fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT);
        return found.is_ok();
    }
    let words = ["sh", "-c", "test -d \"$1\"", "sh", path];
    let command = words.map(String::from);
    quietly(&target.client, &target.namespace, c, &command)
        .await
        .is_ok()
}

async fn into(target: &Target, c: &Container, path: &str, a: &CpArguments) -> Result<u8, Error> {
    let folder = path.ends_with('/') || is_folder(target, c, path).await;
    let (parent, name) = parts(path);
    let source = PathBuf::from(&a.source);
    let api: Api<Pod> = Api::namespaced(target.client.clone(), &target.namespace);
    // As the docs of `docker cp` have it: into a folder that is there under the source's name, else as what is named.
    let contents = a.source.ends_with("/.");
    let (at, called) = match (folder, source.file_name()) {
        _ if a.source == "-" || contents => (path.to_string(), None),
        (true, Some(own)) => (path.to_string(), Some(own.to_string_lossy().into_owned())),
        _ => (parent, Some(name)),
    };
    if contents && !folder {
        quietly(
            &target.client,
            &target.namespace,
            c,
            &["mkdir".into(), "-p".into(), path.into()],
        )
        .await?;
    }
    let command: Vec<String> = ["tar", "-x", "-f", "-", "-C", &at].map(String::from).into();
    let parameters = AttachParams::default()
        .container(&c.name)
        .stdin(true)
        .stdout(false)
        .stderr(true);
    let mut process = api.exec(&c.pod_name(), &command, &parameters).await?;
    let mut input = process
        .stdin()
        .ok_or_else(|| Error::Failed("the connection has no input".into()))?;
    let sent = async {
        if a.source == "-" {
            tokio::io::copy(&mut tokio::io::stdin(), &mut input).await?;
        } else {
            let (mut reader, writer) = tokio::io::duplex(64 << 10);
            let (source, follow, owners) = (source.clone(), a.follow_link, a.archive);
            let packed = tokio::task::spawn_blocking(move || {
                let mut archive = tar::Builder::new(tokio_util::io::SyncIoBridge::new(writer));
                archive.follow_symlinks(follow);
                if !owners {
                    archive.mode(tar::HeaderMode::Complete);
                }
                match (&called, source.is_dir() && !source.is_symlink()) {
                    (None, _) => archive.append_dir_all(".", &source)?,
                    (Some(name), true) => archive.append_dir_all(name, &source)?,
                    (Some(name), false) => archive.append_path_with_name(&source, name)?,
                }
                archive.finish()
            });
            let (copied, packed) = tokio::join!(tokio::io::copy(&mut reader, &mut input), packed);
            packed.map_err(std::io::Error::other)??;
            copied?;
        }
        input.shutdown().await
    };
    let (sent, heard) = tokio::join!(sent, heard(process, tokio::io::sink()));
    let (said, code) = heard?;
    done(c, &said, code)?;
    sent.map_err(io(a.source.clone()))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_comes_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["machine", "came/folder", "here/link", "here/folder"] {
            std::fs::create_dir_all(at(folder)).unwrap();
        }
        std::fs::write(at("machine/kept"), "").unwrap();
        std::fs::write(at("came/folder/new"), "").unwrap();
        std::os::unix::fs::symlink(at("machine"), at("came/link")).unwrap();
        place(&at("came/link"), &at("here/link")).unwrap_err();
        assert!(at("machine/kept").exists());
        place(&at("came/folder"), &at("here/folder")).unwrap();
        assert!(at("here/folder/new").exists());
    }

    #[test]
    fn places() {
        for (text, expected) in [
            ("web:/a/b", Some(("web", "/a/b"))),
            ("./web:x", None),
            ("/a:b", None),
            ("-", None),
        ] {
            assert_eq!(inside(text), expected, "{text}");
        }
        for (path, folder, name) in [
            ("/a/b", "/a", "b"),
            ("/a", "/", "a"),
            ("a/b/", "/a", "b"),
            ("/a/.", "/a", "."),
            ("/", "/", "."),
            ("/a/..", "/", "."),
            ("/a/../b", "/", "b"),
            ("../../a/./b/", "/a", "b"),
            ("a../.b", "/a..", ".b"),
        ] {
            assert_eq!(parts(path), (folder.into(), name.into()), "{path}");
        }
    }
}
