//! Which project a verb is about: the flags that `docker compose` users know, and what they lead to.

use crate::{error::Error, plan};
use clap::Args;
use std::path::PathBuf;

/// Flags of the verbs that read a compose file.
#[derive(Args, Clone, Default)]
pub struct ProjectArguments {
    /// A compose file; may be repeated, later ones go over earlier ones; `-` is standard input
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Read variables from this file instead of .env; may be repeated
    #[arg(long = "env-file", value_name = "FILE")]
    pub env_files: Vec<PathBuf>,
    /// Where relative paths in the compose file start. Default: the first file's folder
    #[arg(long, value_name = "DIR")]
    pub project_directory: Option<PathBuf>,
    /// Switch on a profile of the compose file; may be repeated
    #[arg(long, value_name = "NAME")]
    pub profile: Vec<String>,
    /// The project's name, which becomes its namespace. Default: what the file or folder says
    #[arg(short = 'p', long, alias = "project-name", value_name = "NAME")]
    pub project: Option<String>,
    /// What flags say of services goes over the files.
    #[arg(skip)]
    pub overlay: Option<String>,
}

impl ProjectArguments {
    /// What to read for the words that were given: perhaps a folder or file first, then services.
    ///
    /// # Errors
    /// When a file can't be read, or is wrong.
    pub fn read(&self, words: &[String]) -> Result<(plan::Source, Vec<String>), Error> {
        let (path, services) = self.split(words);
        Ok((plan::read(&path, self)?, services.to_vec()))
    }

    /// The folder or file, and the services. A word is a path when it has a slash or a dot at its start, or is the name
    /// of a folder with a project or of a file.
    pub fn split<'a>(&self, words: &'a [String]) -> (PathBuf, &'a [String]) {
        let here = PathBuf::from(".");
        let Some((first, rest)) = words.split_first() else {
            return (here, words);
        };
        if !self.files.is_empty() {
            return (here, words);
        }
        let path = PathBuf::from(first);
        let project_here = knarr_compose::FILE_NAMES
            .iter()
            .any(|n| here.join(n).is_file());
        let plain = !first.contains('/') && !first.starts_with('.');
        let project_there = path.is_file()
            || knarr_compose::FILE_NAMES
                .iter()
                .any(|n| path.join(n).is_file());
        match plain && project_here && !project_there {
            true => (here, words),
            false => (path, rest),
        }
    }

    /// With what was said before the verb.
    pub fn fill(&mut self, outer: &ProjectArguments) {
        for (own, outer) in [
            (&mut self.files, &outer.files),
            (&mut self.env_files, &outer.env_files),
        ] {
            own.splice(0..0, outer.iter().cloned());
        }
        self.profile.splice(0..0, outer.profile.iter().cloned());
        self.project_directory = self
            .project_directory
            .take()
            .or(outer.project_directory.clone());
        self.project = self.project.take().or(outer.project.clone());
    }

    /// For the reader of compose files.
    ///
    /// # Errors
    /// When standard input was named and can't be read.
    pub fn options(&self, folder: PathBuf) -> Result<knarr_compose::Options, Error> {
        let stdin = match self.files.iter().any(|f| f.as_os_str() == "-") {
            true => Some(
                std::io::read_to_string(std::io::stdin())
                    .map_err(|e| Error::Input(format!("standard input: {e}")))?,
            ),
            false => None,
        };
        Ok(knarr_compose::Options {
            folder,
            files: self.files.clone(),
            project_directory: self.project_directory.clone(),
            env_files: self.env_files.clone(),
            environment: std::env::vars_os()
                .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
                .collect(),
            profiles: self.profile.clone(),
            project: self.project.clone(),
            overlay: self.overlay.clone(),
            stdin,
            ..Default::default()
        })
    }
}
