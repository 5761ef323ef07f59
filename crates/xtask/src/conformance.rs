//! Runs a given build of upstream's end-to-end test program against `knarr serve` on a machine of its own.
//!
//! The test program is whoever runs this one's to bring; nothing of it is in this repository.

mod machine;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

/// How long the API may take to answer after its start.
const START: Duration = Duration::from_secs(60);

pub struct Options {
    /// Upstream's `e2e.test`.
    pub e2e: PathBuf,
    /// The program under test.
    pub knarr: PathBuf,
    /// Regular expressions over the cases' whole names.
    pub focus: String,
    pub skip: Option<String>,
    /// How many nodes the platform is to have; as many as it has by itself without.
    pub nodes: Option<String>,
    /// Folder of image archives (`*.tar`) that the cases' containers run, loaded before the start.
    pub images: Option<PathBuf>,
    /// The `ginkgo` program and the number of processes that share the cases; without it they run one by one.
    pub parallel: Option<(PathBuf, String)>,
    /// The test program's own report is left here.
    pub report: PathBuf,
    /// Handed to the test program as they are.
    pub more: Vec<String>,
}

/// Reads `--e2e PATH [--knarr PATH] [--nodes N] [--images DIR] [--focus RE] [--skip RE] [--report FILE] [--ginkgo PATH --procs N]
/// [-- ARGUMENT…]`.
pub fn options(arguments: &[&str]) -> anyhow::Result<Options> {
    let mut given = BTreeMap::new();
    let mut rest = arguments.iter();
    let mut more = Vec::new();
    while let Some(name) = rest.next() {
        match *name {
            "--" => more.extend(rest.by_ref().map(|argument| (*argument).to_owned())),
            "--e2e" | "--knarr" | "--nodes" | "--images" | "--focus" | "--skip" | "--report"
            | "--ginkgo" | "--procs" => {
                let value = rest
                    .next()
                    .with_context(|| format!("{name} needs a value"))?;
                given.insert(*name, *value);
            }
            other => bail!("{other} is no option of conformance\n{}", crate::USAGE),
        }
    }
    let absolute = |path: &str| std::path::absolute(path).context("no absolute path");
    let beside = std::env::current_exe()?.with_file_name("knarr");
    Ok(Options {
        e2e: absolute(given.get("--e2e").context("--e2e PATH is needed")?)?,
        knarr: given
            .get("--knarr")
            .map_or(Ok(beside), |path| absolute(path))?,
        focus: given
            .get("--focus")
            .unwrap_or(&r"\[Conformance\]")
            .to_string(),
        skip: given.get("--skip").map(|skip| (*skip).to_owned()),
        nodes: given.get("--nodes").map(|nodes| (*nodes).to_owned()),
        images: given
            .get("--images")
            .map(|path| absolute(path))
            .transpose()?,
        parallel: match (given.get("--ginkgo"), given.get("--procs")) {
            (Some(path), Some(procs)) => Some((absolute(path)?, (*procs).to_owned())),
            (None, None) => None,
            _ => bail!("--ginkgo PATH and --procs N go together"),
        },
        report: absolute(given.get("--report").unwrap_or(&"target/conformance.json"))?,
        more,
    })
}

/// Runs the cases and prints what became of each; an error when one failed.
pub fn run(options: &Options, arguments: &[&str]) -> anyhow::Result<()> {
    for (name, path) in [("--e2e", &options.e2e), ("--knarr", &options.knarr)] {
        ensure!(
            path.is_file(),
            "{name}: there is no program {}",
            path.display()
        );
    }
    machine::within(arguments, |folder| run_cases(options, folder))
}

