//! compose.yaml → Kubernetes resources: a pure function.
//!
//! It is: the Compose specification's reader (files, variables, merging, inheritance, checks), its model, and the
//! translation into resources.
//! It is not: a runner; it does no I/O beyond reading the files it is given.
//! It must never know: the API server, images, containers.
#![forbid(unsafe_code)]

mod dotenv;
mod health;
mod interpolate;
mod model;
mod read;
mod translate;
mod tree;
mod units;
mod yaml;

pub use health::Health;
pub use interpolate::Variable;
pub use model::*;
pub use translate::{
    FROM_FILES, ImageFacts, OWN_FOLDERS, PROJECT_NAME, Resources, UNNAMED, UNNAMED_OF, Workload,
    translate,
};
pub use yaml::forgiving;

use std::{collections::BTreeMap, fmt, path::PathBuf};

/// What to read, and the surroundings that the files may refer to.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where to look for files when none are named, and where relative ones of these options start.
    pub folder: PathBuf,
    /// The compose files, later ones over earlier ones; `-` is [`Options::stdin`]. None: `COMPOSE_FILE`, or the
    /// default names in `folder` or above it.
    pub files: Vec<PathBuf>,
    /// Where relative paths in the files start. None: the first file's folder.
    pub project_directory: Option<PathBuf>,
    /// Instead of `.env` in the project's folder.
    pub env_files: Vec<PathBuf>,
    /// Environment for interpolation; `.env` fills in what is missing here.
    pub environment: BTreeMap<String, String>,
    /// Profiles switched on; `*` is all. None: those in `COMPOSE_PROFILES`.
    pub profiles: Vec<String>,
    /// Goes before `COMPOSE_PROJECT_NAME`, `name:` and the folder's name.
    pub project: Option<String>,
    /// The text of the file `-`.
    pub stdin: Option<String>,
    /// Goes over all files: what a command line says of services.
    pub overlay: Option<String>,
    /// [`config`] leaves variables as they are written.
    pub keep_variables: bool,
    /// [`config`] leaves `env_file` as it is, instead of saying what is in the files.
    pub keep_env_files: bool,
    /// [`config`] takes services that do not fit together.
    pub unchecked: bool,
}

/// What is wrong, where: `compose.yaml:12: services.web additional properties 'prots' not allowed`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", place(file, *line))]
pub struct Error {
    /// Empty: it is about no file.
    pub file: String,
    /// 1-based.
    pub line: Option<usize>,
    /// compose-go's wording where it has one, with the dotted path of keys.
    pub message: String,
}

fn place(file: &str, line: Option<usize>) -> String {
    match (file, line) {
        ("", _) | (_, Some(0)) => String::new(),
        (file, Some(line)) => format!("{file}:{line}: "),
        (file, None) => format!("{file}: "),
    }
}

/// What the user should know, and what doesn't stop anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning(pub String);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The namespace of a project.
pub fn namespace(project: &str) -> String {
    translate::object_name(project)
}

/// What a service's objects and container are called.
pub fn object_name(service: &str) -> String {
    translate::object_name(service)
}

/// The names a compose file has when nobody says which it is, in the order in which they are preferred.
pub const FILE_NAMES: [&str; 4] = read::find::NAMES;

/// The variables that the files name, as they are written: [`config`] with `keep_variables` says where.
///
/// # Errors
/// As [`config`].
pub fn variables(options: &Options) -> Result<BTreeMap<String, Variable>, Error> {
    let options = Options {
        keep_variables: true,
        keep_env_files: true,
        ..options.clone()
    };
    let mut found = BTreeMap::new();
    interpolate::gather(&model::config(&options)?, &mut found);
    Ok(found)
}

/// The project's files as one, with all that was short made long: what `docker compose config` shows.
///
/// # Errors
/// What is wrong with the files, by name and line.
pub fn config(options: &Options) -> Result<serde_json::Value, Error> {
    model::config(options)
}
