//! `xtask compose`: the Compose specification's own conformance program against knarr, and what `docker compose config` makes
//! of files beside what `knarr compose config` makes of them.
//!
//! The program is a checkout of compose-spec/conformance-tests, whose Go sources are built here: its test program, and the
//! server and client that its scenarios run. It runs as it is; a file that we write beside its own tells it how we are called.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// The images of the scenarios, and the folder of each one's source.
const IMAGES: [(&str, &str); 2] = [
    ("composespec/conformance-tests-server", "server"),
    ("composespec/conformance-tests-client", "client"),
];
/// How many differences of one file are shown.
const SHOWN_MAX: usize = 6;
/// How deep folders are looked through.
const DEPTH_MAX: usize = 12;

struct Options {
    tests: Option<PathBuf>,
    files: Option<PathBuf>,
    docker_compose: PathBuf,
    knarr: PathBuf,
    data: PathBuf,
}

fn options(arguments: &[&str]) -> Result<Options> {
    let mut given = Options {
        tests: None,
        files: None,
        docker_compose: "docker-compose".into(),
        knarr: std::env::current_exe()?.with_file_name("knarr"),
        data: PathBuf::from("/var/lib/knarr-compose"),
    };
    for pair in arguments.chunks(2) {
        let [flag, value] = pair else {
            bail!("{} needs a value", pair[0])
        };
        match *flag {
            "--tests" => given.tests = Some(value.into()),
            "--files" => given.files = Some(value.into()),
            "--docker-compose" => given.docker_compose = value.into(),
            "--knarr" => given.knarr = value.into(),
            "--data" => given.data = value.into(),
            other => bail!("unknown flag {other}"),
        }
    }
    if given.tests.is_none() && given.files.is_none() {
        bail!("--tests or --files is needed: what to run, or what to read");
    }
    Ok(given)
}

/// # Errors
/// When something can't be built or run, a scenario fails, or a file is read otherwise.
pub fn run(arguments: &[&str]) -> Result<()> {
    let options = options(arguments)?;
    if let Some(tests) = &options.tests {
        scenarios(&options, tests)?;
    }
    if let Some(files) = &options.files {
        compare(&options, files)?;
    }
    Ok(())
}

fn said(output: &Output) -> String {
    let all = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&all).into_owned()
}

fn ok(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{command:?} does not run"))?;
    match output.status.success() {
        true => Ok(said(&output)),
        false => bail!("{command:?}: {}\n{}", output.status, said(&output)),
    }
}

/// Runs upstream's program.
fn scenarios(options: &Options, tests: &Path) -> Result<()> {
    let work = std::env::temp_dir().join(format!("knarr-compose-spec-{}", std::process::id()));
    let place = work.join("place");
    fs::create_dir_all(place.join("commands"))?;
    let done = (|| {
        let knarr = |arguments: &[&str]| {
            ok(Command::new(&options.knarr)
                .arg("--data-dir")
                .arg(&options.data)
                .args(arguments))
        };
        let build = |what: &[&str], from: &str| {
            let mut go = Command::new("go");
            ok(go
                .args(what)
                .arg(from)
                .current_dir(tests)
                .env("CGO_ENABLED", "0"))
        };
        for (image, source) in IMAGES {
            let program = work.join(source);
            let program = program.display().to_string();
            build(&["build", "-o", &program], &format!("./{source}"))?;
            knarr(&["image", "pack", "--name", image, &program])?;
        }
        let suite = work.join("suite");
        build(&["test", "-c", "-o", &suite.display().to_string()], ".")?;
        ok(Command::new("cp")
            .arg("-r")
            .arg(tests.join("tests"))
            .arg(&place))?;
        fs::write(place.join("commands/knarr.yml"), manner(options))?;
        let output = Command::new(&suite)
            .arg("-test.v")
            .current_dir(&place)
            .env("KNARR_DATA_DIR", &options.data)
            .output()?;
        let told = said(&output);
        print!("{told}");
        let count = |word: &str| told.lines().filter(|l| l.starts_with(word)).count();
        let (passed, failed) = (count("--- PASS"), count("--- FAIL"));
        println!("{passed} scenarios pass, {failed} fail");
        if !output.status.success() || passed == 0 {
            bail!("upstream's program: {}", output.status);
        }
        Ok(())
    })();
    let purged = Command::new(&options.knarr)
        .arg("--data-dir")
        .arg(&options.data)
        .args(["stop", "--purge"])
        .status();
    fs::remove_dir_all(&work)?;
    done?;
    match purged?.success() {
        true => Ok(()),
        false => bail!("{} can't be purged", options.data.display()),
    }
}

