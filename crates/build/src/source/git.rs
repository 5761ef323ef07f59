//! Git repositories, by the `git` program: a reference is looked up at the remote, and its files are checked out
//! (`source/git` of BuildKit).

use super::{GitRef, SourceError, io, redacted};
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::process::Command;

/// No single call of git takes longer.
const CALL_MAX: Duration = Duration::from_secs(1800);

/// How repositories are reached.
#[derive(Clone, Default)]
pub struct Git {
    /// The folder that repositories are kept in, so that a second fetch brings only what is new.
    pub dir: PathBuf,
    /// An agent's socket, for `ssh`.
    pub ssh_agent: Option<PathBuf>,
    /// For HTTP(S) (the secret `GIT_AUTH_TOKEN`).
    pub token: Option<Token>,
}

/// A token, and who sees it: nobody else does, such as the hosts of submodules.
#[derive(Clone)]
pub struct Token {
    scope: String,
    secret: String,
}

impl Token {
    /// For a repository; one of GitHub's is for all of them, as BuildKit has it (`tokenScope`).
    pub fn new(remote: &str, secret: String) -> Token {
        let all = ["https://github.com/", "https://www.github.com/"];
        let all = all.into_iter().find(|all| remote.starts_with(all));
        Token {
            scope: all.unwrap_or(remote).to_owned(),
            secret,
        }
    }
}

impl std::fmt::Debug for Git {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Git")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

/// A reference as it is at the remote now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Its hash.
    pub id: String,
    /// What is fetched: a full reference, or the hash itself.
    pub reference: String,
}

