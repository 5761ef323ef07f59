//! Value validation: kube-openapi `pkg/validation/validate`, with ratcheting as apiextensions-apiserver's
//! `pkg/apiserver/validation/ratcheting.go` adds it.

use std::collections::HashSet;

use serde_json::Value;

use crate::{
    correlate::{Pair, same},
    error::{Error, Kind},
    formats, numbers,
    path::Path,
    schema::{Additional, Checks, Schema, Type},
};

/// Most errors of one object.
const ERRORS_MAX: usize = 1000;

/// What is wrong with a value. `at` is where it is in the object: empty, or `status`.
pub fn validate(schema: &Schema, value: &Value, at: &str) -> Vec<Error> {
    finish(Walk { at }.value(schema, value, None, &Path::ROOT))
}

/// Like [`validate`]; what didn't change may stay as wrong as it was.
pub fn validate_update(schema: &Schema, new: &Value, old: &Value, at: &str) -> Vec<Error> {
    let pair = Pair { new, old, schema };
    finish(Walk { at }.value(schema, new, Some(pair), &Path::ROOT))
}

fn finish(outcome: Outcome) -> Vec<Error> {
    outcome.failures.into_iter().map(|f| f.error).collect()
}

/// One failure, and the text by which it is told only once.
struct Failure {
    error: Error,
    text: String,
}

/// What checking came to. `matches` counts the checks done: of several alternatives that fail, the one that got furthest
/// is told.
#[derive(Default)]
struct Outcome {
    failures: Vec<Failure>,
    matches: usize,
}

impl Outcome {
    fn fails(&mut self, failure: Failure) {
        if self.failures.len() < ERRORS_MAX && !self.failures.iter().any(|f| f.text == failure.text)
        {
            self.failures.push(failure);
        }
    }
    fn merge(&mut self, other: Outcome) {
        self.matches += other.matches;
        if self.failures.is_empty() {
            self.failures = other.failures;
            return;
        }
        for f in other.failures {
            self.fails(f);
        }
    }
    fn is_valid(&self) -> bool {
        self.failures.is_empty()
    }
}

struct Walk<'w> {
    at: &'w str,
}

