//! `knarr build --check`, which needs no platform.

use std::process::{Command, Output};

use crate::crew::{KNARR, text, turn};

fn check(dockerfile: &str, arguments: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("Dockerfile"), dockerfile).unwrap();
    Command::new(KNARR)
        .args(["build", "--check"])
        .args(arguments)
        .env("KNARR_DATA_DIR", dir.path().join("none"))
        .current_dir(dir.path())
        .output()
        .unwrap()
}

#[test]
fn findings_and_mistakes_have_dockers_code() {
    let _turn = turn();
    let cases = [
        ("FROM a\nCMD [\"b\"]\n", &[][..], 0, "no warnings found"),
        ("FROM a\nCMD b\n", &[], 1, "WARNING: JSONArgsRecommended"),
        ("FROM a\nCMD b\n", &["-o", "json"], 1, "\"line\": 2"),
        (
            "FROM a\nRUM b\n",
            &[],
            1,
            "dockerfile parse error on line 2: unknown instruction: RUM (did you mean RUN?)",
        ),
        (
            "FROM a AS b\n",
            &["--target", "c"],
            1,
            "\"c\" could not be found",
        ),
        (
            "FROM a\n",
            &["--file", "other"],
            1,
            "open other: no such file or directory",
        ),
        ("FROM a\n", &["--platform", "x/y/z/q"], 1, "a platform is"),
    ];
    for (dockerfile, arguments, code, expected) in cases {
        let output = check(dockerfile, arguments);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(code), "{dockerfile}: {said}");
        assert!(said.contains(expected), "{dockerfile}: {said}");
    }
}

/// A reader that goes away ends a verb by the signal, as it ends other programs, and not by a panic.
#[test]
fn a_reader_that_goes_away_is_no_bug() {
    let _turn = turn();
    // the reader is gone before the first word is written
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(KNARR);
    command.args(["completions", "bash"]).stdout(writer);
    let output = command.output().unwrap();
    let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
    assert_eq!(signal, Some(libc::SIGPIPE), "{}", text(&output));
}

/// Nothing of a build stays, whether the platform ever ran or not.
#[test]
fn a_build_is_purged() {
    let _turn = turn();
    assert!(rustix::process::geteuid().is_root(), "needs root");
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    std::fs::write(dir.path().join("Dockerfile"), "FROM scratch\nCOPY a /\n").unwrap();
    std::fs::write(dir.path().join("a"), "a").unwrap();
    for arguments in [&["build", "-t", "a:1", "."][..], &["stop", "--purge"]] {
        let output = Command::new(KNARR)
            .args(arguments)
            .env("KNARR_DATA_DIR", &data)
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
    }
    assert!(!data.exists(), "the data directory is left");
}
