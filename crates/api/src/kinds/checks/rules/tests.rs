use super::*;

#[test]
fn each_rule_says_what_is_wrong() {
    let long = "a".repeat(64);
    for (rule, text, want) in [
        (dns_label as fn(&str) -> Vec<String>, "a-1", ""),
        (dns_label, "a.b", "must not contain dots"),
        (dns_label, "A", LABEL),
        (dns_label, &long, "must be no more than 63 characters"),
        (dns_label, "", LABEL),
        (dns_subdomain, "a.b", ""),
        (dns_subdomain, "a..b", SUBDOMAIN),
        (dns_1035_label, "1a", LABEL_1035),
        (dns_search, "_svc.x_y", ""),
        (dns_search, "__a", SEARCH),
        (wildcard, "*.a", ""),
        (wildcard, "a.*", WILDCARD),
        (qualified, "example.com/App_1", ""),
        (qualified, "/a", "prefix part must be non-empty"),
        (label_value, "", ""),
        (label_value, &long, "must be no more than 63 bytes"),
        (config_key, "a.B-_", ""),
        (config_key, "..", "must not be '..'"),
        (config_key, "..a", "must not start with '..'"),
        (env_name, "a b!", ""),
        (env_name, "a=b", ENV),
        (port_name, "http-2", ""),
        (port_name, "12", "must contain at least one letter (a-z)"),
        (port_name, "a--b", "must not contain consecutive hyphens"),
        (header, "X-A", ""),
        (header, "X:", HEADER),
        (percent, "25%", ""),
        (percent, "25", PERCENT),
        (path_segment, "system:x", ""),
        (path_segment, "a/b", "may not contain '/'"),
    ] {
        assert_eq!(rule(text).join("|"), want, "{text}");
    }
}

#[test]
fn addresses_follow_gos_sloppy_and_strict_readings() {
    let at = Path::Root("ip");
    for (text, want) in [
        ("10.1.2.3", ""),
        ("fe80::1", ""),
        ("010.1.2.3", "must not have leading 0s"),
        ("::ffff:1.2.3.4", "must not be an IPv4-mapped IPv6 address"),
        (
            "1.2.3",
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ),
        (
            "1.2.3.256",
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ),
    ] {
        let mut errors = Errors::default();
        legacy_ip(text, &[], &at, &mut errors);
        let found: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
        let want = match want {
            "" => vec![],
            w => vec![format!("ip: Invalid value: {text:?}: {w}")],
        };
        assert_eq!(found, want, "{text}");
    }
    for (text, good) in [
        ("10.0.0.0/8", true),
        ("10.0.0.1/8", false),
        ("10.0.0.0/33", false),
        ("2001:db8::/64", true),
        ("0.0.0.0/0", true),
        ("1.2.3.4/32", true),
        ("10.0.0.0/08", false),
    ] {
        let mut errors = Errors::default();
        legacy_cidr(text, &[], &at, &mut errors);
        assert_eq!(errors.0.is_empty(), good, "{text}");
    }
}
