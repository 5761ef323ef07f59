//! Named formats: `format.dns1123Label().validate(name)`; messages are those of k8s.io/apimachinery's validation.

use super::Function;
use super::urls::Url;
use crate::error::EvalError;
use crate::eval::Evaluated;
use crate::time::Timestamp;
use crate::value::Value;

/// A named format.
pub struct Format {
    /// The name it is called by: `dns1123Label`.
    pub name: &'static str,
    /// The size of the regular expression it costs as much as.
    pub(crate) regex_size: u64,
    /// What is wrong with a text.
    check: fn(&str) -> Vec<String>,
}

static FORMATS: [Format; 13] = [
    Format {
        name: "dns1123Label",
        regex_size: 30,
        check: dns1123_label,
    },
    Format {
        name: "dns1123Subdomain",
        regex_size: 60,
        check: dns1123_subdomain,
    },
    Format {
        name: "dns1035Label",
        regex_size: 30,
        check: dns1035_label,
    },
    Format {
        name: "qualifiedName",
        regex_size: 60,
        check: qualified_name,
    },
    Format {
        name: "dns1123LabelPrefix",
        regex_size: 30,
        check: |s| dns1123_label(&unprefixed(s)),
    },
    Format {
        name: "dns1123SubdomainPrefix",
        regex_size: 60,
        check: |s| dns1123_subdomain(&unprefixed(s)),
    },
    Format {
        name: "dns1035LabelPrefix",
        regex_size: 30,
        check: |s| dns1035_label(&unprefixed(s)),
    },
    Format {
        name: "labelValue",
        regex_size: 40,
        check: label_value,
    },
    Format {
        name: "uri",
        regex_size: 1_103,
        check: |s| Url::parse(s).err().into_iter().collect(),
    },
    Format {
        name: "uuid",
        regex_size: 70,
        check: |s| one(is_uuid(s), "does not match the UUID format"),
    },
    Format {
        name: "byte",
        regex_size: 84,
        check: |s| {
            one(
                !s.is_empty() && super::base64_decode(s).is_some(),
                "invalid base64",
            )
        },
    },
    Format {
        name: "date",
        regex_size: 71,
        check: |s| one(Timestamp::parse_date(s).is_some(), "invalid date"),
    },
    Format {
        name: "datetime",
        regex_size: 71,
        check: |s| one(Timestamp::parse(s).is_some(), "invalid datetime"),
    },
];

fn lookup(name: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|f| f.name == name)
}

fn one(ok: bool, message: &str) -> Vec<String> {
    if ok {
        Vec::new()
    } else {
        vec![message.to_string()]
    }
}

/// A generated name's prefix may end in a dash; upstream masks its last two characters then.
fn unprefixed(s: &str) -> String {
    if s.len() > 1 && s.ends_with('-') {
        let keep = (0..=s.len() - 2)
            .rev()
            .find(|i| s.is_char_boundary(*i))
            .unwrap_or(0);
        return format!("{}a", &s[..keep]);
    }
    s.to_string()
}

fn too_long(s: &str, max: usize) -> Option<String> {
    (s.len() > max).then(|| format!("must be no more than {max} characters"))
}

fn regex_message(message: &str, regex: &str, examples: &[&str]) -> String {
    let shown: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!(
        "{message} (e.g. {}regex used for validation is '{regex}')",
        shown.join(" or ")
    )
}

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";

fn label(s: &str, first: fn(u8) -> bool) -> bool {
    let b = s.as_bytes();
    let inner = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-';
    matches!((b.first(), b.last()), (Some(f), Some(l)) if first(*f) && *l != b'-')
        && b.iter().all(inner)
}

