//! Query strings and the option objects they carry, checked as upstream checks them.

use std::borrow::Cow;

use crate::{registry::FieldError, status::Failure};

const MANAGER_BYTES_MAX: usize = 128;

/// The decoded query string.
#[derive(Debug, Default, Clone)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes a raw query string.
    pub fn parse(raw: Option<&str>) -> Query {
        // as Go's url.ParseQuery: pairs with a bad escape or a semicolon don't count
        let pairs = raw.unwrap_or("").split('&');
        let pairs = pairs.filter(|p| !p.is_empty() && !p.contains(';') && escaped(p));
        Query(
            pairs
                .flat_map(|p| form_urlencoded::parse(p.as_bytes()))
                .map(|(k, v)| (k.into_owned(), v.into_owned()))
                .collect(),
        )
    }
    /// First value of a parameter, None when absent or empty.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, v)| v.as_str())
            .filter(|v| !v.is_empty())
    }
    /// All values of a parameter.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }
    /// A boolean as upstream converts it: absent, `0` and `false` are false, everything else is true.
    pub fn flag(&self, key: &str) -> bool {
        let found = self.0.iter().find(|(k, _)| k == key);
        found.is_some_and(|(_, v)| v != "0" && !v.eq_ignore_ascii_case("false"))
    }
    /// Is the parameter there at all?
    pub fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(k, _)| k == key)
    }
    /// A whole number; 400 when it isn't one.
    pub fn number(&self, key: &str) -> Result<Option<i64>, Failure> {
        let found = self.0.iter().find(|(k, _)| k == key);
        found
            .map(|(_, v)| {
                v.parse().map_err(|e| {
                    let why = not_a_number(&e);
                    Failure::bad_request(format!("strconv.ParseInt: parsing {v:?}: {why}"))
                })
            })
            .transpose()
    }
}

/// Every percent sign begins an escape.
fn escaped(pair: &str) -> bool {
    let mut parts = pair.split('%');
    parts.next();
    parts.all(|p| {
        let code = p.as_bytes().get(..2);
        code.is_some_and(|c| c.iter().all(u8::is_ascii_hexdigit))
    })
}

/// How unknown and duplicate fields are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation {
    /// Dropped silently.
    Ignore,
    /// Dropped with a Warning header.
    Warn,
    /// 400.
    Strict,
}

/// What CreateOptions, UpdateOptions and PatchOptions have in common.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// Do all but the commit.
    pub dry_run: bool,
    /// Treatment of unknown fields.
    pub validation: FieldValidation,
    /// Manager of the fields written.
    pub manager: String,
    /// Server-side apply takes over conflicting fields.
    pub force: bool,
    /// `fieldManager` as it was given, empty when it wasn't.
    pub given_manager: String,
    /// `fieldValidation` as it was given.
    pub given_validation: Option<FieldValidation>,
}

impl WriteOptions {
    /// The server's own writes.
    pub fn internal(manager: &str) -> WriteOptions {
        WriteOptions {
            dry_run: false,
            validation: FieldValidation::Ignore,
            manager: manager.to_string(),
            force: false,
            given_manager: String::new(),
            given_validation: None,
        }
    }

    /// Reads and checks them. `kind` is `CreateOptions`, `UpdateOptions` or `PatchOptions`; the user agent gives the default manager.
    pub fn read(
        query: &Query,
        user_agent: Option<&str>,
        kind: &str,
        apply: bool,
    ) -> Result<WriteOptions, Failure> {
        let mut errors = Vec::new();
        let given = query.get("fieldManager").unwrap_or("");
        if given.len() > MANAGER_BYTES_MAX {
            errors.push(FieldError::TooLong {
                field: "fieldManager".into(),
                value: given.into(),
                max: MANAGER_BYTES_MAX,
            });
        }
        if let Some((at, c)) = given.chars().enumerate().find(|(_, c)| c.is_control()) {
            errors.push(FieldError::Invalid {
                field: "fieldManager".into(),
                value: given.into(),
                detail: format!(
                    "invalid character U+{:04X} (at position {at})",
                    u32::from(c)
                ),
            });
        }
        if apply && given.is_empty() {
            errors.push(FieldError::Required {
                field: "fieldManager".into(),
                detail: "is required for apply patch".into(),
            });
        }
        let dry_run = dry_run(query.all("dryRun"), &mut errors);
        let force = query.flag("force");
        if kind == "PatchOptions" && !apply && query.get("force").is_some() {
            errors.push(FieldError::Forbidden {
                field: "force".into(),
                detail: "may not be specified for non-apply patch".into(),
            });
        }
        let validation = match query.get("fieldValidation") {
            Some("Ignore") => FieldValidation::Ignore,
            None | Some("Warn") => FieldValidation::Warn,
            Some("Strict") => FieldValidation::Strict,
            Some(other) => {
                errors.push(FieldError::NotSupported {
                    field: "fieldValidation".into(),
                    value: other.into(),
                    supported: vec!["".into(), "Ignore".into(), "Strict".into(), "Warn".into()],
                });
                FieldValidation::Warn
            }
        };
        if !errors.is_empty() {
            return Err(Failure::invalid("meta.k8s.io", kind, "", &errors));
        }
        let manager = if given.is_empty() {
            default_manager(user_agent.unwrap_or(""))
        } else {
            given.to_string()
        };
        Ok(WriteOptions {
            dry_run,
            validation,
            manager,
            force,
            given_manager: given.to_string(),
            given_validation: query.has("fieldValidation").then_some(validation),
        })
    }
}

/// Go's words for a text that is no number, or too large a one.
pub fn not_a_number(e: &std::num::ParseIntError) -> &'static str {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    match e.kind() {
        PosOverflow | NegOverflow => "value out of range",
        _ => "invalid syntax",
    }
}

/// `dryRun` may only be `All`.
pub fn dry_run<'a>(values: impl Iterator<Item = &'a str>, errors: &mut Vec<FieldError>) -> bool {
    let values: Vec<&str> = values.filter(|v| !v.is_empty()).collect();
    if values.iter().any(|v| *v != "All") {
        errors.push(FieldError::NotSupported {
            field: "dryRun".into(),
            value: values.clone().into(),
            supported: vec!["All".into()],
        });
    }
    !values.is_empty()
}

/// The user agent up to its first slash, printable and cut to 128 bytes (upstream's prefixFromUserAgent).
fn default_manager(user_agent: &str) -> String {
    let first: Cow<'_, str> = user_agent.split('/').next().unwrap_or("").into();
    let mut out = String::new();
    for c in first.chars().filter(|c| !c.is_control()) {
        if out.len() + c.len_utf8() > MANAGER_BYTES_MAX {
            break;
        }
        out.push(c);
    }
    if out.is_empty() {
        "unknown".into()
    } else {
        out
    }
}
