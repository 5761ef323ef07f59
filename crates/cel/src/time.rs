//! Durations and timestamps with Go's text forms and CEL's ranges.

use std::fmt;

use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};

use crate::error::EvalError;

const NANOS: i64 = 1_000_000_000;
/// 0001-01-01T00:00:00Z.
const MIN_SECONDS: i64 = -62_135_596_800;
/// 9999-12-31T23:59:59Z.
const MAX_SECONDS: i64 = 253_402_300_799;

/// A signed span in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Duration(pub i64);

/// A moment between the years 1 and 9999: seconds since 1970 and nanoseconds into the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    pub seconds: i64,
    pub nanos: u32,
}

impl Duration {
    /// Go's `time.ParseDuration`: `1h2m3.5s`, `-1.5h`, `0`.
    pub fn parse(s: &str) -> Option<Duration> {
        let (negative, mut rest) = match s.strip_prefix('-') {
            Some(r) => (true, r),
            None => (false, s.strip_prefix('+').unwrap_or(s)),
        };
        if rest == "0" {
            return Some(Duration(0));
        }
        if rest.is_empty() {
            return None;
        }
        let mut total: i128 = 0;
        while !rest.is_empty() {
            let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
            let whole = digits(rest);
            let (int, after) = rest.split_at(whole);
            let (fraction, after) = match after.strip_prefix('.') {
                Some(f) => f.split_at(digits(f)),
                None => ("", after),
            };
            if int.is_empty() && fraction.is_empty() {
                return None;
            }
            let unit_len = after
                .find(|c: char| c == '.' || c.is_ascii_digit())
                .unwrap_or(after.len());
            let (unit, after) = after.split_at(unit_len);
            let unit: i128 = match unit {
                "ns" => 1,
                "us" | "µs" | "μs" => 1_000,
                "ms" => 1_000_000,
                "s" => NANOS.into(),
                "m" => 60 * i128::from(NANOS),
                "h" => 3_600 * i128::from(NANOS),
                _ => return None,
            };
            let int: i128 = if int.is_empty() { 0 } else { int.parse().ok()? };
            total = total.checked_add(int.checked_mul(unit)?)?;
            let (mut scale, mut value) = (1i128, 0i128);
            for d in fraction.bytes().take(18) {
                scale *= 10;
                value = value * 10 + i128::from(d - b'0');
            }
            total += value * unit / scale;
            if total > i128::from(i64::MAX) + i128::from(negative) {
                return None;
            }
            rest = after;
        }
        i64::try_from(if negative { -total } else { total })
            .ok()
            .map(Duration)
    }

    /// What OpenAPI's `duration` format takes: Go's form, or words such as `3 days`.
    pub(crate) fn parse_openapi(s: &str) -> Option<Duration> {
        if let Some(d) = Duration::parse(s) {
            return Some(d);
        }
        let (mut rest, mut total, mut any) = (s.trim(), 0i64, false);
        while !rest.is_empty() {
            let n = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, after) = rest.split_at(n);
            let after = after.trim_start();
            let len = after
                .find(|c: char| !(c.is_ascii_alphabetic() || c == 'µ'))
                .unwrap_or(after.len());
            let (unit, after) = after.split_at(len);
            let second = NANOS;
            let unit = match unit {
                "ns" | "nano" | "nanos" | "nanosecond" | "nanoseconds" => 1,
                "us" | "µs" | "micro" | "micros" | "microsecond" | "microseconds" => 1_000,
                "ms" | "milli" | "millis" | "millisecond" | "milliseconds" => 1_000_000,
                "s" | "sec" | "secs" | "second" | "seconds" => second,
                "m" | "min" | "mins" | "minute" | "minutes" => 60 * second,
                "h" | "hr" | "hrs" | "hour" | "hours" => 3_600 * second,
                "d" | "day" | "days" => 86_400 * second,
                "w" | "wk" | "week" | "weeks" => 7 * 86_400 * second,
                _ => return None,
            };
            total = total.checked_add(number.parse::<i64>().ok()?.checked_mul(unit)?)?;
            any = true;
            rest = after.trim_start_matches([' ', ',']);
        }
        any.then_some(Duration(total))
    }

    pub(crate) fn add(self, o: Duration) -> Result<Duration, EvalError> {
        self.0
            .checked_add(o.0)
            .map(Duration)
            .ok_or_else(|| EvalError::new("duration overflow"))
    }
    pub(crate) fn sub(self, o: Duration) -> Result<Duration, EvalError> {
        self.0
            .checked_sub(o.0)
            .map(Duration)
            .ok_or_else(|| EvalError::new("duration overflow"))
    }
}

/// Seconds, as CEL's `string(duration)`: `5400s`, `0.5s`.
impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Go adds the whole seconds and the fraction as floats
        let seconds = (self.0 / NANOS) as f64 + (self.0 % NANOS) as f64 / NANOS as f64;
        write!(f, "{seconds}s")
    }
}

impl Timestamp {
    /// A moment, if it is in range.
    pub fn new(seconds: i64, nanos: u32) -> Option<Timestamp> {
        (MIN_SECONDS..=MAX_SECONDS)
            .contains(&seconds)
            .then_some(Timestamp { seconds, nanos })
    }

