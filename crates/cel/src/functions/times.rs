//! Parts of timestamps and durations.

use super::Function;
use crate::error::EvalError;
use crate::eval::Evaluated;
use crate::time::Civil;
use crate::value::Value;

pub(super) fn find(name: &str) -> Option<Function> {
    Some(match name {
        "getFullYear" => |a| part(a, |t, _| t.year, None),
        "getMonth" => |a| part(a, |t, _| t.month - 1, None),
        "getDate" => |a| part(a, |t, _| t.day, None),
        "getDayOfMonth" => |a| part(a, |t, _| t.day - 1, None),
        "getDayOfWeek" => |a| part(a, |t, _| t.weekday, None),
        "getDayOfYear" => |a| part(a, |t, _| t.day_of_year, None),
        "getHours" => |a| part(a, |t, _| t.hour, Some(|d| d / 3_600_000_000_000)),
        "getMinutes" => |a| part(a, |t, _| t.minute, Some(|d| d / 60_000_000_000)),
        "getSeconds" => |a| part(a, |t, _| t.second, Some(|d| d / 1_000_000_000)),
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
    of_time: fn(Civil, u32) -> i64,
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
