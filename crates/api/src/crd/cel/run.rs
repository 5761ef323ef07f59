//! Evaluation of the rules over an object.

use knarr_cel::{Activation, Budget, ErrorKind, Schema, limits};
use knarr_structural::{Pair, Path, same};
use serde_json::Value;

use super::{compile::Compiled, tree::Tree};
use crate::registry::FieldError;

/// What is wrong with an object by its rules. `old` is None at creates; `pair` lets what didn't change stay wrong.
pub fn validate(
    tree: &Tree,
    object: &Value,
    old: Option<&Value>,
    schema: &knarr_structural::Schema,
) -> Vec<FieldError> {
    let mut run = Run {
        budget: Budget::new(limits::RUNTIME_BUDGET),
        errors: Vec::new(),
        stopped: false,
    };
    let place = Place {
        current: old.map(|old| Pair {
            new: object,
            old,
            schema,
        }),
        parent: None,
    };
    run.node(tree, object, old, place, &Path::ROOT);
    run.errors
}

struct Run {
    budget: Budget,
    errors: Vec<FieldError>,
    /// The budget is used up: no further rules.
    stopped: bool,
}

/// Which part of the old object a value is, or the nearest one around it that is known.
#[derive(Clone, Copy)]
struct Place<'v> {
    current: Option<Pair<'v>>,
    parent: Option<Pair<'v>>,
}

impl<'v> Place<'v> {
    fn unchanged(&self) -> bool {
        self.current.or(self.parent).is_some_and(|p| p.unchanged())
    }
    fn key(&self, name: &str) -> Place<'v> {
        match self.current {
            None => *self,
            // the kind of an object is no part of what may be ratcheted
            Some(_) if self.parent.is_none() && matches!(name, "apiVersion" | "kind") => Place {
                current: None,
                parent: None,
            },
            Some(p) => Place {
                current: p.key(name),
                parent: Some(p),
            },
        }
    }
    fn index(&self, at: usize) -> Place<'v> {
        match self.current {
            None => *self,
            Some(p) => Place {
                current: p.index(at),
                parent: Some(p),
            },
        }
    }
}

/// A path as upstream prints it, that of the object itself included.
fn shown(path: &Path<'_>) -> String {
    if path.is_root() {
        "<nil>".into()
    } else {
        path.to_string()
    }
}

fn invalid(path: &Path<'_>, tree: &Tree, detail: String) -> FieldError {
    FieldError::Invalid {
        field: shown(path),
        value: (*tree.ty).into(),
        detail,
    }
}

/// What the rule is called in messages.
fn title(c: &Compiled) -> &str {
    if c.rule.message.is_empty() {
        c.rule.rule.trim()
    } else {
        c.rule.message.trim()
    }
}

impl Run {
    fn node(
        &mut self,
        tree: &Tree,
        value: &Value,
        old: Option<&Value>,
        place: Place<'_>,
        path: &Path<'_>,
    ) {
        if value.is_null() || self.stopped {
            return;
        }
        let old = old.filter(|o| !o.is_null());
        if let Some(schema) = &tree.schema {
            self.rules(tree, schema, value, old, place, path);
        }
        for clause in &tree.all_of {
            let around = Place {
                current: None,
                parent: place.parent,
            };
            self.node(clause, value, old, around, path);
        }
        match value {
            Value::Array(items) => {
                let Some(of) = &tree.items else { return };
                for (i, item) in items.iter().enumerate() {
                    let before = old.and_then(|o| correlated(tree, item, o));
                    self.node(of, item, before, place.index(i), &path.index(i));
                }
            }
            Value::Object(map) => {
                for (k, v) in map {
                    let before = old.and_then(|o| o.get(k));
                    if let Some((_, p)) = tree.properties.iter().find(|(n, _)| **n == **k) {
                        self.node(p, v, before, place.key(k), &path.child(k));
                    } else if let Some(a) = &tree.additional {
                        self.node(a, v, before, place.key(k), &path.key(k));
                    }
                }
            }
            _ => {}
        }
    }