impl Walk<'_> {
    /// The path as errors have it, below where the value is.
    fn field(&self, path: &Path<'_>) -> String {
        match (self.at, path.is_root()) {
            ("", _) => path.to_string(),
            (at, true) => at.to_owned(),
            (at, false) => format!("{at}.{path}"),
        }
    }
    fn failure(&self, path: &Path<'_>, kind: Kind, message: &str) -> Failure {
        let text = format!("{path} in body {message}");
        let detail = match kind {
            Kind::Invalid(_) | Kind::TypeInvalid(_) => text.clone(),
            _ => String::new(),
        };
        Failure {
            error: Error::new(self.field(path), kind, detail),
            text,
        }
    }
    /// A failure that upstream gives no path of its own.
    fn whole(&self, text: String) -> Failure {
        let at = if self.at.is_empty() { "<nil>" } else { self.at };
        Failure {
            error: Error::invalid(at, "", text.clone()),
            text,
        }
    }
    fn wrong_type(&self, path: &Path<'_>, want: &str, found: &str) -> Failure {
        let message = format!("must be of type {want}: {found:?}");
        self.failure(path, Kind::TypeInvalid(found.into()), &message)
    }

    fn value(&self, s: &Schema, value: &Value, pair: Option<Pair<'_>>, path: &Path<'_>) -> Outcome {
        let mut out = self.unratcheted(s, value, pair, path);
        if !out.is_valid() && pair.is_some_and(|p| p.unchanged()) {
            out.failures.clear();
        }
        out
    }

    fn unratcheted(
        &self,
        s: &Schema,
        value: &Value,
        pair: Option<Pair<'_>>,
        path: &Path<'_>,
    ) -> Outcome {
        let mut out = Outcome::default();
        let checks = s.checks.as_deref();
        let format = checks.map_or("", |c| &*c.format);
        if value.is_null() {
            self.types(s, format, value, path, &mut out);
            if let Some(c) = checks {
                self.enumeration(c, value, path, &mut out);
            }
            return out;
        }
        if has_type(s) || !format.is_empty() {
            self.types(s, format, value, path, &mut out);
            out.matches += 1;
        }
        if let Some(c) = checks {
            self.junctors(c, value, pair, path, &mut out);
            match value {
                Value::String(text) => self.text(c, text, path, &mut out),
                Value::Number(_) => self.number(s, c, value, path, &mut out),
                _ => {}
            }
        }
        // each validator that applies counts, and each counts itself
        out.matches += match value {
            Value::Number(_) => 3,
            Value::String(_) if !format.is_empty() => 3,
            _ => 2,
        };
        if let Value::Array(items) = value {
            self.items(s, items, pair, path, &mut out);
        }
        if let Some(c) = checks {
            self.enumeration(c, value, path, &mut out);
        }
        out.matches += 1;
        if let Value::Object(_) = value {
            self.object(s, value, pair, path, &mut out);
        }
        out.matches += 1;
        out
    }

    fn types(&self, s: &Schema, format: &str, value: &Value, path: &Path<'_>, out: &mut Outcome) {
        out.matches += 1;
        let typed = has_type(s);
        let word = if s.int_or_string {
            "integer,string"
        } else {
            s.ty.word()
        };
        if value.is_null() {
            if typed && !s.nullable {
                out.fails(self.wrong_type(path, word, "null"));
            }
            return;
        }
        let (found, of_format) = match value {
            Value::Bool(_) => ("boolean", ""),
            Value::Number(n) if n.is_i64() || n.is_u64() => ("integer", "int64"),
            Value::Number(_) => ("number", "float64"),
            Value::String(_) => ("string", ""),
            Value::Array(_) => ("array", ""),
            _ => ("object", ""),
        };
        let takes = |t: &str| match t {
            "integer" => s.int_or_string || s.ty == Type::Integer,
            "string" => s.int_or_string || s.ty == Type::String,
            "number" => !s.int_or_string && s.ty == Type::Number,
            t => !s.int_or_string && s.ty.word() == t,
        };
        let whole_float = found == "number"
            && value.as_f64().is_some_and(numbers::is_integer)
            && takes("integer");
        let as_number = found == "integer" && takes("number");
        let numeric = takes("integer") || takes("number");
        let texts = matches!(value, Value::String(_) | Value::Array(_));
        let fits = takes(found) || whole_float || as_number;
        if !texts && !format.is_empty() && !fits && of_format != format {
            return out.fails(self.wrong_type(path, format, of_format));
        }
        if !numeric && !format.is_empty() && texts {
            return;
        }
        if !fits && typed {
            out.fails(self.wrong_type(path, word, found));
        }
    }

    fn text(&self, c: &Checks, text: &str, path: &Path<'_>, out: &mut Outcome) {
        let length = text.chars().count() as i64;
        let invalid = || Kind::Invalid(text.into());
        // one of these alone is told
        if let Some(max) = c.max_length.filter(|m| length > *m) {
            let message = format!("should be at most {max} chars long");
            out.fails(self.failure(path, Kind::TooLong(max), &message));
        } else if let Some(min) = c.min_length.filter(|m| length < *m) {
            let message = format!("should be at least {min} chars long");
            out.fails(self.failure(path, invalid(), &message));
        } else if let Some(pattern) = &c.pattern {
            let why = match pattern.regex() {
                Ok(r) if r.is_match(text) => None,
                Ok(_) => Some(pattern.text.to_string()),
                Err(e) => Some(format!("{}, but pattern is invalid: {e}", pattern.text)),
            };
            if let Some(why) = why {
                let message = format!("should match '{why}'");
                out.fails(self.failure(path, invalid(), &message));
            }
        }
        if !c.format.is_empty() && formats::check(&c.format, text) == Some(false) {
            out.fails(self.wrong_type(path, &c.format, text));
        }
    }

    fn number(&self, s: &Schema, c: &Checks, value: &Value, path: &Path<'_>, out: &mut Outcome) {
        let invalid = || Kind::Invalid(value.clone());
        let whole = value.as_i64();
        let float = value.as_f64().unwrap_or(0.0);
        let integer = !s.int_or_string && s.ty == Type::Integer;
        let mut range = |what: &str, n: f64, exact: Option<i64>| -> bool {
            let Some(word) = out_of_range(integer, s, &c.format, n, exact) else {
                return true;
            };
            out.fails(self.whole(format!("{what} value must be of type {word} in {path}")));
            false
        };
        range("Checked", float, whole);
        if let Some(factor) = c.multiple_of {
            range("MultipleOf", factor, None);
            let (positive, multiple, shown) = match whole {
                Some(n) => {
                    let f = factor as i64;
                    (f > 0, f > 0 && n % f == 0, f.to_string())
                }
                None => {
                    let ratio = if factor < 1.0 {
                        1.0 / factor * float
                    } else {
                        float / factor
                    };
                    (
                        factor > 0.0,
                        numbers::is_integer(ratio),
                        numbers::go_float(factor),
                    )
                }
            };
            if !positive {
                let text =
                    format!("factor MultipleOf declared for {path} must be positive: {shown}");
                let kind = Kind::Invalid(factor.into());
                out.fails(Failure {
                    error: Error::new(self.field(path), kind, text.clone()),
                    text,
                });
            } else if !multiple {
                let message = format!("should be a multiple of {shown}");
                out.fails(self.failure(path, invalid(), &message));
            }
        }
        let mut bound = |limit: f64, exclusive: bool, upper: bool| {
            let (over, equal, shown) = match whole {
                Some(n) => {
                    let l = limit as i64;
                    (if upper { n > l } else { n < l }, n == l, l.to_string())
                }
                None => (
                    if upper { float > limit } else { float < limit },
                    float == limit,
                    numbers::go_float(limit),
                ),
            };
            if over || exclusive && equal {
                let word = if upper { "less" } else { "greater" };
                let or_equal = if exclusive { "" } else { " or equal to" };
                let message = if exclusive {
                    format!("should be {word} than {shown}")
                } else {
                    format!("should be {word} than{or_equal} {shown}")
                };
                out.fails(self.failure(path, invalid(), &message));
            }
        };
        if let Some(limit) = c.minimum {
            bound(limit, c.exclusive_minimum, false);
        }
        if let Some(limit) = c.maximum {
            bound(limit, c.exclusive_maximum, true);
        }
        out.matches += 1;
    }

    fn items(
        &self,
        s: &Schema,
        items: &[Value],
        pair: Option<Pair<'_>>,
        path: &Path<'_>,
        out: &mut Outcome,
    ) {
        if let Some(of) = s.items.as_deref() {
            for (i, item) in items.iter().enumerate() {
                let below = pair.and_then(|p| p.index(i));
                out.merge(self.value(of, item, below, &path.index(i)));
            }
        }
        let size = items.len() as i64;
        if let Some(c) = s.checks.as_deref() {
            if let Some(min) = c.min_items.filter(|m| size < *m) {
                let message = format!("should have at least {min} items");
                out.fails(self.failure(path, Kind::Invalid(size.into()), &message));
            }
            if let Some(max) = c.max_items.filter(|m| size > *m) {
                let message = format!("should have at most {max} items");
                out.fails(self.failure(path, Kind::TooMany(size, max), &message));
            }
            if c.unique_items {
                let mut seen = HashSet::with_capacity(items.len());
                if !items.iter().all(|i| seen.insert(i.to_string())) {
                    let kind = Kind::Invalid("".into());
                    out.fails(self.failure(path, kind, "shouldn't contain duplicates"));
                }
            }
        }
        out.matches += 2;
    }

    fn object(
        &self,
        s: &Schema,
        value: &Value,
        pair: Option<Pair<'_>>,
        path: &Path<'_>,
        out: &mut Outcome,
    ) {
        let Some(map) = value.as_object() else { return };
        let size = map.len() as i64;
        let checks = s.checks.as_deref();
        if let Some(min) = checks.and_then(|c| c.min_properties).filter(|m| size < *m) {
            let message = format!("should have at least {min} properties");
            out.fails(self.failure(path, Kind::Invalid(size.into()), &message));
        }
        if let Some(max) = checks.and_then(|c| c.max_properties).filter(|m| size > *m) {
            let message = format!("should have at most {max} properties");
            out.fails(self.failure(path, Kind::TooMany(size, max), &message));
        }
        for (k, v) in map {
            // the kind of an object is no part of what may be ratcheted
            let fixed = path.is_root() && matches!(k.as_str(), "kind" | "apiVersion");
            let below = pair.filter(|_| !fixed).and_then(|p| p.key(k));
            match (s.property(k), &s.additional) {
                (Some(p), _) => out.merge(self.value(p, v, below, &path.child(k))),
                (None, Some(Additional::Of(a))) => {
                    out.merge(self.value(a, v, below, &path.child(k)));
                }
                (None, Some(Additional::Any(false))) => {
                    let text = format!("{path}.{k} in body is a forbidden property");
                    let kind = Kind::Invalid(k.as_str().into());
                    out.fails(Failure {
                        error: Error::new(self.field(path), kind, text.clone()),
                        text,
                    });
                }
                _ => {}
            }
        }
        for k in checks.map_or(&[][..], |c| &c.required) {
            if !map.contains_key(&**k) {
                out.fails(self.failure(&path.child(k), Kind::Required, "is required"));
            }
        }
        out.matches += 1;
    }

    fn enumeration(&self, c: &Checks, value: &Value, path: &Path<'_>, out: &mut Outcome) {
        if c.enumeration.is_empty() {
            return;
        }
        // null never matches, upstream
        if !value.is_null() && c.enumeration.iter().any(|e| same(e, value)) {
            return;
        }
        let supported = c
            .enumeration
            .iter()
            .map(|e| e.as_str().map_or_else(|| e.to_string(), str::to_owned))
            .collect();
        let kind = Kind::NotSupported(value.clone(), supported);
        out.fails(self.failure(path, kind, "should be one of the enum"));
    }

    fn junctors(
        &self,
        c: &Checks,
        value: &Value,
        pair: Option<Pair<'_>>,
        path: &Path<'_>,
        out: &mut Outcome,
    ) {
        let of = |s: &Schema| self.unratcheted(s, value, pair, path);
        let quoted = format_args!("{path}").to_string();
        if !c.any_of.is_empty() {
            let mut best: Option<Outcome> = None;
            let mut found = None;
            for s in &c.any_of {
                let result = of(s);
                if result.is_valid() {
                    found = Some(result);
                    break;
                }
                if best.as_ref().is_none_or(|b| result.matches > b.matches) {
                    best = Some(result);
                }
            }
            match (found, best) {
                (Some(found), _) => out.merge(found),
                (None, best) => {
                    out.fails(self.whole(format!(
                        "{quoted:?} must validate at least one schema (anyOf)"
                    )));
                    out.merge(best.unwrap_or_default());
                }
            }
        }
        if !c.one_of.is_empty() {
            let mut best: Option<Outcome> = None;
            let mut first = None;
            let mut valid = 0;
            for s in &c.one_of {
                let result = of(s);
                if result.is_valid() {
                    valid += 1;
                    best = None;
                    first.get_or_insert(result);
                } else if valid == 0 && best.as_ref().is_none_or(|b| result.matches > b.matches) {
                    best = Some(result);
                }
            }
            if valid == 1 {
                out.merge(first.unwrap_or_default());
            } else {
                let found = if valid == 0 {
                    "Found none valid".to_owned()
                } else {
                    format!("Found {valid} valid alternatives")
                };
                out.fails(self.whole(format!(
                    "{quoted:?} must validate one and only one schema (oneOf). {found}"
                )));
                out.merge(best.unwrap_or_default());
            }
        }
        if !c.all_of.is_empty() {
            let mut valid = 0;
            for s in &c.all_of {
                let result = of(s);
                valid += usize::from(result.is_valid());
                out.merge(result);
            }
            if valid != c.all_of.len() {
                let none = if valid == 0 { ". None validated" } else { "" };
                out.fails(self.whole(format!(
                    "{quoted:?} must validate all the schemas (allOf){none}"
                )));
            }
        }
        if let Some(s) = c.not.as_deref()
            && of(s).is_valid()
        {
            out.fails(self.whole(format!("{quoted:?} must not validate the schema (not)")));
        }
        out.matches += 1;
    }
}

fn has_type(s: &Schema) -> bool {
    s.int_or_string || s.ty != Type::Any
}

/// The type that a number doesn't fit, in upstream's words; None when it does.
fn out_of_range(
    integer: bool,
    s: &Schema,
    format: &str,
    n: f64,
    exact: Option<i64>,
) -> Option<String> {
    let fits = if integer {
        let whole = exact.or_else(|| (n.fract() == 0.0 && n.abs() < 9.3e18).then_some(n as i64));
        match format {
            "int32" => whole.is_some_and(|n| i32::try_from(n).is_ok()),
            _ => whole.is_some(),
        }
    } else {
        !(s.ty == Type::Number && format == "float") || n.abs() <= f64::from(f32::MAX)
    };
    if fits {
        return None;
    }
    let ty = if integer { "integer" } else { "number" };
    Some(if format.is_empty() {
        format!("{ty} (default format)")
    } else {
        format!("{ty} with format {format}")
    })
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
