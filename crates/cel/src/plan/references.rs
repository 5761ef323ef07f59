//! Which variables and fields an expression uses.

use crate::ast::{Expr, Kind, Literal, op};
use crate::env::Names;

/// The paths of fields from variables that an expression uses.
pub(crate) fn references(e: &Expr, names: &Names) -> Vec<Vec<String>> {
    let mut out = Vec::new();
    collect(e, names, &mut Vec::new(), &mut out);
    out.sort();
    out.dedup();
    out
}

fn path_of(e: &Expr) -> Option<Vec<String>> {
    match &e.kind {
        Kind::Ident(n) => Some(vec![n.clone()]),
        Kind::Select { operand, field, .. } => {
            let mut path = path_of(operand)?;
            path.push(field.clone());
            Some(path)
        }
        Kind::Call { function, args, .. } if function == op::OPT_SELECT => match args.as_slice() {
            [
                operand,
                Expr {
                    kind: Kind::Literal(Literal::String(field)),
                    ..
                },
            ] => {
                let mut path = path_of(operand)?;
                path.push(field.clone());
                Some(path)
            }
            _ => None,
        },
        _ => None,
    }
}

fn collect(e: &Expr, names: &Names, locals: &mut Vec<String>, out: &mut Vec<Vec<String>>) {
    if let Some(path) = path_of(e) {
        let local = locals.iter().any(|l| path.first() == Some(l));
        if !local && path.first().is_some_and(|n| names.variable(n).is_some()) {
            out.push(path);
        }
        return;
    }
    match &e.kind {
        Kind::Literal(_) | Kind::Ident(_) => {}
        Kind::Select { operand, .. } => collect(operand, names, locals, out),
        Kind::Call { target, args, .. } => {
            target
                .iter()
                .map(|t| &**t)
                .chain(args)
                .for_each(|a| collect(a, names, locals, out));
        }
        Kind::List { elems, .. } => elems.iter().for_each(|a| collect(a, names, locals, out)),
        Kind::Map(entries) => entries.iter().for_each(|a| {
            collect(&a.key, names, locals, out);
            collect(&a.value, names, locals, out);
        }),
        Kind::Struct { fields, .. } => fields
            .iter()
            .for_each(|f| collect(&f.value, names, locals, out)),
        Kind::Comprehension(c) => {
            collect(&c.range, names, locals, out);
            collect(&c.init, names, locals, out);
            let outside = locals.len();
            locals.push(c.accu.clone());
            locals.push(c.var.clone());
            locals.extend(c.var2.clone());
            collect(&c.condition, names, locals, out);
            collect(&c.step, names, locals, out);
            locals.truncate(outside + 1);
            collect(&c.result, names, locals, out);
            locals.truncate(outside);
        }
    }
}
