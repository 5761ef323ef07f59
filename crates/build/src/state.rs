//! What a stage is at one of its instructions.

use std::path::PathBuf;

use knarr_dockerfile::{Platform, Scope};
use knarr_image::LayerInfo;

use crate::{
    cache::{Key, Record},
    doc::Doc,
};

/// A layer of a stage.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    /// What it changes: an overlay's upper folder.
    pub dir: PathBuf,
    /// It changes nothing.
    pub empty: bool,
    /// RFC 3339
    pub created: String,
    pub of: LinkOf,
}

#[derive(Debug, Clone)]
pub(crate) enum LinkOf {
    /// The base image's.
    Base(LayerInfo),
    /// A step's, by its snapshot.
    Step(String),
}

#[derive(Debug, Clone)]
pub(crate) struct State {
    pub doc: Doc,
    pub scope: Scope,
    /// `ARG`s so far, for the history of `RUN`.
    pub args: Vec<(String, Option<String>)>,
    /// Lowest first.
    pub chain: Vec<Link>,
    /// Of the whole chain.
    pub key: Key,
    pub platform: Platform,
    /// Entries of the history that came with the base.
    pub base_entries: usize,
    /// Digest of the base image, for the metadata.
    pub bases: Vec<(String, String)>,
    /// `ONBUILD`s of this Dockerfile, which a stage that starts from this one runs.
    pub triggers: Vec<String>,
}

impl State {
    pub(crate) fn scratch(platform: &Platform) -> State {
        let doc = Doc::empty(platform);
        State {
            scope: Scope::of_image(&doc.config.env),
            doc,
            args: vec![],
            chain: vec![],
            key: Key::new("scratch", []),
            platform: platform.clone(),
            base_entries: 0,
            bases: vec![],
            triggers: vec![],
        }
    }
    /// The folders of its layers, topmost first.
    pub(crate) fn lower(&self) -> Vec<PathBuf> {
        let full = self.chain.iter().rev().filter(|l| !l.empty);
        full.map(|l| l.dir.clone()).collect()
    }
    pub(crate) fn push(&mut self, record: &Record, dir: PathBuf) {
        self.key = record.result.clone();
        self.chain.push(Link {
            dir,
            empty: record.empty,
            created: record.created.clone(),
            of: LinkOf::Step(record.snapshot.clone()),
        });
    }
    /// The working folder, absolute.
    pub(crate) fn workdir(&self) -> &str {
        match self.doc.config.working_dir.as_str() {
            "" => "/",
            dir => dir,
        }
    }
    /// An absolute path as it is meant from the working folder, without `.` and `..`.
    pub(crate) fn absolute(&self, path: &str) -> String {
        clean(&match path.starts_with('/') {
            true => path.to_owned(),
            false => format!("{}/{path}", self.workdir()),
        })
    }
}

/// Go's `path.Clean` of an absolute path.
pub(crate) fn clean(path: &str) -> String {
    let mut parts = vec![];
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}
