//! `EXPOSE` (buildkit `dockerfile2llb/convert_expose.go`, after `docker/go-connections`).

/// `80`, `80/udp`, `8000-8002/tcp`, `[ip:]public:private/proto` as `port/proto` each.
///
/// # Errors
/// What is wrong, in BuildKit's words.
pub(crate) fn parse(raw: &str) -> Result<Vec<String>, String> {
    let parts: Vec<&str> = raw.split(':').collect();
    let (ip, host, container) = match parts.as_slice() {
        [container] => (String::new(), "", *container),
        [host, container] => (String::new(), *host, *container),
        [ip @ .., host, container] => (ip.join(":"), *host, *container),
        [] => (String::new(), "", ""),
    };
    let (range, protocol) = container.split_once('/').unwrap_or((container, ""));
    let bad = |why: &str| format!("invalid port: {raw:?}: {why}");
    if range.is_empty() {
        return Err(bad("no port specified"));
    }
    let protocol = match protocol.to_lowercase().as_str() {
        "" => "tcp".to_owned(),
        known @ ("tcp" | "udp" | "sctp") => known.to_owned(),
        _ => return Err(bad(&format!("invalid proto: {protocol}"))),
    };
    let address = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']'));
    let address = address.unwrap_or(&ip);
    if !address.is_empty() && address.parse::<std::net::IpAddr>().is_err() {
        return Err(format!("invalid IP address: {address}"));
    }
    let (first, last) = ports(range).ok_or_else(|| format!("invalid containerPort: {range}"))?;
    if !host.is_empty() {
        let (begin, end) = ports(host).ok_or_else(|| format!("invalid hostPort: {host}"))?;
        if last - first != end - begin && last != first {
            return Err(format!(
                "invalid ranges specified for container and host Ports: {range} and {host}"
            ));
        }
    }
    Ok((first..=last).map(|p| format!("{p}/{protocol}")).collect())
}

/// `8000`, `8000-8002`
fn ports(range: &str) -> Option<(u16, u16)> {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    #[test]
    fn ports() {
        for (raw, want) in [
            ("80", "80/tcp"),
            ("80/UDP", "80/udp"),
            ("8000-8002/tcp", "8000/tcp 8001/tcp 8002/tcp"),
            ("127.0.0.1:80:8080/tcp", "8080/tcp"),
            ("80/xyz", "invalid port: \"80/xyz\": invalid proto: xyz"),
            ("x", "invalid containerPort: x"),
            ("9-8", "invalid containerPort: 9-8"),
            ("/tcp", "invalid port: \"/tcp\": no port specified"),
            ("1.2.3:80:80", "invalid IP address: 1.2.3"),
            ("x:80", "invalid hostPort: x"),
            ("[::1]:70:80/sctp", "80/sctp"),
            (
                "1-3:1-2",
                "invalid ranges specified for container and host Ports: 1-2 and 1-3",
            ),
        ] {
            let got = super::parse(raw).map_or_else(|e| e, |all| all.join(" "));
            assert_eq!(got, want, "{raw}");
        }
    }
}
