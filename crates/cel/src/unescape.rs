//! String and bytes literals to their values.

/// The value of a quoted token without its `b`. In a string `\x41` and `\101` are code points, in bytes they are bytes.
pub(crate) fn unquote(token: &str, bytes: bool) -> Result<Vec<u8>, &'static str> {
    // line ends are normalized in all literals
    let token = token.replace("\r\n", "\n").replace('\r', "\n");
    let (raw, body) = match token.strip_prefix(['r', 'R']) {
        Some(rest) => (true, rest),
        None => (false, token.as_str()),
    };
    let quotes = if body.len() >= 6 && (body.starts_with("\"\"\"") || body.starts_with("'''")) {
        3
    } else {
        1
    };
    let body = &body[quotes..body.len() - quotes];
    if raw || !body.contains('\\') {
        return Ok(body.as_bytes().to_vec());
    }
    let mut out = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some(i) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..i]);
        rest = escape(&rest[i + 1..], bytes, &mut out)?;
    }
    out.extend_from_slice(rest.as_bytes());
    Ok(out)
}

fn escape<'s>(s: &'s str, bytes: bool, out: &mut Vec<u8>) -> Result<&'s str, &'static str> {
    let c = s
        .chars()
        .next()
        .ok_or("unable to unescape string, found '\\' as last character")?;
    let simple = match c {
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 11,
        '\\' | '\'' | '"' | '`' | '?' => c as u8,
        'x' | 'X' | 'u' | 'U' | '0'..='3' => return numeric(s, c, bytes, out),
        _ => return Err("unable to unescape string"),
    };
    out.push(simple);
    Ok(&s[1..])
}

fn numeric<'s>(
    s: &'s str,
    c: char,
    bytes: bool,
    out: &mut Vec<u8>,
) -> Result<&'s str, &'static str> {
    let (skip, len, radix) = match c {
        'x' | 'X' => (1, 2, 16),
        'u' => (1, 4, 16),
        'U' => (1, 8, 16),
        _ => (0, 3, 8),
    };
    if bytes && matches!(c, 'u' | 'U') {
        return Err("unable to unescape string");
    }
    let digits = s.get(skip..skip + len).ok_or("unable to unescape string")?;
    let value = u32::from_str_radix(digits, radix).map_err(|_| "unable to unescape string")?;
    if bytes {
        out.push(u8::try_from(value).map_err(|_| "unable to unescape octal sequence in string")?);
    } else {
        let c = char::from_u32(value).ok_or("invalid unicode code point")?;
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Ok(&s[skip + len..])
}