fn run_cases(options: &Options, folder: &Path) -> anyhow::Result<()> {
    let platform = Platform::start(options, folder)?;
    if let Some(parent) = options.report.parent() {
        fs::create_dir_all(parent)?;
    }
    let _ = fs::remove_file(&options.report); // an earlier run's
    let mut tests = match &options.parallel {
        None => Command::new(&options.e2e),
        Some((ginkgo, procs)) => {
            let mut tests = Command::new(ginkgo);
            tests
                .arg(format!("--procs={procs}"))
                .args(selection(options, ""))
                .arg(&options.e2e)
                .arg("--");
            tests
        }
    };
    if options.parallel.is_none() {
        tests.args(selection(options, "ginkgo."));
    }
    tests
        .arg(format!(
            "--kubeconfig={}",
            platform.data.join("kubeconfig").display()
        ))
        .arg("--provider=local")
        .args(&options.more)
        .current_dir(folder)
        .stdin(Stdio::null());
    let status = tests.status().context("the test program does not start")?;
    drop(platform);
    let text = fs::read(&options.report)
        .with_context(|| format!("the test program left no report ({status})"))?;
    let cases = cases(&serde_json::from_slice(&text)?);
    print!("{}", summary(&cases));
    ensure!(!cases.is_empty(), "no case is in focus");
    ensure!(status.success(), "the test program: {status}");
    Ok(())
}

/// What the runner of the cases is told: the test program takes it with a prefix, the `ginkgo` program without.
fn selection(options: &Options, prefix: &str) -> Vec<String> {
    let (folder, file) = (options.report.parent(), options.report.file_name());
    let mut all = vec![
        format!("--{prefix}focus={}", options.focus),
        format!("--{prefix}no-color"),
        format!("--{prefix}timeout=12h"),
    ];
    all.extend(
        options
            .skip
            .iter()
            .map(|skip| format!("--{prefix}skip={skip}")),
    );
    if prefix.is_empty() {
        // this one takes the folder by itself
        all.extend(folder.map(|f| format!("--output-dir={}", f.display())));
        all.extend(file.map(|f| format!("--json-report={}", f.display())));
    } else {
        all.push(format!(
            "--{prefix}json-report={}",
            options.report.display()
        ));
    }
    all
}

/// Puts every archive of the folder into the data directory's image store.
fn load(knarr: &Path, data: &Path, images: &Path) -> anyhow::Result<()> {
    let list = fs::read_dir(images).with_context(|| format!("--images {}", images.display()))?;
    for entry in list {
        let path = entry?.path();
        if path.extension().is_none_or(|e| e != "tar") {
            continue;
        }
        let output = Command::new(knarr)
            .args(["image", "load"])
            .arg(&path)
            .env("KNARR_DATA_DIR", data)
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {said}", path.display());
    }
    Ok(())
}

/// A served platform; gone with all it made when dropped.
struct Platform {
    knarr: PathBuf,
    folder: PathBuf,
    data: PathBuf,
    child: Child,
}

