//! A container's variables: the image's, the files', and the command line's.

use super::options::RunArguments;
use crate::error::Error;
use std::{collections::BTreeMap, path::Path};

/// The image's, the files', and the command line's variables, later ones first to count.
pub fn variables(
    a: &RunArguments,
    config: &knarr_image::ImageConfig,
) -> Result<BTreeMap<String, String>, Error> {
    gathered(&config.env, &a.env_file, &a.env)
}

/// Those of a command in a container, from files and the command line.
pub fn exec_variables(said: &[String], files: &[std::path::PathBuf]) -> Result<Vec<String>, Error> {
    let all = gathered(&[], files, said)?;
    Ok(all.into_iter().map(|(k, v)| format!("{k}={v}")).collect())
}

fn gathered(
    before: &[String],
    files: &[std::path::PathBuf],
    said: &[String],
) -> Result<BTreeMap<String, String>, Error> {
    let mut env = BTreeMap::new();
    let mut set = |line: &str| match line.split_once('=') {
        Some((name, value)) => drop(env.insert(name.to_string(), value.to_string())),
        // a name alone: this shell's value, if it has one
        None => match std::env::var(line) {
            Ok(value) => drop(env.insert(line.to_string(), value)),
            Err(_) => drop(env.remove(line)),
        },
    };
    before.iter().for_each(|line| set(line));
    for file in files {
        let text = read_text(file)?;
        for line in text.lines().map(str::trim_start) {
            if !line.is_empty() && !line.starts_with('#') {
                if line
                    .split('=')
                    .next()
                    .unwrap_or("")
                    .contains(char::is_whitespace)
                {
                    return Err(Error::Input(format!(
                        "{}: variable '{line}' contains whitespaces",
                        file.display()
                    )));
                }
                set(line);
            }
        }
    }
    for line in said {
        if line.is_empty() || line.starts_with('=') {
            return Err(Error::Input(format!(
                "invalid environment variable: {line}"
            )));
        }
        set(line);
    }
    Ok(env)
}

pub fn read_text(file: &Path) -> Result<String, Error> {
    std::fs::read_to_string(file).map_err(|e| Error::Failed(go_words(file, &e)))
}

/// What is wrong with opening a file, in Go's words, that scripts look for.
pub fn go_words(file: &Path, error: &std::io::Error) -> String {
    let why = match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".to_string(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_string(),
        _ => error.to_string(),
    };
    format!("open {}: {why}", file.display())
}
