//! Parts of timestamps and durations.

use super::Function;
use crate::error::EvalError;
use crate::eval::Evaluated;
use crate::value::Value;

pub(super) fn find(name: &str) -> Option<Function> {
    Some(match name {
        "getFullYear" => |a| part(a, |t, _| t.year().into(), None),
        "getMonth" => |a| part(a, |t, _| i64::from(t.month()) - 1, None),
        "getDate" => |a| part(a, |t, _| t.day().into(), None),
        "getDayOfMonth" => |a| part(a, |t, _| i64::from(t.day()) - 1, None),
        "getDayOfWeek" => |a| part(a, |t, _| t.weekday().to_sunday_zero_offset().into(), None),
        "getDayOfYear" => |a| part(a, |t, _| i64::from(t.day_of_year()) - 1, None),
        "getHours" => |a| part(a, |t, _| t.hour().into(), Some(|d| d / 3_600_000_000_000)),
        "getMinutes" => |a| part(a, |t, _| t.minute().into(), Some(|d| d / 60_000_000_000)),
        "getSeconds" => |a| part(a, |t, _| t.second().into(), Some(|d| d / 1_000_000_000)),
        "getMilliseconds" => |a| {
            part(
                a,
                |_, nanos| i64::from(nanos) / 1_000_000,
                Some(|d| d / 1_000_000),
            )
        },
        _ => return None,
    })
}

fn part<'a>(
    args: &[Value<'a>],
    of_time: fn(jiff::civil::DateTime, u32) -> i64,
    of_duration: Option<fn(i64) -> i64>,
) -> Evaluated<'a> {
    match (args, of_duration) {
        ([Value::Timestamp(t)], _) => Ok(Value::Int(of_time(t.civil(None)?, t.nanos))),
        ([Value::Timestamp(t), Value::String(zone)], _) => {
            Ok(Value::Int(of_time(t.civil(Some(zone.as_str()))?, t.nanos)))
        }
        ([Value::Duration(d)], Some(f)) => Ok(Value::Int(f(d.0))),
        _ => Err(EvalError::no_overload()),
    }
}
