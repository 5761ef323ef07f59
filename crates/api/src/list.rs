//! GET of collections: selectors, chunks, revisions.

use std::{collections::VecDeque, rc::Rc};

use bytes::Bytes;
use knarr_store::{Entry, Snapshot};
use serde_json::Value;

use crate::{
    body::{Body, Items},
    catalog::{self, Target},
    crd,
    negotiate::Form,
    object,
    pages::{self, Token},
    query::Query,
    registry::{FieldError, Resource},
    selector::{FieldSelector, LabelSelector},
    server::Inner,
    status::Failure,
    table, versions,
};

/// What of a collection is wanted.
#[derive(Clone, Default)]
pub struct Filter {
    /// `labelSelector`
    pub labels: LabelSelector,
    /// `fieldSelector`
    pub fields: FieldSelector,
}

impl Filter {
    /// Reads and checks both selectors; 400 as upstream.
    pub fn read(r: &Resource, query: &Query) -> Result<Filter, Failure> {
        let labels = LabelSelector::parse(query.get("labelSelector").unwrap_or(""))
            .map_err(Failure::bad_request)?;
        let fields = FieldSelector::parse(query.get("fieldSelector").unwrap_or(""))
            .map_err(Failure::bad_request)?;
        fields.check(r).map_err(Failure::bad_request)?;
        Ok(Filter { labels, fields })
    }
    /// Takes everything.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }
    /// Evaluates the selectors on stored bytes, reading no more of them than needed.
    pub fn takes(&self, r: &Resource, key: &str, bytes: &[u8]) -> bool {
        if self.is_empty() {
            return true;
        }
        let (namespace, name) = catalog::split_key(r, key);
        let mut parsed: Option<Rc<Value>> = None;
        let mut whole = || {
            if parsed.is_none() {
                parsed = serde_json::from_slice(bytes)
                    .ok()
                    .map(|o| Rc::new(versions::read(r, o)));
            }
            parsed.clone()
        };
        if !self.fields.is_empty() && !self.fields.matches(r, namespace, name, &mut whole) {
            return false;
        }
        self.labels.is_empty()
            || object::light(bytes).is_some_and(|light| self.labels.matches(&light))
    }
}

/// Keys a request can touch at all.
pub struct Scope {
    /// Key prefix.
    pub prefix: String,
    /// The one key, when a selector or the URL names the object.
    pub only: Option<String>,
}

/// Scope of a collection request with its field selector.
pub fn scope(t: &Target, filter: &Filter) -> Scope {
    let r = &t.resource;
    let namespace = if t.namespace.is_empty() && r.namespaced {
        filter.fields.required("metadata.namespace").unwrap_or("")
    } else {
        &t.namespace
    };
    let name = if t.name.is_empty() {
        filter.fields.required("metadata.name").unwrap_or("")
    } else {
        &t.name
    };
    let prefix = catalog::prefix(r, namespace);
    let only = (!name.is_empty() && (!r.namespaced || !namespace.is_empty()))
        .then(|| format!("{prefix}{name}"));
    Scope { prefix, only }
}

/// Answers a list.
pub async fn list(inner: &Inner, t: &Target, query: &Query, form: Form) -> Result<Body, Failure> {
    let (metadata, items) = select(inner, t, query).await?;
    render(&t.resource, query, form, metadata, items)
}

