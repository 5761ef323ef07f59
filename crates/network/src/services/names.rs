//! Names that a Service has besides its own, in its namespace: the annotation `knarr.dev/dns-names`. Pure.
//!
//! Words, each a name as clients write it (`db.internal`, `my_db`), perhaps with `@` and labels (`key` or `key=value`,
//! commas between): only Pods with one of these labels find the Service by this name. A label whose key begins with
//! [`SHARED`] also counts for Pods of other namespaces: it stands for a network that projects share. The name `*` stands
//! for the host names of the Service's endpoints, found without the Service's own name behind them.

use std::collections::BTreeMap;

/// Networks that are named alike in all namespaces.
pub(crate) const SHARED: &str = "shared-network.knarr.dev/";

/// All host names of a Service's endpoints.
pub(crate) const EVERY_HOST: &str = "*";

/// More are cut off: an annotation may hold 256 KiB.
const NAMES_MAX: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    /// Lower case, without a dot at its end.
    pub(crate) name: Box<str>,
    /// None: whoever is in the Service's namespace, or asks in it.
    pub(crate) clients: Option<Box<[Label]>>,
}

/// A key and its value.
pub(crate) type Label = (Box<str>, Box<str>);

/// A Pod that asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Client {
    pub(crate) namespace: Box<str>,
    /// Those of its labels that say what it may find: [`is_told`].
    pub(crate) labels: BTreeMap<String, String>,
}

/// Whether a Pod's label matters here.
pub(crate) fn is_told(key: &str) -> bool {
    let Some((prefix, _)) = key.split_once('/') else {
        return false;
    };
    prefix.ends_with("knarr.dev")
}

pub(crate) fn parse(text: &str) -> Box<[Named]> {
    let word = |word: &str| {
        let (name, labels) = word
            .split_once('@')
            .map_or((word, None), |(name, labels)| (name, Some(labels)));
        let label = |label: &str| {
            let (key, value) = label.split_once('=').unwrap_or((label, "true"));
            (key.into(), value.into())
        };
        Named {
            name: name.trim_end_matches('.').to_ascii_lowercase().into(),
            clients: labels.map(|all| all.split(',').map(label).collect()),
        }
    };
    text.split_whitespace().take(NAMES_MAX).map(word).collect()
}

impl Named {
    /// Whether a client finds by it what is in `namespace`. Who isn't known finds what all find.
    pub(crate) fn admits(&self, namespace: &str, client: Option<&Client>) -> bool {
        let Some(labels) = &self.clients else {
            return client.is_none_or(|client| &*client.namespace == namespace);
        };
        client.is_some_and(|client| {
            labels.iter().any(|(key, value)| {
                let here = &*client.namespace == namespace || key.starts_with(SHARED);
                here && client.labels.get(&**key).is_some_and(|v| **v == **value)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_finds_what() {
        let client = |namespace: &str, label: &str| Client {
            namespace: namespace.into(),
            labels: BTreeMap::from([(label.to_string(), "true".to_string())]),
        };
        let names =
            parse("Db.Internal. db@network.knarr.dev/back,app=a x@shared-network.knarr.dev/proxy");
        assert_eq!(&*names[0].name, "db.internal");
        for (what, index, client, found) in [
            ("all of its namespace", 0, Some(client("shop", "x")), true),
            ("others", 0, Some(client("other", "x")), false),
            ("who isn't known", 0, None, true),
            (
                "in the network",
                1,
                Some(client("shop", "network.knarr.dev/back")),
                true,
            ),
            (
                "in another",
                1,
                Some(client("shop", "network.knarr.dev/front")),
                false,
            ),
            (
                "elsewhere",
                1,
                Some(client("other", "network.knarr.dev/back")),
                false,
            ),
            ("who isn't known, a network's", 1, None, false),
            (
                "a shared network's",
                2,
                Some(client("other", "shared-network.knarr.dev/proxy")),
                true,
            ),
        ] {
            assert_eq!(
                names[index].admits("shop", client.as_ref()),
                found,
                "{what}"
            );
        }
        assert!(is_told("network.knarr.dev/a") && is_told("knarr.dev/a"));
        assert!(!is_told("app.kubernetes.io/name") && !is_told("app"));
    }
}
