//! Contexts and sources that come from elsewhere: git over git's own protocol, files over HTTP, archives.

#[allow(dead_code)]
mod serving;

use knarr_build::source::{
    GitRef,
    context::{Opened, from_stream, from_url, ignore},
    git::{Git, Token},
    http::Http,
};
use serving::{archive, git, ok, repository, serve_git, serve_http};
use std::{fs, io::Write, os::unix::fs::PermissionsExt, path::Path};

fn names(folder: &Path) -> Vec<String> {
    let name = |e: std::io::Result<fs::DirEntry>| e.unwrap().file_name().to_string_lossy().into();
    let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(name).collect();
    names.sort();
    names
}

#[tokio::test]
async fn git_repositories() {
    let folder = tempfile::tempdir().unwrap();
    let (first, last) = repository(folder.path());
    let port = serve_git(folder.path());
    let tool = Git {
        dir: folder.path().join("kept"),
        ..Git::default()
    };
    let all = ["a", "out", "sub"];
    // query or fragment; keep .git; what is there, what `a` says, or the error
    type Want<'a> = Result<(&'a [&'a str], &'a str), &'a str>;
    let short = format!("?commit={}", &last[..12]);
    let wrong = format!("?commit={first}");
    let mismatch = format!("expected checksum to match {first}, got {last}");
    let (by_first, by_last) = (format!("#{first}"), format!("#{last}"));
    let table: [(&str, bool, Want<'_>); 12] = [
        ("", false, Ok((&all, "two"))),
        ("#v1", false, Ok((&all, "one"))),
        ("?tag=v1", false, Ok((&all, "one"))),
        ("?branch=old", false, Ok((&all, "one"))),
        (&by_first, false, Ok((&all, "one"))),
        (&by_last, true, Ok((&[".git", "a", "out", "sub"], "two"))),
        (&short, false, Ok((&all, "two"))),
        (&wrong, false, Err(&mismatch)),
        ("#main:sub", false, Ok((&["deep"], ""))),
        ("#main:out/out/sub", true, Ok((&["deep"], ""))),
        ("#nope", false, Err("does not contain ref nope")),
        (
            "#main:nope",
            false,
            Err("failed to open subdir nope: no such file or directory"),
        ),
    ];
    for (query, keep, want) in table {
        let reference = GitRef::parse(&format!("git://127.0.0.1:{port}/r{query}"));
        let reference = reference.unwrap().unwrap();
        let into = tempfile::tempdir().unwrap();
        let done = match tool.resolve(&reference).await {
            Ok(commit) => tool.check_out(&reference, &commit, keep, into.path()).await,
            Err(e) => Err(e),
        };
        match (done, want) {
            (Ok(()), Ok((there, a))) => {
                assert_eq!(names(into.path()), there, "{query}");
                let got = fs::read_to_string(into.path().join("a")).unwrap_or_default();
                assert_eq!(got, a, "{query}");
            }
            (Err(e), Err(want)) => {
                assert!(e.to_string().contains(want), "{query}: {e}");
            }
            (done, want) => panic!("{query}: {done:?}, not {want:?}"),
        }
    }
}

#[tokio::test]
async fn a_kept_git_folder_is_a_shallow_clone_without_passwords() {
    let folder = tempfile::tempdir().unwrap();
    let (_, last) = repository(folder.path());
    let port = serve_git(folder.path());
    let tool = Git {
        dir: folder.path().join("kept"),
        ..Git::default()
    };
    let reference = GitRef::parse(&format!("git://127.0.0.1:{port}/r"))
        .unwrap()
        .unwrap();
    let commit = tool.resolve(&reference).await.unwrap();
    let into = tempfile::tempdir().unwrap();
    tool.check_out(&reference, &commit, true, into.path())
        .await
        .unwrap();
    assert_eq!(git(into.path(), &["rev-parse", "HEAD"]), last);
    assert_eq!(git(into.path(), &["status", "--porcelain"]), "");
    assert_eq!(git(into.path(), &["rev-list", "--count", "HEAD"]), "1");
    assert_eq!(
        git(into.path(), &["remote", "get-url", "origin"]),
        reference.remote
    );
    // what was asked for has its name
    for (query, call, want) in [
        ("", &["rev-parse", "refs/heads/main"][..], last.as_str()),
        ("#v1", &["describe"], "v1"),
        ("#main", &["rev-parse", "refs/heads/main"], last.as_str()),
    ] {
        let text = format!("git://127.0.0.1:{port}/r{query}");
        let reference = GitRef::parse(&text).unwrap().unwrap();
        let commit = tool.resolve(&reference).await.unwrap();
        let into = tempfile::tempdir().unwrap();
        let out = tool.check_out(&reference, &commit, true, into.path());
        out.await.unwrap();
        assert_eq!(git(into.path(), call), want, "{query}");
        assert_eq!(git(into.path(), &["status", "--porcelain"]), "", "{query}");
        assert!(!into.path().join(".git/logs").exists(), "{query}");
    }
}

#[tokio::test]
async fn a_token_goes_to_its_repository_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (port, asked) = serve_http(vec![]);
    let own = format!("http://127.0.0.1:{port}/own.git");
    let tool = Git {
        dir: folder.path().join("kept"),
        token: Some(Token::new(&own, "secret".into())),
        ..Git::default()
    };
    for (path, wanted) in [("own.git", true), ("other.git", false), ("own", false)] {
        let url = format!("http://127.0.0.1:{port}/{path}");
        let mut reference = GitRef::parse(&own).unwrap().unwrap();
        reference.remote = url;
        // there is nothing at this server; what was asked of it counts
        tool.resolve(&reference).await.unwrap_err();
        let asked = std::mem::take(&mut *asked.lock().unwrap());
        assert!(!asked.is_empty(), "{path}");
        let told = |head: &String| head.to_lowercase().contains("authorization: basic ");
        assert_eq!(asked.iter().any(told), wanted, "{path}: {asked:?}");
    }
}

