//! Public projects, unedited, on the platform: is what `knarr up` and `knarr build` make of them what their authors meant?
//!
//! The list (`data/compat.json`) names each project with its commit, and what it answers when it works. The checkouts and the
//! base images that they name (archives that `knarr image load` takes) are brought by the caller: neither is ours to keep.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

const LIST: &str = include_str!("../data/compat.json");

struct Options {
    projects: PathBuf,
    images: Option<PathBuf>,
    knarr: PathBuf,
    data: PathBuf,
    only: Option<String>,
    /// A list in place of the one in the repository.
    list: Option<PathBuf>,
    /// The platform and its images stay.
    keep: bool,
}

fn options(arguments: &[&str]) -> Result<Options> {
    let mut given = Options {
        projects: PathBuf::new(),
        images: None,
        knarr: std::env::current_exe()?.with_file_name("knarr"),
        data: PathBuf::from("/var/lib/knarr-compat"),
        only: None,
        list: None,
        keep: false,
    };
    let mut arguments = arguments.iter();
    while let Some(flag) = arguments.next() {
        if *flag == "--keep" {
            given.keep = true;
            continue;
        }
        let value = arguments
            .next()
            .with_context(|| format!("{flag} needs a value"))?;
        match *flag {
            "--projects" => given.projects = value.into(),
            "--images" => given.images = Some(value.into()),
            "--knarr" => given.knarr = value.into(),
            "--data" => given.data = value.into(),
            "--only" => given.only = Some((*value).to_owned()),
            "--list" => given.list = Some(value.into()),
            other => bail!("unknown flag {other}"),
        }
    }
    if given.projects.as_os_str().is_empty() {
        bail!("--projects is needed: the folder of the checkouts");
    }
    Ok(given)
}

/// One project of the list.
struct Project<'a> {
    name: &'a str,
    folder: PathBuf,
    /// Of a Dockerfile project: arguments of `knarr build`. None: a compose project.
    build: Option<Vec<String>>,
    /// Of a Dockerfile project: what goes into the service that is then run.
    service: Value,
    /// Of a Dockerfile project: (arguments of `knarr run IMAGE`, a part of what it then prints).
    runs: Option<(Vec<String>, &'a str)>,
    /// (file, its copy): what the project's README has one copy first.
    copies: Vec<(&'a str, &'a str)>,
    /// Commands of knarr that the project needs first, such as the build of an image that its file names.
    before: Vec<Vec<String>>,
    /// Further arguments of `knarr up`: profiles, files, services.
    flags: Vec<String>,
    /// Variables that its README has one set for `up`.
    environment: Vec<(String, String)>,
    ask: Vec<Question<'a>>,
}

struct Question<'a> {
    url: &'a str,
    /// In place of the URL's.
    host: Option<&'a str>,
    /// A part of the answer.
    answer: &'a str,
}

fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value[key]
        .as_str()
        .with_context(|| format!("the list: no {key} in {value}"))
}

fn strings(value: &Value, folder: &Path) -> Vec<String> {
    let folder = folder.display().to_string();
    let all = value.as_array().into_iter().flatten();
    all.filter_map(|s| s.as_str().map(|s| s.replace("{folder}", &folder)))
        .collect()
}

fn project<'a>(value: &'a Value, projects: &Path) -> Result<Project<'a>> {
    let each = |key: &str| value[key].as_array().into_iter().flatten();
    let folder = projects.join(text(value, "folder")?);
    let asked = |a: &'a Value| {
        Ok(Question {
            url: text(a, "url")?,
            host: a["host"].as_str(),
            answer: text(a, "answer")?,
        })
    };
    let runs = &value["run"];
    Ok(Project {
        name: text(value, "name")?,
        build: (!value["build"].is_null()).then(|| strings(&value["build"], &folder)),
        service: value["service"].clone(),
        runs: match runs.is_null() {
            true => None,
            false => Some((strings(&runs["arguments"], &folder), text(runs, "prints")?)),
        },
        copies: value["copies"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(from, to)| Some((from.as_str(), to.as_str()?)))
            .collect(),
        before: each("before").map(|all| strings(all, &folder)).collect(),
        flags: strings(&value["flags"], &folder),
        environment: value["environment"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| {
                let value = value.as_str()?;
                Some((
                    name.clone(),
                    value.replace("{folder}", &folder.display().to_string()),
                ))
            })
            .collect(),
        ask: match &value["ask"] {
            Value::Array(all) => all.iter().map(asked).collect::<Result<_>>()?,
            _ => Vec::new(),
        },
        folder,
    })
}