    /// RFC 3339.
    pub fn parse(s: &str) -> Option<Timestamp> {
        let b = s.as_bytes();
        // the fixed part is `2006-01-02T15:04:05`, all of it single bytes
        if b.len() < 20 || !b[..19].is_ascii() || b[10] != b'T' || b[4] != b'-' || b[7] != b'-' {
            return None;
        }
        let n = |from: usize, to: usize| -> Option<i64> {
            let part = &s[from..to];
            part.bytes()
                .all(|c| c.is_ascii_digit())
                .then(|| part.parse().ok())?
        };
        if b[13] != b':' || b[16] != b':' {
            return None;
        }
        let (hour, minute, second) = (n(11, 13)?, n(14, 16)?, n(17, 19)?);
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let day = jiff::civil::Date::new(n(0, 4)? as i16, n(5, 7)? as i8, n(8, 10)? as i8).ok()?;
        let mut rest = &s[19..];
        let mut nanos = 0u32;
        if let Some(fraction) = rest.strip_prefix(['.', ',']) {
            let len = fraction.bytes().take_while(u8::is_ascii_digit).count();
            if len == 0 {
                return None;
            }
            let mut scale = 100_000_000;
            for d in fraction[..len].bytes().take(9) {
                nanos += u32::from(d - b'0') * scale;
                scale /= 10;
            }
            rest = &fraction[len..];
        }
        let offset = if rest == "Z" {
            0
        } else {
            offset_seconds(rest)?
        };
        let days = i64::from((day - jiff::civil::date(1970, 1, 1)).get_days());
        Timestamp::new(
            days * 86_400 + hour * 3_600 + minute * 60 + second - i64::from(offset),
            nanos,
        )
    }

    pub(crate) fn parse_date(s: &str) -> Option<Timestamp> {
        if s.len() != 10 {
            return None;
        }
        Timestamp::parse(&format!("{s}T00:00:00Z"))
    }

    /// The moment a span later.
    pub(crate) fn add(self, d: Duration) -> Result<Timestamp, EvalError> {
        let nanos = i64::from(self.nanos) + d.0.rem_euclid(NANOS);
        let seconds = self
            .seconds
            .checked_add(d.0.div_euclid(NANOS) + nanos / NANOS);
        seconds
            .and_then(|s| Timestamp::new(s, (nanos % NANOS) as u32))
            .ok_or_else(|| EvalError::new("timestamp overflow"))
    }
    pub(crate) fn sub(self, d: Duration) -> Result<Timestamp, EvalError> {
        let negated =
            d.0.checked_neg()
                .ok_or_else(|| EvalError::new("timestamp overflow"))?;
        self.add(Duration(negated))
    }
    pub(crate) fn since(self, o: Timestamp) -> Result<Duration, EvalError> {
        let nanos = i128::from(self.seconds - o.seconds) * i128::from(NANOS)
            + i128::from(self.nanos)
            - i128::from(o.nanos);
        i64::try_from(nanos)
            .map(Duration)
            .map_err(|_| EvalError::new("duration overflow"))
    }

    /// The calendar's view of the moment, in a zone: an IANA name or an offset such as `-08:00`. UTC if none.
    pub(crate) fn civil(self, zone: Option<&str>) -> Result<DateTime, EvalError> {
        let at = jiff::Timestamp::new(self.seconds, self.nanos as i32)
            .map_err(|e| EvalError::new(format!("timestamp out of range: {e}")))?;
        let zone = match zone {
            None | Some("" | "UTC") => TimeZone::UTC,
            Some(z) if z.contains(':') => {
                let bad = || EvalError::new(format!("could not parse time zone: {z}"));
                // cel-go reads hours and minutes without asking for two digits
                let seconds = loose_offset(z).ok_or_else(bad)?;
                TimeZone::fixed(Offset::from_seconds(seconds).map_err(|_| bad())?)
            }
            Some(z) => {
                TimeZone::get(z).map_err(|_| EvalError::new(format!("unknown time zone {z}")))?
            }
        };
        Ok(at.to_zoned(zone).datetime())
    }
}

/// `+01:30` in seconds.
fn offset_seconds(s: &str) -> Option<i32> {
    let b = s.as_bytes();
    if b.len() != 6 || !s.is_ascii() || b[3] != b':' {
        return None;
    }
    let (h, m): (i32, i32) = (s[1..3].parse().ok()?, s[4..6].parse().ok()?);
    let sign = match b[0] {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    (h < 24 && m < 60).then_some(sign * (h * 3_600 + m * 60))
}

fn loose_offset(s: &str) -> Option<i32> {
    let (h, m) = s.split_once(':')?;
    let (hours, minutes): (i32, i32) = (h.parse().ok()?, m.parse().ok()?);
    let sign = if h.starts_with('-') { -1 } else { 1 };
    hours
        .checked_mul(3_600)?
        .checked_add(sign * minutes.checked_mul(60)?)
}

/// RFC 3339 with as many digits of the second as are needed.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(c) = self.civil(None) else {
            return Err(fmt::Error);
        };
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
            c.year(),
            c.month(),
            c.day(),
            c.hour(),
            c.minute(),
            c.second()
        )?;
        if self.nanos > 0 {
            let fraction = format!("{:09}", self.nanos);
            write!(f, ".{}", fraction.trim_end_matches('0'))?;
        }
        f.write_str("Z")
    }
}