fn is_hash(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

impl Git {
    /// A call of git that asks nobody, runs nobody's hooks and reads nobody's settings.
    fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new("git");
        command
            .current_dir(folder)
            .env_clear()
            .envs(std::env::vars_os().filter(|(key, _)| {
                let key = key.to_string_lossy().to_ascii_lowercase();
                matches!(
                    key.as_str(),
                    "path"
                        | "http_proxy"
                        | "https_proxy"
                        | "no_proxy"
                        | "all_proxy"
                        | "ssl_cert_file"
                        | "ssl_cert_dir"
                )
            }))
            .env("HOME", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_SSH_COMMAND", "ssh -F /dev/null -o BatchMode=yes")
            .env("LC_ALL", "C")
            // a repository's submodules may not be folders of this machine, nor programs
            .args([
                "-c",
                "protocol.file.allow=never",
                "-c",
                "protocol.ext.allow=never",
            ])
            .args(["-c", "core.hooksPath=/dev/null", "-c", "safe.directory=*"])
            .args(["-c", "advice.detachedHead=false", "-c", "gc.auto=0"])
            .stdin(Stdio::null())
            .kill_on_drop(true);
        if let Some(agent) = &self.ssh_agent {
            command.env("SSH_AUTH_SOCK", agent);
        }
        if let Some(token) = &self.token {
            use base64::Engine as _;
            let login = base64::engine::general_purpose::STANDARD
                .encode(format!("x-access-token:{}", token.secret));
            // in the environment, not among the arguments, which everybody can see
            command
                .env("GIT_CONFIG_COUNT", "1")
                .env(
                    "GIT_CONFIG_KEY_0",
                    format!("http.{}.extraHeader", token.scope),
                )
                .env(
                    "GIT_CONFIG_VALUE_0",
                    format!("Authorization: basic {login}"),
                );
        }
        command
    }

    async fn run(
        &self,
        folder: &Path,
        what: &str,
        arguments: &[&str],
    ) -> Result<String, SourceError> {
        let mut command = self.command(folder);
        command.args(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = {
            // what it starts gives way as it does itself
            let _low = knarr_image::Low::new();
            command.spawn()
        };
        let call = async { child?.wait_with_output().await };
        let done = tokio::time::timeout(CALL_MAX, call).await;
        let git = |why: String| SourceError::Git {
            what: what.to_owned(),
            why,
        };
        let done = done.map_err(|_| git(format!("no end after {} s", CALL_MAX.as_secs())))?;
        let done = done.map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => SourceError::NoGit(what.to_owned()),
            _ => git(e.to_string()),
        })?;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr);
            let lines: Vec<&str> = said.trim().lines().collect();
            let last = lines[lines.len().saturating_sub(5)..].join("; ");
            return Err(git(if last.is_empty() {
                done.status.to_string()
            } else {
                last
            }));
        }
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// Which commit a reference is now: asks the remote, unless it is a commit already.
    ///
    /// # Errors
    /// No such reference, another commit than the checksum says, what git says.
    pub async fn resolve(&self, git: &GitRef) -> Result<Commit, SourceError> {
        let remote = redacted(&git.remote);
        let refused = |why: String| SourceError::Refused(why);
        if let Some(bad) = [&git.reference, &git.checksum]
            .into_iter()
            .flatten()
            .find(|r| r.starts_with('-') || r.contains(char::is_whitespace))
        {
            return Err(refused(format!("{bad:?} is no reference of git")));
        }
        let found = match git.reference.as_deref() {
            Some(hash) if is_hash(hash) => Commit {
                id: hash.to_ascii_lowercase(),
                reference: hash.to_ascii_lowercase(),
            },
            reference => {
                let asked = reference.unwrap_or("HEAD");
                let peeled = format!("{asked}^{{}}");
                let what = format!("failed to fetch remote {remote}");
                std::fs::create_dir_all(&self.dir).map_err(io(&self.dir))?;
                let arguments = ["ls-remote", "--symref", "--", &git.remote, asked, &peeled];
                let listed = self.run(&self.dir, &what, &arguments).await?;
                choose(&listed, asked).ok_or_else(|| {
                    refused(format!(
                        "repository {remote} does not contain ref {asked}, output: {listed:?}"
                    ))
                })?
            }
        };
        match &git.checksum {
            Some(sum) if !sum.bytes().all(|b| b.is_ascii_hexdigit()) => Err(refused(format!(
                "invalid checksum {sum} for Git URL, expected hex commit hash"
            ))),
            Some(sum) if !found.id.starts_with(&sum.to_ascii_lowercase()) => Err(refused(format!(
                "expected checksum to match {sum}, got {}",
                found.id
            ))),
            _ => Ok(found),
        }
    }

    /// Puts a commit's files into the empty folder `into`: those of the sub-folder only, when one is named. `keep`: with
    /// `.git`, as a shallow clone.
    ///
    /// # Errors
    /// What git says; a sub-folder that isn't there or leads elsewhere.
    pub async fn check_out(
        &self,
        git: &GitRef,
        commit: &Commit,
        keep: bool,
        into: &Path,
    ) -> Result<(), SourceError> {
        let remote = redacted(&git.remote);
        let subdir = crate::copy::clean(git.subdir.as_deref().unwrap_or("/"));
        let whole = subdir == "/";
        let repository = self.repository(git, &commit.id).await?;
        let fetch = format!("failed to fetch remote {remote}");
        let bare = repository.path.to_string_lossy().into_owned();
        let git_dir = format!("--git-dir={bare}");
        let has = ["cat-file", "-e", &format!("{}^{{commit}}", commit.id)];
        if self
            .run(
                &repository.path,
                &fetch,
                &[&[git_dir.as_str()][..], &has].concat(),
            )
            .await
            .is_err()
        {
            let depth = [
                git_dir.as_str(),
                "fetch",
                "--depth=1",
                "--no-tags",
                "--force",
                "--",
                &git.remote,
            ];
            // by the hash, so that it is what was looked up; not all servers allow that
            let hash = [&depth[..], &[commit.id.as_str()]].concat();
            if self.run(&repository.path, &fetch, &hash).await.is_err() {
                let all = match is_hash(&commit.reference) {
                    true => vec![
                        git_dir.as_str(),
                        "fetch",
                        "--tags",
                        "--force",
                        "--",
                        &git.remote,
                        "+refs/heads/*:refs/heads/*",
                    ],
                    false => [&depth[..], &[commit.reference.as_str()]].concat(),
                };
                self.run(&repository.path, &fetch, &all).await?;
            }
        }
        std::fs::create_dir_all(into).map_err(io(into))?;
        let temp = tempfile::tempdir_in(&self.dir).map_err(io(&self.dir))?;
        let files = match whole {
            true => into.to_owned(),
            false => temp.path().join("files"),
        };
        std::fs::create_dir_all(&files).map_err(io(&files))?;
        let own = match whole && keep {
            true => files.join(".git"),
            false => temp.path().join("git"),
        };
        self.work_tree(git, commit, (&bare, &own, &files)).await?;
        if whole && keep {
            self.keep_reference(git, commit, &git_dir, &own).await?;
        }
        if !whole {
            take(&files, &subdir, into)?;
        } else if keep {
            // a log has the time in it, and another each time
            let _ = std::fs::remove_dir_all(own.join("logs"));
            let _ = std::fs::remove_file(own.join("FETCH_HEAD"));
        }
        Ok(())
    }

    /// The branch or tag that was asked for has its name in the repository that is kept, so that `git describe` knows it.
    async fn keep_reference(
        &self,
        git: &GitRef,
        commit: &Commit,
        kept: &str,
        own: &Path,
    ) -> Result<(), SourceError> {
        let name = commit.reference.as_str();
        if !name.starts_with("refs/") {
            return Ok(());
        }
        let what = format!("failed to fetch remote {}", redacted(&git.remote));
        let own_dir = format!("--git-dir={}", own.display());
        let as_named = |from: &str| format!("+{from}:{name}");
        // an annotated tag is an object of its own
        if name.starts_with("refs/tags/") {
            let tag = as_named(name);
            let fetch = [kept, "fetch", "--depth=1", "--no-tags", "--", &git.remote];
            let fetch = [&fetch[..], &[&tag]].concat();
            let bare = kept.trim_start_matches("--git-dir=");
            if self.run(own, &what, &fetch).await.is_ok() {
                let file = format!("file://{bare}");
                let peeled = format!("{name}^{{commit}}");
                let same = self.run(own, &what, &[kept, "rev-parse", &peeled]).await?;
                let fetch = [
                    own_dir.as_str(),
                    "-c",
                    "protocol.file.allow=always",
                    "fetch",
                    "--quiet",
                    "--depth=1",
                    "--no-tags",
                    "--",
                    &file,
                    &tag,
                ];
                // it may have moved meanwhile
                if same.trim() == commit.id && self.run(own, &what, &fetch).await.is_ok() {
                    return Ok(());
                }
            }
        }
        let update = [own_dir.as_str(), "update-ref", name, &commit.id];
        self.run(own, &what, &update).await.map(drop)
    }

    /// A repository of its own beside the files, that borrows nothing of the kept one.
    async fn work_tree(
        &self,
        git: &GitRef,
        commit: &Commit,
        (bare, own, files): (&str, &Path, &Path),
    ) -> Result<(), SourceError> {
        let what = format!("failed to checkout remote {}", redacted(&git.remote));
        let dirs = [
            format!("--git-dir={}", own.display()),
            format!("--work-tree={}", files.display()),
        ];
        let call = |arguments: Vec<String>| {
            let what = what.clone();
            let all: Vec<String> = dirs.iter().cloned().chain(arguments).collect();
            async move {
                let all: Vec<&str> = all.iter().map(|a| a.as_str()).collect();
                self.run(files, &what, &all).await
            }
        };
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        call(words("-c init.defaultBranch=master init --quiet")).await?;
        let mut fetch =
            words("-c protocol.file.allow=always fetch --quiet -u --depth=1 --no-tags --");
        fetch.push(format!("file://{bare}"));
        fetch.push(commit.id.clone());
        call(fetch).await?;
        call(words("checkout --quiet --force --detach FETCH_HEAD")).await?;
        let remote = [words("remote add origin --"), vec![redacted(&git.remote)]].concat();
        call(remote).await?;
        if git.submodules != Some(false) && files.join(".gitmodules").exists() {
            call([words("remote set-url origin --"), vec![git.remote.clone()]].concat()).await?;
            let done = call(words(
                "submodule update --quiet --init --recursive --depth=1",
            ))
            .await;
            call(
                [
                    words("remote set-url origin --"),
                    vec![redacted(&git.remote)],
                ]
                .concat(),
            )
            .await?;
            done?;
        }
        Ok(())
    }

    /// The kept repository of a remote, for one user at a time.
    async fn repository(&self, git: &GitRef, id: &str) -> Result<Repository, SourceError> {
        use sha2::{Digest, Sha256};
        let format = if id.len() == 64 { "sha256" } else { "sha1" };
        let key = hex::encode(&Sha256::digest(format!("{format} {}", git.remote))[..16]);
        let path = self.dir.join(key);
        std::fs::create_dir_all(&path).map_err(io(&path))?;
        let lock_path = self.dir.join(format!(
            "{}.lock",
            path.file_name().unwrap_or_default().to_string_lossy()
        ));
        let lock = tokio::task::spawn_blocking(move || {
            let file = std::fs::File::create(&lock_path).map_err(io(&lock_path))?;
            file.lock().map_err(io(&lock_path))?;
            Ok::<_, SourceError>(file)
        });
        let lock = lock
            .await
            .map_err(|e| SourceError::Refused(e.to_string()))??;
        for left in ["shallow.lock", "index.lock", "config.lock"] {
            let _ = std::fs::remove_file(path.join(left));
        }
        if !path.join("HEAD").exists() {
            let format = format!("--object-format={format}");
            let arguments = [
                "-c",
                "init.defaultBranch=master",
                "init",
                "--quiet",
                "--bare",
                &format,
                ".",
            ];
            self.run(&path, "failed to init repo", &arguments).await?;
            // work trees fetch by hash
            let allow = [
                "--git-dir=.",
                "config",
                "uploadpack.allowAnySHA1InWant",
                "true",
            ];
            self.run(&path, "failed to init repo", &allow).await?;
        }
        Ok(Repository { path, _lock: lock })
    }
}

