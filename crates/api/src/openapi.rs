//! `/openapi/v2` and `/openapi/v3`: made on demand by the schema engine, kept compressed only.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use knarr_schema::openapi::{self, Served};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{
    access::asked::{VIRTUAL, Virtual as VirtualOf},
    aggregate::{self, Part, Remotes},
    body::Body,
    catalog::{Catalog, Route},
    discovery,
    encoding::{gunzip, gzip},
    negotiate,
    server::{Call, Inner},
    status::Failure,
};

const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const V2_PROTOBUF_OLD: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// The documents asked for so far: at most one a group version and two for v2, of the resources served now.
#[derive(Default)]
pub struct OpenApi(Mutex<Documents>);

#[derive(Default)]
struct Documents {
    /// what they were made of
    catalog: Option<Arc<Catalog>>,
    made: HashMap<String, Document>,
}
impl Documents {
    /// The documents of this catalog; those of another are forgotten.
    fn of(&mut self, catalog: &Arc<Catalog>) -> &mut HashMap<String, Document> {
        if !self
            .catalog
            .as_ref()
            .is_some_and(|c| Arc::ptr_eq(c, catalog))
        {
            self.made.clear();
            self.catalog = Some(catalog.clone());
        }
        &mut self.made
    }
}

#[derive(Clone)]
struct Document {
    /// tags of what others added
    of: Vec<String>,
    tag: String,
    gzipped: Bytes,
}

/// Answers a path below `openapi/`.
pub async fn answer(
    inner: &Arc<Inner>,
    call: &Call,
    path: &str,
) -> Result<Response<Body>, Failure> {
    if path == "openapi/v3" {
        let mut response = Response::new(Body::from(
            index(&inner.catalog(), &inner.aggregation.remotes()).to_string(),
        ));
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        return Ok(response);
    }
    let (key, content_type) = if path == "openapi/v2" {
        v2_form(call)?
    } else if let Some((group, version)) = group_version(&inner.catalog(), path) {
        negotiate::document(&call.parts.headers)?;
        (format!("v3/{group}/{version}"), "application/json")
    } else {
        return Ok(crate::health::not_found());
    };
    let foreign = match key.starts_with("v2/") {
        true => foreign(&inner.aggregation.remotes()),
        false => vec![],
    };
    let document = document(inner, &key, foreign).await?;
    respond(call, content_type, document)
}

fn v2_form(call: &Call) -> Result<(String, &'static str), Failure> {
    let ranges = negotiate::accepts(&call.parts.headers);
    if ranges.is_empty() {
        return Ok(("v2/json".into(), "application/json"));
    }
    for range in &ranges {
        if range.covers("application/json") {
            return Ok(("v2/json".into(), "application/json"));
        }
        // clients of old ask with the @ and are answered with the dot, as upstream does
        if range.covers(V2_PROTOBUF) || range.covers(V2_PROTOBUF_OLD) {
            return Ok(("v2/protobuf".into(), V2_PROTOBUF));
        }
    }
    Err(Failure::new(
        406,
        "NotAcceptable",
        "only the following media types are accepted: application/json, application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
    ))
}

fn group_version(catalog: &Catalog, path: &str) -> Option<(String, String)> {
    match catalog.route(path.strip_prefix("openapi/v3/")?)? {
        Route::Version(g, v) if discovery::versions(catalog, &g).contains(&v.as_str()) => {
            Some((g, v))
        }
        _ => None,
    }
}

/// The list of v3 documents; a hash changes whenever its document does.
fn index(catalog: &Catalog, remotes: &Remotes) -> serde_json::Value {
    let mut paths = serde_json::Map::new();
    let mut groups = vec![""];
    groups.extend(discovery::groups(catalog));
    for g in groups {
        for v in discovery::versions(catalog, g) {
            let path = if g.is_empty() {
                format!("api/{v}")
            } else {
                format!("apis/{g}/{v}")
            };
            // built-in documents change with the program alone, others with their definitions
            let mut made_of = crate::health::GIT_VERSION.to_owned();
            for custom in catalog.of(g, v).iter().filter_map(|r| r.custom.as_ref()) {
                made_of.push_str(&custom.fingerprint());
            }
            let hash = &discovery::etag(made_of.as_bytes())[1..33];
            let url = json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")});
            paths.insert(path, url);
        }
    }
    aggregate::openapi(&mut paths, remotes);
    json!({ "paths": paths })
}

