//! `$(NAME)` expansion. Source: kubernetes `third_party/forked/golang/expansion`.

/// Replaces `$(NAME)` by what `lookup` gives; unknown references stay as they are and `$$` is one `$`.
pub(crate) fn expand<'a>(text: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some(tail) = after.strip_prefix('(') {
            match tail.split_once(')') {
                Some((name, tail)) => {
                    match lookup(name) {
                        Some(value) => out.push_str(value),
                        None => {
                            out.push_str("$(");
                            out.push_str(name);
                            out.push(')');
                        }
                    }
                    rest = tail;
                }
                None => {
                    out.push_str("$(");
                    rest = tail;
                }
            }
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_upstream() {
        let lookup = |name: &str| match name {
            "VAR_A" => Some("A"),
            "VAR_B" => Some("B"),
            "VAR_REF" => Some("$(VAR_A)"),
            "VAR_EMPTY" => Some(""),
            _ => None,
        };
        let check = |text: &str, want: &str| assert_eq!(expand(text, lookup), want, "{text}");
        check("$(VAR_A)", "A");
        check("___$(VAR_B)___", "___B___");
        check("$(VAR_A)$(VAR_B)", "AB");
        check("$(VAR_REF)", "$(VAR_A)");
        check("foo$(VAR_EMPTY)bar", "foobar");
        check("$$(VAR_A)", "$(VAR_A)");
        check("$$$(VAR_A)", "$A");
        check("$$$$$$(VAR_A)", "$$$(VAR_A)");
        check("$(MISSING)", "$(MISSING)");
        check("$VAR_A", "$VAR_A");
        check("$(VAR_A", "$(VAR_A");
        check("$()", "$()");
        check("foo$", "foo$");
        check("f$%$$oo", "f$%$oo");
    }
}
