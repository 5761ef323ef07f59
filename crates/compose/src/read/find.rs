//! Which files make up the project, and the environment they are read in (compose-go's `cli` package).

use super::volume::clean;
use crate::{Error, Options, Warning, dotenv};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// In the order in which they are preferred.
pub(crate) const NAMES: [&str; 4] = [
    "compose.yaml",
    "compose.yml",
    "docker-compose.yml",
    "docker-compose.yaml",
];
const OVERRIDES: [&str; 4] = [
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
];

pub(super) struct Found {
    /// Absolute, or `-`.
    pub files: Vec<PathBuf>,
    /// Where relative paths start.
    pub folder: PathBuf,
    pub environment: BTreeMap<String, String>,
    pub profiles: Vec<String>,
    pub warnings: Vec<Warning>,
}

fn error(message: String) -> Error {
    Error {
        file: String::new(),
        line: None,
        message,
    }
}

pub(super) fn find(options: &Options) -> Result<Found, Error> {
    let here = absolute(&options.folder)?;
    let mut environment = options.environment.clone();
    // Of a shell it is there already. SOURCE: docker/compose `cmd/compose`, toProjectOptions
    let pwd = environment.entry("PWD".into());
    pwd.or_insert_with(|| here.display().to_string());
    let mut warnings = Vec::new();
    let given: Vec<PathBuf> = options.files.iter().map(|f| in_folder(f, &here)).collect();
    let start = match (&options.project_directory, given.first()) {
        (Some(d), _) => in_folder(d, &here),
        (None, Some(f)) if f.as_os_str() != "-" => parent(f),
        _ => here.clone(),
    };
    // Of the shell only: no file says which others are read. SOURCE: docker/compose `cmd/compose`, defaultStringArrayVar
    let named = environment.get("COMPOSE_ENV_FILES");
    let named = named.into_iter().flat_map(|list| list.split(','));
    let mut env_files_wanted = options.env_files.clone();
    if env_files_wanted.is_empty() {
        env_files_wanted.extend(named.filter(|f| !f.is_empty()).map(PathBuf::from));
    }
    let take = |folder: &Path, environment: &mut BTreeMap<String, String>| {
        let files: Vec<PathBuf> = if !env_files_wanted.is_empty() {
            let all = env_files_wanted.iter();
            all.map(|f| in_folder(f, &here)).collect()
        } else {
            let off = environment
                .get("COMPOSE_DISABLE_ENV_FILE")
                .is_some_and(|v| matches!(v.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"));
            let file = folder.join(".env");
            (!off && file.is_file())
                .then_some(file)
                .into_iter()
                .collect()
        };
        let more = env_files(environment, &files).map_err(error)?;
        for (key, value) in more {
            environment.entry(key).or_insert(value);
        }
        Ok::<(), Error>(())
    };
    take(&start, &mut environment)?;
    let mut files = given;
    if files.is_empty()
        && let Some(list) = environment.get("COMPOSE_FILE").filter(|l| !l.is_empty())
    {
        let separator = environment
            .get("COMPOSE_PATH_SEPARATOR")
            .filter(|s| !s.is_empty())
            .map_or(":", String::as_str);
        files = list
            .split(separator)
            .map(|f| in_folder(Path::new(f), &here))
            .collect();
    }
    if files.is_empty() {
        files = discover(&start, &mut warnings).ok_or_else(|| {
            error(format!(
                "no configuration file provided: not found: {} has no {}",
                start.display(),
                NAMES.join(", ")
            ))
        })?;
    }
    let folder = match (&options.project_directory, &files[0]) {
        (Some(d), _) => in_folder(d, &here),
        (None, f) if f.as_os_str() == "-" => here.clone(),
        (None, f) => parent(f),
    };
    if folder != start {
        take(&folder, &mut environment)?;
    }
    let mut profiles = options.profiles.clone();
    if let Some(more) = environment
        .get("COMPOSE_PROFILES")
        .filter(|_| profiles.is_empty())
    {
        let all = more.split(',').map(|p| p.trim().to_string());
        profiles.extend(all.filter(|p| !p.is_empty()));
    } else if !profiles.is_empty() {
        // so that a file may say what depends on them, however they were switched on
        let all = profiles.join(",");
        environment.entry("COMPOSE_PROFILES".into()).or_insert(all);
    }
    Ok(Found {
        files,
        folder,
        environment,
        profiles,
        warnings,
    })
}

/// The default files of a folder, or of the nearest folder above it that has them.
fn discover(start: &Path, warnings: &mut Vec<Warning>) -> Option<Vec<PathBuf>> {
    let mut pick = |folder: &Path, names: &[&str], what: &str| {
        let mut there = names.iter().map(|n| folder.join(n)).filter(|f| f.is_file());
        let first = there.next()?;
        let others: Vec<String> = there.map(|f| f.display().to_string()).collect();
        if !others.is_empty() {
            warnings.push(Warning(format!(
                "Found multiple {what} files with supported names: {}, {}; using {}",
                first.display(),
                others.join(", "),
                first.display()
            )));
        }
        Some(first)
    };
    for folder in start.ancestors() {
        if let Some(file) = pick(folder, &NAMES, "config") {
            let mut files = vec![file];
            files.extend(pick(folder, &OVERRIDES, "override"));
            return Some(files);
        }
    }
    None
}

fn absolute(path: &Path) -> Result<PathBuf, Error> {
    let folder = match path.as_os_str().is_empty() {
        true => Path::new("."),
        false => path,
    };
    std::path::absolute(folder)
        .map(|p| PathBuf::from(clean(&p.to_string_lossy())))
        .map_err(|e| error(format!("{}: {e}", path.display())))
}

fn in_folder(path: &Path, folder: &Path) -> PathBuf {
    match path.as_os_str() == "-" {
        true => path.to_path_buf(),
        false => PathBuf::from(clean(&folder.join(path).to_string_lossy())),
    }
}

fn parent(file: &Path) -> PathBuf {
    file.parent().unwrap_or(Path::new("/")).to_path_buf()
}

/// What `.env`-like files say; `environment` goes before them inside the files.
pub(super) fn env_files(
    environment: &BTreeMap<String, String>,
    files: &[PathBuf],
) -> Result<BTreeMap<String, String>, String> {
    let mut said = BTreeMap::new();
    for file in files {
        let name = file.display();
        let text = match super::text(file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(format!("couldn't find env file: {name}"));
            }
            Err(e) => return Err(format!("{name}: {e}")),
        };
        let before = said.clone();
        dotenv::parse(&text, &mut said, &|key, _| {
            environment.get(key).or_else(|| before.get(key)).cloned()
        })
        .map_err(|e| format!("failed to read {name}: {e}"))?;
    }
    Ok(said)
}