struct Knarr<'a>(&'a Options);

impl Knarr<'_> {
    fn run(&self, arguments: &[&str]) -> Result<(Output, Duration)> {
        self.run_with(arguments, &[])
    }

    fn run_with(
        &self,
        arguments: &[&str],
        environment: &[(String, String)],
    ) -> Result<(Output, Duration)> {
        let began = Instant::now();
        let output = Command::new(&self.0.knarr)
            .arg("--data-dir")
            .arg(&self.0.data)
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("{} does not run", self.0.knarr.display()))?;
        Ok((output, began.elapsed()))
    }

    /// What it printed and the time it took, or the last lines that it said.
    fn said(&self, arguments: &[&str]) -> Result<(String, Duration)> {
        self.said_with(arguments, &[])
    }

    fn said_with(
        &self,
        arguments: &[&str],
        environment: &[(String, String)],
    ) -> Result<(String, Duration)> {
        let (output, took) = self.run_with(arguments, environment)?;
        if output.status.success() {
            return Ok((String::from_utf8_lossy(&output.stdout).into_owned(), took));
        }
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = said.lines().collect();
        let last = lines[lines.len().saturating_sub(25)..].join("\n    ");
        bail!(
            "knarr {}: {}\n    {last}",
            arguments.join(" "),
            output.status
        )
    }

    fn ok(&self, arguments: &[&str]) -> Result<Duration> {
        Ok(self.said(arguments)?.1)
    }

    /// The containers of a project that run, by name and ID: another ID is a container that was started again.
    fn containers(&self, name: &str) -> Result<BTreeSet<String>> {
        let listed = self
            .said(&["compose", "-p", name, "ps", "--format", "json"])?
            .0;
        let each = listed.lines().map(|line| {
            let container: Value = serde_json::from_str(line)?;
            Ok(format!(
                "{} {}",
                text(&container, "Name")?,
                text(&container, "ID")?
            ))
        });
        each.collect()
    }
}