    fn rules(
        &mut self,
        tree: &Tree,
        schema: &Schema,
        value: &Value,
        old: Option<&Value>,
        place: Place<'_>,
        path: &Path<'_>,
    ) {
        for c in &tree.rules {
            if self.stopped {
                return;
            }
            if let Some(why) = &c.error {
                let detail = format!("rule compile error: {why}");
                self.errors.push(invalid(path, tree, detail));
                continue;
            }
            let Some(program) = &c.program else { continue };
            if c.uses_old && old.is_none() && !c.takes_no_old() {
                continue;
            }
            let mut variables = Activation::new();
            variables.bind_typed("self", value, schema);
            if c.takes_no_old() {
                let before = old.map(|o| knarr_cel::Value::typed(o, schema)).transpose();
                if let Ok(before) = before {
                    variables.bind(
                        "oldSelf",
                        knarr_cel::Value::Optional(before.map(Into::into)),
                    );
                }
            } else if let Some(old) = old {
                variables.bind_typed("oldSelf", old, schema);
            }
            match program.evaluate(&variables, &mut self.budget) {
                Ok(v) if v.as_bool() == Some(true) => {}
                Ok(_) => self.failed(tree, c, value, &variables, place, path),
                Err(e) => {
                    let title = title(c);
                    let detail = match e.kind {
                        ErrorKind::Budget => {
                            self.stopped = true;
                            e.message
                        }
                        ErrorKind::CallLimit => {
                            self.stopped = true;
                            format!(
                                "'{e}': no further validation rules will be run due to call cost exceeds limit for rule: {title}"
                            )
                        }
                        ErrorKind::Value if e.message.starts_with("no such overload") => format!(
                            "'{e}': call arguments did not match a supported operator, function or macro signature for rule: {title}"
                        ),
                        ErrorKind::Value => format!("{e} evaluating rule: {title}"),
                    };
                    self.errors.push(invalid(path, tree, detail));
                }
            }
        }
    }

    /// Tells of a rule that doesn't hold, unless nothing changed where it is about.
    fn failed(
        &mut self,
        tree: &Tree,
        c: &Compiled,
        value: &Value,
        variables: &Activation<'_>,
        place: Place<'_>,
        path: &Path<'_>,
    ) {
        let tolerated = !c.uses_old && place.unchanged();
        let detail = match self.message(c, variables) {
            Ok(Some(text)) => text,
            Ok(None) if c.rule.message.is_empty() => format!("failed rule: {}", title(c)),
            Ok(None) => title(c).to_owned(),
            Err(why) => {
                self.stopped = true;
                if !tolerated {
                    self.errors.push(invalid(path, tree, why));
                }
                return;
            }
        };
        if tolerated {
            return;
        }
        let below = path.child(&c.field);
        let at = if c.field.is_empty() { path } else { &below };
        let field = shown(at);
        let whole = matches!(&*tree.ty, "object" | "array");
        self.errors.push(match &*c.rule.reason {
            "FieldValueForbidden" => FieldError::Forbidden { field, detail },
            "FieldValueRequired" => FieldError::Required { field, detail },
            "FieldValueDuplicate" if whole => FieldError::Omitted {
                field,
                duplicate: true,
                detail: String::new(),
            },
            "FieldValueDuplicate" => FieldError::Duplicate {
                field,
                value: value.clone(),
            },
            _ if whole => FieldError::Omitted {
                field,
                duplicate: false,
                detail,
            },
            _ => FieldError::Invalid {
                field,
                value: value.clone(),
                detail,
            },
        });
    }

    /// What `messageExpression` says; None when there is none, or nothing that can be shown. Err = no more rules.
    fn message(
        &mut self,
        c: &Compiled,
        variables: &Activation<'_>,
    ) -> Result<Option<String>, String> {
        let Some(program) = &c.message else {
            return Ok(None);
        };
        let source = &c.rule.message_expression;
        match program.evaluate(variables, &mut self.budget) {
            Ok(v) => {
                let text = v.as_str().unwrap_or("").trim();
                let fits = !text.is_empty()
                    && text.len() <= limits::MAX_MESSAGE_BYTES
                    && !text.contains('\n');
                Ok(fits.then(|| text.to_owned()))
            }
            Err(e) => match e.kind {
                ErrorKind::Value => Ok(None),
                ErrorKind::CallLimit => Err(format!(
                    "no further validation rules will be run due to call cost exceeds limit for messageExpression: {source:?}"
                )),
                ErrorKind::Budget => Err("messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run".into()),
            },
        }
    }
}

/// The old item with the keys of a new one, in lists of type map.
fn correlated<'v>(tree: &Tree, item: &Value, old: &'v Value) -> Option<&'v Value> {
    let keys = tree.keys.as_ref()?;
    old.as_array()?.iter().find(|o| {
        o.is_object()
            && keys.iter().all(|k| match (o.get(k), item.get(k)) {
                (Some(a), Some(b)) => same(a, b),
                (None, None) => true,
                _ => false,
            })
    })
}
