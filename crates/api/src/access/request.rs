//! A request as authorizers see it.

use knarr_access::{Attributes, attributes::FieldRequirement};

use crate::{query::Query, request_info::RequestInfo, selector::FieldSelector};

/// The attributes of a request whose head has been read.
pub fn of(info: &RequestInfo, query: &Query) -> Attributes {
    let mut a = Attributes {
        verb: info.verb.clone(),
        resource_request: info.is_resource,
        group: info.group.clone(),
        version: info.version.clone(),
        resource: info.resource.clone(),
        subresource: info.subresource.clone(),
        namespace: info.namespace.clone(),
        name: info.name.clone(),
        path: info.path.clone(),
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
            let asked: http::Uri = uri.parse().unwrap();
            let info = RequestInfo::new(&http::Method::GET, &asked);
            let a = of(&info, &Query::parse(asked.query()));
            let got = (a.verb.as_str(), a.name.as_str(), a.fields.len());
            assert_eq!(got, (verb, name, fields), "{uri}");
        }
        let info = RequestInfo::new(&http::Method::GET, &"/a%20b".parse().unwrap());
        let a = of(&info, &Query::default());
        assert_eq!((a.resource_request, a.path.as_str()), (false, "/a b"));
    }
}
