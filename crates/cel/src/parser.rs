//! Tokens to the syntax tree: recursive descent with cel-go's limits.

use crate::ast::{Entry, Expr, FieldInit, Kind, Literal, Positions, op};
use crate::issue::{Issue, Source};
use crate::lexer::{Tok, Token, tokens};
use crate::{macros, unescape};

/// The longest expression, in code points.
pub(crate) const MAX_CODE_POINTS: usize = 100_000;

/// How deep any one rule of the grammar may nest in itself.
const MAX_DEPTH: u16 = 250;

/// How deep the finished tree may be. Below it no walk over the tree can exhaust a thread's stack.
const MAX_TREE_DEPTH: usize = 400;

const RESERVED: [&str; 21] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "package",
    "namespace",
    "null",
    "return",
    "true",
    "var",
    "void",
    "while",
];

const EXPECTED_EXPR: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";
const EXPECTED_ARGS: &str = "{'[', '{', '(', ')', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

/// The grammar's rules that can nest in themselves.
#[derive(Clone, Copy)]
enum Rule {
    Expr,
    Relation,
    Calc,
    Member,
}

pub(crate) struct Parser<'s> {
    source: Source<'s>,
    tokens: Vec<Token<'s>>,
    next: usize,
    pub positions: Positions,
    depth: [u16; 4],
    pub issues: Vec<Issue>,
}

/// Parsing stopped; why is in `issues`.
pub(crate) struct Stop;

type Parsed<T> = Result<T, Stop>;

/// The tree and its places, or what is wrong with the text.
pub(crate) fn parse(text: &str) -> Result<(Expr, Positions), Vec<Issue>> {
    let size = text.chars().count();
    if size > MAX_CODE_POINTS {
        return Err(vec![Source::unplaced(format!(
            "expression code point size exceeds limit: size: {size}, limit {MAX_CODE_POINTS}"
        ))]);
    }
    let (tokens, issues) = tokens(text);
    let positions = Positions(vec![0]);
    let mut p = Parser {
        source: Source { text },
        tokens,
        next: 0,
        positions,
        depth: [0; 4],
        issues,
    };
    let parsed = p.whole();
    match parsed {
        Ok(e) if p.issues.is_empty() => Ok((e, p.positions)),
        _ => Err(p.issues),
    }
}

impl<'s> Parser<'s> {
    fn whole(&mut self) -> Parsed<Expr> {
        let e = self.expr()?;
        if self.peek().tok != Tok::Eof {
            let t = self.peek().clone();
            let what = if self
                .tokens
                .get(self.next + 1)
                .is_none_or(|n| n.tok == Tok::Eof)
            {
                "extraneous"
            } else {
                "mismatched"
            };
            return Err(self.syntax(&t, format!("{what} input '{}' expecting <EOF>", t.text)));
        }
        if tree_depth(&e, MAX_TREE_DEPTH) == 0 {
            return Err(self.too_deep());
        }
        Ok(e)
    }

