//! Which function a call means, and which of its overloads.

use super::Checker;
use crate::ast::{Expr, Kind, Literal, op};
use crate::decls::Overload;
use crate::types::Type;
use crate::unify::Mapping;

impl Checker<'_> {
    #[inline(never)]
    pub(super) fn check_call(&mut self, e: &mut Expr) -> Type {
        let Kind::Call {
            function,
            target,
            args,
        } = &mut e.kind
        else {
            return Type::Error;
        };
        if function == op::OPT_SELECT {
            return self.check_optional_select(e);
        }
        let mut types = Vec::with_capacity(args.len() + 1);
        for a in args.iter_mut() {
            types.push(self.check(a));
        }
        let Some(receiver) = target else {
            return self.check_function(e, types);
        };
        // `ip.isCanonical(x)` is a function of that name, not a method of a variable `ip`
        let qualified = receiver.qualified_name().map(|q| format!("{q}.{function}"));
        if let Some(name) = qualified.filter(|q| self.function(q).is_some()) {
            *function = name;
            *target = None;
            return self.check_function(e, types);
        }
        let t = self.check(receiver);
        types.insert(0, t);
        self.check_method(e, types)
    }

    #[inline(never)]
    fn check_optional_select(&mut self, e: &mut Expr) -> Type {
        let id = e.id;
        let Kind::Call { args, .. } = &mut e.kind else {
            return Type::Error;
        };
        let [
            operand,
            Expr {
                kind: Kind::Literal(Literal::String(field)),
                ..
            },
        ] = args.as_mut_slice()
        else {
            self.report(id, "unsupported optional field selection".into());
            return self.set(id, Type::Error);
        };
        let t = self.check_field(id, operand, field, true);
        self.overloads[id as usize] = vec!["select_optional_field"];
        let t = self.resolved(&t);
        self.set(id, t)
    }

    #[inline(never)]
    fn check_function(&mut self, e: &mut Expr, types: Vec<Type>) -> Type {
        let id = e.id;
        let Kind::Call { function, args, .. } = &mut e.kind else {
            return Type::Error;
        };
        let Some(overloads) = self.function(function) else {
            let name = function.clone();
            self.undeclared(id, &name);
            return self.set(id, Type::Error);
        };
        *function = function.trim_start_matches('.').to_string();
        let name = function.clone();
        self.resolve(id, &name, overloads, false, types, args)
    }

    #[inline(never)]
    fn check_method(&mut self, e: &mut Expr, types: Vec<Type>) -> Type {
        let id = e.id;
        let Kind::Call { function, args, .. } = &mut e.kind else {
            return Type::Error;
        };
        let name = function.clone();
        let Some(overloads) = self.function(&name) else {
            self.undeclared(id, &name);
            return self.set(id, Type::Error);
        };
        self.resolve(id, &name, overloads, true, types, args)
    }

    fn resolve(
        &mut self,
        id: u32,
        name: &str,
        overloads: &'static [Overload],
        member: bool,
        types: Vec<Type>,
        args: &[Expr],
    ) -> Type {
        if name == op::AND || name == op::OR {
            return self.check_logic(id, name, &types, args);
        }
        let mut result: Option<Type> = None;
        for o in overloads
            .iter()
            .filter(|o| o.member == member && o.args.len() == types.len())
        {
            let (wanted, returned) = if o.generic {
                self.instantiate(o)
            } else {
                (o.args.clone(), o.result.clone())
            };
            if !self.mapping.all_assignable(&types, &wanted) {
                continue;
            }
            self.overloads[id as usize].push(o.id);
            let t = self.resolved(&returned);
            result = Some(match result {
                None => t,
                Some(before) if matches!(before, Type::Dyn) || t.same(&before) => before,
                Some(_) => Type::Dyn,
            });
        }
        let t = match result {
            Some(t) => t,
            None => {
                let shown: Vec<String> = types
                    .iter()
                    .map(|t| self.mapping.substitute(t, true).to_string())
                    .collect();
                let signature = match shown.split_first() {
                    Some((target, rest)) if member => format!("{target}.({})", rest.join(", ")),
                    _ => format!("({})", shown.join(", ")),
                };
                self.report(
                    id,
                    format!("found no matching overload for '{name}' applied to '{signature}'"),
                );
                Type::Error
            }
        };
        self.set(id, t)
    }

    fn check_logic(&mut self, id: u32, name: &str, types: &[Type], args: &[Expr]) -> Type {
        self.overloads[id as usize] = vec![if name == op::AND {
            "logical_and"
        } else {
            "logical_or"
        }];
        let mut ok = true;
        for (t, a) in types.iter().zip(args) {
            if !self.mapping.assignable(t, &Type::Bool) {
                self.mismatch(a.id, &Type::Bool, t);
                ok = false;
            }
        }
        self.set(id, if ok { Type::Bool } else { Type::Error })
    }

    /// The overload's types with variables of their own.
    fn instantiate(&mut self, o: &Overload) -> (Vec<Type>, Type) {
        let mut fresh = Mapping::default();
        let mut names = Vec::new();
        o.args
            .iter()
            .chain([&o.result])
            .for_each(|t| variables(t, &mut names));
        for v in names {
            let var = self.new_var();
            fresh.add(&v, var);
        }
        (
            o.args.iter().map(|t| fresh.substitute(t, false)).collect(),
            fresh.substitute(&o.result, false),
        )
    }
}

fn variables(t: &Type, out: &mut Vec<Type>) {
    if matches!(t, Type::Param(_)) && !out.iter().any(|o| o.same(t)) {
        out.push(t.clone());
    }
    t.params().into_iter().for_each(|p| variables(p, out));
}
