//! What a build needs of its client: the Dockerfile, the context, further folders and images.
//!
//! SOURCE: moby/buildkit `frontend/dockerui/{config,context,namedcontext}.go`, docker/buildx `build/opt.go`

use super::{content::Store, files, request::Asked, session::Session, status::Told};
use crate::daemon::Daemon;
use knarr_build::{Context, DockerfileFrom, Event, NamedContext, Outcome};
use knarr_grpc::Status;
use std::{
    collections::BTreeMap,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

/// Numbers of steps that are ours and not the builder's.
pub const OWN_STEPS: usize = 1 << 40;
/// Of those, the first for a layout.
const LAYOUTS: usize = 1 << 20;

/// The work of one step that is ours, as the builder tells of its own.
pub async fn step<T>(
    told: &Told,
    number: usize,
    name: &str,
    work: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let (id, begun) = (OWN_STEPS + number, Instant::now());
    told.tell(Event::Started {
        id,
        name: name.into(),
    });
    let done = work.await;
    told.tell(Event::Ended {
        id,
        outcome: match &done {
            Ok(_) => Outcome::Done,
            Err(status) => Outcome::Failed(status.message.clone()),
        },
        took: begun.elapsed(),
    });
    done
}

fn make(dir: &Path) -> Result<(), Status> {
    std::fs::create_dir(dir).map_err(Status::unknown)
}

/// Who has the client's folders.
struct Places<'a> {
    daemon: &'a Daemon,
    session: &'a Arc<Session>,
    /// of some the session is another one
    others: BTreeMap<String, String>,
}

impl Places<'_> {
    async fn of(&self, dir: &str) -> Result<Arc<Session>, Status> {
        match self.others.get(dir) {
            Some(id) => self.daemon.sessions.get(id).await,
            None => Ok(self.session.clone()),
        }
    }
}

/// A folder of the client's, brought here.
async fn bring(
    places: &Places<'_>,
    told: &Told,
    number: usize,
    name: &str,
    wanted: &files::Wanted,
    to: &Path,
) -> Result<(), Status> {
    make(to)?;
    let came = |bytes| {
        told.tell(Event::Transfer {
            id: OWN_STEPS + number,
            what: format!("transferring {}:", wanted.dir),
            done: bytes,
            total: 0,
        });
    };
    step(told, number, name, async {
        let session = places.of(&wanted.dir).await?;
        files::receive(&session, wanted, to, &came).await
    })
    .await
}

/// The lines of an ignore file, as the client's own matcher takes them.
///
/// SOURCE: moby/patternmatcher `ignorefile/ignorefile.go` ReadAll
fn patterns(text: &str) -> Vec<String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.lines().filter(|l| !l.starts_with('#'));
    let lines = lines.map(str::trim).filter(|l| !l.is_empty());
    let clean = |line: &str| {
        let (sign, path) = match line.strip_prefix('!') {
            Some(path) => ("!", path.trim()),
            None => ("", line),
        };
        let parts: Vec<&str> = path
            .split('/')
            .filter(|p| !p.is_empty() && *p != ".")
            .collect();
        format!("{sign}{}", parts.join("/"))
    };
    lines
        .map(clean)
        .filter(|l| !l.is_empty() && l != "!")
        .collect()
}

/// A file of a folder that a client filled, where it really is: its name and its links lead nowhere else.
fn inside(folder: &Path, name: &str) -> Option<PathBuf> {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = openat(CWD, folder, flags | OFlags::DIRECTORY, Mode::empty()).ok()?;
    let found = openat2(&root, name, flags, Mode::empty(), ResolveFlags::IN_ROOT).ok()?;
    let path = std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).ok()?;
    path.is_file().then_some(path)
}

