//! URLs, read as Go's `net/url` reads them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::Function;
use crate::error::EvalError;
use crate::eval::Evaluated;
use crate::value::{Key, Value};

/// An absolute URL or an absolute path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    text: Box<str>,
    scheme: Box<str>,
    host: Box<str>,
    path: Box<str>,
    query: Box<str>,
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Url {
    /// What Go's `url.ParseRequestURI` takes; a fragment is then read as one.
    pub fn parse(text: &str) -> Result<Url, String> {
        Url::read(text).map_err(|why| format!("parse {text:?}: {why}"))
    }

    fn read(text: &str) -> Result<Url, String> {
        if text.bytes().any(|b| b < b' ' || b == 0x7f) {
            return Err("net/url: invalid control character in URL".into());
        }
        if text.is_empty() {
            return Err("empty url".into());
        }
        let (rest, fragment) = text.split_once('#').map_or((text, ""), |(r, f)| (r, f));
        escapes(fragment)?;
        if text == "*" {
            return Ok(Url::of(text, "", "", "*", ""));
        }
        let (scheme, rest) = scheme(rest)?;
        let (rest, query) = rest.split_once('?').map_or((rest, ""), |(r, q)| (r, q));
        if !rest.starts_with('/') {
            // `mailto:x` is a URL to Go, but no request URI without a scheme
            if scheme.is_empty() {
                return Err("invalid URI for request".into());
            }
            return Ok(Url::of(text, &scheme, "", "", query));
        }
        let (host, path) = match rest.strip_prefix("//") {
            Some(r) if !scheme.is_empty() || !r.starts_with('/') => {
                let end = r.find('/').unwrap_or(r.len());
                (authority(&r[..end])?, &r[end..])
            }
            _ => (String::new(), rest),
        };
        escapes(path)?;
        Ok(Url::of(text, &scheme, &host, &escaped_path(path), query))
    }

    fn of(text: &str, scheme: &str, host: &str, path: &str, query: &str) -> Url {
        Url {
            text: text.into(),
            scheme: scheme.into(),
            host: host.into(),
            path: path.into(),
            query: query.into(),
        }
    }

    /// The host without its port and an IPv6 address's brackets.
    fn hostname(&self) -> &str {
        let host = match self.host.strip_prefix('[').and_then(|h| h.split_once(']')) {
            Some((h, _)) => return h,
            None => &self.host,
        };
        host.split_once(':').map_or(host, |(h, _)| h)
    }
    fn port(&self) -> &str {
        let after = self
            .host
            .rfind(']')
            .map_or(&self.host[..], |i| &self.host[i..]);
        after.split_once(':').map_or("", |(_, p)| p)
    }

    fn query<'a>(&self) -> Value<'a> {
        let mut out: BTreeMap<Key, Vec<Value<'a>>> = BTreeMap::new();
        for pair in self
            .query
            .split('&')
            .filter(|p| !p.is_empty() && !p.contains(';'))
        {
            let (k, v) = pair.split_once('=').unwrap_or((pair, ""));
            if let (Some(k), Some(v)) = (unescaped(k), unescaped(v)) {
                out.entry(Key::String(k.into()))
                    .or_default()
                    .push(Value::string(v));
            }
        }
        Value::map(out.into_iter().map(|(k, v)| (k, Value::list(v))).collect())
    }
}

fn scheme(s: &str) -> Result<(String, &str), String> {
    for (i, c) in s.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if i > 0 => {}
            ':' if i == 0 => return Err("missing protocol scheme".into()),
            ':' => return Ok((s[..i].to_ascii_lowercase(), &s[i + 1..])),
            _ => break,
        }
    }
    Ok((String::new(), s))
}

