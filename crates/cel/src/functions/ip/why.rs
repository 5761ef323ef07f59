//! Why a text is no IP address, in the words of Go's `net/netip`.

/// `ParseAddr("1.2.3"): IPv4 address too short`. Only for texts that do not parse.
pub(crate) fn why_not(s: &str) -> String {
    let (message, at) = match s.find(['.', ':', '%']).map(|i| s.as_bytes()[i]) {
        Some(b'.') => ipv4(s),
        Some(b':') => ipv6(s.split_once('%').map_or(s, |(s, _)| s)),
        Some(_) => ("missing IPv6 address", ""),
        None => ("unable to parse IP", ""),
    };
    match at {
        "" => format!("ParseAddr({s:?}): {message}"),
        at => format!("ParseAddr({s:?}): {message} (at {at:?})"),
    }
}

type Why<'s> = (&'static str, &'s str);

fn ipv4(s: &str) -> Why<'_> {
    let (mut value, mut digits, mut field) = (0u32, 0, 0);
    for (i, b) in s.bytes().enumerate() {
        match b {
            b'0'..=b'9' => {
                if digits == 1 && value == 0 {
                    return ("IPv4 field has octet with leading zero", "");
                }
                value = value * 10 + u32::from(b - b'0');
                digits += 1;
                if value > 255 {
                    return ("IPv4 field has value >255", "");
                }
            }
            b'.' if digits == 0 || i + 1 == s.len() => {
                return ("IPv4 field must have at least one digit", &s[i..]);
            }
            b'.' if field == 3 => return ("IPv4 address too long", ""),
            b'.' => {
                field += 1;
                (value, digits) = (0, 0);
            }
            _ => return ("unexpected character", s.get(i..).unwrap_or("")),
        }
    }
    ("IPv4 address too short", "")
}

fn ipv6(s: &str) -> Why<'_> {
    let mut rest = s.strip_prefix("::").unwrap_or(s);
    let mut ellipsis = rest.len() < s.len();
    for _ in 0..8 {
        let digits = rest.bytes().take_while(u8::is_ascii_hexdigit).count();
        if digits > 4 {
            return ("each group must have 4 or less digits", rest);
        }
        if digits == 0 {
            return (
                "each colon-separated field must have at least one digit",
                rest,
            );
        }
        if rest[digits..].starts_with('.') {
            return ipv4(rest);
        }
        rest = &rest[digits..];
        if rest.is_empty() {
            return ("address string too short", "");
        }
        let Some(next) = rest.strip_prefix(':') else {
            return ("unexpected character, want colon", rest);
        };
        if next.is_empty() {
            return ("colon must be followed by more characters", rest);
        }
        rest = next;
        if let Some(after) = rest.strip_prefix(':') {
            if ellipsis {
                return ("multiple :: in address", rest);
            }
            ellipsis = true;
            rest = after;
        }
    }
    match rest {
        "" => ("the :: must expand to at least one field of zeros", ""),
        rest => ("trailing garbage after address", rest),
    }
}
