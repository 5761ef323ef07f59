//! Files read into one tree: found, interpolated, included, extended, merged, checked, made canonical; in
//! compose-go's order, which the specification's examples depend on.

mod canonical;
mod extends;
pub(crate) mod find;
mod include;
mod legacy;
mod merge;
mod normal;
mod paths;
pub(crate) mod ports;
mod shape;
mod shapes;
mod validate;
pub(crate) mod volume;

pub(crate) use normal::implied_dependencies;

use crate::{
    Error, Warning,
    interpolate::{self, Variables},
    tree::{Map, Node, Value},
    yaml,
};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A file's size limit.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// What [`crate::Options::overlay`] is called as a file.
const OVERLAY: &str = "command line";
/// How deep includes may nest.
const INCLUDES_MAX: usize = 64;

/// What the files are read in.
struct Scope {
    /// The folder that relative paths start from.
    folder: PathBuf,
    variables: Variables,
    /// The files that are being included, outermost first.
    included: Vec<PathBuf>,
}

/// Reads files, and keeps what is told about them.
struct Reader<'a> {
    /// The text of `-`.
    stdin: Option<&'a str>,
    overlay: Option<&'a str>,
    /// Variables stay as they are written.
    keep_variables: bool,
    warnings: RefCell<Vec<Warning>>,
    /// Files that services are extended from, read once.
    bases: RefCell<BTreeMap<PathBuf, extends::Base>>,
}

/// The whole project as one canonical tree, and what is to be said about it.
pub(crate) struct Model {
    pub tree: Node,
    pub name: String,
    pub folder: PathBuf,
    /// What was read, without what it names itself.
    pub files: Vec<PathBuf>,
    pub variables: BTreeMap<String, String>,
    pub profiles: Vec<String>,
    pub warnings: Vec<Warning>,
}

/// Reads what `options` name.
pub(crate) fn model(options: &crate::Options) -> Result<Model, Error> {
    let mut found = find::find(options)?;
    let reader = Reader {
        stdin: options.stdin.as_deref(),
        overlay: options.overlay.as_deref(),
        keep_variables: options.keep_variables,
        warnings: RefCell::new(std::mem::take(&mut found.warnings)),
        bases: RefCell::default(),
    };
    let mut environment = found.environment;
    let name = reader.project_name(options, &found.files, &found.folder, &environment)?;
    environment.insert("COMPOSE_PROJECT_NAME".into(), name.clone());
    let mut scope = Scope {
        folder: found.folder,
        variables: Variables::new(environment),
        included: vec![],
    };
    let files = found.files.clone();
    if options.overlay.is_some() {
        found.files.push(OVERLAY.into());
    }
    let mut tree = reader.files(&found.files, &mut scope)?;
    if tree.map().is_none_or(Map::is_empty) {
        return Err(tree.error("empty compose file"));
    }
    normal::normalize(&mut tree, &name, &scope.variables.known)?;
    let mut warnings = reader.warnings.into_inner();
    for variable in scope.variables.missing.take() {
        warnings.push(Warning(format!(
            "The \"{variable}\" variable is not set. Defaulting to a blank string."
        )));
    }
    Ok(Model {
        tree,
        name,
        folder: scope.folder,
        files,
        variables: scope.variables.known,
        profiles: found.profiles,
        warnings,
    })
}

