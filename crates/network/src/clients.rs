//! The Pods of this node that DNS tells apart: what their labels say they may find, and what they are themselves.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use parking_lot::RwLock;

use crate::services::{
    names::{Client, is_told},
    own::Pod,
};

/// How a line of a lease's notes begins that is about a client.
const LINE: &str = "client ";

/// Who asks, as far as it is known.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asker {
    pub(crate) client: Option<Arc<Client>>,
    pub(crate) pod: Option<Arc<Pod>>,
}

#[derive(Default)]
pub(crate) struct Clients {
    told: RwLock<HashMap<IpAddr, Arc<Client>>>,
    pods: RwLock<HashMap<IpAddr, Arc<Pod>>>,
}

impl Clients {
    pub(crate) fn asker(&self, ip: IpAddr) -> Asker {
        Asker {
            client: self.get(ip),
            pod: self.pods.read().get(&ip.to_canonical()).cloned(),
        }
    }

    pub(crate) fn get(&self, ip: IpAddr) -> Option<Arc<Client>> {
        self.told.read().get(&ip.to_canonical()).cloned()
    }

    pub(crate) fn put(&self, ips: &[IpAddr], client: Option<Client>) {
        set(&self.told, ips, client);
    }

    pub(crate) fn put_pod(&self, ips: &[IpAddr], pod: Option<Pod>) {
        set(&self.pods, ips, pod);
    }
}

fn set<T>(all: &RwLock<HashMap<IpAddr, Arc<T>>>, ips: &[IpAddr], value: Option<T>) {
    let mut all = all.write();
    let value = value.map(Arc::new);
    for ip in ips {
        match &value {
            Some(value) => drop(all.insert(*ip, value.clone())),
            None => drop(all.remove(ip)),
        }
    }
}

/// None for a Pod without such labels: to DNS it is like all others.
pub(crate) fn client(namespace: &str, labels: &BTreeMap<String, String>) -> Option<Client> {
    let told = labels.iter().filter(|(key, _)| is_told(key));
    let labels = told
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect::<BTreeMap<_, _>>();
    (!labels.is_empty()).then(|| Client {
        namespace: namespace.into(),
        labels,
    })
}

/// A line for the notes of a lease.
pub(crate) fn format(client: &Client) -> String {
    let labels = client
        .labels
        .iter()
        .map(|(key, value)| format!(" {key}={value}"));
    format!("{LINE}{}{}\n", client.namespace, labels.collect::<String>())
}

/// Notes without what [`format`] wrote.
pub(crate) fn without(notes: &str) -> String {
    let others = notes.lines().filter(|line| !line.starts_with(LINE));
    others.map(|line| format!("{line}\n")).collect()
}

/// What [`format`] wrote, among other notes.
pub(crate) fn parse(notes: &str) -> Option<Client> {
    let line = notes.lines().find_map(|line| line.strip_prefix(LINE))?;
    let mut words = line.split(' ');
    let namespace = words.next()?.into();
    let label = |word: &str| {
        let (key, value) = word.split_once('=')?;
        Some((key.to_string(), value.to_string()))
    };
    Some(Client {
        namespace,
        labels: words.filter_map(label).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_read_as_they_were_written() {
        let labels = [
            ("app", "x"),
            ("network.knarr.dev/a", "true"),
            ("links.knarr.dev/b", ""),
        ];
        let labels = labels.map(|(k, v)| (k.to_string(), v.to_string())).into();
        let client = client("shop", &labels).unwrap();
        assert_eq!(client.labels.len(), 2);
        let notes = format!("6 0.0.0.0 80 80\n{}", format(&client));
        assert_eq!(parse(&notes), Some(client));
        assert_eq!(crate::pod::parse(&notes).len(), 1);
        assert_eq!(without(&notes), "6 0.0.0.0 80 80\n");
        assert_eq!(parse("6 0.0.0.0 80 80\n"), None);
        assert_eq!(super::client("shop", &BTreeMap::new()), None);
    }
}
