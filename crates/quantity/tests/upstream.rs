//! Against what apimachinery v0.36 makes of the same texts (`data/upstream.tsv`, made by asking it).

use knarr_quantity::Quantity;
use std::cmp::Ordering;

const TABLE: &str = include_str!("data/upstream.tsv");

/// Whether a 64-bit number holds so many units of 10^`scale`: upstream's wraps around where it doesn't.
fn fits(q: &Quantity, scale: i32) -> bool {
    !matches!(q.in_units_of(scale), i64::MAX | i64::MIN)
}

/// `=`, text, canonical, Value, MilliValue, canonical after RoundUp(Milli), AsInt64's two values, float
fn read(line: &str, columns: &[&str]) {
    let text: String = serde_json::from_str(columns[1]).unwrap();
    let q = Quantity::parse(&text).unwrap_or_else(|e| panic!("{line}: {e}"));
    assert_eq!(q.canonical(), columns[2], "{line}");
    // upstream forgets the sign of what it has rounded from arbitrary precision
    if q.sign() >= 0 {
        for (scale, column) in [(0, 3), (-3, 4)] {
            if fits(&q, scale) {
                assert_eq!(q.in_units_of(scale).to_string(), columns[column], "{line}");
            }
        }
    }
    let mut milli = q.clone();
    milli.round_up(-3);
    assert_eq!(milli.canonical(), columns[5], "{line}");
    let int = columns[6] == "true";
    assert_eq!(q.as_int().is_some(), int, "{line}");
    assert_eq!(q.as_int().unwrap_or(0).to_string(), columns[7], "{line}");
    let float: f64 = columns[8].parse().unwrap();
    assert!(
        (q.float() - float).abs() <= float.abs() * 1e-12,
        "{line}: {}",
        q.float()
    );
}

/// `+`, two texts, their sum, their difference, how they compare, whether the sum is a whole number
fn two(line: &str, columns: &[&str]) {
    let of = |column: &str| {
        let text: String = serde_json::from_str(column).unwrap();
        Quantity::parse(&text).unwrap()
    };
    let (a, b) = (of(columns[1]), of(columns[2]));
    assert_eq!(a.plus(&b).canonical(), columns[3], "{line}");
    assert_eq!(a.minus(&b).canonical(), columns[4], "{line}");
    let ordering = match columns[5] {
        "-1" => Ordering::Less,
        "0" => Ordering::Equal,
        _ => Ordering::Greater,
    };
    assert_eq!(a.cmp(&b), ordering, "{line}");
    assert_eq!(a == b, ordering == Ordering::Equal, "{line}");
    assert_eq!(
        a.plus(&b).as_int().is_some(),
        columns[6] == "true",
        "{line}"
    );
}

#[test]
fn texts_mean_what_they_do_upstream() {
    let mut lines = 0;
    for line in TABLE.lines() {
        let columns: Vec<&str> = line.split('\t').collect();
        match columns[0] {
            "=" => read(line, &columns),
            "+" => two(line, &columns),
            "!" => {
                let text: String = serde_json::from_str(columns[1]).unwrap();
                let error = Quantity::parse(&text).expect_err(line);
                assert_eq!(error.to_string(), columns[2], "{line}");
            }
            other => panic!("unknown kind of line {other:?}"),
        }
        lines += 1;
    }
    assert!(lines > 300, "{lines}");
}

#[test]
fn what_upstream_wraps_around_is_held_to_its_bound() {
    let check = |text: &str, units: i64, milli: i64| {
        assert_eq!(knarr_quantity::units(text), Some(units), "{text}");
        assert_eq!(knarr_quantity::milli(text), Some(milli), "{text}");
    };
    check("99999999999999999999", i64::MAX, i64::MAX);
    check("-1e30", i64::MIN, i64::MIN);
    check("10P", 10_000_000_000_000_000, i64::MAX);
    check("-0.00000000001", -1, -1);
    check("1e2147483647", i64::MAX, i64::MAX);
    check("0e2147483647", 0, 0);
    assert_eq!(knarr_quantity::units("1x"), None);
    for long in [format!("0.{}1", "0".repeat(300)), "1".repeat(300)] {
        assert!(Quantity::parse(&long).is_err());
    }
}

#[test]
fn divisors_are_the_downward_apis() {
    let q = |text: &str| Quantity::parse(text).unwrap();
    for (amount, divisor, want) in [
        ("250m", "0", 1),
        ("250m", "1", 1),
        ("250m", "1m", 250),
        ("64Mi", "1Mi", 64),
        ("65M", "1Mi", 62),
        ("-1", "1", 0),
        ("1e30", "1m", i64::MAX),
        ("1m", "1e30", 1),
    ] {
        assert_eq!(q(amount).divided(&q(divisor)), want, "{amount} {divisor}");
    }
}

#[test]
fn json_is_text_or_a_number() {
    let read = |text: &str| serde_json::from_str::<Quantity>(text);
    for (json, want) in [
        (r#""1.5Gi""#, "1536Mi"),
        (r#"" 100m ""#, "100m"),
        ("2.5", "2500m"),
        ("1000", "1k"),
        ("null", "0"),
    ] {
        assert_eq!(read(json).unwrap().canonical(), want, "{json}");
    }
    assert!(read(r#""x""#).is_err());
    let written = serde_json::to_string(&Quantity::bytes(5 << 30)).unwrap();
    assert_eq!(written, r#""5Gi""#);
    let sum: Quantity = [Quantity::millis(1500), Quantity::whole(1)]
        .into_iter()
        .sum();
    assert_eq!(sum.canonical(), "2500m");
    assert_eq!(Quantity::millis(300).times(-2).canonical(), "-600m");
}