struct Repository {
    path: PathBuf,
    _lock: std::fs::File,
}

/// What `git checkout` would choose of a remote's references: a branch before a tag, a tag's commit before the tag.
fn choose(listed: &str, asked: &str) -> Option<Commit> {
    let rows: Vec<(&str, &str)> = listed.lines().filter_map(|l| l.split_once('\t')).collect();
    let bare = |prefix: &str| asked.strip_prefix(prefix).unwrap_or(asked).to_owned();
    let tag = format!("refs/tags/{}", bare("refs/tags/"));
    let names = [
        (asked == "HEAD").then(|| "HEAD".to_owned()),
        Some(format!("refs/heads/{}", bare("refs/heads/"))),
        Some(format!("{tag}^{{}}")),
        Some(tag),
        Some(format!("refs/{}", bare("refs/"))),
    ];
    names.into_iter().flatten().find_map(|name| {
        let (id, _) = rows.iter().find(|(id, row)| *row == name && is_hash(id))?;
        // the branch that HEAD is
        let link = rows.iter().find(|(_, row)| *row == name);
        let branch = link.and_then(|(to, _)| to.strip_prefix("ref: "));
        let name = branch.map_or(name, str::to_owned);
        Some(Commit {
            id: (*id).to_owned(),
            reference: name.trim_end_matches("^{}").to_owned(),
        })
    })
}