/// Asks until the answer holds what is wanted; what it answered last when it doesn't in a minute.
fn answers(question: &Question) -> Result<()> {
    let Question { url, answer, .. } = question;
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut arguments = vec!["-sSL".to_owned(), "-m".into(), "10".into(), (*url).into()];
    if let Some(host) = question.host {
        arguments.extend(["-H".to_owned(), format!("Host: {host}")]);
    }
    loop {
        let output = Command::new("curl")
            .args(&arguments)
            .output()
            .context("curl is needed")?;
        let body = String::from_utf8_lossy(&output.stdout).into_owned();
        if body.contains(answer) && output.status.success() {
            return Ok(());
        }
        if Instant::now() > deadline {
            let body: String = body.chars().take(300).collect();
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            bail!("{url} does not answer {answer:?} but {body:?} {why}");
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// What its README has one do first.
fn prepare(knarr: &Knarr, project: &Project) -> Result<()> {
    for (from, to) in &project.copies {
        let (from, to) = (project.folder.join(from), project.folder.join(to));
        std::fs::copy(&from, &to).with_context(|| format!("copying {}", from.display()))?;
    }
    for command in &project.before {
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        knarr.ok(&command)?;
    }
    Ok(())
}

/// What happened, in words for the table.
fn compose(knarr: &Knarr, project: &Project, folder: &Path, name: &str) -> Result<String> {
    let folder = folder.display().to_string();
    let mut up = vec!["up", "-p", name, "--timeout", "600s"];
    // Who names files names no folder.
    if !project.flags.iter().any(|f| f == "-f") {
        up.push(&folder);
    }
    up.extend(project.flags.iter().map(String::as_str));
    let asked = || {
        let first = knarr.said_with(&up, &project.environment)?.1;
        for question in &project.ask {
            answers(question)?;
        }
        let before = knarr.containers(name)?;
        let again = knarr.said_with(&up, &project.environment)?.1;
        let after = knarr.containers(name)?;
        if before != after {
            bail!("the second up replaced containers: {before:?} became {after:?}");
        }
        Ok(format!(
            "up in {:.1} s, again in {:.1} s, {} containers",
            first.as_secs_f64(),
            again.as_secs_f64(),
            after.len()
        ))
    };
    let outcome: Result<String> = asked();
    let down = knarr.ok(&["down", "-p", name, "--volumes"]);
    let outcome = outcome?;
    down?;
    Ok(outcome)
}

fn dockerfile(knarr: &Knarr, project: &Project, build: &[String], name: &str) -> Result<String> {
    let tag = format!("compat/{name}:1");
    let folder = project.folder.display().to_string();
    let mut arguments = vec!["build", "-t", &tag];
    arguments.extend(build.iter().map(String::as_str));
    arguments.push(&folder);
    let cold = knarr.ok(&arguments)?;
    let warm = knarr.ok(&arguments)?;
    let mut built = format!(
        "built in {:.1} s, again in {:.2} s",
        cold.as_secs_f64(),
        warm.as_secs_f64()
    );
    if let Some((arguments, wanted)) = &project.runs {
        let mut run = vec!["run", "--rm", &tag];
        run.extend(arguments.iter().map(String::as_str));
        let (output, _) = knarr.run(&run)?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        if !said.contains(wanted) {
            bail!("{tag} prints {said:?}, not {wanted:?}");
        }
        built.push_str("; ran");
    }
    if !project.ask.is_empty() {
        let temp = knarr.0.data.with_extension("app");
        std::fs::create_dir_all(&temp)?;
        let mut service = project.service.clone();
        service["image"] = tag.as_str().into();
        let file = serde_json::json!({"services": {"app": service}});
        std::fs::write(temp.join("compose.yaml"), file.to_string())?;
        let ran = compose(knarr, project, &temp, name)?;
        std::fs::remove_dir_all(&temp)?;
        built = format!("{built}; {ran}");
    }
    knarr.ok(&["image", "rm", &tag])?;
    Ok(built)
}

/// A name that images and projects may have.
fn plain(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric());
    let words: Vec<&str> = words.filter(|w| !w.is_empty()).collect();
    words.join("-").to_ascii_lowercase()
}

/// # Errors
/// When a flag is wrong, or one of the projects doesn't do what it should.
pub fn run(arguments: &[&str]) -> Result<()> {
    let options = options(arguments)?;
    let list: Value = match &options.list {
        Some(file) => serde_json::from_str(&std::fs::read_to_string(file)?)?,
        None => serde_json::from_str(LIST)?,
    };
    let knarr = Knarr(&options);
    if let Some(images) = &options.images {
        for entry in std::fs::read_dir(images)?.flatten() {
            let path = entry.path().display().to_string();
            let took = knarr.ok(&["image", "load", &path])?;
            println!("loaded {path} in {:.1} s", took.as_secs_f64());
        }
    }
    let mut failed = 0;
    for value in list.as_array().into_iter().flatten() {
        let project = project(value, &options.projects)?;
        if options
            .only
            .as_ref()
            .is_some_and(|o| !project.name.contains(o.as_str()))
        {
            continue;
        }
        let name = plain(project.name);
        let outcome = prepare(&knarr, &project).and_then(|()| match &project.build {
            Some(build) => dockerfile(&knarr, &project, build, &name),
            None => compose(&knarr, &project, &project.folder, &name),
        });
        match outcome {
            Ok(words) => println!("ok    {}: {words}", project.name),
            Err(e) => {
                failed += 1;
                println!("FAIL  {}: {e:#}", project.name);
            }
        }
    }
    match options.keep {
        true => knarr.ok(&["stop"])?,
        false => knarr.ok(&["stop", "--purge"])?,
    };
    if failed > 0 {
        bail!("{failed} failed");
    }
    Ok(())
}