#[tokio::test]
async fn files_over_http() {
    let folder = tempfile::tempdir().unwrap();
    let dated = "\r\netag: \"tag\"\r\nlast-modified: Wed, 21 Oct 2015 07:28:00 GMT";
    let (file, body) = ok(dated, b"hello");
    let (half, _) = ok("", b"hello");
    let (port, asked) = serve_http(vec![
        ("/d/file.txt", file, body),
        (
            "/moved",
            "302 Found\r\ncontent-length: 0\r\nlocation: d/file.txt".into(),
            vec![],
        ),
        (
            "/loop",
            "302 Found\r\ncontent-length: 0\r\nlocation: /loop".into(),
            vec![],
        ),
        ("/half", half, b"hel".to_vec()),
        (
            "/broken",
            "500 Internal Server Error\r\ncontent-length: 0".into(),
            vec![],
        ),
    ]);
    let http = Http {
        dir: folder.path().join("http"),
    };
    let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
    let got = http.fetch(&url("/d/file.txt"), None).await.unwrap();
    let path = got.folder.join(&got.name);
    assert_eq!(got.name, "file.txt");
    assert_eq!(fs::read(&path).unwrap(), b"hello");
    let meta = fs::metadata(&path).unwrap();
    assert_eq!(meta.permissions().mode() & 0o7777, 0o600);
    let modified = meta.modified().unwrap();
    let since = modified.duration_since(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(since.as_secs(), 1_445_412_480);
    // the server says that it is the same still
    assert_eq!(http.fetch(&url("/d/file.txt"), None).await.unwrap(), got);
    assert_eq!(asked.lock().unwrap().len(), 2);
    // its digest says so
    assert_eq!(
        http.fetch(&url("/d/file.txt"), Some(&got.digest))
            .await
            .unwrap(),
        got
    );
    assert_eq!(asked.lock().unwrap().len(), 2);
    let moved = http.fetch(&url("/moved"), None).await.unwrap();
    assert_eq!((moved.name.as_str(), &moved.digest), ("moved", &got.digest));

    let other = format!("sha256:{}", "0".repeat(64));
    let table = [
        ("/nope", None, "invalid response status 404"),
        ("/broken", None, "invalid response status 500"),
        ("/loop", None, "stopped after 10 redirects"),
        ("/half", None, "end of file before message length reached"),
        (
            "/moved",
            Some(other.as_str()),
            "digest mismatch for http://127.0.0.1",
        ),
        ("/moved", Some("md5:1"), "unsupported digest algorithm"),
    ];
    for (path, sum, want) in table {
        let got = http.fetch(&url(path), sum).await.unwrap_err().to_string();
        assert!(got.contains(want), "{path}: {got}");
    }
    let left = names(&http.dir);
    assert!(left.iter().all(|n| !n.starts_with(".tmp")), "{left:?}");
}

#[tokio::test]
async fn contexts_of_all_kinds() {
    let folder = tempfile::tempdir().unwrap();
    let (tar_head, tar) = ok("", &archive());
    let (text_head, text) = ok("", b"FROM scratch\n");
    let (port, _) = serve_http(vec![
        ("/c.tar", tar_head, tar),
        ("/Dockerfile", text_head, text),
    ]);
    let http = Http {
        dir: folder.path().join("http"),
    };
    let git = Git {
        dir: folder.path().join("git"),
        ..Git::default()
    };
    let into = folder.path().join("into");
    let url = format!("http://127.0.0.1:{port}/c.tar");
    let got = from_url(&url, &git, &http, &into).await.unwrap();
    assert_eq!(got, Opened::Folder(into.clone()));
    assert_eq!(fs::read(into.join("Dockerfile")).unwrap(), b"FROM");
    let url = format!("http://127.0.0.1:{port}/Dockerfile");
    let got = from_url(&url, &git, &http, &into).await.unwrap();
    assert_eq!(got, Opened::Dockerfile("FROM scratch\n".into()));
}

#[test]
fn contexts_from_a_stream() {
    let packed = {
        let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        gzip.write_all(&archive()).unwrap();
        gzip.finish().unwrap()
    };
    let cut = packed[..packed.len() - 20].to_vec();
    let zeros = vec![0_u8; 1024];
    let table: [(&str, Vec<u8>, Result<bool, &str>); 6] = [
        ("tar", archive(), Ok(true)),
        ("tar.gz", packed, Ok(true)),
        ("text", b"FROM x".to_vec(), Ok(false)),
        ("nothing", vec![], Ok(false)),
        ("half", cut, Err("failed to unpack the context")),
        (
            "no text",
            [&[0xff_u8][..], &zeros].concat(),
            Err("it isn't text"),
        ),
    ];
    for (name, bytes, want) in table {
        let into = tempfile::tempdir().unwrap();
        let got = from_stream(&bytes[..], into.path());
        match (&got, want) {
            (Ok(Opened::Folder(_)), Ok(true)) => {
                assert_eq!(
                    fs::read(into.path().join("Dockerfile")).unwrap(),
                    b"FROM",
                    "{name}"
                );
            }
            (Ok(Opened::Dockerfile(_)), Ok(false)) => {}
            (Err(e), Err(want)) => assert!(e.to_string().contains(want), "{name}: {e}"),
            _ => panic!("{name}: {got:?}"),
        }
    }
}

#[test]
fn a_dockerfiles_own_ignore_file_comes_first() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let check = |dockerfile: Option<&str>, a: bool, b: bool| {
        let path = dockerfile.map(|d| folder.path().join(d));
        let found = ignore(folder.path(), path.as_deref()).unwrap();
        assert_eq!(
            (found.leaves_out("a"), found.leaves_out("b")),
            (a, b),
            "{dockerfile:?}"
        );
    };
    check(Some("Dockerfile"), false, false);
    write(".dockerignore", "a\n");
    check(Some("Dockerfile"), true, false);
    check(None, true, false);
    write("Dockerfile.dockerignore", "b\n");
    check(Some("Dockerfile"), false, true);
    check(Some("other"), true, false);
    write("Dockerfile.dockerignore", "!\n");
    let wrong = ignore(folder.path(), Some(&folder.path().join("Dockerfile")));
    assert!(wrong.unwrap_err().to_string().contains("line 1"));
}