/// Moves what is in a sub-folder; links that lead out of the files lead nowhere.
fn take(files: &Path, subdir: &str, into: &Path) -> Result<(), SourceError> {
    let fail = |e: std::io::Error| {
        let name = subdir.trim_start_matches('/');
        let why = match e.kind() {
            std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
            std::io::ErrorKind::NotADirectory => "not a directory".to_owned(),
            _ => e.to_string(),
        };
        SourceError::Refused(format!("failed to open subdir {name}: {why}"))
    };
    let folder = crate::copy::inside(files, Path::new(subdir)).map_err(fail)?;
    let entries = std::fs::read_dir(&folder).map_err(fail)?;
    for entry in entries {
        let entry = entry.map_err(fail)?;
        let to = into.join(entry.file_name());
        std::fs::rename(entry.path(), &to).map_err(io(&to))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_come_before_tags() {
        let hash = |c: char| c.to_string().repeat(40);
        let listed = format!(
            "{}\tHEAD\n{}\trefs/heads/v1\n{}\trefs/tags/v1\n{}\trefs/tags/v1^{{}}\n{}\trefs/tags/v2\n{}\trefs/heads/x/v1\n",
            hash('a'),
            hash('b'),
            hash('c'),
            hash('d'),
            hash('e'),
            hash('f')
        );
        let table = [
            ("HEAD", Some(('a', "HEAD"))),
            ("v1", Some(('b', "refs/heads/v1"))),
            ("refs/tags/v1", Some(('d', "refs/tags/v1"))),
            ("tags/v1", Some(('c', "refs/tags/v1"))),
            ("v2", Some(('e', "refs/tags/v2"))),
            ("v3", None),
        ];
        let linked = format!("ref: refs/heads/x/v1\tHEAD\n{listed}");
        let head = choose(&linked, "HEAD").unwrap();
        assert_eq!(
            (head.id, head.reference.as_str()),
            (hash('a'), "refs/heads/x/v1")
        );
        for (asked, want) in table {
            let want = want.map(|(c, reference)| Commit {
                id: hash(c),
                reference: reference.into(),
            });
            assert_eq!(choose(&listed, asked), want, "{asked}");
        }
    }
}