fn lower_or_digit(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

fn subdomain(s: &str) -> bool {
    s.split('.').all(|part| label(part, lower_or_digit))
}

pub(super) fn is_dns1123_label(s: &str) -> bool {
    dns1123_label(s).is_empty()
}
pub(super) fn is_dns1123_subdomain(s: &str) -> bool {
    dns1123_subdomain(s).is_empty()
}

fn dns1123_label(s: &str) -> Vec<String> {
    let mut out: Vec<String> = too_long(s, 63).into_iter().collect();
    if label(s, lower_or_digit) {
        return out;
    }
    out.push(if subdomain(s) {
        "must not contain dots".into()
    } else {
        let message = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
                       start and end with an alphanumeric character";
        regex_message(message, LABEL, &["my-name", "123-abc"])
    });
    out
}

fn dns1123_subdomain(s: &str) -> Vec<String> {
    let mut out: Vec<String> = too_long(s, 253).into_iter().collect();
    if !subdomain(s) {
        let message = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
                       and must start and end with an alphanumeric character";
        out.push(regex_message(
            message,
            &format!("{LABEL}(\\.{LABEL})*"),
            &["example.com"],
        ));
    }
    out
}

fn dns1035_label(s: &str) -> Vec<String> {
    let mut out: Vec<String> = too_long(s, 63).into_iter().collect();
    if !label(s, |c| c.is_ascii_lowercase()) {
        let message = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
                       alphabetic character, and end with an alphanumeric character";
        out.push(regex_message(
            message,
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    out
}

const KEY: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const KEY_MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

fn key(s: &str) -> bool {
    let b = s.as_bytes();
    matches!((b.first(), b.last()), (Some(f), Some(l)) if f.is_ascii_alphanumeric() && l.is_ascii_alphanumeric())
        && b.iter()
            .all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(c))
}

fn qualified_name(s: &str) -> Vec<String> {
    let shown = regex_message(KEY_MESSAGE, KEY, &["MyName", "my.name", "123-abc"]);
    let mut out = Vec::new();
    let parts: Vec<&str> = s.split('/').collect();
    let name = match parts[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                out.push("prefix part must be non-empty".into());
            } else {
                out.extend(
                    dns1123_subdomain(prefix)
                        .into_iter()
                        .map(|m| format!("prefix part {m}")),
                );
            }
            name
        }
        _ => {
            return vec![format!(
                "a valid label key {shown} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        out.push("name part must be non-empty".into());
    }
    out.extend(too_long(name, 63).map(|m| format!("name part {m}")));
    if !key(name) {
        out.push(format!("name part {shown}"));
    }
    out
}

fn label_value(s: &str) -> Vec<String> {
    let mut out: Vec<String> = too_long(s, 63).into_iter().collect();
    if !s.is_empty() && !key(s) {
        let message = format!(
            "a valid label must be an empty string or {}",
            KEY_MESSAGE.trim_start_matches("must ")
        );
        out.push(regex_message(
            &message,
            &format!("({KEY})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    out
}

fn is_uuid(s: &str) -> bool {
    // the dashes are optional one by one
    let mut rest = s;
    for (i, len) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        if i > 0 {
            rest = rest.strip_prefix('-').unwrap_or(rest);
        }
        match rest.get(..len) {
            Some(part) if part.bytes().all(|b| b.is_ascii_hexdigit()) => rest = &rest[len..],
            _ => return false,
        }
    }
    rest.is_empty()
}

/// `format.dns1123Label()` and so on: functions without arguments.
pub(super) fn constant(name: &str) -> Option<Function> {
    macro_rules! constants {
        ($($name:literal)*) => {
            match name {
                $(concat!("format.", $name) => |_| lookup($name).map(Value::Format).ok_or_else(EvalError::no_overload),)*
                _ => return None,
            }
        };
    }
    Some(constants!(
        "dns1123Label" "dns1123Subdomain" "dns1035Label" "qualifiedName" "dns1123LabelPrefix" "dns1123SubdomainPrefix"
        "dns1035LabelPrefix" "labelValue" "uri" "uuid" "byte" "date" "datetime"
    ))
}

pub(super) fn named<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::String(name)] = args else {
        return Err(EvalError::no_overload());
    };
    Ok(match lookup(name.as_str()) {
        Some(f) => Value::some(Value::Format(f)),
        None => Value::Optional(None),
    })
}

pub(super) fn validate<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::Format(f), Value::String(s)] = args else {
        return Err(EvalError::no_overload());
    };
    let wrong = (f.check)(s.as_str());
    Ok(match wrong.is_empty() {
        true => Value::Optional(None),
        false => Value::some(Value::list(wrong.into_iter().map(Value::string).collect())),
    })
}
