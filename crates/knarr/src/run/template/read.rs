//! A template, read.

use serde_json::Value;

#[derive(Debug)]
pub enum Node {
    Text(String),
    Pipe(Pipeline),
    If(Pipeline, Vec<Node>, Vec<Node>),
    With(Pipeline, Vec<Node>, Vec<Node>),
    Range(Pipeline, Vec<Node>, Vec<Node>),
    Break,
    Continue,
}

/// `$a, $b := command | command`
#[derive(Debug, Default)]
pub struct Pipeline {
    /// Where in the template it stands.
    pub at: usize,
    pub names: Vec<String>,
    /// `=`: the names are those of variables that there are.
    pub known: bool,
    pub commands: Vec<Vec<Operand>>,
}

#[derive(Debug)]
pub enum Operand {
    Value(Value),
    /// `.A.B`, and where it stands.
    Field(Vec<String>, usize),
    /// `$name.A.B`
    Variable(String, Vec<String>, usize),
    /// `(…).A.B`
    Nested(Box<Pipeline>, Vec<String>),
    Call(String, usize),
}

/// Blocks in blocks, and parentheses in parentheses.
const DEPTH_MAX: usize = 100;

pub fn read(template: &str) -> Result<Vec<Node>, String> {
    let mut reader = Reader {
        pieces: pieces(template)?.into_iter(),
        depth: 0,
    };
    let (nodes, end) = reader.block()?;
    match end {
        None => Ok(nodes),
        Some(end) => Err(format!("unexpected {{{{{}}}}}", end.word)),
    }
}

enum Piece {
    Text(String),
    Action(Vec<Token>, usize),
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String, usize),
    Text(String),
    Open,
    /// With the fields that follow at once.
    Close(Vec<String>),
    Pipe,
    Define,
    Assign,
    Comma,
}

/// What ends a block, with what it says itself.
struct End {
    word: String,
    rest: Vec<Token>,
    at: usize,
}

fn pieces(template: &str) -> Result<Vec<Piece>, String> {
    let (mut all, mut at, mut trim) = (Vec::new(), 0, false);
    while let Some(found) = template[at..].find("{{") {
        let text = &template[at..at + found];
        let begin = at + found + 2;
        let trims = template[begin..].starts_with("- ") || template[begin..].starts_with("-\n");
        let mut text = if trim { text.trim_start() } else { text };
        if trims {
            text = text.trim_end();
        }
        all.push(Piece::Text(text.into()));
        let begin = begin + usize::from(trims);
        let inner = template[begin..].trim_start();
        if let Some(comment) = inner.strip_prefix("/*") {
            let start = template.len() - comment.len();
            let end = comment.find("*/").ok_or("unclosed comment")?;
            let after = template[start + end + 2..].trim_start();
            trim = after.starts_with("-}}");
            let after = after.strip_prefix('-').unwrap_or(after);
            let after = after
                .strip_prefix("}}")
                .ok_or("comment ends before closing delimiter")?;
            at = template.len() - after.len();
            continue;
        }
        let (tokens, end, trims) = action(template, begin)?;
        all.push(Piece::Action(tokens, begin));
        (at, trim) = (end, trims);
    }
    let text = &template[at..];
    all.push(Piece::Text(
        if trim { text.trim_start() } else { text }.into(),
    ));
    Ok(all)
}

/// Its tokens, where the text goes on, and whether without the space there.
fn action(template: &str, begin: usize) -> Result<(Vec<Token>, usize, bool), String> {
    let mut all = Vec::new();
    let mut at = begin;
    loop {
        let rest = &template[at..];
        let c = rest.chars().next().ok_or("unclosed action")?;
        if rest.starts_with("}}") {
            return Ok((all, at + 2, false));
        }
        if rest.starts_with("-}}") && template[..at].ends_with(char::is_whitespace) {
            return Ok((all, at + 3, true));
        }
        let (token, length) = match c {
            c if c.is_whitespace() => {
                at += c.len_utf8();
                continue;
            }
            '"' | '`' | '\'' => quoted(rest, c)?,
            '(' => (Token::Open, 1),
            ')' => {
                let fields = word(&rest[1..]);
                let fields = if fields.starts_with('.') { fields } else { "" };
                (Token::Close(path(fields)), 1 + fields.len())
            }
            '|' => (Token::Pipe, 1),
            ',' => (Token::Comma, 1),
            ':' if rest.starts_with(":=") => (Token::Define, 2),
            '=' => (Token::Assign, 1),
            _ => {
                let word = word(rest);
                if word.is_empty() {
                    return Err(format!("unexpected {c:?} in command"));
                }
                (Token::Word(word.into(), at), word.len())
            }
        };
        all.push(token);
        at += length;
    }
}

fn word(rest: &str) -> &str {
    let good = |c: char| c.is_alphanumeric() || matches!(c, '.' | '$' | '_' | '-' | '+');
    // a dash before the braces is no part of it
    let end = rest.find(|c: char| !good(c)).unwrap_or(rest.len());
    &rest[..end]
}

fn quoted(rest: &str, quote: char) -> Result<(Token, usize), String> {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => return Ok((Token::Text(text), at + 1)),
            '\\' if quote != '`' => match chars.next().map(|(_, c)| c) {
                Some('n') => text.push('\n'),
                Some('t') => text.push('\t'),
                Some('r') => text.push('\r'),
                Some(other) => text.push(other),
                None => break,
            },
            c => text.push(c),
        }
    }
    Err("unterminated quoted string".into())
}

/// `.A.B` as names.
fn path(text: &str) -> Vec<String> {
    let names = text.split('.').filter(|n| !n.is_empty());
    names.map(str::to_string).collect()
}

