//! `knarr build --call`: what a Dockerfile offers and what should be written otherwise, without building it.
//!
//! SOURCE: buildx `commands/build.go` (printResult)

use crate::{
    build_options::{BuildArguments, Call, Question},
    error::{Error, io},
    paths::Paths,
};
use knarr_dockerfile::{
    Build, Ignore, Platform,
    calls::{self, Answer},
};
use std::path::{Component, Path, PathBuf};

/// Exits with 1 when a check found something, 2 when the file can't be read as one.
pub fn run(paths: &Paths, a: &BuildArguments, call: Call) -> Result<u8, Error> {
    let request = a.request_for_check()?;
    let path = match &a.file {
        Some(file) => file.clone(),
        None if a.context == "-" => "-".into(),
        None => Path::new(&a.context).join("Dockerfile"),
    };
    let text = read(&path)?;
    let platform = request.platforms.into_iter().next();
    let build = Build {
        args: request.args,
        target: platform.unwrap_or_else(Platform::host),
        stage: request.target,
        ..Build::default()
    };
    let wrong = |e: knarr_dockerfile::Error| Error::Input(e.said());
    let answer = match call.question {
        // not asked here
        Question::Build | Question::Check => {
            checked(paths, Path::new(&a.context), &path, &text, &build)?
        }
        Question::Outline => calls::outline(&text, &build).map_err(wrong)?,
        Question::Targets => calls::targets(&text).map_err(wrong)?,
        Question::Describe => calls::describe(),
    };
    if call.json {
        println!("{}", answer.json);
    } else {
        print!("{}", answer.text);
        if let Some(why) = answer.error {
            if answer.status != 0 && !answer.text.is_empty() {
                println!();
            }
            return Err(Error::Input(why));
        }
    }
    Ok(if call.ignore_status { 0 } else { answer.status })
}

/// Prints what a Dockerfile does that should be done otherwise; 1 when that is something.
///
/// # Errors
/// When the file can't be read as one.
pub fn check(paths: &Paths, context: &Path, path: &Path, build: &Build) -> Result<u8, Error> {
    let text = read(path)?;
    let answer = checked(paths, context, path, &text, build)?;
    print!("{}", answer.text);
    match answer.error {
        Some(why) => Err(Error::Input(why)),
        None => Ok(answer.status),
    }
}

fn checked(
    paths: &Paths,
    context: &Path,
    path: &Path,
    text: &str,
    build: &Build,
) -> Result<Answer, Error> {
    let ignore = ignore(context, path)?;
    // An image that is at hand tells its variables; without the store, or without the right to read it, none is.
    let store = paths
        .images()
        .is_dir()
        .then(|| knarr_image::ImageStore::open(&paths.images()).ok())
        .flatten();
    let image = |name: &str| Some(store.as_ref()?.resolve(name).ok()??.config.env);
    let mut answer = calls::lint(&shown(path), text, build, ignore.as_ref(), &image);
    let found = answer.warnings;
    let head = match (found, &answer.error) {
        (0, None) => "Check complete, no warnings found.\n".into(),
        (0, Some(_)) => String::new(),
        (1, _) => "Check complete, 1 warning has been found!\n".into(),
        (n, _) => format!("Check complete, {n} warnings have been found!\n"),
    };
    answer.text.insert_str(0, &head);
    Ok(answer)
}

/// A file's name as it is shown: `Dockerfile` for that of this folder.
fn shown(path: &Path) -> String {
    if path == Path::new("-") {
        return "Dockerfile".into();
    }
    let parts = path.components().filter(|part| *part != Component::CurDir);
    parts.collect::<PathBuf>().display().to_string()
}

fn read(path: &Path) -> Result<String, Error> {
    if path == Path::new("-") {
        return std::io::read_to_string(std::io::stdin()).map_err(io("standard input"));
    }
    let bytes = std::fs::read(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::Input(format!(
            "failed to read dockerfile: open {}: no such file or directory; name it with --file",
            path.display()
        )),
        _ => io(path.display().to_string())(e),
    })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_shown_as_it_is_said() {
        for (path, want) in [
            ("./Dockerfile", "Dockerfile"),
            ("a/./b/Dockerfile", "a/b/Dockerfile"),
            ("/a/D", "/a/D"),
            ("../D", "../D"),
            ("-", "Dockerfile"),
        ] {
            assert_eq!(shown(Path::new(path)), want);
        }
    }
}
