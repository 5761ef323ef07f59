//! `knarr build --check`: what a Dockerfile does that should be done otherwise, as `docker build --check` tells it.

use crate::{
    cli::Output,
    error::{Error, io},
    paths::Paths,
};
use clap::Args;
use knarr_dockerfile::{Build, Check, Dockerfile, Ignore, Platform, check};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Lines of the file around a finding.
const AROUND: usize = 2;

#[derive(Args)]
pub struct BuildArguments {
    /// The build context's folder
    #[arg(default_value = ".")]
    context: PathBuf,
    /// The Dockerfile [default: Dockerfile in the context]
    #[arg(short, long)]
    file: Option<PathBuf>,
    /// Check the Dockerfile, build nothing. Building itself is not there yet, so this has to be given
    #[arg(long, required = true)]
    check: bool,
    /// NAME=value, or NAME to take it from the environment; may be repeated
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,
    /// The stage to build
    #[arg(long)]
    target: Option<String>,
    /// What the image is for, e.g. linux/arm64
    #[arg(long)]
    platform: Option<String>,
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
}

/// Exits with 1 when something was found, 2 when the file can't be read as one.
pub fn run(paths: &Paths, a: BuildArguments) -> Result<u8, Error> {
    let path = a.file.unwrap_or_else(|| a.context.join("Dockerfile"));
    let text = std::fs::read_to_string(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::Input(format!(
            "{}: there is no such file; name it with --file",
            path.display()
        )),
        _ => io(path.display().to_string())(e),
    })?;
    let shown = path.display().to_string();
    let wrong = |e: knarr_dockerfile::Error| {
        Error::Input(format!(
            "{shown}:{}: {}\n{}",
            e.line,
            e.why,
            excerpt(&text, e.line, e.last)
        ))
    };
    let file = Dockerfile::parse(&text).map_err(wrong)?;
    let mut build = Build {
        stage: a.target,
        ..Build::default()
    };
    if let Some(platform) = &a.platform {
        build.target = Platform::parse(platform).map_err(|e| Error::Input(e.to_string()))?;
    }
    for arg in &a.build_arg {
        let (name, value) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (arg.as_str(), std::env::var(arg).ok()),
        };
        build
            .args
            .extend(value.map(|value| (name.to_owned(), value)));
    }
    file.target(build.stage.as_deref())
        .map_err(|why| Error::Input(format!("{shown}: {why}")))?;
    let ignore = ignore(&a.context, &path)?;
    // An image that is at hand tells its variables; without the store, or without the right to read it, none is.
    let store = paths
        .images()
        .is_dir()
        .then(|| knarr_image::ImageStore::open(&paths.images()).ok())
        .flatten();
    let image = |name: &str| Some(store.as_ref()?.resolve(name).ok()??.config.env);
    let checks = check(&file, &build, ignore.as_ref(), &image).map_err(wrong)?;
    match a.output {
        Output::Json => println!(
            "{}",
            json!({"file": shown, "checks": checks.found.iter().map(|c| json!({
            "rule": c.rule, "message": c.message, "line": c.line, "lastLine": c.last, "url": url(c.rule),
        })).collect::<Vec<_>>()})
        ),
        Output::Text => print(&checks.found, &shown, &text),
    }
    Ok(u8::from(!checks.found.is_empty()))
}

/// `Dockerfile.dockerignore` beside the file, or `.dockerignore` in the context.
fn ignore(context: &Path, file: &Path) -> Result<Option<Ignore>, Error> {
    let mut own = file.as_os_str().to_owned();
    own.push(".dockerignore");
    for path in [PathBuf::from(own), context.join(".dockerignore")] {
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                return Ignore::parse(&text)
                    .map(Some)
                    .map_err(|e| Error::Input(format!("{}: {e}", path.display())));
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(io(path.display().to_string())(e)),
        }
    }
    Ok(None)
}

fn print(found: &[Check], file: &str, text: &str) {
    if found.is_empty() {
        println!("Check complete, no warnings found.");
        return;
    }
    let s = if found.len() == 1 { "" } else { "s" };
    println!("Check complete, {} warning{s} found!", found.len());
    for c in found {
        println!("\nWARNING: {} - {}\n{}", c.rule, url(c.rule), c.message);
        println!("{file}:{}", c.line);
        println!("{}", excerpt(text, c.line, c.last));
    }
}

/// `ConsistentInstructionCasing` to its page in Docker's documentation.
fn url(rule: &str) -> String {
    let mut page = String::new();
    for (i, c) in rule.char_indices() {
        let upper_before = i > 0 && rule[..i].ends_with(char::is_uppercase);
        let lower_behind = rule[i + 1..].starts_with(char::is_lowercase);
        if i > 0 && c.is_uppercase() && (!upper_before || lower_behind) {
            page.push('-');
        }
        page.push(c.to_ascii_lowercase());
    }
    format!("https://docs.docker.com/go/dockerfile/rule/{page}/")
}

/// The lines and some around them, the ones meant marked.
fn excerpt(text: &str, first: usize, last: usize) -> String {
    let bar = "-".repeat(20);
    let from = first.saturating_sub(AROUND + 1);
    let rows: Vec<String> = text
        .lines()
        .enumerate()
        .skip(from)
        .take(last + AROUND - from)
        .map(|(i, row)| {
            let mark = if (first..=last).contains(&(i + 1)) {
                ">>>"
            } else {
                "   "
            };
            format!("{:4} | {mark} {row}", i + 1)
        })
        .collect();
    format!("{bar}\n{}\n{bar}", rows.join("\n"))
}
