//! Checks of literals that types cannot make: durations, timestamps, regular expressions, and one type for all elements.

use crate::ast::{Expr, Kind, Literal, Positions};
use crate::check::Checked;
use crate::functions;
use crate::issue::{Issue, Source};
use crate::types::Type;
use crate::value::Value;

/// The issues of all literals in a checked tree.
pub(crate) fn validate(
    e: &Expr,
    checked: &Checked,
    positions: &Positions,
    text: &str,
) -> Result<(), Vec<Issue>> {
    let mut v = Validator {
        checked,
        positions,
        source: Source { text },
        issues: Vec::new(),
    };
    v.see(e);
    if v.issues.is_empty() {
        Ok(())
    } else {
        Err(v.issues)
    }
}

struct Validator<'a> {
    checked: &'a Checked,
    positions: &'a Positions,
    source: Source<'a>,
    issues: Vec<Issue>,
}

impl Validator<'_> {
    fn report(&mut self, e: &Expr, message: String) {
        let issue = self.source.issue(self.positions.of(e.id), message);
        self.issues.push(issue);
    }

    fn see(&mut self, e: &Expr) {
        match &e.kind {
            Kind::Literal(_) | Kind::Ident(_) => {}
            Kind::Select { operand, .. } => self.see(operand),
            Kind::Call {
                function,
                target,
                args,
            } => {
                if let Some(arg) = args.first()
                    && let Kind::Literal(l) = &arg.kind
                    && !valid(function, l)
                {
                    self.report(arg, format!("invalid {function} argument"));
                }
                target
                    .iter()
                    .map(|t| &**t)
                    .chain(args)
                    .for_each(|a| self.see(a));
            }
            Kind::List { elems, optional } => {
                let types: Vec<(&Expr, bool)> =
                    elems.iter().zip(optional.iter().copied()).collect();
                self.same_type(&types);
                elems.iter().for_each(|x| self.see(x));
            }
            Kind::Map(entries) => {
                let keys: Vec<(&Expr, bool)> = entries.iter().map(|x| (&x.key, false)).collect();
                let values: Vec<(&Expr, bool)> =
                    entries.iter().map(|x| (&x.value, x.optional)).collect();
                self.same_type(&keys);
                self.same_type(&values);
                for x in entries {
                    self.see(&x.key);
                    self.see(&x.value);
                }
            }
            Kind::Struct { fields, .. } => fields.iter().for_each(|f| self.see(&f.value)),
            Kind::Comprehension(c) => {
                [&c.range, &c.init, &c.condition, &c.step, &c.result]
                    .into_iter()
                    .for_each(|x| self.see(x));
            }
        }
    }

    fn same_type(&mut self, elems: &[(&Expr, bool)]) {
        let mut first: Option<Type> = None;
        for (e, optional) in elems {
            let t = match (self.checked.ty(e), optional) {
                (Type::Optional(of), true) => (**of).clone(),
                (t, _) => t.clone(),
            };
            match &first {
                None => first = Some(t),
                Some(of) if of.same(&t) => {}
                Some(of) => {
                    let message = format!("expected type '{of}' but found '{t}'");
                    self.report(e, message);
                    return;
                }
            }
        }
    }
}

fn valid(function: &str, l: &Literal) -> bool {
    let Literal::String(s) = l else { return true };
    match function {
        "duration" | "timestamp" => {
            functions::find(function).is_none_or(|f| f(&[Value::string(s.as_str())]).is_ok())
        }
        "matches" => functions::regexes::compile(s).is_ok(),
        _ => true,
    }
}