/// The host and port of `user:password@host:port`.
fn authority(s: &str) -> Result<String, String> {
    let host = match s.rsplit_once('@') {
        Some((user, host)) => {
            let legal = |c: char| c.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%@".contains(c);
            if !user.chars().all(legal) {
                return Err("net/url: invalid userinfo".into());
            }
            escapes(user)?;
            host
        }
        None => s,
    };
    let port = match host.strip_prefix('[') {
        Some(rest) => match rest.rfind(']') {
            Some(i) => &rest[i + 1..],
            None => return Err("missing ']' in host".into()),
        },
        None => host.find(':').map_or("", |i| &host[i..]),
    };
    let digits = port
        .strip_prefix(':')
        .unwrap_or(if port.is_empty() { "" } else { "x" });
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("invalid port {port:?} after host"));
    }
    let bad = |c: char| {
        c.is_ascii() && !c.is_ascii_alphanumeric() && !"-_.~!$&'()*+,;=:[]<>\"%".contains(c)
    };
    if let Some(c) = host.chars().find(|c| bad(*c)) {
        return Err(format!(
            "invalid character {:?} in host name",
            c.to_string()
        ));
    }
    escapes(host)?;
    Ok(host.to_string())
}

/// Every `%` has two hexadecimal digits.
fn escapes(s: &str) -> Result<(), String> {
    let bytes = s.as_bytes();
    for (i, _) in bytes.iter().enumerate().filter(|(_, b)| **b == b'%') {
        let digits = &bytes[i + 1..bytes.len().min(i + 3)];
        if digits.len() < 2 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(format!(
                "invalid URL escape {:?}",
                String::from_utf8_lossy(&bytes[i..bytes.len().min(i + 3)])
            ));
        }
    }
    Ok(())
}

/// The path as written if that is a valid encoding, else encoded.
fn escaped_path(path: &str) -> String {
    let legal = |c: char| c.is_ascii_alphanumeric() || "-_.~!$&'()*+,;=:@/[]%".contains(c);
    if path.chars().all(legal) {
        return path.to_string();
    }
    let mut out = String::new();
    let decoded = percent_decode(path).unwrap_or_else(|| path.as_bytes().to_vec());
    for b in decoded {
        let c = b as char;
        if c.is_ascii_alphanumeric() || "-_.~$&+,/:;=@".contains(c) {
            out.push(c);
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

fn percent_decode(s: &str) -> Option<Vec<u8>> {
    let bytes = s.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while let Some(&b) = bytes.get(i) {
        if b == b'%' {
            let digits = s.get(i + 1..i + 3)?;
            out.push(u8::from_str_radix(digits, 16).ok()?);
            i += 3;
        } else {
            out.push(b);
            i += 1;
        }
    }
    Some(out)
}

fn unescaped(s: &str) -> Option<String> {
    let bytes = percent_decode(&s.replace('+', " "))?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

pub(super) fn url<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::String(s)] = args else {
        return Err(EvalError::no_overload());
    };
    match Url::parse(s.as_str()) {
        Ok(u) => Ok(Value::Url(Arc::new(u))),
        Err(why) => Err(EvalError::new(format!(
            "URL parse error during conversion from string: {why}"
        ))),
    }
}

pub(super) fn is_url<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(s)] => Ok(Value::Bool(Url::parse(s.as_str()).is_ok())),
        _ => Err(EvalError::no_overload()),
    }
}

pub(super) fn accessor(name: &str) -> Option<Function> {
    fn part<'a>(args: &[Value<'a>], f: fn(&Url) -> &str) -> Evaluated<'a> {
        match args {
            [Value::Url(u)] => Ok(Value::string(f(u))),
            _ => Err(EvalError::no_overload()),
        }
    }
    Some(match name {
        "getScheme" => |a| part(a, |u| &u.scheme),
        "getHost" => |a| part(a, |u| &u.host),
        "getHostname" => |a| part(a, Url::hostname),
        "getPort" => |a| part(a, Url::port),
        "getEscapedPath" => |a| part(a, |u| &u.path),
        "getQuery" => |a| match a {
            [Value::Url(u)] => Ok(u.query()),
            _ => Err(EvalError::no_overload()),
        },
        _ => return None,
    })
}
