//! `extends:` (Compose specification, 05-services.md#extends).

use super::{Reader, Scope, canonical, merge, merge::Cleared, paths};
use crate::{
    Error,
    tree::{Map, Node, Value},
};
use std::{
    path::{Path, PathBuf},
    rc::Rc,
};

/// A file that services are extended from.
#[derive(Clone)]
pub(super) struct Base {
    services: Rc<Map>,
    cleared: Rc<Cleared>,
}

/// The services of one file, while what they extend is looked up.
struct Place<'a> {
    services: &'a Map,
    file: &'a Path,
    cleared: &'a Cleared,
}

impl Reader<'_> {
    /// Replaces each service that extends another by what it comes to.
    pub(super) fn extend(
        &self,
        document: &mut Node,
        file: &Path,
        cleared: &Cleared,
        scope: &Scope,
    ) -> Result<(), Error> {
        for kind in ["services", "jobs"] {
            let Some(section) = document.map_mut().and_then(|m| m.get_mut(kind)) else {
                continue;
            };
            if section.is_null() {
                continue;
            }
            let mark = section.mark.clone();
            let Some(services) = section.map_mut() else {
                return Err(mark.error(format!("{kind} must be a mapping")));
            };
            let extending = |s: &Node| s.map().is_some_and(|m| m.contains_key("extends"));
            if !services.values().any(extending) {
                continue;
            }
            let before = services.clone();
            let place = Place {
                services: &before,
                file,
                cleared,
            };
            for (name, service) in services.iter_mut().filter(|(_, s)| extending(s)) {
                let mut trail = vec![];
                *service = self.extended(name, &place, scope, &mut trail)?;
            }
        }
        Ok(())
    }

    fn extended(
        &self,
        name: &str,
        place: &Place<'_>,
        scope: &Scope,
        trail: &mut Vec<(PathBuf, String)>,
    ) -> Result<Node, Error> {
        let service = place.services[name].clone();
        let Some(extends) = service.get("extends").cloned() else {
            return Ok(service);
        };
        if service.map().is_none() {
            return Err(service.error(format!("services.{name} must be a mapping")));
        }
        let (target, from) = match extends.str() {
            Some(target) => (target.to_string(), None),
            None => (
                extends
                    .text_of("service")
                    .ok_or_else(|| extends.error(format!("extends.{name}.service is required")))?,
                extends.get("file"),
            ),
        };
        let at = (place.file.to_path_buf(), name.to_string());
        if trail.contains(&at) {
            let mut lines: Vec<String> = trail
                .iter()
                .map(|(f, s)| format!("{s} in {}", super::shown(f)))
                .collect();
            lines.push(format!("{name} in {}", super::shown(place.file)));
            return Err(extends.error(format!(
                "Circular reference:\n  {}",
                lines.join("\n  extends ")
            )));
        }
        trail.push(at);
        let mut source = match from.and_then(Node::scalar) {
            None => {
                if !place.services.contains_key(&target) {
                    return Err(extends.error(format!(
                        "cannot extend service {name:?} in {}: service {target:?} not found",
                        super::shown(place.file)
                    )));
                }
                self.extended(&target, place, scope, trail)?
            }
            Some(path) => {
                let local = PathBuf::from(paths::absolute(&path, &scope.folder));
                let base = self.base(&local, scope, &extends, name)?;
                if !base.services.contains_key(&target) {
                    return Err(extends.error(format!(
                        "cannot extend service {name:?} in {}: service {target:?} not found in {path}",
                        super::shown(place.file)
                    )));
                }
                let place = Place {
                    services: &base.services,
                    file: &local,
                    cleared: &base.cleared,
                };
                self.extended(&target, &place, scope, trail)?
            }
        };
        trail.pop();
        let mut merged = if source.is_null() {
            service
        } else {
            place
                .cleared
                .apply(&mut source, &mut vec!["services".into(), name.into()]);
            merge::merge(source, service, &mut vec!["services".into(), "x".into()])?
        };
        if let Some(map) = merged.map_mut() {
            map.remove("extends");
        }
        Ok(merged)
    }

    /// The services of another file: long forms, absolute paths, not extended yet.
    fn base(&self, path: &Path, scope: &Scope, at: &Node, name: &str) -> Result<Base, Error> {
        if let Some(known) = self.bases.borrow().get(path) {
            return Ok(known.clone());
        }
        let mut tree = canonical::nowhere().node(Value::Map(Map::new()));
        let mut cleared = Cleared::default();
        let documents = self.documents(path).map_err(|e| match e.line {
            None => at.error(e.message),
            Some(_) => e,
        })?;
        for mut document in documents {
            cleared = self.prepare(&mut document, scope)?;
            cleared.apply(&mut tree, &mut vec![]);
            tree = merge::merge(tree, document, &mut vec![])?;
            merge::enforce_unique(&mut tree, &mut vec![])?;
            canonical::canonical(&mut tree)?;
        }
        paths::resolve(&mut tree, path.parent().unwrap_or(Path::new("/")))?;
        let services = tree.map_mut().and_then(|m| m.remove("services"));
        let file = super::shown(path);
        let Some(services) = services else {
            return Err(at.error(format!(
                "cannot extend service {name:?} in {file}: no services section"
            )));
        };
        let Value::Map(services) = services.value else {
            return Err(at.error(format!(
                "cannot extend service {name:?} in {file}: services must be a mapping"
            )));
        };
        let base = Base {
            services: Rc::new(services),
            cleared: Rc::new(cleared),
        };
        self.bases
            .borrow_mut()
            .insert(path.to_path_buf(), base.clone());
        Ok(base)
    }
}
