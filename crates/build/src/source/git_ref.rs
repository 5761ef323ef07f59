//! What names a git repository (`frontend/dockerfile/dfgitutil`, `util/gitutil`).

/// It names a git repository, but wrongly.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GitRefError(pub String);

/// A git repository and what of it is meant: `URL[#ref[:subdir]]`, `URL?branch=…&subdir=…`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GitRef {
    /// For git itself; may hold a password.
    pub remote: String,
    /// Branch, tag or commit; None: the default branch.
    pub reference: Option<String>,
    pub subdir: Option<String>,
    /// The commit that has to come of it, or its beginning.
    pub checksum: Option<String>,
    pub keep_git_dir: Option<bool>,
    pub submodules: Option<bool>,
    /// `github.com/…`, which could be a folder as well: a context only, no source of `ADD`.
    pub like_local: bool,
}

impl GitRef {
    /// `None` when it isn't about git.
    ///
    /// # Errors
    /// When it is, but its query isn't right.
    pub fn parse(text: &str) -> Option<Result<GitRef, GitRefError>> {
        if text.starts_with("./") || text.starts_with("../") || text.starts_with('-') {
            return None;
        }
        let like_local = text.starts_with("github.com/");
        let whole = match like_local {
            true => format!("https://{text}"),
            false => text.to_owned(),
        };
        let (rest, fragment) = cut(&whole, '#');
        let (base, query) = cut(rest, '?');
        let remote = match base.split_once("://") {
            Some((scheme, rest)) => {
                let scheme = scheme.to_ascii_lowercase();
                let path = rest.split_once('/').map_or("", |(_, path)| path);
                match scheme.as_str() {
                    "http" | "https" if like_local || path.ends_with(".git") => {}
                    "ssh" | "git" => {}
                    _ => return None,
                }
                if rest.starts_with('-') || rest.is_empty() || base.contains(char::is_whitespace) {
                    return None;
                }
                base.to_owned()
            }
            None if is_scp(base) => base.to_owned(),
            None => return None,
        };
        let mut found = GitRef {
            remote,
            like_local,
            ..GitRef::default()
        };
        if let Some(fragment) = fragment {
            let fragment = decode(fragment);
            let (reference, subdir) = cut(&fragment, ':');
            found.reference = filled(reference);
            found.subdir = subdir.and_then(filled);
        }
        Some(found.query(query.unwrap_or_default()).map(|()| found))
    }

    fn query(&mut self, query: &str) -> Result<(), GitRefError> {
        let mut seen: Vec<String> = vec![];
        let (mut tag, mut branch) = (None, None);
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = cut(pair, '=');
            let (key, value) = (decode(key), decode(value.unwrap_or_default()));
            let wrong = |why: String| Err(GitRefError(why));
            if seen.contains(&key) {
                return wrong(format!("query {key:?} has multiple values"));
            }
            let switch = matches!(key.as_str(), "submodules" | "keep-git-dir");
            if value.is_empty() && !switch {
                return wrong(format!("query {key:?} has no value"));
            }
            match key.as_str() {
                "ref" => set("ref", &mut self.reference, value)?,
                "subdir" => set("subdir", &mut self.subdir, value)?,
                "tag" => tag = Some(prefixed("refs/tags/", value)),
                "branch" => branch = Some(prefixed("refs/heads/", value)),
                "checksum" | "commit" => self.checksum = Some(value),
                "keep-git-dir" => self.keep_git_dir = Some(boolean(&key, &value)?),
                "submodules" => self.submodules = Some(boolean(&key, &value)?),
                _ => return wrong(format!("unexpected query {key:?}")),
            }
            seen.push(key);
        }
        if tag.is_some() && branch.is_some() {
            return Err(GitRefError("branch conflicts with tag".into()));
        }
        for reference in [tag, branch].into_iter().flatten() {
            set("ref", &mut self.reference, reference)?;
        }
        Ok(())
    }
}