/// How the program is to call us, in its words.
fn manner(options: &Options) -> String {
    let knarr = options.knarr.display();
    format!(
        "name: knarr
command: {knarr}
ps_command: {knarr} compose ls --all --quiet
global_opts:
  - name: compose
  - name: -f
    value: compose.yaml
up:
  name: up
  opts:
    - name: -d
down:
  name: down
"
    )
}

/// Reads each file by both programs.
fn compare(options: &Options, folder: &Path) -> Result<()> {
    let mut files = Vec::new();
    compose_files(folder, 0, &mut files)?;
    files.sort();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for file in &files {
        let ours = config(Command::new(&options.knarr).arg("compose"), file)?;
        let theirs = config(&mut Command::new(&options.docker_compose), file)?;
        let outcome = match (&ours, &theirs) {
            (Ok(ours), Ok(theirs)) => {
                let mut all = Vec::new();
                differences(ours, theirs, "", &mut all);
                if all.is_empty() {
                    "the same"
                } else {
                    println!("differs: {}", file.display());
                    for line in all.iter().take(SHOWN_MAX) {
                        println!("    {line}");
                    }
                    "differ"
                }
            }
            (Err(_), Err(_)) => "refused by both",
            (Err(why), Ok(_)) => {
                println!("refused: {}\n    {why}", file.display());
                "refused by knarr alone"
            }
            (Ok(_), Err(why)) => {
                println!("accepted: {}\n    {why}", file.display());
                "accepted by knarr alone"
            }
        };
        *counts.entry(outcome).or_default() += 1;
    }
    println!("{} files: {counts:?}", files.len());
    Ok(())
}

fn compose_files(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        let (path, kind) = (entry.path(), entry.file_type()?);
        let name = entry.file_name().to_string_lossy().to_lowercase();
        if kind.is_dir() && depth < DEPTH_MAX && name != ".git" {
            compose_files(&path, depth + 1, files)?;
        }
        let yaml = name.ends_with(".yml") || name.ends_with(".yaml");
        if kind.is_file() && yaml && name.contains("compose") {
            files.push(path);
        }
    }
    Ok(())
}

/// What a program makes of a file; or the last line of why it doesn't.
fn config(program: &mut Command, file: &Path) -> Result<Result<Value, String>> {
    let (folder, name) = (
        file.parent().unwrap_or(Path::new(".")),
        file.file_name().unwrap_or_default(),
    );
    let output = program
        .arg("-f")
        .arg(name)
        .args(["config", "--format", "json"])
        .current_dir(folder)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", "/nonexistent")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{program:?} does not run"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Ok(Err(said.lines().last().unwrap_or_default().to_string()));
    }
    Ok(serde_json::from_slice(&output.stdout).map_err(|e| e.to_string()))
}

fn differences(ours: &Value, theirs: &Value, path: &str, all: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            for (key, value) in ours {
                let path = format!("{path}.{key}");
                match theirs.get(key) {
                    Some(their) => differences(value, their, &path, all),
                    None => all.push(format!("{path}: {value} is ours alone")),
                }
            }
            let missing = theirs.iter().filter(|(key, _)| !ours.contains_key(*key));
            all.extend(missing.map(|(key, value)| format!("{path}.{key}: {value} is missing")));
        }
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            for (i, (our, their)) in ours.iter().zip(theirs).enumerate() {
                differences(our, their, &format!("{path}[{i}]"), all);
            }
        }
        _ if ours == theirs => {}
        _ => all.push(format!("{path}: {ours}, not {theirs}")),
    }
}