/// What others add to v2.
fn foreign(remotes: &Remotes) -> Vec<Part> {
    remotes.iter().filter_map(|r| r.openapi_v2()).collect()
}

async fn document(inner: &Arc<Inner>, key: &str, foreign: Vec<Part>) -> Result<Document, Failure> {
    let catalog = inner.catalog();
    let of: Vec<String> = foreign.iter().map(|(tag, _)| tag.clone()).collect();
    if let Some(d) = inner.openapi.0.lock().of(&catalog).get(key)
        && d.of == of
    {
        return Ok(d.clone());
    }
    let made = {
        let catalog = catalog.clone();
        let key = key.to_string();
        tokio::task::spawn_blocking(move || make(&catalog, &key, &foreign))
            .await
            .map_err(Failure::internal)??
    };
    if Arc::ptr_eq(&catalog, &inner.catalog()) {
        let mut documents = inner.openapi.0.lock();
        documents.of(&catalog).insert(key.to_string(), made.clone());
    }
    Ok(made)
}

fn make(catalog: &Catalog, key: &str, foreign: &[Part]) -> Result<Document, Failure> {
    let (group, version) = match key.strip_prefix("v3/").and_then(|k| k.rsplit_once('/')) {
        Some((g, v)) => (Some(g), Some(v)),
        None => (None, None),
    };
    let resources: Vec<_> = catalog
        .all()
        .iter()
        .filter(|r| group.is_none_or(|g| g == r.group) && version.is_none_or(|v| v == r.version))
        .map(|r| {
            let subs: Vec<&str> = discovery::subresources(r)
                .into_iter()
                .map(|s| s.0)
                .collect();
            (r, discovery::verbs(r), subs)
        })
        .collect();
    let schemas: Vec<Box<dyn Fn() -> Option<Value>>> = resources
        .iter()
        .map(|(r, ..)| -> Box<dyn Fn() -> Option<Value>> {
            let custom = r.custom.clone();
            Box::new(move || custom.as_ref().and_then(|c| c.raw_schema()))
        })
        .collect();
    let served: Vec<Served<'_>> = resources
        .iter()
        .zip(&schemas)
        .map(|((r, verbs, subs), schema)| Served {
            group: r.group,
            version: r.version,
            kind: r.kind,
            plural: r.plural,
            namespaced: r.namespaced,
            verbs,
            subresources: subs,
            custom: r.custom.as_ref().map(|c| openapi::Custom {
                list_kind: c.list_kind(),
                fields: c.selectable(),
                schema,
            }),
        })
        .collect();
    let of_document = |v: &&VirtualOf| {
        group.is_none_or(|g| g == v.0) && version.is_none_or(|version| version == v.1)
    };
    let asked = VIRTUAL.iter().filter(of_document);
    let asked = asked.map(|(group, version, kind, plural, namespaced)| Served {
        group,
        version,
        kind,
        plural,
        namespaced: *namespaced,
        verbs: &["create"],
        subresources: &[],
        custom: None,
    });
    let served: Vec<Served<'_>> = served.into_iter().chain(asked).collect();
    let parts: Vec<&openapi::Foreign> = foreign.iter().map(|(_, part)| &**part).collect();
    let bytes = match (group, version, key) {
        (Some(g), Some(v), _) => openapi::v3(g, v, &served),
        (_, _, "v2/protobuf") => openapi::v2_protobuf(&served, &parts),
        _ => openapi::v2_json(&served, &parts),
    };
    Ok(Document {
        of: foreign.iter().map(|(tag, _)| tag.clone()).collect(),
        tag: discovery::etag(&bytes),
        gzipped: gzip(&bytes).map_err(Failure::internal)?,
    })
}

fn respond(
    call: &Call,
    content_type: &'static str,
    document: Document,
) -> Result<Response<Body>, Failure> {
    let request = &call.parts.headers;
    let known = request
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .any(|v| v.to_str().is_ok_and(|v| v.contains(&document.tag)));
    let gzipped = negotiate::takes_gzip(request);
    let body = if known {
        Bytes::new()
    } else if gzipped {
        document.gzipped
    } else {
        gunzip(&document.gzipped).map_err(Failure::internal)?
    };
    let mut response = Response::new(Body::Whole(body));
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(
        header::VARY,
        HeaderValue::from_static("Accept-Encoding, Accept"),
    );
    if gzipped && !known {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if let Ok(v) = HeaderValue::from_str(&document.tag) {
        headers.insert(header::ETAG, v);
    }
    Ok(response)
}