    fn peek(&self) -> &Token<'s> {
        // the last token is Eof and is never passed
        &self.tokens[self.next.min(self.tokens.len() - 1)]
    }
    fn is(&self, p: &str) -> bool {
        matches!(self.peek().tok, Tok::Punct(q) if q == p)
    }
    fn is_at(&self, ahead: usize, p: &str) -> bool {
        matches!(self.tokens.get(self.next + ahead), Some(Token { tok: Tok::Punct(q), .. }) if *q == p)
    }
    fn take(&mut self) -> Token<'s> {
        let t = self.peek().clone();
        self.next = (self.next + 1).min(self.tokens.len() - 1);
        t
    }
    /// Takes the mark if it is next; its place.
    fn accept(&mut self, p: &str) -> Option<u32> {
        self.is(p).then(|| self.take().at)
    }
    fn expect(&mut self, p: &'static str) -> Parsed<u32> {
        if self.is(p) {
            return Ok(self.take().at);
        }
        let t = self.peek().clone();
        let how = if p == ")" && t.tok == Tok::Eof {
            format!("missing ')' at '{}'", t.text)
        } else {
            format!("mismatched input '{}' expecting '{p}'", t.text)
        };
        Err(self.syntax(&t, how))
    }

    fn syntax(&mut self, t: &Token<'_>, message: String) -> Stop {
        let issue = self.source.issue(t.at, format!("Syntax error: {message}"));
        self.issues.push(issue);
        Stop
    }
    /// An error that does not stop the parse; the node stands for what could not be built.
    pub fn error(&mut self, at: u32, message: impl Into<String>) -> Expr {
        let issue = self.source.issue(at, message);
        self.issues.push(issue);
        self.node(at, Kind::Literal(Literal::Null))
    }
    fn too_deep(&mut self) -> Stop {
        self.issues.push(Source::unplaced(format!(
            "expression recursion limit exceeded: {MAX_DEPTH}"
        )));
        Stop
    }
    fn enter(&mut self, rule: Rule) -> Parsed<()> {
        let depth = &mut self.depth[rule as usize];
        *depth += 1;
        if *depth > MAX_DEPTH {
            Err(self.too_deep())
        } else {
            Ok(())
        }
    }
    fn leave(&mut self, rule: Rule, levels: u16) {
        self.depth[rule as usize] -= levels;
    }

    pub fn node(&mut self, at: u32, kind: Kind) -> Expr {
        Expr {
            id: self.positions.new_id(at),
            kind,
        }
    }
    fn call(&mut self, at: u32, function: &str, args: Vec<Expr>) -> Expr {
        self.node(
            at,
            Kind::Call {
                function: function.to_string(),
                target: None,
                args,
            },
        )
    }

    fn expr(&mut self) -> Parsed<Expr> {
        self.enter(Rule::Expr)?;
        let mut e = self.logic(op::OR, "||")?;
        if let Some(at) = self.accept("?") {
            let yes = self.logic(op::OR, "||")?;
            self.expect(":")?;
            let no = self.expr()?;
            e = self.call(at, op::CONDITIONAL, vec![e, yes, no]);
        }
        self.leave(Rule::Expr, 1);
        Ok(e)
    }

    /// `a || b || c`, or the `&&` below it, as a balanced tree, so that long chains stay shallow.
    fn logic(&mut self, function: &'static str, mark: &'static str) -> Parsed<Expr> {
        let mut terms = vec![self.logic_term(mark)?];
        let mut ops = Vec::new();
        while let Some(at) = self.accept(mark) {
            terms.push(self.logic_term(mark)?);
            ops.push(self.positions.new_id(at));
        }
        Ok(balance(function, &mut terms.into_iter(), &ops))
    }
    fn logic_term(&mut self, mark: &'static str) -> Parsed<Expr> {
        if mark == "||" {
            self.logic(op::AND, "&&")
        } else {
            self.relation()
        }
    }

    fn relation(&mut self) -> Parsed<Expr> {
        self.enter(Rule::Relation)?;
        let mut levels = 1;
        let mut e = self.calc()?;
        loop {
            let function = match self.peek().tok {
                Tok::Punct("<") => "_<_",
                Tok::Punct("<=") => "_<=_",
                Tok::Punct(">") => "_>_",
                Tok::Punct(">=") => "_>=_",
                Tok::Punct("==") => op::EQ,
                Tok::Punct("!=") => op::NE,
                Tok::Ident if self.peek().text == "in" => op::IN,
                _ => break,
            };
            self.enter(Rule::Relation)?;
            levels += 1;
            let at = self.take().at;
            let rhs = self.calc()?;
            e = self.call(at, function, vec![e, rhs]);
        }
        self.leave(Rule::Relation, levels);
        Ok(e)
    }

    fn calc(&mut self) -> Parsed<Expr> {
        self.enter(Rule::Calc)?;
        let mut levels = 1;
        let mut e = self.product()?;
        while let Some((function, at)) = self.operator(&[("+", op::ADD), ("-", "_-_")]) {
            self.enter(Rule::Calc)?;
            levels += 1;
            let rhs = self.product()?;
            e = self.call(at, function, vec![e, rhs]);
        }
        self.leave(Rule::Calc, levels);
        Ok(e)
    }
    fn product(&mut self) -> Parsed<Expr> {
        let mut levels = 0;
        let mut e = self.unary()?;
        while let Some((function, at)) = self.operator(&[("*", "_*_"), ("/", "_/_"), ("%", "_%_")])
        {
            self.enter(Rule::Calc)?;
            levels += 1;
            let rhs = self.unary()?;
            e = self.call(at, function, vec![e, rhs]);
        }
        self.leave(Rule::Calc, levels);
        Ok(e)
    }
    fn operator(&mut self, of: &[(&str, &'static str)]) -> Option<(&'static str, u32)> {
        of.iter()
            .find(|(mark, _)| self.is(mark))
            .map(|(_, function)| (*function, self.take().at))
    }

    /// `!!x`, `--x`, `-5`. An even number of marks is none.
    fn unary(&mut self) -> Parsed<Expr> {
        let (mark, function) = if self.is("!") {
            ("!", op::NOT)
        } else {
            ("-", op::NEGATE)
        };
        if mark == "-"
            && matches!(self.tokens.get(self.next + 1), Some(t) if matches!(t.tok, Tok::Int | Tok::Float))
        {
            return self.member();
        }
        let Some(at) = self.accept(mark) else {
            return self.member();
        };
        let mut marks = 1;
        while self.accept(mark).is_some() {
            marks += 1;
        }
        let e = self.member()?;
        Ok(if marks % 2 == 0 {
            e
        } else {
            self.call(at, function, vec![e])
        })
    }

    fn member(&mut self) -> Parsed<Expr> {
        self.enter(Rule::Member)?;
        let mut levels = 1;
        let mut e = self.primary()?;
        loop {
            if self.is(".") {
                e = self.select(e)?;
            } else if let Some(at) = self.accept("[") {
                let function = if self.accept("?").is_some() {
                    op::OPT_INDEX
                } else {
                    op::INDEX
                };
                let index = self.expr()?;
                self.expect("]")?;
                e = self.call(at, function, vec![e, index]);
            } else {
                break;
            }
            self.enter(Rule::Member)?;
            levels += 1;
        }
        self.leave(Rule::Member, levels);
        Ok(e)
    }

    fn select(&mut self, operand: Expr) -> Parsed<Expr> {
        let dot = self.take().at;
        let optional = self.accept("?").is_some();
        let t = self.take();
        let name = match t.tok {
            Tok::Ident if !matches!(t.text, "in" | "true" | "false" | "null") => t.text,
            Tok::Escaped => &t.text[1..t.text.len() - 1],
            _ if t.tok == Tok::Eof && !optional => {
                return Err(self.syntax(&t, "no viable alternative at input '.'".into()));
            }
            _ => {
                return Err(
                    self.syntax(&t, format!("no viable alternative at input '.{}'", t.text))
                );
            }
        };
        if t.tok == Tok::Ident && !optional && self.is("(") {
            let at = self.take().at;
            let args = self.list_until(")", EXPECTED_ARGS)?;
            return Ok(macros::expand(self, at, name, Some(operand), args));
        }
        if t.tok == Tok::Escaped {
            // backquoted names are cel-go's optional syntax, which Kubernetes does not turn on
            return Ok(self.error(t.at, "unsupported syntax: '`'"));
        }
        if optional {
            let field = self.node(t.at, Kind::Literal(Literal::String(name.to_string())));
            return Ok(self.call(dot, op::OPT_SELECT, vec![operand, field]));
        }
        Ok(self.node(
            dot,
            Kind::Select {
                operand: Box::new(operand),
                field: name.to_string(),
                test_only: false,
            },
        ))
    }

    /// Expressions up to the closing mark, which is taken.
    fn list_until(&mut self, close: &'static str, expected: &str) -> Parsed<Vec<Expr>> {
        let mut out = Vec::new();
        if self.accept(close).is_some() {
            return Ok(out);
        }
        if !self.starts_expr() {
            let t = self.peek().clone();
            return Err(self.syntax(
                &t,
                format!("mismatched input '{}' expecting {expected}", t.text),
            ));
        }
        loop {
            out.push(self.expr()?);
            if self.accept(",").is_none() {
                self.expect(close)?;
                return Ok(out);
            }
        }
    }

    fn starts_expr(&self) -> bool {
        match self.peek().tok {
            Tok::Punct(p) => matches!(p, "[" | "{" | "(" | "." | "-" | "!"),
            Tok::Ident => self.peek().text != "in",
            Tok::Eof | Tok::Escaped => false,
            _ => true,
        }
    }

    fn primary(&mut self) -> Parsed<Expr> {
        if !self.starts_expr() {
            let t = self.peek().clone();
            return Err(self.syntax(
                &t,
                format!("mismatched input '{}' expecting {EXPECTED_EXPR}", t.text),
            ));
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
            Tok::Punct("-") => {
                let number = self.take();
                self.number(&number, "-", t.at)
            }
            Tok::Punct(_) => {
                let id = self.take();
                if id.tok != Tok::Ident {
                    return Err(self.syntax(
                        &id,
                        format!("no viable alternative at input '.{}'", id.text),
                    ));
                }
                self.ident(&id, true)
            }
            Tok::Ident => self.ident(&t, false),
            Tok::Int | Tok::Uint | Tok::Float => self.number(&t, "", t.at),
            Tok::Str | Tok::Bytes => Ok(self.quoted(&t)),
            Tok::Escaped | Tok::Eof => Err(Stop),
        }
    }

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
        if self.is("(") {
            let at = self.take().at;
            let args = self.list_until(")", EXPECTED_ARGS)?;
            if RESERVED.contains(&t.text) {
                return Ok(self.error(t.at, format!("reserved identifier: {}", t.text)));
            }
            return Ok(macros::expand(
                self,
                at,
                &format!("{dot}{}", t.text),
                None,
                args,
            ));
        }
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
            let optional = self.accept("?").is_some();
            let t = self.take();
            let name = match t.tok {
                Tok::Ident if !matches!(t.text, "in" | "true" | "false" | "null") => t.text,
                _ => return Err(self.syntax(&t, format!("mismatched input '{}' expecting {{'}}', ',', '?', IDENTIFIER, ESC_IDENTIFIER}}", t.text))),
            };
            let colon = self.expect(":")?;
            let id = self.positions.new_id(colon);
            let value = self.expr()?;
            fields.push(FieldInit {
                id,
                name: name.to_string(),
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
            kind: Kind::Struct { name, fields },
        })
    }
}

