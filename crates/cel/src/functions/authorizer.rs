//! `authorizer.group('apps').resource('deployments').namespace('x').check('create').allowed()`.

use std::sync::Arc;

use super::Function;
use crate::authz::{Asking, Authz, AuthzAttributes, AuthzDecision};
use crate::error::EvalError;
use crate::eval::Evaluated;
use crate::value::Value;

pub(super) fn find(name: &str) -> Option<Function> {
    Some(match name {
        "path" => |a| match parts(a) {
            Some((Authz::Authorizer(_), "")) => Err(EvalError::new("path must not be empty")),
            Some((Authz::Authorizer(q), path)) => {
                ask(Authz::Path(q.with(|q| q.path = Some(path.to_string()))))
            }
            _ => Err(EvalError::no_overload()),
        },
        "group" => |a| match parts(a) {
            Some((Authz::Authorizer(q), group)) => {
                ask(Authz::Group(q.with(|q| q.group = group.to_string())))
            }
            _ => Err(EvalError::no_overload()),
        },
        "serviceAccount" => service_account,
        "resource" => |a| match parts(a) {
            Some((Authz::Group(_), "")) => Err(EvalError::new("resource must not be empty")),
            Some((Authz::Group(q), r)) => {
                ask(Authz::Resource(q.with(|q| q.resource = r.to_string())))
            }
            _ => Err(EvalError::no_overload()),
        },
        "subresource" => |a| resource(a, |q, s| q.subresource = s.to_string()),
        "namespace" => |a| resource(a, |q, s| q.namespace = s.to_string()),
        "name" => |a| resource(a, |q, s| q.name = s.to_string()),
        "fieldSelector" => |a| resource(a, |q, s| q.field_selector = Some(s.to_string())),
        "labelSelector" => |a| resource(a, |q, s| q.label_selector = Some(s.to_string())),
        "check" => check,
        "allowed" => |a| decision(a, |d| Value::Bool(d.allowed)),
        "reason" => |a| decision(a, |d| Value::string(d.reason.as_str())),
        "errored" => |a| decision(a, |d| Value::Bool(d.error.is_some())),
        "error" => |a| decision(a, |d| Value::string(d.error.as_deref().unwrap_or(""))),
        _ => return None,
    })
}

impl<'a> Asking<'a> {
    fn with(&self, change: impl FnOnce(&mut AuthzAttributes)) -> Asking<'a> {
        let mut next = self.clone();
        change(&mut next.question);
        next
    }
}

/// The receiver and the text it is given.
fn parts<'v, 'a>(args: &'v [Value<'a>]) -> Option<(&'v Authz<'a>, &'v str)> {
    match args {
        [Value::Authz(a), Value::String(s)] => Some((a, s.as_str())),
        _ => None,
    }
}

fn ask<'a>(a: Authz<'a>) -> Evaluated<'a> {
    Ok(Value::Authz(Arc::new(a)))
}

fn resource<'a>(args: &[Value<'a>], change: fn(&mut AuthzAttributes, &str)) -> Evaluated<'a> {
    match parts(args) {
        Some((Authz::Resource(q), s)) => ask(Authz::Resource(q.with(|q| change(q, s)))),
        _ => Err(EvalError::no_overload()),
    }
}

fn service_account<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [
        Value::Authz(a),
        Value::String(namespace),
        Value::String(name),
    ] = args
    else {
        return Err(EvalError::no_overload());
    };
    let Authz::Authorizer(q) = &**a else {
        return Err(EvalError::no_overload());
    };
    if !super::format::is_dns1123_subdomain(name.as_str()) {
        return Err(EvalError::new("Invalid service account name"));
    }
    if !super::format::is_dns1123_label(namespace.as_str()) {
        return Err(EvalError::new("Invalid service account namespace"));
    }
    let account = (namespace.as_str().to_string(), name.as_str().to_string());
    ask(Authz::Authorizer(
        q.with(|q| q.service_account = Some(account)),
    ))
}

fn check<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match parts(args) {
        Some((Authz::Path(q) | Authz::Resource(q), verb)) => {
            let question = AuthzAttributes {
                verb: verb.to_string(),
                ..q.question.clone()
            };
            ask(Authz::Decision(q.authorizer.authorize(&question)))
        }
        _ => Err(EvalError::no_overload()),
    }
}

fn decision<'a>(args: &[Value<'a>], of: fn(&AuthzDecision) -> Value<'static>) -> Evaluated<'a> {
    match args {
        [Value::Authz(a)] => match &**a {
            Authz::Decision(d) => Ok(of(d)),
            _ => Err(EvalError::no_overload()),
        },
        _ => Err(EvalError::no_overload()),
    }
}
