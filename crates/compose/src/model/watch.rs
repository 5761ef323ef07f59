//! `develop.watch`.

use super::hooks::Hook;
use crate::tree::Node;
use std::path::PathBuf;

/// What a change of a watched file leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Rebuild,
    Restart,
    Sync,
    SyncRestart,
    SyncExec,
}

/// One rule of `develop.watch`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    /// Absolute.
    pub path: PathBuf,
    pub action: Action,
    /// In the container; empty for actions that sync nothing.
    pub target: String,
    /// Patterns of files that are left out.
    pub ignore: Vec<String>,
    /// Patterns of files that count; none: all.
    pub include: Vec<String>,
    pub exec: Option<Hook>,
    /// What differs is synced when watching begins.
    pub initial_sync: bool,
}

pub(super) fn watch(service: &Node) -> Vec<Watch> {
    let rules = service.get("develop").and_then(|d| d.get("watch"));
    rules
        .map(Node::items)
        .unwrap_or_default()
        .iter()
        .map(|rule| Watch {
            path: rule.text_of("path").unwrap_or_default().into(),
            action: match rule.text_of("action").as_deref() {
                Some("rebuild") => Action::Rebuild,
                Some("restart") => Action::Restart,
                Some("sync+restart") => Action::SyncRestart,
                Some("sync+exec") => Action::SyncExec,
                _ => Action::Sync,
            },
            target: rule.text_of("target").unwrap_or_default(),
            ignore: rule.texts_of("ignore"),
            include: rule.texts_of("include"),
            exec: rule.get("exec").map(|e| Hook {
                command: e.texts_of("command"),
                working_dir: e.text_of("working_dir"),
                environment: super::values::pairs(e, "environment").into_iter().collect(),
            }),
            initial_sync: rule.bool_of("initial_sync"),
        })
        .collect()
}
