//! Which time is due, and when to look again: pure (`pkg/controller/cronjob/utils.go`).

use super::schedule::Schedule;
use crate::objects::meta::Seconds;

/// How many times nobody started a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// none
    None,
    /// some
    Few,
    /// more than [`MANY`]
    Many,
}

const MANY: i64 = 100;

/// What a CronJob's times come to.
#[derive(Debug, PartialEq, Eq)]
pub struct Recent {
    /// the time that was looked from
    pub earliest: Seconds,
    /// the newest time that is due
    pub due: Option<Seconds>,
    /// times passed over
    pub missed: Missed,
}

/// The newest time due at `now`, of those after `earliest`; Err when the schedule is never due.
pub fn recent(
    schedule: &Schedule,
    earliest: Seconds,
    now: Seconds,
) -> Result<Recent, &'static str> {
    const NEVER: &str = "time difference between two schedules is less than 1 second";
    let mut found = Recent {
        earliest,
        due: None,
        missed: Missed::None,
    };
    let first = schedule.next(earliest).ok_or(NEVER)?;
    if now < first {
        return Ok(found);
    }
    let second = schedule.next(first).ok_or(NEVER)?;
    if now < second {
        found.due = Some(first);
        return Ok(found);
    }
    let period = second - first;
    if period < 1 {
        return Err(NEVER);
    }
    // As many as would fit, were they all as far apart: the newest is near the last of them, or, on an uneven schedule, before a gap.
    let passed = (now - first) / period + 1;
    let mut back = 2;
    while found.due.is_none() {
        let mut at = first + (passed - back).max(0) * period;
        if at == first {
            found.due = Some(first);
        }
        while let Some(next) = schedule.next(at).filter(|t| *t <= now) {
            found.due = Some(next);
            at = next;
        }
        back *= 2;
    }
    found.missed = match passed {
        n if n > MANY => Missed::Many,
        n if n > 0 => Missed::Few,
        _ => Missed::None,
    };
    Ok(found)
}

/// When the next time after now is.
pub fn next(schedule: &Schedule, last: Seconds, now: Seconds) -> Option<Seconds> {
    let from = match recent(schedule, last, now) {
        Ok(r) => match (r.due, r.missed) {
            (Some(due), _) => due,
            (None, Missed::None) => r.earliest,
            (None, _) => now,
        },
        Err(_) => now,
    };
    schedule.next(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Seconds = 3600;
    // 2024-01-01T00:00:00Z, a Monday
    const START: Seconds = 1_704_067_200;

    #[test]
    fn what_is_due() {
        for (spec, now, want_due, missed) in [
            ("0 * * * *", HOUR - 1, None, Missed::None),
            ("0 * * * *", HOUR, Some(HOUR), Missed::None),
            ("0 * * * *", HOUR + 59, Some(HOUR), Missed::None),
            ("0 * * * *", 5 * HOUR + 1, Some(5 * HOUR), Missed::Few),
            ("0 * * * *", 200 * HOUR + 1, Some(200 * HOUR), Missed::Many),
            ("@every 2h", 5 * HOUR, Some(4 * HOUR), Missed::Few),
            // at 6 and 10 and 14 on weekdays: Saturday morning sees Friday's last
            (
                "0 6-16/4 * * 1-5",
                5 * 24 * HOUR + 8 * HOUR,
                Some(4 * 24 * HOUR + 14 * HOUR),
                Missed::Few,
            ),
        ] {
            let schedule = Schedule::parse(spec, None).unwrap();
            let got = recent(&schedule, START, START + now).unwrap();
            let due = got.due.map(|d| d - START);
            assert_eq!((due, got.missed), (want_due, missed), "{spec} {now}");
        }
        let never = Schedule::parse("59 23 31 2 *", None).unwrap();
        assert!(recent(&never, START, START + HOUR).is_err());
    }

    #[test]
    fn when_to_look_again() {
        let hourly = Schedule::parse("0 * * * *", None).unwrap();
        for (now, want) in [(0, 1), (1, 1), (HOUR, 2), (5 * HOUR + 1, 6)] {
            let got = next(&hourly, START, START + now).unwrap();
            assert_eq!((got - START) / HOUR, want, "{now}");
        }
    }
}
