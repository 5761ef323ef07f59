//! Links in proxied answers lead back through the proxy, as in upstream's `k8s.io/apimachinery/pkg/util/proxy`.

/// Attributes that hold a URL, by element.
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Where answers come from and where their links are to lead.
pub struct Links<'a> {
    /// The backend's `host[:port]`.
    pub authority: &'a str,
    /// Host of the client's own request.
    pub host: &'a str,
    /// Path of the proxy, without the slash at its end: `/api/v1/namespaces/a/pods/b/proxy`.
    pub prefix: &'a str,
}

impl Links<'_> {
    /// The link as the client must follow it; relative links and those to elsewhere stay.
    pub fn link(&self, link: &str) -> String {
        let (authority, rest) = match link.split_once("://") {
            Some((scheme, rest)) if scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                (&rest[..end], &rest[end..])
            }
            _ => match link.strip_prefix("//") {
                Some(rest) => {
                    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                    (&rest[..end], &rest[end..])
                }
                None => ("", link),
            },
        };
        let ours = authority.is_empty() || authority == self.authority || authority == self.host;
        if !ours || (authority.is_empty() && !rest.starts_with('/')) {
            return link.to_string();
        }
        let end = rest.find(['?', '#']).unwrap_or(rest.len());
        let (path, tail) = rest.split_at(end);
        if path.starts_with(self.prefix) {
            return rest.to_string();
        }
        let mut segments: Vec<&str> = Vec::new();
        for segment in path.split('/') {
            match segment {
                "" | "." => {}
                ".." => {
                    segments.pop();
                }
                other => segments.push(other),
            }
        }
        let mut new = self.prefix.to_string();
        for segment in &segments {
            new.push('/');
            new.push_str(segment);
        }
        if path.ends_with('/') || segments.is_empty() {
            new.push('/');
        }
        new + tail
    }

    /// The page with its links rewritten; everything else byte for byte.
    pub fn page(&self, html: &str) -> String {
        let mut out = String::with_capacity(html.len() + 256);
        let mut rest = html;
        while let Some(at) = rest.find('<') {
            let (before, tag) = rest.split_at(at);
            out.push_str(before);
            if let Some(comment) = tag.strip_prefix("<!--") {
                let end = comment.find("-->").map_or(tag.len(), |e| e + 7);
                out.push_str(&tag[..end]);
                rest = &tag[end..];
                continue;
            }
            let name_end = tag[1..]
                .find(|c: char| !c.is_ascii_alphanumeric())
                .map_or(tag.len(), |e| e + 1);
            let name = tag[1..name_end].to_ascii_lowercase();
            let names = LINKS.iter().find(|(n, _)| *n == name).map(|(_, a)| *a);
            let Some(names) = names else {
                out.push_str(&tag[..name_end.max(1)]);
                rest = &tag[name_end.max(1)..];
                continue;
            };
            out.push_str(&tag[..name_end]);
            rest = self.attributes(&tag[name_end..], names, &mut out);
        }
        out.push_str(rest);
        out
    }

    /// Copies a tag's attributes up to its `>`; answers what follows.
    fn attributes<'t>(&self, mut rest: &'t str, links: &[&str], out: &mut String) -> &'t str {
        loop {
            let start = rest
                .find(|c: char| !c.is_ascii_whitespace() && c != '/')
                .unwrap_or(rest.len());
            out.push_str(&rest[..start]);
            rest = &rest[start..];
            if rest.is_empty() || rest.starts_with('>') {
                return rest;
            }
            let end = rest
                .find(|c: char| c.is_ascii_whitespace() || matches!(c, '=' | '>' | '/'))
                .unwrap_or(rest.len());
            // a lone `=` is a name's first letter to a browser
            let end = end.max(rest.chars().next().map_or(0, char::len_utf8));
            let name = rest[..end].to_ascii_lowercase();
            out.push_str(&rest[..end]);
            rest = &rest[end..];
            let value_at = rest.trim_start();
            let Some(value) = value_at.strip_prefix('=') else {
                continue;
            };
            let value = value.trim_start();
            out.push_str(&rest[..rest.len() - value.len()]);
            let (open, text, after) = match value.chars().next() {
                Some(quote @ ('"' | '\'')) => {
                    let inner = &value[1..];
                    let end = inner.find(quote).unwrap_or(inner.len());
                    (&value[..1], &inner[..end], &inner[end..])
                }
                _ => {
                    let end = value
                        .find(|c: char| c.is_ascii_whitespace() || c == '>')
                        .unwrap_or(value.len());
                    ("", &value[..end], &value[end..])
                }
            };
            out.push_str(open);
            if links.contains(&name.as_str()) {
                out.push_str(&self.link(text));
            } else {
                out.push_str(text);
            }
            rest = after.strip_prefix(open).unwrap_or(after);
            out.push_str(&after[..after.len() - rest.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINKS: Links = Links {
        authority: "10.42.0.5:80",
        host: "127.0.0.1:6443",
        prefix: "/p/proxy",
    };

    #[test]
    fn links_lead_back() {
        for (link, wanted) in [
            ("/rewriteme", "/p/proxy/rewriteme"),
            ("/", "/p/proxy/"),
            ("/a/b/", "/p/proxy/a/b/"),
            ("/a?x=1#y", "/p/proxy/a?x=1#y"),
            ("next", "next"),
            ("", ""),
            ("/a/./b/../c", "/p/proxy/a/c"),
            ("http://10.42.0.5:80/x", "/p/proxy/x"),
            ("http://127.0.0.1:6443/x", "/p/proxy/x"),
            ("//10.42.0.5:80/x", "/p/proxy/x"),
            ("http://elsewhere/x", "http://elsewhere/x"),
            ("mailto:a@b", "mailto:a@b"),
            ("#here", "#here"),
            ("/p/proxy/x", "/p/proxy/x"),
        ] {
            assert_eq!(LINKS.link(link), wanted, "{link}");
        }
    }

    #[test]
    fn pages_change_in_their_links_alone() {
        for (page, wanted) in [
            (
                "<a href=\"/rewriteme\">test</a>",
                "<a href=\"/p/proxy/rewriteme\">test</a>",
            ),
            ("<img alt='/x' SRC=/y>", "<img alt='/x' SRC=/p/proxy/y>"),
            ("<p href='/x'>1 < 2</p>", "<p href='/x'>1 < 2</p>"),
            (
                "<!-- <a href='/x'> --><link href = '/x' />",
                "<!-- <a href='/x'> --><link href = '/p/proxy/x' />",
            ),
            ("<a disabled href=", "<a disabled href="),
            ("<a href=\"/x", "<a href=\"/p/proxy/x"),
            ("<a =\"x\" é>ü<", "<a =\"x\" é>ü<"),
            ("plain", "plain"),
        ] {
            assert_eq!(LINKS.page(page), wanted, "{page}");
        }
    }
}
