//! What variables are worth where (Dockerfile reference, "Scope", "Automatic platform ARGs", "Impact on build caching").

use std::collections::BTreeMap;

use crate::{
    error::{Error, Result},
    instruction::{Arg, KeyValue},
    platform::Platform,
    stages::Dockerfile,
    words::{Env, Escape, Expanded, Words, WordsError},
};

/// What a build is asked for.
#[derive(Debug, Clone)]
pub struct Build {
    /// `--build-arg`
    pub args: BTreeMap<String, String>,
    /// `--platform`
    pub target: Platform,
    /// Where it runs.
    pub host: Platform,
    /// `--target`
    pub stage: Option<String>,
}

impl Default for Build {
    fn default() -> Build {
        Build {
            args: BTreeMap::new(),
            target: Platform::host(),
            host: Platform::host(),
            stage: None,
        }
    }
}

/// `TARGETPLATFORM` and its like, which every build has.
pub fn platform_args(build: &Build) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (prefix, p) in [("BUILD", &build.host), ("TARGET", &build.target)] {
        all.insert(format!("{prefix}PLATFORM"), p.to_string());
        all.insert(format!("{prefix}OS"), p.os.clone());
        all.insert(format!("{prefix}OSVERSION"), String::new());
        all.insert(format!("{prefix}ARCH"), p.architecture.clone());
        all.insert(format!("{prefix}VARIANT"), p.variant.clone());
    }
    let stage = build.stage.clone().unwrap_or_else(|| "default".into());
    all.insert("TARGETSTAGE".into(), stage);
    all
}

/// The variables of a stage, as they are at one of its instructions.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    visible: BTreeMap<String, String>,
    /// Declared without a value: empty, and no mistake.
    declared: std::collections::BTreeSet<String>,
    /// What the image keeps, in order.
    env: Vec<(String, String)>,
}

impl Env for Scope {
    fn get(&self, name: &str) -> Option<&str> {
        self.visible.get(name).map(String::as_str)
    }
}

impl Scope {
    /// Of a stage that starts from an image with this `NAME=value` environment.
    pub fn of_image(env: &[String]) -> Scope {
        let mut scope = Scope::default();
        for pair in env {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            scope.set(key, value);
        }
        scope
    }
    /// What `FROM` and the `ARG`s without a default of their own see: the `ARG`s before the first `FROM`.
    ///
    /// # Errors
    /// A default that can't be expanded.
    pub fn global(file: &Dockerfile, build: &Build) -> Result<Scope> {
        let mut scope = Scope {
            visible: platform_args(build),
            ..Scope::default()
        };
        for name in scope.visible.clone().keys() {
            if let Some(said) = build.args.get(name) {
                scope.visible.insert(name.clone(), said.clone());
            }
        }
        for (line, arg) in &file.global {
            let said = build.args.get(&arg.key).cloned();
            let value = match (said, &arg.default) {
                (Some(said), _) => Some(said),
                (None, Some(default)) => Some(
                    scope
                        .expand(default, file.escape)
                        .map_err(|e| Error::words(*line, *line, &e))?
                        .text,
                ),
                (None, None) => None,
            };
            match value {
                Some(value) => {
                    scope.visible.insert(arg.key.clone(), value);
                }
                None => {
                    scope.declared.insert(arg.key.clone());
                }
            }
        }
        Ok(scope)
    }

    /// `ARG`. Returns what it is worth.
    ///
    /// # Errors
    /// A default that can't be expanded.
    pub fn arg(
        &mut self,
        arg: &Arg,
        global: &Scope,
        build: &Build,
        escape: Escape,
    ) -> std::result::Result<Option<String>, WordsError> {
        let value = match (build.args.get(&arg.key), &arg.default) {
            (Some(said), _) => Some(said.clone()),
            (None, Some(default)) => Some(self.expand(default, escape)?.text),
            (None, None) => global.get(&arg.key).map(str::to_owned),
        };
        self.declared.insert(arg.key.clone());
        if let Some(value) = &value {
            self.visible.insert(arg.key.clone(), value.clone());
        }
        Ok(value)
    }
    /// `ENV`: all values are those of before the instruction. Returns what was set.
    ///
    /// # Errors
    /// A value that can't be expanded.
    pub fn env(
        &mut self,
        pairs: &[KeyValue],
        escape: Escape,
    ) -> std::result::Result<Vec<(String, String)>, WordsError> {
        let expanded = pairs
            .iter()
            .map(|p| {
                let key = self.expand(&p.key, escape)?.text;
                Ok((key, self.expand(&p.value, escape)?.text))
            })
            .collect::<std::result::Result<Vec<_>, WordsError>>()?;
        for (key, value) in &expanded {
            self.set(key, value);
        }
        Ok(expanded)
    }
    fn set(&mut self, key: &str, value: &str) {
        self.visible.insert(key.to_owned(), value.to_owned());
        match self.env.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => value.clone_into(old),
            None => self.env.push((key.to_owned(), value.to_owned())),
        }
    }

    /// One text with its variables.
    ///
    /// # Errors
    /// As [`Words::expand`].
    pub fn expand(&self, text: &str, escape: Escape) -> std::result::Result<Expanded, WordsError> {
        Words::new(escape).expand(text, self)
    }
    /// A heredoc's contents: quotes mean nothing there.
    ///
    /// # Errors
    /// As [`Words::expand`].
    pub fn expand_heredoc(&self, text: &str) -> std::result::Result<Expanded, WordsError> {
        Words::new(Escape::Backslash)
            .plain_quotes()
            .expand(text, self)
    }
    /// It was declared, with a value or without.
    pub fn knows(&self, name: &str) -> bool {
        self.visible.contains_key(name) || self.declared.contains(name)
    }
    /// Names that have values.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let image = self.env.iter().map(|(name, _)| name.as_str());
        let other = self.visible.keys().map(String::as_str);
        image.chain(other.filter(|name| self.env.iter().all(|(k, _)| k != name)))
    }
    /// What the image keeps, `NAME=value`, in the order of their first mention.
    pub fn image_env(&self) -> Vec<String> {
        self.env.iter().map(|(k, v)| format!("{k}={v}")).collect()
    }
    /// What a `RUN` gets: `ARG`s and `ENV`s.
    pub fn run_env(&self) -> impl Iterator<Item = (&str, &str)> {
        self.visible.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }
}
