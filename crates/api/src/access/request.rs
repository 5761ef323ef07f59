//! A request as authorizers see it.

use http::request::Parts;
use knarr_access::{Attributes, attributes::FieldRequirement};
use percent_encoding::percent_decode_str;

use crate::{query::Query, request_info::RequestInfo, selector::FieldSelector};

/// The attributes of a request.
pub fn attributes(parts: &Parts, query: &Query) -> Attributes {
    let info = RequestInfo::new(&parts.method, &parts.uri);
    let mut a = Attributes {
        verb: info.verb,
        resource_request: info.is_resource,
        group: info.group,
        version: info.version,
        resource: info.resource,
        subresource: info.subresource,
        namespace: info.namespace,
        name: info.name,
        path: percent_decode_str(&info.path)
            .decode_utf8_lossy()
            .into_owned(),
        fields: vec![],
    };
    // GET …/pods/x?watch=true is answered as a watch
    if a.resource_request && a.verb == "get" && a.subresource.is_empty() && query.flag("watch") {
        a.verb = "watch".into();
    }
    if matches!(a.verb.as_str(), "list" | "watch" | "deletecollection") {
        a.fields = fields(query.get("fieldSelector").unwrap_or(""));
    }
    a
}

/// The terms of a field selector; none when it doesn't parse, which the handler tells the client.
fn fields(selector: &str) -> Vec<FieldRequirement> {
    FieldSelector::parse(selector)
        .map(terms)
        .unwrap_or_default()
}

/// The terms as authorizers see them.
pub fn terms(selector: FieldSelector) -> Vec<FieldRequirement> {
    let terms = selector.into_terms().into_iter();
    terms
        .map(|t| FieldRequirement {
            field: t.field,
            not: t.negated,
            value: t.value,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_request_info_leaves_out() {
        let cases = [
            ("/api/v1/namespaces/a/pods/b", "get", "b", 0),
            ("/api/v1/namespaces/a/pods/b?watch=1", "watch", "b", 0),
            ("/api/v1/namespaces/a/pods/b/log?watch=1", "get", "b", 0),
            (
                "/api/v1/pods?fieldSelector=metadata.name=x,spec.nodeName!=y",
                "list",
                "x",
                2,
            ),
            ("/api/v1/pods?watch=1&fieldSelector=a%3Db", "watch", "", 1),
            ("/api/v1/pods?fieldSelector=nonsense", "list", "", 0),
        ];
        for (uri, verb, name, fields) in cases {
            let (parts, ()) = http::Request::get(uri).body(()).unwrap().into_parts();
            let a = attributes(&parts, &Query::parse(parts.uri.query()));
            let got = (a.verb.as_str(), a.name.as_str(), a.fields.len());
            assert_eq!(got, (verb, name, fields), "{uri}");
        }
        let (parts, ()) = http::Request::get("/a%20b").body(()).unwrap().into_parts();
        let a = attributes(&parts, &Query::default());
        assert_eq!((a.resource_request, a.path.as_str()), (false, "/a b"));
    }
}
