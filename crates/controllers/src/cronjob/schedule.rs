//! Cron's five fields, its `@` words and time zones, as upstream's library reads them (`robfig/cron/v3`, `ParseStandard`).

use jiff::{
    SignedDuration, Timestamp, ToSpan,
    civil::{Date, DateTime},
    tz::TimeZone,
};

use crate::objects::meta::Seconds;

/// Why a schedule can't be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// not five fields
    #[error("expected exactly 5 fields, found {0}: [{1}]")]
    Fields(usize, String),
    /// one of the fields
    #[error(
        "failed to parse field {0:?}: it takes numbers from {1} to {2}, ranges, lists and steps"
    )]
    Field(String, u32, u32),
    /// an unknown word after `@`
    #[error("unrecognized descriptor: {0}")]
    Descriptor(String),
    /// not a zone
    #[error("provided bad location {0}: {1}")]
    Zone(String, String),
}

/// When jobs are due.
#[derive(Debug, Clone)]
pub enum Schedule {
    /// at wall clock times
    Clock(Box<Clock>),
    /// `@every`: this many s after the last
    Every(i64),
}

/// Bits of each field's values; the zone that the clock is in.
#[derive(Debug, Clone)]
pub struct Clock {
    minute: u64,
    hour: u64,
    day: Field,
    month: u64,
    weekday: Field,
    zone: TimeZone,
}

#[derive(Debug, Clone, Copy)]
struct Field {
    bits: u64,
    /// `*` or `?`: the other day field decides alone
    any: bool,
}

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// A schedule that isn't due within this never is.
const YEARS_AHEAD: i16 = 5;

/// A zone of the IANA database; "" and UTC are UTC.
pub fn zone(name: &str) -> Result<TimeZone, Error> {
    if name.is_empty() || name == "UTC" {
        return Ok(TimeZone::UTC);
    }
    TimeZone::get(name).map_err(|e| Error::Zone(name.into(), e.to_string()))
}

impl Schedule {
    /// `time_zone` counts unless the text names its own (`TZ=…`).
    pub fn parse(text: &str, time_zone: Option<&str>) -> Result<Schedule, Error> {
        let mut spec = text.trim();
        let mut zone_name = time_zone.unwrap_or("");
        for prefix in ["TZ=", "CRON_TZ="] {
            if let Some((name, rest)) = spec.strip_prefix(prefix).and_then(|r| r.split_once(' ')) {
                zone_name = name;
                spec = rest.trim();
            }
        }
        let zone = zone(zone_name)?;
        let fields = match spec {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            _ => match spec.strip_prefix("@every ").and_then(duration_s) {
                Some(s) => return Ok(Schedule::Every(s.max(1))),
                None if spec.starts_with('@') => {
                    return Err(Error::Descriptor(spec.into()));
                }
                None => spec,
            },
        };
        let all: Vec<&str> = fields.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = all[..] else {
            return Err(Error::Fields(all.len(), all.join(" ")));
        };
        Ok(Schedule::Clock(Box::new(Clock {
            minute: field(minute, 0, 59, &[])?.bits,
            hour: field(hour, 0, 23, &[])?.bits,
            day: field(day, 1, 31, &[])?,
            month: field(month, 1, 12, &MONTHS)?.bits,
            weekday: field(weekday, 0, 6, &DAYS)?,
            zone,
        })))
    }
    /// The first time due after `after`; None when there is none for years.
    pub fn next(&self, after: Seconds) -> Option<Seconds> {
        match self {
            Schedule::Every(s) => after.checked_add(*s),
            Schedule::Clock(c) => c.next(Timestamp::from_second(after).ok()?),
        }
    }
}

fn field(text: &str, min: u32, max: u32, names: &[&str]) -> Result<Field, Error> {
    let wrong = || Error::Field(text.into(), min, max);
    let number = |t: &str| -> Option<u32> {
        match names.iter().position(|n| n.eq_ignore_ascii_case(t)) {
            Some(i) => Some(i as u32 + min),
            None => t.parse().ok(),
        }
    };
    let mut out = Field {
        bits: 0,
        any: false,
    };
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let (range, step) = match part.split_once('/') {
            Some((r, s)) => (r, Some(s.parse::<u32>().map_err(|_| wrong())?)),
            None => (part, None),
        };
        let (from, to) = match range.split_once('-') {
            _ if matches!(range, "*" | "?") => {
                out.any |= step.is_none_or(|s| s <= 1);
                (min, max)
            }
            Some((a, b)) => (number(a).ok_or_else(wrong)?, number(b).ok_or_else(wrong)?),
            None => {
                let a = number(range).ok_or_else(wrong)?;
                (a, if step.is_some() { max } else { a })
            }
        };
        let step = step.unwrap_or(1);
        if from < min || to > max || from > to || step == 0 {
            return Err(wrong());
        }
        for value in (from..=to).step_by(step as usize) {
            out.bits |= 1 << value;
        }
    }
    match out.bits {
        0 => Err(wrong()),
        _ => Ok(out),
    }
}

/// Go's durations: `1h30m`, `90s`; fractions of a second are dropped.
fn duration_s(text: &str) -> Option<i64> {
    let mut rest = text.trim();
    let mut total = 0.0f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    (total < i32::MAX as f64).then_some(total as i64)
}