/// The objects of a chunk, and its `metav1.ListMeta`.
pub async fn select(
    inner: &Inner,
    t: &Target,
    query: &Query,
) -> Result<(serde_json::Map<String, Value>, Vec<Entry>), Failure> {
    let r = &t.resource;
    let filter = Filter::read(r, query)?;
    query.number("timeoutSeconds")?;
    let mut limit = query.number("limit")?.unwrap_or(0).max(0) as usize;
    check_version(query)?;
    // upstream answers these from its cache, which knows no chunks
    if query.get("resourceVersion") == Some("0") && query.get("continue").is_none() {
        limit = 0;
    }
    let (snapshot, after, consistent) = choose(inner, query, limit > 0)?;
    let scope = scope(t, &filter);
    let start = after.map(|a| format!("{}{a}", scope.prefix));

    let converted = if crd::by_webhook(r) {
        let needed = if filter.is_empty() { limit } else { 0 };
        Some(converted(inner, r, &snapshot, &scope, start.as_deref(), needed).await?)
    } else {
        None
    };
    let mut items: Vec<Entry> = Vec::new();
    let mut more = false;
    let mut remaining = 0usize;
    if let Some(only) = &scope.only {
        let entry = match &converted {
            Some(all) => all.first(),
            None => snapshot.get(only),
        };
        if start.as_ref().is_none_or(|s| only > s)
            && let Some(e) = entry
            && filter.takes(r, &e.key, &e.value)
        {
            items.push(e.clone());
        }
    } else {
        let entries: Box<dyn Iterator<Item = &Entry>> = match &converted {
            Some(all) => Box::new(all.iter()),
            None => Box::new(snapshot.range(&scope.prefix, start.as_deref())),
        };
        for e in entries {
            if more {
                remaining += 1;
                continue;
            }
            if !filter.takes(r, &e.key, &e.value) {
                continue;
            }
            if limit > 0 && items.len() == limit {
                more = true;
                remaining = 1;
                if !filter.is_empty() {
                    break;
                }
                continue;
            }
            items.push(e.clone());
        }
    }
    let mut metadata = serde_json::Map::new();
    metadata.insert(
        "resourceVersion".into(),
        snapshot.revision().to_string().into(),
    );
    if more && let Some(last) = items.last() {
        let revision = if consistent {
            // an older one is kept already, and for no longer because it is read: it must expire for slow readers, too
            if snapshot.revision() == inner.store.snapshot().revision() {
                inner.pages.keep(&snapshot);
            }
            snapshot.revision() as i64
        } else {
            -1
        };
        let token = Token::new(revision, &last.key[scope.prefix.len()..]);
        metadata.insert("continue".into(), token.encode().into());
        if filter.is_empty() {
            metadata.insert("remainingItemCount".into(), remaining.into());
        }
    }
    Ok((metadata, items))
}

fn render(
    r: &Resource,
    query: &Query,
    form: Form,
    metadata: serde_json::Map<String, Value>,
    items: Vec<Entry>,
) -> Result<Body, Failure> {
    let metadata = Value::Object(metadata);
    let items = items.into_iter().map(|e| Entry {
        value: versions::served(r, &e.value),
        ..e
    });
    let items: Vec<Entry> = items.collect();
    match form {
        Form::Plain => {
            let items: VecDeque<Bytes> = items.into_iter().map(|e| e.value).collect();
            Ok(Body::Items(Items::new(
                r.kind,
                list_kind(r),
                &catalog::api_version(r),
                r.custom.is_none(),
                metadata.to_string(),
                items,
            )))
        }
        Form::Table(version) => {
            let include = table::Include::read(query)?;
            let mut items = items;
            if let Some(order) = r.strategy().row_order() {
                // an object that isn't JSON is told when its row is made
                items.sort_by_cached_key(|e| object::parse(&e.value).map(|o| order(&o)).ok());
            }
            let rows = items
                .iter()
                .map(|e| Ok(table::row(r, &object::parse(&e.value)?, version, include)))
                .collect::<Result<Vec<Value>, Failure>>()?;
            Ok(table::table(r, version, metadata, true, rows)
                .to_string()
                .into())
        }
        Form::Partial(_) => Err(wrong_form(r, true)),
        Form::PartialList(version) => {
            let items: Vec<Value> = items
                .iter()
                .filter_map(|e| object::metadata(&e.value))
                .map(|m| table::partial(m, version))
                .collect();
            let list = serde_json::json!({
                "kind": "PartialObjectMetadataList", "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": metadata, "items": items,
            });
            Ok(list.to_string().into())
        }
    }
}

/// What a list goes over, in the version of the resource: the first `needed` objects (0: all), the rest to be counted.
async fn converted(
    inner: &Inner,
    r: &Resource,
    snapshot: &Snapshot,
    scope: &Scope,
    start: Option<&str>,
    needed: usize,
) -> Result<Vec<Entry>, Failure> {
    let mut all: Vec<Entry> = match &scope.only {
        Some(only) => snapshot.get(only).cloned().into_iter().collect(),
        None => snapshot.range(&scope.prefix, start).cloned().collect(),
    };
    let count = if needed == 0 {
        all.len()
    } else {
        needed.min(all.len())
    };
    let bytes = all[..count].iter().map(|e| e.value.clone()).collect();
    for (e, value) in all.iter_mut().zip(crd::bring_all(inner, r, bytes).await?) {
        e.value = value;
    }
    Ok(all)
}

