//! `knarr build --check`, which needs no platform.

use std::process::{Command, Output};

use crate::crew::{KNARR, text};

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
fn findings_and_mistakes_have_codes_of_their_own() {
    let cases = [
        ("FROM a\nCMD [\"b\"]\n", &[][..], 0, "no warnings found"),
        ("FROM a\nCMD b\n", &[], 1, "WARNING: JSONArgsRecommended"),
        ("FROM a\nCMD b\n", &["-o", "json"], 1, "\"line\":2"),
        (
            "FROM a\nRUM b\n",
            &[],
            2,
            "Dockerfile:2: unknown instruction: RUM (did you mean RUN?)",
        ),
        (
            "FROM a AS b\n",
            &["--target", "c"],
            2,
            "\"c\" could not be found",
        ),
        (
            "FROM a\n",
            &["--file", "other"],
            2,
            "other: there is no such file",
        ),
        ("FROM a\n", &["--platform", "x/y/z/q"], 2, "a platform is"),
    ];
    for (dockerfile, arguments, code, expected) in cases {
        let output = check(dockerfile, arguments);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(code), "{dockerfile}: {said}");
        assert!(said.contains(expected), "{dockerfile}: {said}");
    }
}

/// A reader that goes away ends a verb as it ends other programs, without a panic.
#[test]
fn a_reader_that_goes_away_is_no_bug() {
    let line = format!("{KNARR} --help 2>&1 >/dev/full; {KNARR} completions bash | true");
    let output = Command::new("bash").args(["-c", &line]).output().unwrap();
    assert!(!text(&output).contains("panicked"), "{}", text(&output));
}
