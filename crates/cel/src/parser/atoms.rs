//! What expressions are made of: literals, names, calls, lists, maps and messages.

use super::{EXPECTED_ARGS, EXPECTED_EXPR, Parsed, Parser, RESERVED, Stop, is_field};
use crate::ast::{Entry, Expr, FieldInit, Kind, Literal};
use crate::lexer::{Tok, Token};
use crate::{macros, unescape};

impl<'s> Parser<'s> {
    pub(super) fn starts_expr(&self) -> bool {
        match self.peek().tok {
            Tok::Punct(p) => matches!(p, "[" | "{" | "(" | "." | "-" | "!"),
            Tok::Ident => self.peek().text != "in",
            Tok::Eof | Tok::Escaped => false,
            _ => true,
        }
    }

    pub(super) fn primary(&mut self) -> Parsed<Expr> {
        if !self.starts_expr() {
            self.no_expr()?;
        }
        let t = self.take();
        match t.tok {
            Tok::Punct("(") => {
                let e = self.expr()?;
                self.expect(")")?;
                Ok(e)
            }
            Tok::Punct("[") => self.list_literal(t.at),
            Tok::Punct("{") => self.map_literal(t.at),
            Tok::Ident if self.is("(") => self.function(t, ""),
            Tok::Ident => self.ident(&t, false),
            _ => self.literal(&t),
        }
    }

    /// Reports that no expression starts here. One token too many is passed over.
    #[inline(never)]
    fn no_expr(&mut self) -> Parsed<()> {
        let t = self.peek().clone();
        if t.tok != Tok::Eof {
            self.next += 1;
            if self.starts_expr() {
                let message = format!("extraneous input '{}' expecting {EXPECTED_EXPR}", t.text);
                let Stop = self.syntax(&t, message);
                return Ok(());
            }
            self.next -= 1;
        }
        let message = format!("mismatched input '{}' expecting {EXPECTED_EXPR}", t.text);
        Err(self.syntax(&t, message))
    }

    #[inline(never)]
    fn literal(&mut self, t: &Token<'s>) -> Parsed<Expr> {
        match t.tok {
            Tok::Punct("-") => {
                let number = self.take();
                self.number(&number, "-", t.at)
            }
            Tok::Punct(_) => {
                let id = self.take();
                if id.tok != Tok::Ident {
                    let message = format!("no viable alternative at input '.{}'", id.text);
                    return Err(self.syntax(&id, message));
                }
                if self.is("(") {
                    return self.function(id, ".");
                }
                self.ident(&id, true)
            }
            Tok::Int | Tok::Uint | Tok::Float => self.number(t, "", t.at),
            Tok::Str | Tok::Bytes => Ok(self.quoted(t)),
            Tok::Ident | Tok::Escaped | Tok::Eof => Err(Stop),
        }
    }

    #[inline(never)]
    fn number(&mut self, t: &Token<'s>, sign: &str, at: u32) -> Parsed<Expr> {
        let text = t.text.trim_end_matches(if t.tok == Tok::Uint {
            &['u', 'U'][..]
        } else {
            &[]
        });
        let (radix, digits) = match text.strip_prefix("0x") {
            Some(hex) => (16, hex),
            None => (10, text),
        };
        let literal = match t.tok {
            Tok::Int => i64::from_str_radix(&format!("{sign}{digits}"), radix)
                .ok()
                .map(Literal::Int),
            Tok::Uint => u64::from_str_radix(digits, radix).ok().map(Literal::Uint),
            Tok::Float => format!("{sign}{text}")
                .parse()
                .ok()
                .filter(|f: &f64| f.is_finite())
                .map(Literal::Double),
            _ => {
                return Err(self.syntax(
                    t,
                    format!("mismatched input '{}' expecting {EXPECTED_EXPR}", t.text),
                ));
            }
        };
        Ok(match literal {
            Some(l) => self.node(at, Kind::Literal(l)),
            None => {
                let kind = match t.tok {
                    Tok::Int => "int",
                    Tok::Uint => "uint",
                    _ => "double",
                };
                self.error(at, format!("invalid {kind} literal"))
            }
        })
    }

    #[inline(never)]
    fn quoted(&mut self, t: &Token<'s>) -> Expr {
        let bytes = t.tok == Tok::Bytes;
        let text = if bytes { &t.text[1..] } else { t.text };
        match unescape::unquote(text, bytes) {
            Ok(value) if bytes => self.node(t.at, Kind::Literal(Literal::Bytes(value))),
            Ok(value) => {
                // the token was text and its escapes are code points, so this loses nothing
                let text = String::from_utf8_lossy(&value).into_owned();
                self.node(t.at, Kind::Literal(Literal::String(text)))
            }
            Err(why) => self.error(t.at, why),
        }
    }