/// 406 for metadata of an object where there is a list, and the other way round.
pub fn wrong_form(r: &Resource, list: bool) -> Failure {
    let package = if r.custom.is_some() {
        "unstructured"
    } else {
        crate::decode::internal_package(r.group)
    };
    let kind = if r.custom.is_some() {
        "Unstructured"
    } else {
        r.kind
    };
    let message = if list {
        format!(
            "you requested PartialObjectMetadata, but the requested object is a list (*{package}.{kind}List)"
        )
    } else {
        format!(
            "you requested PartialObjectMetadataList, but the requested object is not a list (*{package}.{kind})"
        )
    };
    Failure::new(406, "NotAcceptable", message)
}

/// The kind of the resource's lists.
pub fn list_kind(r: &Resource) -> String {
    match &r.custom {
        Some(custom) => custom.list_kind().to_owned(),
        None => format!("{}List", r.kind),
    }
}

/// Snapshot to list from, the key tail to go on after, and whether later chunks can be consistent.
fn choose(
    inner: &Inner,
    query: &Query,
    limited: bool,
) -> Result<(Snapshot, Option<String>, bool), Failure> {
    let version = query.get("resourceVersion").unwrap_or("");
    let matching = query.get("resourceVersionMatch").unwrap_or("");
    let token = query.get("continue");
    if let Some(token) = token {
        let token = Token::decode(token)?;
        if !version.is_empty() && version != "0" {
            return Err(Failure::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let start = token.start().to_string();
        return match token.revision() {
            None => Ok((inner.store.snapshot(), Some(start), false)),
            Some(n) => {
                let current = inner.store.snapshot();
                let snapshot = if current.revision() == n {
                    Some(current)
                } else {
                    inner.pages.find(n)
                };
                let snapshot = snapshot.ok_or_else(|| pages::expired_continue(&start))?;
                Ok((snapshot, Some(start), true))
            }
        };
    }
    let snapshot = inner.store.snapshot();
    let wanted = parse_version(version)
        .map_err(|f| Failure::bad_request(format!("invalid resource version: {}", f.message())))?;
    if let Some(wanted) = wanted {
        let current = snapshot.revision();
        if wanted > current {
            return Err(too_large(wanted, current));
        }
        // a chunk of a named revision is of that very one
        let exact = matching == "Exact" || (matching.is_empty() && limited);
        if exact && wanted != current {
            let kept = inner.pages.find(wanted).ok_or_else(pages::expired_exact)?;
            return Ok((kept, None, true));
        }
    }
    Ok((snapshot, None, true))
}

/// A `resourceVersion` parameter; None for empty and 0. The failure is the one of watches and gets: upstream's has neither
/// code nor reason of its own.
pub fn parse_version(version: &str) -> Result<Option<u64>, Failure> {
    if version.is_empty() || version == "0" {
        return Ok(None);
    }
    version.parse().map(Some).map_err(|e| {
        let why = crate::query::not_a_number(&e);
        Failure::new(
            500,
            "",
            format!(
                "resourceVersion: Invalid value: {version:?}: strconv.ParseUint: parsing {version:?}: {why}"
            ),
        )
    })
}

/// 504 for a revision that isn't there yet.
pub fn too_large(wanted: u64, current: u64) -> Failure {
    Failure::new(
        504,
        "Timeout",
        format!("Timeout: Too large resource version: {wanted}, current: {current}"),
    )
    .cause("ResourceVersionTooLarge", "Too large resource version", "")
    .retry_after(1)
}

fn check_version(query: &Query) -> Result<(), Failure> {
    let version = query.get("resourceVersion").unwrap_or("");
    let matching = query.get("resourceVersionMatch").unwrap_or("");
    let mut errors = Vec::new();
    let mut forbid = |detail: &str| {
        errors.push(FieldError::Forbidden {
            field: "resourceVersionMatch".into(),
            detail: detail.into(),
        })
    };
    if !matching.is_empty() {
        if version.is_empty() {
            forbid("resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if query.get("continue").is_some() {
            forbid("resourceVersionMatch is forbidden when continue is provided");
        }
        if matching == "Exact" && version == "0" {
            forbid("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
        }
        if !matches!(matching, "Exact" | "NotOlderThan") {
            errors.push(FieldError::NotSupported {
                field: "resourceVersionMatch".into(),
                value: matching.into(),
                supported: vec!["Exact".into(), "NotOlderThan".into(), "".into()],
            });
        }
    }
    if query.has("sendInitialEvents") {
        errors.push(FieldError::Forbidden {
            field: "sendInitialEvents".into(),
            detail: "sendInitialEvents is forbidden for list".into(),
        });
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Failure::invalid("meta.k8s.io", "ListOptions", "", &errors))
}