impl Platform {
    fn start(options: &Options, folder: &Path) -> anyhow::Result<Platform> {
        let knarr = &options.knarr;
        let log = fs::File::create(folder.join("serve.log"))?;
        let data = folder.join("data");
        if let Some(images) = &options.images {
            load(knarr, &data, images)?;
        }
        let child = Command::new(knarr)
            .arg("serve")
            .args(options.nodes.iter().flat_map(|n| ["--nodes", n]))
            .env("KNARR_DATA_DIR", &data)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("knarr does not start")?;
        let (knarr, folder) = (knarr.to_owned(), folder.to_owned());
        let mut platform = Platform {
            knarr,
            folder,
            data,
            child,
        };
        let end = Instant::now() + START;
        while !platform.answers() {
            let log = || fs::read_to_string(platform.folder.join("serve.log")).unwrap_or_default();
            if let Some(status) = platform.child.try_wait()? {
                bail!("knarr ended ({status}): {}", log());
            }
            ensure!(
                Instant::now() < end,
                "knarr is not ready within {START:?}: {}",
                log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(platform)
    }

    fn answers(&self) -> bool {
        Command::new(&self.knarr)
            .arg("status")
            .env("KNARR_DATA_DIR", &self.data)
            .stdin(Stdio::null())
            .output()
            .is_ok_and(|output| output.status.success())
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        let stopped = Command::new(&self.knarr)
            .args(["stop", "--purge"])
            .env("KNARR_DATA_DIR", &self.data)
            .stdin(Stdio::null())
            .output();
        if !stopped.as_ref().is_ok_and(|output| output.status.success()) {
            eprintln!(
                "knarr stop --purge: {stopped:?}; see {}",
                self.folder.display()
            );
            let _ = self.child.kill();
        } else {
            let _ = fs::remove_dir_all(&self.folder);
        }
        let _ = self.child.wait();
    }
}

#[derive(Debug, PartialEq)]
struct Case {
    name: String,
    passed: bool,
    /// The first line of what was wrong.
    reason: String,
}

/// The cases of a report that ran, as Ginkgo writes it: passed, or anything else that is not skipped.
fn cases(report: &Value) -> Vec<Case> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let suites = list(report);
    let specs = suites.iter().flat_map(|suite| list(&suite["SpecReports"]));
    let mut cases: Vec<Case> = specs
        .filter(|spec| !matches!(spec["State"].as_str(), Some("skipped" | "pending") | None))
        .filter(|spec| spec["LeafNodeType"] == "It" || spec["State"] != "passed")
        .map(|spec| {
            let mut parts = list(&spec["ContainerHierarchyTexts"]);
            parts.push(spec["LeafNodeText"].clone());
            let parts: Vec<&str> = parts.iter().filter_map(Value::as_str).collect();
            let message = spec["Failure"]["Message"].as_str().unwrap_or_default();
            Case {
                name: parts.join(" ").trim().to_owned(),
                passed: spec["State"] == "passed",
                reason: message.lines().next().unwrap_or_default().to_owned(),
            }
        })
        .collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

/// Every case on a line, then the counts of each interest group.
fn summary(cases: &[Case]) -> String {
    let mut text = String::new();
    let mut groups: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for case in cases {
        let group = case.name.split(']').next().unwrap_or_default();
        let count = groups.entry(group.trim_start_matches('[')).or_default();
        count.0 += usize::from(case.passed);
        count.1 += 1;
        let mark = if case.passed { "pass" } else { "FAIL" };
        text += &format!("{mark}  {}\n", case.name);
        if !case.passed {
            text += &format!("      {}\n", case.reason);
        }
    }
    for (group, (passed, all)) in groups {
        text += &format!("{group}: {passed} of {all} pass\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_report_is_summed_up_by_group() {
        let spec = |kind: &str, group: &str, name: &str, state: &str, message: &str| {
            json!({"LeafNodeType": kind, "ContainerHierarchyTexts": [group, "things"], "LeafNodeText": name,
                "State": state, "Failure": {"Message": message}})
        };
        let report = json!([{"SpecReports": [
            spec("It", "[sig-b]", "works", "passed", ""),
            spec("It", "[sig-a]", "is slow", "timedout", "late\nstack"),
            spec("It", "[sig-a]", "is quick", "passed", ""),
            spec("It", "[sig-a]", "is out of focus", "skipped", ""),
            spec("SynchronizedBeforeSuite", "", "", "passed", ""),
        ]}]);
        let expected = "pass  [sig-a] things is quick
FAIL  [sig-a] things is slow
      late
pass  [sig-b] things works
sig-a: 1 of 2 pass
sig-b: 1 of 1 pass
";
        assert_eq!(summary(&cases(&report)), expected);
    }

    #[test]
    fn options_are_read_and_the_rest_is_handed_on() {
        let all = [
            "--e2e", "/e", "--knarr", "/k", "--focus", "x", "--", "--v=2", "--focus",
        ];
        let read = options(&all).unwrap();
        assert_eq!((read.e2e, read.knarr), ("/e".into(), "/k".into()));
        assert_eq!((read.focus.as_str(), read.skip), ("x", None));
        assert_eq!(read.more, ["--v=2", "--focus"]);
        assert!(options(&["--focus", "x"]).is_err(), "--e2e is needed");
        assert!(options(&["--e2e"]).is_err(), "a value is needed");
        assert!(options(&["--e2e", "/e", "--fokus", "x"]).is_err());
    }
}