impl Reader<'_> {
    /// All files of one project or include, merged, with paths made absolute.
    fn files(&self, files: &[PathBuf], scope: &mut Scope) -> Result<Node, Error> {
        let mut tree = canonical::nowhere().node(Value::Map(Map::new()));
        for file in files {
            tree = self.file(file, tree, scope)?;
        }
        canonical::defaults(&mut tree);
        validate::validate(&tree)?;
        paths::resolve(&mut tree, &scope.folder)?;
        normal::resolve_lists(&mut tree, &scope.variables.known);
        Ok(tree)
    }

    /// One file on top of those before it.
    fn file(&self, path: &Path, mut tree: Node, scope: &mut Scope) -> Result<Node, Error> {
        scope.included.push(path.to_path_buf());
        for mut document in self.documents(path)? {
            let cleared = self.prepare(&mut document, scope)?;
            self.include(&mut document, &cleared, scope)?;
            cleared.apply(&mut tree, &mut vec![]);
            self.extend(&mut document, path, &cleared, scope)?;
            tree = merge::merge(tree, document, &mut vec![])?;
            merge::enforce_unique(&mut tree, &mut vec![])?;
            shape::check(&mut tree, &shapes::FILE, &mut vec![])?;
            if let Some(version) = tree.map_mut().and_then(|m| m.remove("version")) {
                self.warn(version.error(
                    "the attribute `version` is obsolete, it will be ignored, please remove it to avoid potential confusion",
                ));
            }
            canonical::canonical(&mut tree)?;
            merge::enforce_unique(&mut tree, &mut vec![])?;
        }
        scope.included.pop();
        Ok(tree)
    }

    /// A document's own work: tags, variables, older layouts.
    fn prepare(&self, document: &mut Node, scope: &Scope) -> Result<merge::Cleared, Error> {
        if document.is_null() {
            document.value = Value::Map(Map::new());
        }
        if document.map().is_none() {
            return Err(document.error("top-level object must be a mapping"));
        }
        let cleared = merge::Cleared::of(document);
        if !self.keep_variables {
            interpolate::tree(document, &scope.variables, &mut vec![])?;
        }
        legacy::modernize(document);
        Ok(cleared)
    }

    fn documents(&self, path: &Path) -> Result<Vec<Node>, Error> {
        let shown: Arc<str> = match path.file_name() {
            Some(_) if path.is_absolute() => shown(path).into(),
            _ => path.display().to_string().into(),
        };
        if path.as_os_str() == "-" {
            let text = self.stdin.unwrap_or_default();
            return yaml::documents(&"stdin".into(), text);
        }
        if let Some(text) = self.overlay.filter(|_| path.as_os_str() == OVERLAY) {
            return yaml::documents(&OVERLAY.into(), text);
        }
        let text = text(path).map_err(|e| Error {
            file: shown.to_string(),
            line: None,
            message: e.to_string(),
        })?;
        yaml::documents(&shown, &text)
    }

    fn warn(&self, warning: Error) {
        let text = Warning(warning.to_string());
        let mut all = self.warnings.borrow_mut();
        if !all.contains(&text) {
            all.push(text);
        }
    }

    /// `-p`, `COMPOSE_PROJECT_NAME`, the last `name:`, or the folder's name.
    fn project_name(
        &self,
        options: &crate::Options,
        files: &[PathBuf],
        folder: &Path,
        environment: &BTreeMap<String, String>,
    ) -> Result<String, Error> {
        let given = options.project.as_ref().filter(|p| !p.is_empty());
        let given = given.or(environment
            .get("COMPOSE_PROJECT_NAME")
            .filter(|n| !n.is_empty()));
        if let Some(name) = given {
            if normal_name(name) != *name {
                return Err(Error {
                    file: String::new(),
                    line: None,
                    message: format!(
                        "invalid project name {name:?}: must consist only of lowercase alphanumeric characters, hyphens, and underscores as well as start with a letter or number"
                    ),
                });
            }
            return Ok(name.clone());
        }
        let mut name = None;
        for file in files {
            for document in self.documents(file)? {
                name = document
                    .get("name")
                    .filter(|n| n.str().is_some())
                    .cloned()
                    .or(name);
            }
        }
        if let Some(mut node) = name {
            let variables = Variables::new(environment.clone());
            interpolate::tree(&mut node, &variables, &mut vec!["name".into()])?;
            let name = normal_name(node.str().unwrap_or_default());
            if !name.is_empty() {
                return Ok(name);
            }
        }
        let name = folder
            .file_name()
            .map(|n| normal_name(&n.to_string_lossy()));
        match name {
            Some(name) if !name.is_empty() => Ok(name),
            _ => Err(Error {
                file: String::new(),
                line: None,
                message: "project name must not be empty: give one with -p".into(),
            }),
        }
    }
}

/// Lower case, and only what a project's name may hold.
fn normal_name(text: &str) -> String {
    let kept: String = text
        .to_lowercase()
        .chars()
        .filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_'))
        .collect();
    kept.trim_start_matches(['-', '_']).to_string()
}

/// A file's text, if it isn't too long and UTF-8.
fn text(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let file = fs::File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(std::io::Error::other(format!(
            "{} is a directory",
            path.display()
        )));
    }
    let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!(
            "it is longer than {} MB",
            FILE_BYTES_MAX >> 20
        )));
    }
    Ok(text)
}

/// A path as messages show it: relative to where the user is, when that is shorter.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let relative = path
        .strip_prefix(&here)
        .ok()
        .filter(|r| !r.as_os_str().is_empty());
    relative.unwrap_or(path).display().to_string()
}