fn balance(function: &str, terms: &mut dyn Iterator<Item = Expr>, ops: &[u32]) -> Expr {
    let call = |id: u32, args: Vec<Expr>| Expr {
        id,
        kind: Kind::Call {
            function: function.to_string(),
            target: None,
            args,
        },
    };
    if ops.is_empty() {
        // there is one term more than there are operators
        return terms.next().unwrap_or_else(|| call(0, Vec::new()));
    }
    let mid = ops.len() / 2;
    let left = balance(function, terms, &ops[..mid]);
    let right = balance(function, terms, &ops[mid + 1..]);
    call(ops[mid], vec![left, right])
}

/// `left` minus the tree's depth, or 0 if it is deeper.
fn tree_depth(e: &Expr, left: usize) -> usize {
    if left == 0 {
        return 0;
    }
    let mut lowest = left;
    let mut see = |e: &Expr| lowest = lowest.min(tree_depth(e, left - 1));
    match &e.kind {
        Kind::Literal(_) | Kind::Ident(_) => {}
        Kind::Select { operand, .. } => see(operand),
        Kind::Call { target, args, .. } => target.iter().map(|t| &**t).chain(args).for_each(see),
        Kind::List { elems, .. } => elems.iter().for_each(see),
        Kind::Map(entries) => entries.iter().for_each(|e| {
            see(&e.key);
            see(&e.value);
        }),
        Kind::Struct { fields, .. } => fields.iter().for_each(|f| see(&f.value)),
        Kind::Comprehension(c) => [&c.range, &c.init, &c.condition, &c.step, &c.result]
            .into_iter()
            .for_each(see),
    }
    lowest
}