fn filled(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn set(what: &str, place: &mut Option<String>, value: String) -> Result<(), GitRefError> {
    match place {
        Some(there) if *there != value => Err(GitRefError(format!(
            "{what} conflicts: {there:?} vs {value:?}"
        ))),
        _ => {
            *place = Some(value);
            Ok(())
        }
    }
}

fn prefixed(prefix: &str, value: String) -> String {
    match value.starts_with(prefix) {
        true => value,
        false => format!("{prefix}{value}"),
    }
}

fn boolean(key: &str, value: &str) -> Result<bool, GitRefError> {
    match value {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(GitRefError(format!("invalid {key} value: {value:?}"))),
    }
}

fn cut(text: &str, at: char) -> (&str, Option<&str>) {
    match text.split_once(at) {
        Some((before, behind)) => (before, Some(behind)),
        None => (text, None),
    }
}

fn decode(text: &str) -> String {
    percent_encoding::percent_decode_str(text)
        .decode_utf8_lossy()
        .into_owned()
}

/// `user@host:path`
fn is_scp(text: &str) -> bool {
    let plain = |t: &str, more: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
        !t.is_empty() && !t.starts_with('-') && t.chars().all(fits)
    };
    text.split_once(':')
        .and_then(|(login, _)| login.split_once('@'))
        .is_some_and(|(user, host)| plain(user, "-_") && plain(host, "-."))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `remote`, `reference`, `subdir`
    type Parts = (&'static str, Option<&'static str>, Option<&'static str>);

    #[test]
    fn as_buildkit_reads_them() {
        // the vectors of dfgitutil/git_ref_test.go
        let table: &[(&str, Option<Parts>)] = &[
            ("https://example.com/", None),
            ("https://example.com/foo", None),
            (
                "https://example.com/foo.git",
                Some(("https://example.com/foo.git", None, None)),
            ),
            (
                "https://example.com/foo.git#deadbeef",
                Some(("https://example.com/foo.git", Some("deadbeef"), None)),
            ),
            (
                "https://example.com/foo.git#release/1.2",
                Some(("https://example.com/foo.git", Some("release/1.2"), None)),
            ),
            ("https://example.com/foo.git/", None),
            ("https://example.com/foo.git.bar", None),
            (
                "git://example.com/foo",
                Some(("git://example.com/foo", None, None)),
            ),
            (
                "github.com/moby/buildkit#master",
                Some(("https://github.com/moby/buildkit", Some("master"), None)),
            ),
            ("custom.xyz/moby/buildkit.git", None),
            ("https://github.com/moby/buildkit", None),
            (
                "https://foo:bar@github.com/moby/buildkit.git",
                Some(("https://foo:bar@github.com/moby/buildkit.git", None, None)),
            ),
            (
                "git@github.com:moby/buildkit",
                Some(("git@github.com:moby/buildkit", None, None)),
            ),
            (
                "https://github.com/foo/bar.git#baz/qux:quux/quuz",
                Some((
                    "https://github.com/foo/bar.git",
                    Some("baz/qux"),
                    Some("quux/quuz"),
                )),
            ),
            ("http://github.com/docker/docker.git:#branch", None),
            (
                "https://github.com/docker/docker.git#:myfolder",
                Some((
                    "https://github.com/docker/docker.git",
                    None,
                    Some("myfolder"),
                )),
            ),
            ("./.git", None),
            (".git", None),
            (
                "https://github.com/docker/docker.git?ref=v1.0.0&subdir=/subdir",
                Some((
                    "https://github.com/docker/docker.git",
                    Some("v1.0.0"),
                    Some("/subdir"),
                )),
            ),
            (
                "https://github.com/moby/buildkit.git?subdir=/subdir#v1.0.0",
                Some((
                    "https://github.com/moby/buildkit.git",
                    Some("v1.0.0"),
                    Some("/subdir"),
                )),
            ),
            (
                "https://github.com/moby/buildkit.git?tag=v1.0.0",
                Some((
                    "https://github.com/moby/buildkit.git",
                    Some("refs/tags/v1.0.0"),
                    None,
                )),
            ),
            (
                "https://github.com/moby/buildkit.git?branch=v1.0",
                Some((
                    "https://github.com/moby/buildkit.git",
                    Some("refs/heads/v1.0"),
                    None,
                )),
            ),
            (
                "git@github.com:moby/buildkit.git?subdir=/subdir#v1.0.0",
                Some((
                    "git@github.com:moby/buildkit.git",
                    Some("v1.0.0"),
                    Some("/subdir"),
                )),
            ),
            // options of git or ssh, not names
            ("--upload-pack=touch /x", None),
            ("-oProxyCommand=x@host:path", None),
            ("ssh://-oProxyCommand=x/path", None),
            ("ext::sh -c x", None),
            ("file:///etc", None),
        ];
        for (text, want) in table {
            let got = GitRef::parse(text).map(|r| r.unwrap());
            let got = got.as_ref().map(|r| {
                (
                    r.remote.as_str(),
                    r.reference.as_deref(),
                    r.subdir.as_deref(),
                )
            });
            assert_eq!(got, *want, "{text}");
        }
    }

    #[test]
    fn wrong_queries() {
        let table = [
            (
                "?ref=v1.0.0#v1.2.3",
                "ref conflicts: \"v1.2.3\" vs \"v1.0.0\"",
            ),
            (
                "?ref=v1.0.0&tag=v1.2.3",
                "ref conflicts: \"v1.0.0\" vs \"refs/tags/v1.2.3\"",
            ),
            ("?tag=v1.0.0&branch=v1.0", "branch conflicts with tag"),
            ("?invalid=123", "unexpected query \"invalid\""),
            ("?ref=", "query \"ref\" has no value"),
            ("?ref=a&ref=a", "query \"ref\" has multiple values"),
            (
                "?keep-git-dir=maybe",
                "invalid keep-git-dir value: \"maybe\"",
            ),
        ];
        for (query, want) in table {
            let text = format!("https://github.com/moby/buildkit.git{query}");
            let got = GitRef::parse(&text).unwrap().unwrap_err();
            assert_eq!(got.to_string(), want, "{query}");
        }
        let all = "git@h:p?keep-git-dir&submodules=false&commit=abc";
        let got = GitRef::parse(all).unwrap().unwrap();
        assert_eq!(
            (got.keep_git_dir, got.submodules, got.checksum.as_deref()),
            (Some(true), Some(false), Some("abc"))
        );
    }
}
