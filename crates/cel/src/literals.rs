//! Checks of literals that types cannot make: durations, timestamps, regular expressions, and one type for all elements.

use crate::ast::{Expr, Kind, Literal, Positions};
use crate::check::Checked;
use crate::functions;
use crate::functions::formatting::{Piece, misfit, pieces};
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
        exempt: 0,
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
    /// Within the arguments of `format`, which may be of any types.
    exempt: usize,
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
                let exempt = usize::from(function == "format");
                if let (1, Some(target), [args]) = (exempt, target, args.as_slice()) {
                    self.format(e, target, args);
                }
                self.exempt += exempt;
                if let Some(t) = target {
                    self.see(t);
                }
                for a in args {
                    self.see(a);
                }
                self.exempt -= exempt;
            }
            Kind::List { elems, optional } => {
                let types: Vec<(&Expr, bool)> =
                    elems.iter().zip(optional.iter().copied()).collect();
                self.same_type(&types, true);
                for x in elems {
                    self.see(x);
                }
            }
            Kind::Map(entries) => {
                let keys: Vec<(&Expr, bool)> = entries.iter().map(|x| (&x.key, false)).collect();
                let values: Vec<(&Expr, bool)> =
                    entries.iter().map(|x| (&x.value, x.optional)).collect();
                self.same_type(&keys, false);
                self.same_type(&values, false);
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

    /// A literal format with literal arguments: whether they fit.
    fn format(&mut self, e: &Expr, format: &Expr, args: &Expr) {
        let (Kind::Literal(Literal::String(format)), Kind::List { elems, .. }) =
            (&format.kind, &args.kind)
        else {
            return;
        };
        let pieces = match pieces(format, elems.len()) {
            Ok(p) => p,
            Err(why) => return self.report(e, why),
        };
        let clauses: Vec<char> = pieces
            .iter()
            .filter_map(|p| match p {
                Piece::Clause(c) => Some(c.kind),
                Piece::Text(_) => None,
            })
            .collect();
        for (kind, arg) in clauses.iter().zip(elems) {
            if let Some(bad) = self.misfit(*kind, arg) {
                let given = self.checked.ty(bad).name().to_string();
                let why = format!("error during formatting: {}", misfit(*kind, &given));
                return self.report(bad, why);
            }
        }
        if elems.len() > clauses.len() {
            self.report(
                e,
                format!(
                    "too many arguments supplied to string.format (expected {}, got {})",
                    clauses.len(),
                    elems.len()
                ),
            );
        }
    }

    /// The expression whose type does not fit the clause.
    fn misfit<'e>(&self, kind: char, arg: &'e Expr) -> Option<&'e Expr> {
        let t = self.checked.ty(arg);
        let fits = match kind {
            _ if matches!(t, Type::Dyn) => true,
            'd' | 'o' => matches!(t, Type::Int | Type::Uint),
            'f' | 'e' => matches!(t, Type::Double | Type::String),
            'b' => matches!(t, Type::Int | Type::Uint | Type::Bool),
            'x' | 'X' => matches!(t, Type::Int | Type::Uint | Type::String | Type::Bytes),
            _ => !matches!(t, Type::Object(_) | Type::Opaque(_) | Type::Optional(_)),
        };
        if !fits {
            return Some(arg);
        }
        match &arg.kind {
            Kind::List { elems, .. } if kind == 's' => {
                elems.iter().find_map(|x| self.misfit(kind, x))
            }
            Kind::Map(entries) if kind == 's' => entries.iter().find_map(|x| {
                self.misfit(kind, &x.key)
                    .or_else(|| self.misfit(kind, &x.value))
            }),
            _ => None,
        }
    }

    /// Complains of elements of another type than the first; of lists about one only.
    fn same_type(&mut self, elems: &[(&Expr, bool)], once: bool) {
        if self.exempt > 0 {
            return;
        }
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
                    if once {
                        return;
                    }
                }
            }
        }
    }
}

fn valid(function: &str, l: &Literal) -> bool {
    let call = |v: Value<'static>| functions::find(function).is_none_or(|f| f(&[v]).is_ok());
    match (function, l) {
        ("duration" | "timestamp", Literal::String(s)) => call(Value::string(s.as_str())),
        ("duration" | "timestamp", Literal::Int(i)) => call(Value::Int(*i)),
        ("matches", Literal::String(s)) => functions::regexes::compile(s).is_ok(),
        _ => true,
    }
}
