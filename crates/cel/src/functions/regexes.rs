//! Regular expressions, of a bounded size.

use regex::{Regex, RegexBuilder};

use crate::error::EvalError;
use crate::eval::Evaluated;
use crate::value::Value;

/// The largest compiled expression, in bytes.
const MAX_COMPILED: usize = 1024 * 1024;

/// Compiles RE2 syntax.
pub(crate) fn compile(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern)
        .size_limit(MAX_COMPILED)
        .dfa_size_limit(MAX_COMPILED)
        .build()
        .map_err(|e| {
            // the last line says why, those before draw where
            let why = e.to_string();
            why.lines()
                .last()
                .unwrap_or(&why)
                .trim_start_matches("error: ")
                .to_string()
        })
}

pub(super) fn matches<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::String(s), Value::String(pattern)] = args else {
        return Err(EvalError::no_overload());
    };
    let regex = compile(pattern.as_str())
        .map_err(|e| EvalError::new(format!("error parsing regexp: {e}")))?;
    Ok(Value::Bool(regex.is_match(s.as_str())))
}

fn illegal(e: String) -> EvalError {
    EvalError::new(format!("Illegal regex: {e}"))
}

pub(super) fn find<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::String(s), Value::String(pattern)] = args else {
        return Err(EvalError::no_overload());
    };
    let regex = compile(pattern.as_str()).map_err(illegal)?;
    Ok(Value::string(
        regex.find(s.as_str()).map_or("", |m| m.as_str()),
    ))
}

pub(super) fn find_all<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (s, pattern, limit) = match args {
        [Value::String(s), Value::String(p)] => (s, p, -1),
        [Value::String(s), Value::String(p), Value::Int(n)] => (s, p, *n),
        _ => return Err(EvalError::no_overload()),
    };
    let regex = compile(pattern.as_str()).map_err(illegal)?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    Ok(Value::list(
        regex
            .find_iter(s.as_str())
            .take(limit)
            .map(|m| Value::string(m.as_str()))
            .collect(),
    ))
}
