//! Durations and timestamps with Go's text forms and CEL's ranges.

use std::cmp::Ordering;
use std::fmt;

use jiff::tz::TimeZone;

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
///
/// It is printed in the zone it was written in; that is no part of which moment it is.
#[derive(Clone, Copy, Debug)]
pub struct Timestamp {
    pub seconds: i64,
    pub nanos: u32,
    /// East of UTC, in seconds.
    offset: i32,
}

impl PartialEq for Timestamp {
    fn eq(&self, other: &Timestamp) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Timestamp {}
impl PartialOrd for Timestamp {
    fn partial_cmp(&self, other: &Timestamp) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timestamp {
    fn cmp(&self, other: &Timestamp) -> Ordering {
        (self.seconds, self.nanos).cmp(&(other.seconds, other.nanos))
    }
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
            .ok_or_else(|| EvalError::new("integer overflow"))
    }
    pub(crate) fn sub(self, o: Duration) -> Result<Duration, EvalError> {
        self.0
            .checked_sub(o.0)
            .map(Duration)
            .ok_or_else(|| EvalError::new("integer overflow"))
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
            .then_some(Timestamp {
                seconds,
                nanos,
                offset: 0,
            })
    }

    /// RFC 3339 as Go reads it: the hour may be one digit, the fraction may follow a comma.
    pub fn parse(s: &str) -> Option<Timestamp> {
        let (date, rest) = s.split_once('T')?;
        let (year, month, day) = parse_day(date)?;
        let (hour, rest) = rest.split_once(':')?;
        let (minute, rest) = rest.split_once(':')?;
        let number = |s: &str, most: usize| -> Option<i64> {
            let digits = !s.is_empty() && s.bytes().all(|c| c.is_ascii_digit());
            (digits && s.len() <= most).then(|| s.parse().ok())?
        };
        let (hour, minute, second) = (
            number(hour, 2)?,
            number(minute, 2).filter(|_| minute.len() == 2)?,
            number(rest.get(..2)?, 2)?,
        );
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let mut rest = &rest[2..];
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
        let days = days_from_civil(year, month, day);
        let local = days * 86_400 + hour * 3_600 + minute * 60 + second;
        let t = Timestamp::new(local - offset, nanos)?;
        Some(Timestamp {
            offset: offset as i32,
            ..t
        })
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
            .map(|t| Timestamp {
                offset: self.offset,
                ..t
            })
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
            .map_err(|_| EvalError::new("integer overflow"))
    }

    /// The calendar's view of the moment, in a zone: an IANA name or an offset such as `-08:00`. UTC if none.
    pub(crate) fn civil(self, zone: Option<&str>) -> Result<Civil, EvalError> {
        let offset = match zone {
            None | Some("" | "UTC" | "Local") => 0,
            // cel-go reads hours and minutes without asking for two digits
            Some(z) if z.contains(':') => loose_offset(z)
                .ok_or_else(|| EvalError::new(format!("could not parse time zone: {z}")))?,
            Some(z) => {
                let zone = TimeZone::get(z)
                    .map_err(|_| EvalError::new(format!("unknown time zone {z}")))?;
                // jiff's moments end a day before ours; no zone changes then
                let end = jiff::Timestamp::MAX.as_second();
                let at = jiff::Timestamp::from_second(self.seconds.min(end))
                    .unwrap_or(jiff::Timestamp::MAX);
                i64::from(zone.to_offset(at).seconds())
            }
        };
        Ok(Civil::of(self.seconds.saturating_add(offset)))
    }
}

/// A date and time of day in the Gregorian calendar.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Civil {
    pub year: i64,
    /// From 1.
    pub month: i64,
    /// From 1.
    pub day: i64,
    /// From 0.
    pub day_of_year: i64,
    /// Sunday is 0.
    pub weekday: i64,
    pub hour: i64,
    pub minute: i64,
    pub second: i64,
}

/// Days since 1970-01-01, by eras of 400 years that begin in March.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

impl Civil {
    fn of(seconds: i64) -> Civil {
        let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let z = days + 719_468;
        let era = z.div_euclid(146_097);
        let of_era = z.rem_euclid(146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * of_year + 2) / 153;
        let month = if shifted < 10 {
            shifted + 3
        } else {
            shifted - 9
        };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        Civil {
            year,
            month,
            day: of_year - (153 * shifted + 2) / 5 + 1,
            day_of_year: days - days_from_civil(year, 1, 1),
            weekday: (days + 4).rem_euclid(7),
            hour: rest / 3_600,
            minute: rest / 60 % 60,
            second: rest % 60,
        }
    }
}

fn month_days(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// `2006-01-02`.
fn parse_day(s: &str) -> Option<(i64, i64, i64)> {
    let b = s.as_bytes();
    let digits = |from: usize, to: usize| -> Option<i64> {
        let part = s.get(from..to)?;
        part.bytes()
            .all(|c| c.is_ascii_digit())
            .then(|| part.parse().ok())?
    };
    if b.len() != 10 || b[4] != b'-' || b[7] != b'-' {
        return None;
    }
    let (year, month, day) = (digits(0, 4)?, digits(5, 7)?, digits(8, 10)?);
    let real = (1..=12).contains(&month) && (1..=month_days(year, month)).contains(&day);
    real.then_some((year, month, day))
}

/// `+01:30` in seconds.
fn offset_seconds(s: &str) -> Option<i64> {
    let b = s.as_bytes();
    if b.len() != 6 || !s.is_ascii() || b[3] != b':' {
        return None;
    }
    let (h, m): (i64, i64) = (s[1..3].parse().ok()?, s[4..6].parse().ok()?);
    let sign = match b[0] {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    (h < 24 && m < 60).then_some(sign * (h * 3_600 + m * 60))
}

fn loose_offset(s: &str) -> Option<i64> {
    let (h, m) = s.split_once(':')?;
    let (hours, minutes): (i64, i64) = (h.parse().ok()?, m.parse().ok()?);
    let sign = if h.starts_with('-') { -1 } else { 1 };
    hours
        .checked_mul(3_600)?
        .checked_add(sign * minutes.checked_mul(60)?)
}

/// RFC 3339 with as many digits of the second as are needed.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = Civil::of(self.seconds + i64::from(self.offset));
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
            c.year, c.month, c.day, c.hour, c.minute, c.second
        )?;
        if self.nanos > 0 {
            let fraction = format!("{:09}", self.nanos);
            write!(f, ".{}", fraction.trim_end_matches('0'))?;
        }
        if self.offset == 0 {
            return f.write_str("Z");
        }
        let (sign, minutes) = (
            if self.offset < 0 { '-' } else { '+' },
            self.offset.abs() / 60,
        );
        write!(f, "{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }
}
