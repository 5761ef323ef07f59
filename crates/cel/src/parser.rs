//! Tokens to the syntax tree: recursive descent with cel-go's limits.

mod atoms;

use crate::ast::{Expr, Kind, Literal, Positions, op};
use crate::issue::{Issue, Source};
use crate::lexer::{Tok, Token, tokens};
use crate::macros;

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

/// How tight operators bind.
const OR: u8 = 0;
const AND: u8 = 1;
const RELATION: u8 = 2;
const SUM: u8 = 3;
const PRODUCT: u8 = 4;

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
        match self.accept(p) {
            Some(at) => Ok(at),
            None => Err(self.missing(p)),
        }
    }

    /// Reports a missing mark. One token too many before it, or a closing mark forgotten at the end, is told as such.
    #[inline(never)]
    fn missing(&mut self, p: &'static str) -> Stop {
        let t = self.peek().clone();
        let message = if self.is_at(1, p) {
            format!("extraneous input '{}' expecting '{p}'", t.text)
        } else if matches!(p, ")" | "]" | "}") && t.tok == Tok::Eof {
            format!("missing '{p}' at '{}'", t.text)
        } else {
            format!("mismatched input '{}' expecting '{p}'", t.text)
        };
        self.syntax(&t, message)
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
        // rules that are chains have one element more than operators
        let most = MAX_DEPTH + u16::from(!matches!(rule, Rule::Expr));
        if *depth > most {
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

    // From here on one function calls the next for each nesting of the text. They are few and their frames small, so that
    // the deepest text fits a thread's stack; what reports errors stays out of them.

    fn expr(&mut self) -> Parsed<Expr> {
        self.enter(Rule::Expr)?;
        let e = self.binary(0);
        let e = match e {
            Ok(e) if self.is("?") => self.ternary(e),
            e => e,
        };
        self.leave(Rule::Expr, 1);
        e
    }

    #[inline(never)]
    fn ternary(&mut self, condition: Expr) -> Parsed<Expr> {
        let at = self.take().at;
        let yes = self.binary(0)?;
        self.expect(":")?;
        let no = self.expr()?;
        Ok(self.call(at, op::CONDITIONAL, vec![condition, yes, no]))
    }

    /// Operators that bind at least so tight, by precedence climbing.
    fn binary(&mut self, tightest: u8) -> Parsed<Expr> {
        let mut levels = (0, 0);
        // what is right of an operator is no further nesting
        if tightest == 0 {
            self.enter(Rule::Relation)?;
            self.enter(Rule::Calc)?;
            levels = (1, 1);
        }
        let mut e = self.unary();
        while e.is_ok() {
            match self.operator() {
                Some((function, binds)) if binds >= tightest => {
                    e = self.operation(e, function, binds, &mut levels);
                }
                _ => break,
            }
        }
        self.leave(Rule::Relation, levels.0);
        self.leave(Rule::Calc, levels.1);
        e
    }

    /// The operator that is next, with what is left of it, and what is right of it.
    #[inline(never)]
    fn operation(
        &mut self,
        left: Parsed<Expr>,
        function: &'static str,
        binds: u8,
        levels: &mut (u16, u16),
    ) -> Parsed<Expr> {
        if matches!(binds, OR | AND) {
            return self.logic(left?, function, binds);
        }
        let (rule, count) = match binds {
            RELATION => (Rule::Relation, &mut levels.0),
            _ => (Rule::Calc, &mut levels.1),
        };
        self.enter(rule)?;
        *count += 1;
        let at = self.take().at;
        let right = self.binary(binds + 1)?;
        Ok(self.call(at, function, vec![left?, right]))
    }

    /// `a || b || c` or `a && b && c` as a balanced tree, so that long chains stay shallow.
    fn logic(&mut self, first: Expr, function: &'static str, binds: u8) -> Parsed<Expr> {
        let mark = if binds == OR { "||" } else { "&&" };
        let (mut terms, mut ops) = (vec![first], Vec::new());
        while let Some(at) = self.accept(mark) {
            terms.push(self.binary(binds + 1)?);
            ops.push(self.positions.new_id(at));
        }
        Ok(balance(function, &mut terms.into_iter(), &ops))
    }

    /// The binary operator that is next, and how tight it binds.
    fn operator(&self) -> Option<(&'static str, u8)> {
        let t = self.peek();
        Some(match t.tok {
            Tok::Punct("||") => (op::OR, OR),
            Tok::Punct("&&") => (op::AND, AND),
            Tok::Punct("<") => ("_<_", RELATION),
            Tok::Punct("<=") => ("_<=_", RELATION),
            Tok::Punct(">") => ("_>_", RELATION),
            Tok::Punct(">=") => ("_>=_", RELATION),
            Tok::Punct("==") => (op::EQ, RELATION),
            Tok::Punct("!=") => (op::NE, RELATION),
            Tok::Ident if t.text == "in" => (op::IN, RELATION),
            Tok::Punct("+") => (op::ADD, SUM),
            Tok::Punct("-") => ("_-_", SUM),
            Tok::Punct("*") => ("_*_", PRODUCT),
            Tok::Punct("/") => ("_/_", PRODUCT),
            Tok::Punct("%") => ("_%_", PRODUCT),
            _ => return None,
        })
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
        let mut e = self.primary();
        while e.is_ok() {
            if self.is(".") {
                e = self.select(e);
            } else if self.is("[") {
                e = self.index(e);
            } else {
                break;
            }
            if e.is_ok() {
                self.enter(Rule::Member)?;
                levels += 1;
            }
        }
        self.leave(Rule::Member, levels);
        e
    }

    #[inline(never)]
    fn index(&mut self, operand: Parsed<Expr>) -> Parsed<Expr> {
        let at = self.take().at;
        let function = if self.accept("?").is_some() {
            op::OPT_INDEX
        } else {
            op::INDEX
        };
        let index = self.expr()?;
        self.expect("]")?;
        Ok(self.call(at, function, vec![operand?, index]))
    }

    /// `.name`, `.?name` or `.name(args)`.
    #[inline(never)]
    fn select(&mut self, operand: Parsed<Expr>) -> Parsed<Expr> {
        let operand = operand?;
        let dot = self.take().at;
        let optional = self.accept("?").is_some();
        let t = self.take();
        if t.tok == Tok::Ident && !optional && self.is("(") {
            return self.method(operand, t);
        }
        self.field(operand, dot, optional, t)
    }

    #[inline(never)]
    fn method(&mut self, operand: Expr, name: Token<'s>) -> Parsed<Expr> {
        if !is_field(&name) {
            return Err(self.no_field(&name));
        }
        let at = self.take().at;
        let args = self.list_until(")", EXPECTED_ARGS)?;
        Ok(macros::expand(self, at, name.text, Some(operand), args))
    }

    #[inline(never)]
    fn no_field(&mut self, t: &Token<'s>) -> Stop {
        if matches!(t.text, "true" | "false" | "null") {
            let message = format!("mismatched input '{}' expecting IDENTIFIER", t.text);
            return self.syntax(t, message);
        }
        let text = if t.tok == Tok::Eof { "" } else { t.text };
        self.syntax(t, format!("no viable alternative at input '.{text}'"))
    }

    #[inline(never)]
    fn field(&mut self, operand: Expr, dot: u32, optional: bool, t: Token<'s>) -> Parsed<Expr> {
        let field = match t.tok {
            Tok::Escaped => t.text[1..t.text.len() - 1].to_string(),
            _ if is_field(&t) => t.text.to_string(),
            _ => return Err(self.no_field(&t)),
        };
        if t.tok == Tok::Escaped {
            // backquoted names are cel-go's optional syntax, which Kubernetes does not turn on
            self.error(t.at, "unsupported syntax: '`'");
        }
        if optional {
            let field = self.node(t.at, Kind::Literal(Literal::String(field)));
            return Ok(self.call(dot, op::OPT_SELECT, vec![operand, field]));
        }
        let operand = Box::new(operand);
        Ok(self.node(
            dot,
            Kind::Select {
                operand,
                field,
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
}

/// Whether a token can name a field: keywords that are no operators or literals can.
fn is_field(t: &Token<'_>) -> bool {
    t.tok == Tok::Ident && !matches!(t.text, "in" | "true" | "false" | "null")
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