    fn list_literal(&mut self, at: u32) -> Parsed<Expr> {
        let id = self.positions.new_id(at);
        let (mut elems, mut optional) = (Vec::new(), Vec::new());
        while !self.is("]") {
            if elems.is_empty() && self.accept(",").is_some() {
                break;
            }
            optional.push(self.accept("?").is_some());
            elems.push(self.expr()?);
            if self.accept(",").is_none() || !(self.starts_expr() || self.is("?")) {
                break;
            }
        }
        self.expect("]")?;
        Ok(Expr {
            id,
            kind: Kind::List { elems, optional },
        })
    }

    fn map_literal(&mut self, at: u32) -> Parsed<Expr> {
        let id = self.positions.new_id(at);
        let mut entries = Vec::new();
        while !self.is("}") {
            if entries.is_empty() && self.accept(",").is_some() {
                break;
            }
            let optional = self.accept("?").is_some();
            let key = self.expr()?;
            self.expect(":")?;
            let value = self.expr()?;
            entries.push(Entry {
                key,
                value,
                optional,
            });
            if self.accept(",").is_none() {
                break;
            }
        }
        self.expect("}")?;
        Ok(Expr {
            id,
            kind: Kind::Map(entries),
        })
    }

    #[inline(never)]
    fn function(&mut self, name: Token<'s>, dot: &str) -> Parsed<Expr> {
        if dot.is_empty() && matches!(name.text, "true" | "false" | "null") {
            return self.ident(&name, false);
        }
        let at = self.take().at;
        let args = self.list_until(")", EXPECTED_ARGS)?;
        Ok(self.called(name, dot, at, args))
    }

    #[inline(never)]
    fn called(&mut self, name: Token<'s>, dot: &str, at: u32, args: Vec<Expr>) -> Expr {
        if RESERVED.contains(&name.text) {
            return self.error(name.at, format!("reserved identifier: {}", name.text));
        }
        macros::expand(self, at, &format!("{dot}{}", name.text), None, args)
    }

    #[inline(never)]
    fn ident(&mut self, t: &Token<'s>, leading_dot: bool) -> Parsed<Expr> {
        let literal = match t.text {
            "true" => Some(Literal::Bool(true)),
            "false" => Some(Literal::Bool(false)),
            "null" => Some(Literal::Null),
            _ => None,
        };
        if let Some(l) = literal.filter(|_| !leading_dot) {
            return Ok(self.node(t.at, Kind::Literal(l)));
        }
        let dot = if leading_dot { "." } else { "" };
        if let Some(names) = self.message_name() {
            let mut name = format!("{dot}{}", t.text);
            for _ in 0..names {
                self.take();
                name = format!("{name}.{}", self.take().text);
            }
            return self.message(name);
        }
        if RESERVED.contains(&t.text) {
            return Ok(self.error(t.at, format!("reserved identifier: {}", t.text)));
        }
        Ok(self.node(t.at, Kind::Ident(format!("{dot}{}", t.text))))
    }

    /// If `.b.c{` follows, the number of further names.
    fn message_name(&self) -> Option<usize> {
        let mut ahead = 0;
        loop {
            if self.is_at(ahead, "{") {
                return Some(ahead / 2);
            }
            let ident =
                matches!(self.tokens.get(self.next + ahead + 1), Some(t) if t.tok == Tok::Ident);
            if !self.is_at(ahead, ".") || !ident {
                return None;
            }
            ahead += 2;
        }
    }

    fn message(&mut self, name: String) -> Parsed<Expr> {
        let at = self.take().at;
        let id = self.positions.new_id(at);
        let mut fields = Vec::new();
        while !self.is("}") {
            if fields.is_empty() && self.accept(",").is_some() {
                break;
            }
            let mut field = self.initializer()?;
            field.value = self.expr()?;
            fields.push(field);
            if self.accept(",").is_none() {
                break;
            }
        }
        self.expect("}")?;
        Ok(Expr {
            id,
            kind: Kind::Struct { name, fields },
        })
    }

    /// `?name:` of a field; its value is not read yet.
    #[inline(never)]
    fn initializer(&mut self) -> Parsed<FieldInit> {
        let optional = self.accept("?").is_some();
        let t = self.take();
        if t.tok == Tok::Escaped {
            self.error(t.at, "unsupported syntax: '`'");
        } else if !is_field(&t) {
            let expected = "{'}', ',', '?', IDENTIFIER, ESC_IDENTIFIER}";
            let message = format!("mismatched input '{}' expecting {expected}", t.text);
            return Err(self.syntax(&t, message));
        }
        let colon = self.expect(":")?;
        let id = self.positions.new_id(colon);
        let value = Expr {
            id,
            kind: Kind::Literal(Literal::Null),
        };
        Ok(FieldInit {
            id,
            name: t.text.to_string(),
            value,
            optional,
        })
    }
}