struct Reader {
    pieces: std::vec::IntoIter<Piece>,
    depth: usize,
}

impl Reader {
    /// Until `end` or `else`, which is given back.
    fn block(&mut self) -> Result<(Vec<Node>, Option<End>), String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err("blocks in blocks are too deep".into());
        }
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let (tokens, at) = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(tokens, at) => (tokens, at),
            };
            let word = match tokens.first() {
                Some(Token::Word(word, _)) => word.as_str(),
                _ => "",
            };
            match word {
                "end" | "else" => {
                    self.depth -= 1;
                    let word = word.to_string();
                    let rest = tokens[1..].to_vec();
                    return Ok((nodes, Some(End { word, rest, at })));
                }
                "break" if tokens.len() == 1 => nodes.push(Node::Break),
                "continue" if tokens.len() == 1 => nodes.push(Node::Continue),
                kind @ ("if" | "with" | "range") => {
                    nodes.push(self.branch(kind, &tokens[1..], at)?);
                }
                _ => nodes.push(Node::Pipe(pipeline(&tokens, at)?)),
            }
        }
        self.depth -= 1;
        Ok((nodes, None))
    }

    fn branch(&mut self, kind: &str, asked: &[Token], at: usize) -> Result<Node, String> {
        let asked = pipeline(asked, at)?;
        let (body, end) = self.block()?;
        let end = end.ok_or("unexpected EOF")?;
        let other = match (end.word.as_str(), &end.rest[..]) {
            ("end", _) => Vec::new(),
            // `else if …` has the one `end` for both
            (_, [Token::Word(again, _), rest @ ..]) if again == "if" || again == "with" => {
                self.depth += 1;
                if self.depth > DEPTH_MAX {
                    return Err("blocks in blocks are too deep".into());
                }
                let node = self.branch(again, rest, end.at)?;
                self.depth -= 1;
                vec![node]
            }
            _ => match self.block()? {
                (other, Some(end)) if end.word == "end" => other,
                (_, Some(_)) => return Err("expected end; found {{else}}".into()),
                (_, None) => return Err("unexpected EOF".into()),
            },
        };
        Ok(match kind {
            "if" => Node::If(asked, body, other),
            "with" => Node::With(asked, body, other),
            _ => Node::Range(asked, body, other),
        })
    }
}

fn pipeline(tokens: &[Token], at: usize) -> Result<Pipeline, String> {
    let mut rest = tokens;
    let pipeline = commands(&mut rest, at, 0)?;
    match rest.first() {
        None => Ok(pipeline),
        Some(_) => Err("unexpected right paren".into()),
    }
}

/// Until the end, or what closes the parenthesis that it is in.
fn commands(rest: &mut &[Token], at: usize, depth: usize) -> Result<Pipeline, String> {
    if depth > DEPTH_MAX {
        return Err("parentheses in parentheses are too deep".into());
    }
    let mut pipeline = Pipeline {
        at,
        ..Pipeline::default()
    };
    let sign = rest
        .iter()
        .position(|t| matches!(t, Token::Define | Token::Assign));
    let before = sign.map_or(&[][..], |sign| &rest[..sign]);
    let plain = |t: &Token| {
        matches!(t, Token::Comma) || matches!(t, Token::Word(w, _) if w.starts_with('$'))
    };
    if let Some(sign) = sign.filter(|_| before.iter().all(plain)) {
        pipeline.known = rest[sign] == Token::Assign;
        pipeline.names = before
            .iter()
            .filter_map(|t| match t {
                Token::Word(word, _) => Some(word[1..].to_string()),
                _ => None,
            })
            .collect();
        *rest = &rest[sign + 1..];
    }
    let mut command = Vec::new();
    while let Some((token, after)) = rest.split_first() {
        match token {
            Token::Close(_) => break,
            Token::Pipe => pipeline.commands.push(std::mem::take(&mut command)),
            Token::Text(text) => command.push(Operand::Value(Value::String(text.clone()))),
            Token::Word(word, at) => command.push(operand(word, *at)?),
            Token::Open => {
                let mut inner = after;
                let nested = commands(&mut inner, at, depth + 1)?;
                let Some((Token::Close(path), after)) = inner.split_first() else {
                    return Err("unclosed left paren".into());
                };
                command.push(Operand::Nested(Box::new(nested), path.clone()));
                *rest = after;
                continue;
            }
            Token::Define | Token::Assign | Token::Comma => {
                return Err("unexpected \":=\" or \",\" in operand".into());
            }
        }
        *rest = after;
    }
    pipeline.commands.push(command);
    match pipeline.commands.iter().any(Vec::is_empty) {
        true => Err("missing value for command".into()),
        false => Ok(pipeline),
    }
}

fn operand(word: &str, at: usize) -> Result<Operand, String> {
    if word.starts_with('.') {
        return Ok(Operand::Field(path(word), at));
    }
    if let Some(variable) = word.strip_prefix('$') {
        let (name, fields) = variable.split_once('.').unwrap_or((variable, ""));
        return Ok(Operand::Variable(name.into(), path(fields), at));
    }
    match word {
        "true" | "false" => return Ok(Operand::Value(Value::Bool(word == "true"))),
        "nil" => return Ok(Operand::Value(Value::Null)),
        _ => {}
    }
    if let Ok(number) = word.parse::<i64>() {
        return Ok(Operand::Value(number.into()));
    }
    if word.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+') {
        let number = word.parse::<f64>();
        let number = number.map_err(|_| format!("bad number syntax: {word:?}"))?;
        return Ok(Operand::Value(number.into()));
    }
    match super::functions::is_one(word) {
        true => Ok(Operand::Call(word.into(), at)),
        false => Err(format!("function {word:?} not defined")),
    }
}