pub fn read(path: PathBuf) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// Fetches the Dockerfile, the context, and named ones.
pub async fn fetch(
    daemon: &Daemon,
    session: &Arc<Session>,
    told: &Told,
    asked: &mut Asked,
    temp: &Path,
    dockerfile_alone: bool,
) -> Result<(), Status> {
    let name = asked.dockerfile.clone();
    let places = Places {
        daemon,
        session,
        others: asked.sessions.clone(),
    };
    let places = &places;
    if let Some(id) = &asked.upload {
        let path = temp.join("upload");
        step(
            told,
            0,
            "[internal] load remote build context",
            session.upload(id, &path),
        )
        .await?;
        asked.request.context = Context::Archive(path);
        asked.request.dockerfile = DockerfileFrom::Context(name.into());
    } else if let Some(context) = asked.context.clone() {
        let folder = temp.join("dockerfile");
        let ignore = format!("{name}.dockerignore");
        let wanted = files::Wanted {
            dir: asked.dockerfile_dir.clone(),
            follow: vec![name.clone(), ignore.clone(), "dockerfile".into()],
            ..files::Wanted::default()
        };
        let title = format!("[internal] load build definition from {name}");
        bring(places, told, 0, &title, &wanted, &folder).await?;
        let lower = name.to_lowercase();
        let found = [name.as_str(), lower.as_str()].into_iter();
        let mut found = found.filter_map(|n| inside(&folder, n));
        let file = found.next().ok_or_else(|| {
            Status::unknown(format!(
                "failed to read dockerfile: open {name}: no such file or directory"
            ))
        })?;
        asked.request.dockerfile = DockerfileFrom::File(file);
        let mut exclude = inside(&folder, &ignore).and_then(read);
        if exclude.is_none() {
            let at = temp.join("ignore");
            let wanted = files::Wanted {
                dir: context.clone(),
                follow: vec![".dockerignore".into()],
                ..files::Wanted::default()
            };
            bring(
                places,
                told,
                1,
                "[internal] load .dockerignore",
                &wanted,
                &at,
            )
            .await?;
            exclude = inside(&at, ".dockerignore").and_then(read);
        }
        asked.ignore = exclude.clone();
        if dockerfile_alone {
            return Ok(());
        }
        let folder = temp.join("context");
        let wanted = files::Wanted {
            dir: context,
            exclude: patterns(&exclude.unwrap_or_default()),
            ..files::Wanted::default()
        };
        bring(
            places,
            told,
            2,
            "[internal] load build context",
            &wanted,
            &folder,
        )
        .await?;
        asked.request.context = Context::Folder(folder);
    } else {
        asked.request.dockerfile = DockerfileFrom::Context(name.into());
    }
    for (number, (name, dir)) in asked.named.clone().into_iter().enumerate() {
        let folder = temp.join(format!("named-{number}"));
        let wanted = files::Wanted {
            dir,
            ..files::Wanted::default()
        };
        let title = format!("[context {name}] load from client");
        bring(places, told, 3 + number, &title, &wanted, &folder).await?;
        asked
            .request
            .contexts
            .insert(name, NamedContext::Folder(folder));
    }
    layouts(session, told, asked, temp).await
}

/// Images of the client's folders: `STORE:TAG@DIGEST`, each under the name of its context.
async fn layouts(
    session: &Arc<Session>,
    told: &Told,
    asked: &mut Asked,
    temp: &Path,
) -> Result<(), Status> {
    let mut platforms = asked.request.platforms.clone();
    platforms.push(knarr_dockerfile::Platform::host());
    for (number, (name, place)) in asked.layouts.clone().into_iter().enumerate() {
        let (place, digest) = place
            .split_once('@')
            .ok_or_else(|| Status::unknown(format!("oci-layout://{place} has no digest")))?;
        let store = place.split(':').next().unwrap_or(place);
        let folder = temp.join(format!("layout-{number}"));
        let title = format!("[context {name}] OCI load from client");
        let bringing = async {
            let store = Store::new(session, &format!("oci:{store}"))?;
            store.layout(digest, "latest", &platforms, &folder).await
        };
        step(told, LAYOUTS + number, &title, bringing).await?;
        let layout = NamedContext::Layout {
            folder,
            reference: Some("latest".into()),
        };
        asked.request.contexts.insert(name, layout);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dockerfile_is_the_clients_own() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("sent");
        std::fs::create_dir_all(folder.join("sub")).unwrap();
        std::fs::write(dir.path().join("secret"), "secret").unwrap();
        std::fs::write(folder.join("sub/file"), "FROM scratch").unwrap();
        let link = |to: &str, name: &str| {
            std::os::unix::fs::symlink(to, folder.join(name)).unwrap();
        };
        let secret = dir.path().join("secret");
        let secret = secret.to_str().unwrap();
        link("sub/file", "link");
        link("/sub/file", "from-the-root");
        link("../secret", "up");
        link(secret, "away");
        for (name, wanted) in [
            ("sub/file", true),
            ("link", true),
            ("from-the-root", true),
            ("sub", false),
            ("none", false),
            ("up", false),
            ("away", false),
            ("../secret", false),
            (secret, false),
        ] {
            let text = inside(&folder, name).and_then(read);
            assert_eq!(text.as_deref(), wanted.then_some("FROM scratch"), "{name}");
        }
    }

    #[test]
    fn ignore_files_become_patterns() {
        let got = patterns("# all\n*\n\n!./src/\n /abs \n! x\n");
        assert_eq!(got, ["*", "!src", "abs", "!x"]);
    }
}
