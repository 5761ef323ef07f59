//! `xtask registry`: runs the OCI distribution conformance suite against our registry, every case of it.

use anyhow::{Context, bail, ensure};
use std::{
    collections::BTreeMap,
    env,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// What is to be run.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// The suite's program: of the main branch (`go build` in its folder), or up to 1.1.1 (`go test -c`).
    suite: PathBuf,
    /// A registry that runs already; else one of ours is started.
    registry: Option<String>,
    report: PathBuf,
}

/// Reads the command line.
pub fn options(arguments: &[&str]) -> anyhow::Result<Options> {
    let mut given = BTreeMap::new();
    for pair in arguments.chunks(2) {
        match pair {
            [name @ ("--suite" | "--registry" | "--report"), value] => given.insert(*name, *value),
            other => bail!("{other:?} is no option of registry\n{}", crate::USAGE),
        };
    }
    let absolute = |path: &str| std::path::absolute(path).context("no absolute path");
    Ok(Options {
        suite: absolute(given.get("--suite").context("--suite PATH is needed")?)?,
        registry: given.get("--registry").map(|at| (*at).to_owned()),
        report: absolute(given.get("--report").unwrap_or(&"target/registry"))?,
    })
}

/// Runs the suite and prints what it found; an error when a case failed or was left out.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut ours = None;
    let at = match &options.registry {
        Some(at) => at.clone(),
        None => {
            let started = Ours::start(folder.path())?;
            let at = started.at.clone();
            ours = Some(started);
            at
        }
    };
    std::fs::create_dir_all(&options.report)?;
    // Which of the two programs it is shows in how it takes its arguments: Go's test programs have -test.list.
    let legacy = is_legacy(&options.suite)?;
    let mut command = Command::new(&options.suite);
    command.current_dir(&options.report);
    command.envs(settings(&at, &options.report, legacy));
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("{} does not run", options.suite.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let result = text.find("OCI Conformance Result").unwrap_or(0);
    print!("{}", &text[result..]);
    drop(ours);
    ensure!(
        output.status.success(),
        "the suite ended with {}",
        output.status
    );
    if !legacy {
        let failed = ["FAIL", "Error", "Skip", "Disabled"].map(|word| counted(&text, word));
        ensure!(
            counted(&text, "Pass").is_some_and(|n| n > 0) && failed.iter().all(|n| *n == Some(0)),
            "not every case passed: see {}/report.html",
            options.report.display()
        );
    }
    Ok(())
}

fn is_legacy(suite: &Path) -> anyhow::Result<bool> {
    let mut listed = Command::new(suite);
    listed.args(["-test.list", "^TestConformance$"]);
    // the older one wants an address before anything; the newer one stops at the version
    let output = listed
        .env("OCI_VERSION", "none")
        .env("OCI_ROOT_URL", "http://127.0.0.1:1")
        .output();
    let output = output.context("the suite does not run")?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().any(|line| line == "TestConformance"))
}

/// Everything that the suite can be asked for.
fn settings(at: &str, report: &Path, legacy: bool) -> Vec<(&'static str, String)> {
    let report = report.display().to_string();
    let yes = || "1".to_owned();
    match legacy {
        true => vec![
            ("OCI_ROOT_URL", format!("http://{at}")),
            ("OCI_NAMESPACE", "conformance/one".into()),
            ("OCI_CROSSMOUNT_NAMESPACE", "conformance/two".into()),
            ("OCI_TEST_PULL", yes()),
            ("OCI_TEST_PUSH", yes()),
            ("OCI_TEST_CONTENT_DISCOVERY", yes()),
            ("OCI_TEST_CONTENT_MANAGEMENT", yes()),
            ("OCI_AUTOMATIC_CROSSMOUNT", yes()),
            ("OCI_REPORT_DIR", report),
        ],
        false => vec![
            ("OCI_REGISTRY", at.into()),
            ("OCI_TLS", "disabled".into()),
            ("OCI_VERSION", "dev".into()),
            ("OCI_REPO1", "conformance/one".into()),
            ("OCI_REPO2", "conformance/two".into()),
            ("OCI_DATA_SPARSE", "true".into()),
            ("OCI_RESULTS_DIR", report),
        ],
    }
}

/// `  FAIL.....:   0`
fn counted(text: &str, word: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let rest = line.trim().strip_prefix(word)?.trim_start_matches('.');
        rest.strip_prefix(':')?.trim().parse().ok()
    })
}

/// Our registry over a fresh store, by itself; it ends with its standard input.
struct Ours {
    child: Child,
    at: String,
}

impl Ours {
    fn start(folder: &Path) -> anyhow::Result<Ours> {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut child = Command::new(cargo)
            .args([
                "run",
                "--quiet",
                "--package",
                "knarr-registry",
                "--example",
                "serve",
                "--",
            ])
            .arg(folder)
            .args(["127.0.0.1:0", "--sparse"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the registry does not start")?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        let at = line.trim().to_owned();
        ensure!(!at.is_empty(), "the registry did not say where it listens");
        Ok(Ours { child, at })
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let read = options(&["--suite", "/s", "--registry", "localhost:5000"]).unwrap();
        assert_eq!(read.suite, Path::new("/s"));
        assert_eq!(read.registry.as_deref(), Some("localhost:5000"));
        assert!(options(&[]).is_err(), "--suite is needed");
        assert!(options(&["--suite"]).is_err(), "a value is needed");
        assert!(options(&["--suit", "/s"]).is_err());
    }

    #[test]
    fn counts_are_found() {
        let text = "OCI Conformance Result: Pass\n  Skip..........: 4\n  Pass......:   974\n";
        assert_eq!(counted(text, "Pass"), Some(974));
        assert_eq!(counted(text, "Skip"), Some(4));
        assert_eq!(counted(text, "FAIL"), None);
    }
}
