//! Quotes, escapes, variables.

use std::collections::BTreeMap;

use knarr_dockerfile::{Escape, Words};

fn env() -> BTreeMap<String, String> {
    [
        ("a", "one"),
        ("none", ""),
        ("path", "/x/y/z.tar.gz"),
        ("two", "b  c"),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into()
}

#[test]
fn texts() {
    let cases = [
        ("$a", "one"),
        ("x${a}y", "xoney"),
        ("$nothing", ""),
        ("'$a'", "$a"),
        ("\"$a\"", "one"),
        (r"\$a", "$a"),
        (r#""\$a \n""#, r"$a \n"),
        (r"'\'", r"\"),
        ("${a:-x}${no:-x}${none:-x}${none-x}", "onexx"),
        ("${a:+x}${no:+x}${none:+x}${none+x}", "xx"),
        ("${no:-${none:-${a}}}", "one"),
        ("${path#*/}", "x/y/z.tar.gz"),
        ("${path##*/}", "z.tar.gz"),
        ("${path%.*}", "/x/y/z.tar"),
        ("${path%%.*}", "/x/y/z"),
        ("${path#q}", "/x/y/z.tar.gz"),
        (r"${path//\//-}", "-x-y-z.tar.gz"),
        (r"${path/\//}", "x/y/z.tar.gz"),
        ("${path/x*z/-}", "/-"),
        ("${a/?/_}", "_ne"),
        ("${a//?/_}", "___"),
        ("$5x$", "x$"),
        ("한국$a", "한국one"),
    ];
    for (input, want) in cases {
        let got = Words::new(Escape::Backslash).expand(input, &env());
        assert_eq!(got.unwrap().text, want, "{input}");
    }
}

#[test]
fn words_are_split_after_the_expansion() {
    let cases: [(&str, &[&str]); 6] = [
        ("a  b", &["a", "b"]),
        ("x$two", &["xb", "c"]),
        ("\"x$two\"", &["xb  c"]),
        (r"a\ b", &["a b"]),
        ("a '' b", &["a", "b"]),
        ("<< EOF x", &["<< EOF", "x"]),
    ];
    for (input, want) in cases {
        let got = Words::new(Escape::Backslash).expand(input, &env());
        assert_eq!(got.unwrap().words, want, "{input}");
    }
}

#[test]
fn mistakes() {
    let cases = [
        ("'a", "matching single-quote"),
        ("\"a", "matching double-quote"),
        ("${a", "missing '}'"),
        ("${}", "bad substitution"),
        ("${a:=b}", "unsupported modifier (:=)"),
        ("${a:#b}", "unsupported modifier (:#)"),
        ("${no?}", "no: is not allowed to be unset"),
        ("${none:?}", "none: is not allowed to be empty"),
        ("${no:?say $a}", "no: say one"),
        ("${a/b}", "missing"),
        (r"${a#\x}", "invalid escape"),
    ];
    for (input, want) in cases {
        let got = Words::new(Escape::Backslash).expand(input, &env());
        let said = got.unwrap_err().to_string();
        assert!(said.contains(want), "{input}: {said}");
    }
}

#[test]
fn what_is_not_set_is_named_or_kept() {
    let words = Words::new(Escape::Backslash);
    let got = words.expand("$a $b ${c:-d}", &env()).unwrap();
    assert_eq!(got.unset.into_iter().collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(got.used.into_iter().collect::<Vec<_>>(), ["a"]);
    let kept = words.keep_unset().expand("$a $b ${c:-d}", &env()).unwrap();
    assert_eq!(kept.text, "one $b ${c:-d}");
}

#[test]
fn the_other_escape() {
    let got = Words::new(Escape::Backtick).expand(r"C:\x `$a", &env());
    assert_eq!(got.unwrap().text, r"C:\x $a");
}

#[test]
fn nesting_and_growth_have_a_bound() {
    let words = Words::new(Escape::Backslash);
    let deep = format!("{}x{}", "${b:-".repeat(500), "}".repeat(500));
    assert!(
        words
            .expand(&deep, &env())
            .unwrap_err()
            .to_string()
            .contains("nested")
    );
    let big: BTreeMap<String, String> = [("a".to_owned(), "x".repeat(1 << 16))].into();
    let many = "${a}".repeat(64);
    assert!(
        words
            .expand(&many, &big)
            .unwrap_err()
            .to_string()
            .contains("longer")
    );
}
