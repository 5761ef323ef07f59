//! Builds whose files come from elsewhere: `ADD` of URLs and repositories, contexts that are archives or behind a URL.

mod common;
#[allow(dead_code)]
mod serving;

use common::World;
use knarr_build::{Context, DockerfileFrom};
use serving::{git, ok, repository, serve_git, serve_http};
use sha2::{Digest, Sha256};
use std::fs;

#[tokio::test(flavor = "multi_thread")]
async fn add_of_urls_and_repositories() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let (first, last) = repository(folder.path());
    let port = serve_git(folder.path());
    let (head, body) = ok("\r\netag: \"tag\"", b"hello");
    let (http, asked) = serve_http(vec![("/d/f.txt", head, body)]);
    let sum = hex::encode(Sha256::digest(b"hello"));
    let text = format!(
        "FROM scratch\n\
         ADD http://127.0.0.1:{http}/d/f.txt /one/\n\
         ADD --checksum=sha256:{sum} --chmod=644 http://127.0.0.1:{http}/d/f.txt /two\n\
         ADD git://127.0.0.1:{port}/r /last/\n\
         ADD --keep-git-dir=true git://127.0.0.1:{port}/r?tag=v1 /first\n\
         ADD git://127.0.0.1:{port}/r#main:sub /sub/\n"
    );
    let (built, _) = world.good(world.request(&text, &[])).await;
    let table = [
        ("one/f.txt", Some("hello")),
        ("two", Some("hello")),
        ("last/a", Some("two")),
        ("last/.git/HEAD", None),
        ("first/a", Some("one")),
        ("first/.git/HEAD", Some(first.as_str())),
        ("sub/deep/b", Some("b")),
    ];
    for (path, want) in table {
        let got = world.file(&built, path);
        assert_eq!(got.as_deref().map(str::trim), want, "{path}");
    }
    // nothing has changed: all steps are there
    let before = asked.lock().unwrap().len();
    let (again, _) = world.good(world.request(&text, &[])).await;
    assert_eq!(again.steps_run, 0);
    assert!(
        asked.lock().unwrap().len() > before,
        "the server was asked whether it is the same"
    );
    // another commit is another step
    let repo = folder.path().join("r");
    fs::write(repo.join("a"), "three").unwrap();
    git(&repo, &["commit", "-qam", "3"]);
    let (third, _) = world.good(world.request(&text, &[])).await;
    assert_eq!(world.file(&third, "last/a").as_deref(), Some("three"));

    let wrong = [
        (
            format!(
                "ADD --checksum=sha256:{} http://127.0.0.1:{http}/d/f.txt /",
                "0".repeat(64)
            ),
            "digest mismatch for http://127.0.0.1".to_owned(),
        ),
        (
            format!("ADD http://127.0.0.1:{http}/nope /"),
            "invalid response status 404".into(),
        ),
        (
            format!("ADD --checksum={first} git://127.0.0.1:{port}/r#{last} /"),
            format!("expected checksum to match {first}, got {last}"),
        ),
        (
            format!("ADD --keep-git-dir=true git://127.0.0.1:{port}/r?keep-git-dir=0 /"),
            "inconsistent keep-git-dir configuration".into(),
        ),
        (
            format!("COPY git://127.0.0.1:{port}/r /"),
            "source can't be a git ref for COPY".into(),
        ),
        (
            format!("COPY http://127.0.0.1:{http}/d/f.txt /"),
            "source can't be a URL for COPY".into(),
        ),
        (
            format!("ADD git://127.0.0.1:{port}/r?x=y /"),
            "unexpected query \"x\"".into(),
        ),
    ];
    for (line, want) in wrong {
        let (got, _) = world
            .build(world.request(&format!("FROM scratch\n{line}\n"), &[]))
            .await;
        let e = got.unwrap_err().report();
        assert!(e.contains(&want), "{line}: {e}");
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contexts_that_are_no_folders() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    repository(folder.path());
    let repo = folder.path().join("r");
    fs::write(repo.join("Dockerfile"), "FROM scratch\nCOPY a /from-git\n").unwrap();
    git(&repo, &["add", "."]);
    git(&repo, &["commit", "-qm", "with a Dockerfile"]);
    let port = serve_git(folder.path());

    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(
        vec![],
        flate2::Compression::fast(),
    ));
    for (name, text) in [
        ("Dockerfile", "FROM scratch\nCOPY x /from-tar\n"),
        ("x", "in it"),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    let packed = tar.into_inner().unwrap().finish().unwrap();
    let path = folder.path().join("context.tgz");
    fs::write(&path, &packed).unwrap();
    let (head, body) = ok("", &packed);
    let (http, _) = serve_http(vec![("/c.tgz", head, body)]);
    let lone = folder.path().join("lone");
    fs::write(&lone, "FROM scratch\nCOPY <<EOF /from-text\nhello\nEOF\n").unwrap();
    let broken = folder.path().join("broken.tgz");
    fs::write(&broken, &packed[..packed.len() - 30]).unwrap();

    let table = [
        (
            Context::Url(format!("git://127.0.0.1:{port}/r")),
            "from-git",
            Ok("two"),
        ),
        (
            Context::Url(format!("http://127.0.0.1:{http}/c.tgz")),
            "from-tar",
            Ok("in it"),
        ),
        (Context::Archive(path.clone()), "from-tar", Ok("in it")),
        (Context::Archive(path), "from-tar", Ok("in it")),
        (Context::Archive(lone), "from-text", Ok("hello")),
        (
            Context::Archive(broken),
            "",
            Err("failed to unpack the context"),
        ),
        (
            Context::Url(format!("http://127.0.0.1:{http}/nope")),
            "",
            Err("invalid response status 404"),
        ),
    ];
    for (context, file, want) in table {
        let mut request = world.request("", &[]);
        request.dockerfile = DockerfileFrom::default();
        request.context = context.clone();
        let (got, _) = world.build(request).await;
        match (got, want) {
            (Ok(built), Ok(want)) => {
                let got = world.file(&built, file);
                assert_eq!(got.as_deref().map(str::trim), Some(want), "{context:?}");
            }
            (Err(e), Err(want)) => assert!(e.to_string().contains(want), "{context:?}: {e}"),
            (got, _) => panic!("{context:?}: {:?}", got.map(|b| b.metadata)),
        }
    }
    world.close().await;
}
