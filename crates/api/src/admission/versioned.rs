//! A request's objects in the version that a rule named (`apiserver/pkg/admission/conversion.go`).
//!
//! Built-in kinds are converted here; custom resources as their definition says, which may be by a webhook.

use std::borrow::Cow;

use serde_json::Value;

use super::{Attributes, Kind, matching::Hit};
use crate::{crd, registry::Resource, server::Inner, versions};

/// Conversions remembered at once: a few versions, each of the old and the new object.
const FORMS_MAX: usize = 8;

/// A request as a rule's resource sees it.
pub struct Versioned<'a> {
    /// Group, version and plural of the resource.
    pub resource: (&'a str, &'a str, &'a str),
    /// The objects' kind.
    pub kind: Kind<'a>,
    /// The new object.
    pub object: Option<Cow<'a, Value>>,
    /// The stored one.
    pub old: Option<Cow<'a, Value>>,
}

/// What was converted for this request already: nobody is asked for the same thing twice.
#[derive(Default)]
pub struct Forms(Vec<Form>);

struct Form {
    api_version: String,
    from: Value,
    to: Value,
}

impl Forms {
    fn find(&self, api_version: &str, from: &Value) -> Option<Value> {
        let same = |f: &&Form| f.api_version == api_version && f.from == *from;
        self.0.iter().find(same).map(|f| f.to.clone())
    }

    fn keep(&mut self, to: &Resource, from: Value, shown: Value) {
        if self.0.len() == FORMS_MAX {
            self.0.remove(0);
        }
        self.0.push(Form {
            api_version: crate::catalog::api_version(to),
            from,
            to: shown,
        });
    }

    async fn show<'o>(
        &mut self,
        inner: &Inner,
        from: &Resource,
        to: &Resource,
        o: &'o Value,
    ) -> Result<Cow<'o, Value>, String> {
        if let Some(known) = self.find(&crate::catalog::api_version(to), o) {
            return Ok(Cow::Owned(known));
        }
        let shown = convert(inner, from, to, o.clone()).await?;
        if crd::by_webhook(to) {
            self.keep(to, o.clone(), shown.clone());
        }
        Ok(Cow::Owned(shown))
    }
}

async fn convert(inner: &Inner, from: &Resource, to: &Resource, o: Value) -> Result<Value, String> {
    if to.custom.is_some() {
        crd::between(inner, to, o).await
    } else {
        Ok(versions::convert(from, to, o))
    }
}

impl Hit {
    /// The resource whose version was matched.
    pub fn resource<'b>(&'b self, a: &Attributes<'b>) -> &'b Resource {
        match self {
            Hit::Own => a.resource,
            Hit::As(r) => r,
        }
    }

    /// The request in the version that was matched. Err = why an object can't be converted.
    pub async fn versioned<'b>(
        &'b self,
        inner: &Inner,
        a: &'b Attributes<'_>,
        forms: &mut Forms,
    ) -> Result<Versioned<'b>, String> {
        let Hit::As(r) = self else {
            return Ok(Versioned {
                resource: (a.resource.group, a.resource.version, a.resource.plural),
                kind: a.kind,
                object: a.object.as_ref().map(Cow::Borrowed),
                old: a.old.map(Cow::Borrowed),
            });
        };
        // a Scale or a Binding is the same whatever it belongs to
        let own = a.kind == Kind::of(a.resource);
        let mut shown = [a.old, a.object.as_ref()].map(|o| o.map(Cow::Borrowed));
        if own {
            for o in shown.iter_mut().flatten() {
                let Cow::Borrowed(plain) = *o else { continue };
                *o = forms.show(inner, a.resource, r, plain).await?;
            }
        }
        let [old, object] = shown;
        Ok(Versioned {
            resource: (r.group, r.version, r.plural),
            kind: if own { Kind::of(r) } else { a.kind },
            object,
            old,
        })
    }

    /// A changed object of the matched version in the request's. Err = why it can't be converted.
    pub async fn back(
        &self,
        inner: &Inner,
        a: &Attributes<'_>,
        forms: &mut Forms,
        changed: Value,
    ) -> Result<Value, String> {
        let Hit::As(r) = self else {
            return Ok(changed);
        };
        if a.kind != Kind::of(a.resource) {
            return Ok(changed);
        }
        let object = convert(inner, r, a.resource, changed.clone()).await?;
        if crd::by_webhook(r) {
            forms.keep(r, object.clone(), changed);
        }
        Ok(object)
    }
}