impl Clock {
    fn at(&self, wall: DateTime) -> Option<Timestamp> {
        self.zone.to_timestamp(wall).ok()
    }
    fn wall(&self, t: Timestamp) -> DateTime {
        self.zone.to_datetime(t)
    }
    fn on_day(&self, date: Date) -> bool {
        let day = self.day.bits & (1 << date.day()) != 0;
        let weekday = self.weekday.bits & (1 << date.weekday().to_sunday_zero_offset()) != 0;
        match self.day.any || self.weekday.any {
            true => day && weekday,
            false => day || weekday,
        }
    }
    /// Like the hands of a clock, the coarsest first; a change of one sets the finer ones to their start. An hour that the clock skips is never due, one that it repeats is due twice.
    fn next(&self, after: Timestamp) -> Option<Seconds> {
        let second = SignedDuration::from_secs(1);
        let mut t = after.checked_add(second).ok()?;
        let limit = self.wall(t).year().saturating_add(YEARS_AHEAD);
        'wrap: loop {
            let mut w = self.wall(t);
            if w.year() > limit {
                return None;
            }
            if self.month & (1 << w.month()) == 0 {
                let first = w.date().first_of_month().checked_add(1.month()).ok()?;
                t = self.at(first.at(0, 0, 0, 0))?;
                continue 'wrap;
            }
            if !self.on_day(w.date()) {
                t = self.at(w.date().tomorrow().ok()?.at(0, 0, 0, 0))?;
                continue 'wrap;
            }
            // from here on in time that passes, not as the clock shows
            let hour_start = t.checked_sub(SignedDuration::from_secs(
                i64::from(w.minute()) * 60 + i64::from(w.second()),
            ));
            if self.hour & (1 << w.hour()) == 0 {
                t = hour_start
                    .ok()?
                    .checked_add(SignedDuration::from_hours(1))
                    .ok()?;
                continue 'wrap;
            }
            while self.minute & (1 << w.minute()) == 0 || w.second() != 0 {
                let left = 60 - i64::from(w.second());
                t = t.checked_add(SignedDuration::from_secs(left)).ok()?;
                w = self.wall(t);
                if w.minute() == 0 {
                    continue 'wrap;
                }
            }
            return Some(t.as_second());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> Seconds {
        text.parse::<Timestamp>().unwrap().as_second()
    }
    fn shown(s: Option<Seconds>) -> String {
        s.map_or("never".into(), |s| {
            Timestamp::from_second(s).unwrap().to_string()
        })
    }

    #[test]
    fn next_times() {
        for (spec, zone, after, want) in [
            (
                "* * * * *",
                "",
                "2024-01-01T00:00:00Z",
                "2024-01-01T00:01:00Z",
            ),
            (
                "* * * * *",
                "",
                "2024-01-01T00:00:59Z",
                "2024-01-01T00:01:00Z",
            ),
            (
                "*/15 * * * *",
                "",
                "2024-01-01T00:46:01Z",
                "2024-01-01T01:00:00Z",
            ),
            (
                "5 4 * * *",
                "",
                "2024-02-28T04:05:00Z",
                "2024-02-29T04:05:00Z",
            ),
            (
                "0 0 31 * *",
                "",
                "2024-04-01T00:00:00Z",
                "2024-05-31T00:00:00Z",
            ),
            ("59 23 31 2 *", "", "2024-01-01T00:00:00Z", "never"),
            (
                "0 0 29 feb ?",
                "",
                "2024-03-01T00:00:00Z",
                "2028-02-29T00:00:00Z",
            ),
            // either day when both are given, both when one is open
            (
                "0 0 13 * fri",
                "",
                "2024-01-01T00:00:00Z",
                "2024-01-05T00:00:00Z",
            ),
            (
                "0 0 */2 * fri",
                "",
                "2024-01-02T00:00:00Z",
                "2024-01-03T00:00:00Z",
            ),
            (
                "0 0 * * 1-5",
                "",
                "2024-01-05T00:00:00Z",
                "2024-01-08T00:00:00Z",
            ),
            (
                "@monthly",
                "",
                "2024-12-15T00:00:00Z",
                "2025-01-01T00:00:00Z",
            ),
            (
                "@every 1h30m",
                "",
                "2024-01-01T00:00:10Z",
                "2024-01-01T01:30:10Z",
            ),
            (
                "30 6-16/4 * * *",
                "",
                "2024-01-01T10:31:00Z",
                "2024-01-01T14:30:00Z",
            ),
            (
                "0 9 * * *",
                "Europe/Berlin",
                "2024-07-01T00:00:00Z",
                "2024-07-01T07:00:00Z",
            ),
            (
                "0 9 * * *",
                "Europe/Berlin",
                "2024-01-01T00:00:00Z",
                "2024-01-01T08:00:00Z",
            ),
            (
                "TZ=Asia/Tokyo 0 9 * * *",
                "",
                "2024-01-01T00:00:00Z",
                "2024-01-02T00:00:00Z",
            ),
            // the hour that the clock skips, and the one that it repeats
            (
                "30 2 * * *",
                "America/New_York",
                "2024-03-09T12:00:00Z",
                "2024-03-11T06:30:00Z",
            ),
            (
                "30 1 * * *",
                "America/New_York",
                "2024-11-03T05:00:00Z",
                "2024-11-03T05:30:00Z",
            ),
            (
                "30 1 * * *",
                "America/New_York",
                "2024-11-03T05:30:00Z",
                "2024-11-03T06:30:00Z",
            ),
        ] {
            let s = Schedule::parse(spec, Some(zone)).unwrap();
            assert_eq!(shown(s.next(seconds(after))), want, "{spec} {zone} {after}");
        }
    }

    #[test]
    fn refused() {
        for bad in [
            "",
            "* * * *",
            "60 * * * *",
            "* * 0 * *",
            "* * * * 7",
            "5-1 * * * *",
            "*/0 * * * *",
            "x * * * *",
            "@often",
            "@every soon",
            "TZ=Nowhere/City * * * * *",
        ] {
            assert!(Schedule::parse(bad, None).is_err(), "{bad}");
        }
    }
}
