//! What has happened, for `docker events`: the last of it is kept.

use crate::{
    daemon::Daemon,
    error::Result,
    filters::Filters,
    http::{Answer, Ask, messages},
    names,
};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use std::{collections::VecDeque, sync::Arc};
use tokio::sync::broadcast;

/// SOURCE: moby `daemon/events/events.go`
const KEPT: usize = 256;

#[derive(Debug, Clone)]
pub struct Event {
    pub kind: &'static str,
    pub action: String,
    pub id: String,
    pub attributes: Map<String, Value>,
    pub at: Timestamp,
}

impl Event {
    fn json(&self) -> Value {
        let nanos = i64::try_from(self.at.as_nanosecond()).unwrap_or(0);
        let mut value = json!({
            "Type": self.kind,
            "Action": self.action,
            "Actor": { "ID": self.id, "Attributes": self.attributes },
            "scope": "local",
            "time": self.at.as_second(),
            "timeNano": nanos,
        });
        // what older clients read
        if matches!(self.kind, "container" | "image") {
            value["status"] = json!(self.action);
            value["id"] = json!(self.id);
            if let Some(from) = self
                .attributes
                .get("image")
                .filter(|_| self.kind == "container")
            {
                value["from"] = from.clone();
            }
        }
        value
    }
}

pub struct Events {
    kept: Mutex<VecDeque<Event>>,
    sender: broadcast::Sender<Event>,
}

impl Default for Events {
    fn default() -> Events {
        Events {
            kept: Mutex::default(),
            sender: broadcast::Sender::new(KEPT),
        }
    }
}

impl Events {
    pub fn tell(&self, kind: &'static str, action: &str, id: &str, attributes: Map<String, Value>) {
        let event = Event {
            kind,
            action: action.to_string(),
            id: id.to_string(),
            attributes,
            at: Timestamp::now(),
        };
        let mut kept = self.kept.lock();
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(event.clone());
        // nobody may be listening
        let _ = self.sender.send(event);
    }
}

fn wanted(event: &Event, filters: &Filters) -> bool {
    let text = |key: &str| {
        let value = event.attributes.get(key).and_then(Value::as_str);
        value.unwrap_or_default().to_string()
    };
    let named = |kind: &str, key: &str| {
        filters.any(key, |v| {
            event.kind == kind
                && (event.id.starts_with(v) || text("name") == v || text("container") == v)
        })
    };
    let image = filters.any("image", |v| {
        let image = match event.kind {
            "image" => event.id.clone(),
            _ => text("image"),
        };
        image == v || image.split(':').next() == Some(v)
    });
    let action = event.action.split(':').next().unwrap_or_default();
    filters.any("type", |v| v == event.kind)
        && filters.any("event", |v| v == event.action || v == action)
        && filters.any("scope", |v| v == "local")
        && filters.all("label", |v| match v.split_once('=') {
            Some((key, value)) => text(key) == value && event.attributes.contains_key(key),
            None => event.attributes.contains_key(v),
        })
        && named("container", "container")
        && named("network", "network")
        && named("volume", "volume")
        && image
}

/// `GET /events`
pub async fn stream(daemon: &Arc<Daemon>, ask: Ask) -> Result<Answer> {
    let filters = Filters::read(&ask.query)?;
    filters.only(&[
        "type",
        "event",
        "scope",
        "label",
        "container",
        "network",
        "volume",
        "image",
        "daemon",
        "node",
        "service",
        "secret",
        "config",
        "plugin",
    ])?;
    crate::others::awake(daemon).await;
    let since = names::time(ask.query.get("since").unwrap_or_default())?;
    let until = names::time(ask.query.get("until").unwrap_or_default())?;
    let (old, mut receiver) = {
        let kept = daemon.events.kept.lock();
        let old = kept
            .iter()
            .filter(|e| since.is_some_and(|s| e.at >= s) && until.is_none_or(|u| e.at <= u));
        (
            old.cloned().collect::<Vec<_>>(),
            daemon.events.sender.subscribe(),
        )
    };
    let (send, receive) = tokio::sync::mpsc::channel::<Value>(16);
    tokio::spawn(async move {
        let end = async {
            match until {
                None => std::future::pending::<()>().await,
                Some(until) => {
                    let left = until.duration_since(Timestamp::now());
                    let left = std::time::Duration::try_from(left).unwrap_or_default();
                    tokio::time::sleep(left).await;
                }
            }
        };
        tokio::pin!(end);
        for event in old.iter().filter(|e| wanted(e, &filters)) {
            if send.send(event.json()).await.is_err() {
                return;
            }
        }
        loop {
            // what had happened by its end goes out first
            let event = tokio::select! {
                biased;
                () = send.closed() => return,
                event = receiver.recv() => event,
                () = &mut end => return,
            };
            let event = match event {
                Ok(event) => event,
                // one that reads too slowly misses some
                Err(broadcast::error::RecvError::Lagged(_)) => continue,
                Err(broadcast::error::RecvError::Closed) => return,
            };
            if until.is_some_and(|until| event.at > until) {
                return;
            }
            if wanted(&event, &filters) && send.send(event.json()).await.is_err() {
                return;
            }
        }
    });
    Ok(messages(tokio_stream(receive)))
}

/// A bounded channel's end as a stream.
pub fn tokio_stream<T: Send + 'static>(
    receive: tokio::sync::mpsc::Receiver<T>,
) -> impl futures::Stream<Item = T> + Send + 'static {
    futures::stream::unfold(receive, |mut receive| async move {
        receive.recv().await.map(|item| (item, receive))
    })
}
