//! What the files say of a service in passing: `postgres://db:5432/`. Only guesses, for clusters whose addresses carry no
//! ports but those a Service names.

use super::Context;
use crate::{FileSource, HealthCheck, Port, Service};
use std::collections::BTreeSet;

/// Ports that some text of the project names together with one of the services' names.
pub(super) fn ports(context: &Context<'_>, services: &[&Service]) -> Vec<Port> {
    let names: BTreeSet<&str> = services
        .iter()
        .flat_map(|s| s.names.iter().filter(|n| n.said).map(|n| n.name.as_str()))
        .collect();
    let mut found = BTreeSet::new();
    let project = context.project;
    let mut look = |text: &str| {
        let text = text.to_lowercase();
        for name in &names {
            found.extend(named_with(&text, name));
        }
    };
    for service in project.services.values() {
        service.environment.values().for_each(|t| look(t));
        let words = [&service.command, &service.entrypoint];
        words.into_iter().flatten().flatten().for_each(|t| look(t));
        if let HealthCheck::Own(health) = &service.health {
            health.test.iter().flatten().for_each(|t| look(t));
        }
    }
    for object in project.configs.values() {
        if let FileSource::Content(bytes) = &object.source {
            look(&String::from_utf8_lossy(bytes));
        }
    }
    let port = |target| Port {
        target,
        published: None,
        host_ip: None,
        protocol: "TCP".into(),
        app_protocol: None,
        name: None,
    };
    found.into_iter().map(port).collect()
}

/// Its health check asks for its own name: it must be found before it is well.
pub(super) fn asks_itself(context: &Context<'_>, service: &Service) -> bool {
    let facts = context.facts(&service.name);
    let Some(health) = service.health.resolve(facts.health.as_ref()) else {
        return false;
    };
    let names = service.names.iter().filter(|n| n.said);
    let mut texts = health.test.iter().flatten().map(|t| t.to_lowercase());
    let names: Vec<&str> = names.map(|n| n.name.as_str()).collect();
    texts.any(|t| names.iter().any(|n| !named_with(&t, n).is_empty()))
}

/// The numbers that stand behind `name:` in a text.
fn named_with(text: &str, name: &str) -> Vec<u16> {
    let before = |at: usize| {
        let last = text[..at].chars().next_back();
        !last.is_some_and(|c| c.is_alphanumeric() || "-_.".contains(c))
    };
    let number = |at: usize| -> Option<u16> {
        let rest = text[at + name.len()..].strip_prefix(':')?;
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        rest[..digits].parse().ok().filter(|n| *n > 0)
    };
    let all = text.match_indices(name).filter(|(at, _)| before(*at));
    all.filter_map(|(at, _)| number(at)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_behind_a_name() {
        for (text, want) in [
            ("postgres://u:p@db:5432/x", vec![5432]),
            ("db:1,db:2 olddb:3 my-db:4 a.db:5", vec![1, 2]),
            ("db:0 db:99999 db: db", vec![]),
            ("db:80db", vec![80]),
        ] {
            assert_eq!(named_with(text, "db"), want, "{text}");
        }
    }
}
