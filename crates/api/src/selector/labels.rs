//! `labelSelector=a=b,c in (d,e),!f`: lexer, parser and matching of apimachinery `pkg/labels/selector.go`.

use serde_json::Value;

use crate::{names, registry::FieldError};

/// A parsed label selector: all requirements must hold. Empty selects everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq)]
enum Test {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
    Greater(i64),
    Less(i64),
}

/// Where labels are looked up.
pub trait Lookup {
    /// Value of the label, when set.
    fn label(&self, key: &str) -> Option<&str>;
}
impl Lookup for crate::object::Light<'_> {
    fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(AsRef::as_ref)
    }
}
impl Lookup for Value {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

impl LabelSelector {
    /// Parses a selector; the error is upstream's message (sent as 400).
    pub fn parse(text: &str) -> Result<LabelSelector, String> {
        let mut parser = Parser::new(text);
        let mut requirements = Vec::new();
        loop {
            let (token, literal) = parser.peek(true);
            match token {
                Token::Identifier | Token::Not => {
                    let r = parser
                        .requirement()
                        .map_err(|e| format!("unable to parse requirement: {e}"))?;
                    requirements.push(r);
                    let (token, literal) = parser.next(true);
                    match token {
                        Token::End => break,
                        Token::Comma => {
                            let (token, literal) = parser.peek(true);
                            if !matches!(token, Token::Identifier | Token::Not) {
                                return Err(format!(
                                    "found '{literal}', expected: identifier after ','"
                                ));
                            }
                        }
                        _ => {
                            return Err(format!(
                                "found '{literal}', expected: ',' or 'end of string'"
                            ));
                        }
                    }
                }
                Token::End => break,
                _ => {
                    return Err(format!(
                        "found '{literal}', expected: !, identifier, or 'end of string'"
                    ));
                }
            }
        }
        Ok(LabelSelector { requirements })
    }

    /// Selects everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether the labels fulfil every requirement.
    pub fn matches(&self, labels: &dyn Lookup) -> bool {
        self.requirements.iter().all(|r| {
            let value = labels.label(&r.key);
            match &r.test {
                Test::Exists => value.is_some(),
                Test::Absent => value.is_none(),
                Test::In(set) => value.is_some_and(|v| set.iter().any(|s| s == v)),
                Test::NotIn(set) => value.is_none_or(|v| !set.iter().any(|s| s == v)),
                Test::Greater(n) => value
                    .and_then(|v| v.parse::<i64>().ok())
                    .is_some_and(|v| v > *n),
                Test::Less(n) => value
                    .and_then(|v| v.parse::<i64>().ok())
                    .is_some_and(|v| v < *n),
            }
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Token {
    End,
    Identifier,
    Not,
    Comma,
    Open,
    Close,
    Equals,
    DoubleEquals,
    NotEquals,
    Greater,
    Less,
    In,
    NotIn,
}

struct Parser {
    tokens: Vec<(Token, String)>,
    at: usize,
}

impl Parser {
    fn new(text: &str) -> Parser {
        let mut tokens = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(&c) = chars.peek() {
            if matches!(c, ' ' | '\t' | '\r' | '\n') {
                chars.next();
            } else if special(c) {
                let mut literal = String::new();
                let mut last = None;
                while let Some(&c) = chars.peek().filter(|c| special(**c)) {
                    literal.push(c);
                    match symbol(&literal) {
                        Some(token) => {
                            last = Some((token, literal.clone()));
                            chars.next();
                        }
                        None if last.is_some() => break,
                        None => {
                            chars.next();
                        }
                    }
                }
                tokens.push(last.unwrap_or((Token::End, literal)));
            } else {
                let mut literal = String::new();
                while let Some(&c) = chars
                    .peek()
                    .filter(|c| !special(**c) && !matches!(c, ' ' | '\t' | '\r' | '\n'))
                {
                    literal.push(c);
                    chars.next();
                }
                let token = match literal.as_str() {
                    "in" => Token::In,
                    "notin" => Token::NotIn,
                    _ => Token::Identifier,
                };
                tokens.push((token, literal));
            }
        }
        Parser { tokens, at: 0 }
    }

    /// In value position, `in` and `notin` are plain words.
    fn peek(&self, values: bool) -> (Token, String) {
        match self.tokens.get(self.at) {
            None => (Token::End, String::new()),
            Some((Token::In | Token::NotIn, l)) if values => (Token::Identifier, l.clone()),
            Some((t, l)) => (*t, l.clone()),
        }
    }
    fn next(&mut self, values: bool) -> (Token, String) {
        let item = self.peek(values);
        self.at += 1;
        item
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let (mut token, mut key) = self.next(true);
        let absent = token == Token::Not;
        if absent {
            (token, key) = self.next(true);
        }
        if token != Token::Identifier {
            return Err(format!("found '{key}', expected: identifier"));
        }
        if let Some(why) = names::qualified_name(&key).into_iter().next() {
            return Err(invalid("<nil>", &key, why));
        }
        if absent {
            return Ok(Requirement {
                key,
                test: Test::Absent,
            });
        }
        if matches!(self.peek(true).0, Token::End | Token::Comma) {
            return Ok(Requirement {
                key,
                test: Test::Exists,
            });
        }
        let (operator, literal) = self.next(false);
        let values = match operator {
            Token::In | Token::NotIn => self.value_list()?,
            Token::Equals
            | Token::DoubleEquals
            | Token::NotEquals
            | Token::Greater
            | Token::Less => vec![self.exact_value()?],
            _ => {
                return Err(format!(
                    "found '{literal}', expected: in, notin, =, ==, !=, gt, lt"
                ));
            }
        };
        for (i, v) in values.iter().enumerate() {
            if let Some(why) = names::label_value(v) {
                return Err(invalid(&format!("values[{i}][{key}]"), v, why));
            }
        }
        let number = |values: &[String]| {
            values[0].parse::<i64>().map_err(|_| {
                invalid(
                    "values[0]",
                    &values[0],
                    "for 'Gt', 'Lt' operators, the value must be an integer".into(),
                )
            })
        };
        let test = match operator {
            Token::Greater => Test::Greater(number(&values)?),
            Token::Less => Test::Less(number(&values)?),
            Token::NotIn | Token::NotEquals => Test::NotIn(values),
            _ => Test::In(values),
        };
        Ok(Requirement { key, test })
    }

    fn exact_value(&mut self) -> Result<String, String> {
        if matches!(self.peek(true).0, Token::End | Token::Comma) {
            return Ok(String::new());
        }
        let (token, literal) = self.next(true);
        if token == Token::Identifier {
            Ok(literal)
        } else {
            Err(format!("found '{literal}', expected: identifier"))
        }
    }

    fn value_list(&mut self) -> Result<Vec<String>, String> {
        let (token, literal) = self.next(true);
        if token != Token::Open {
            return Err(format!("found '{literal}' expected: '('"));
        }
        let (token, literal) = self.peek(true);
        match token {
            Token::Identifier | Token::Comma => {
                let mut values: Vec<String> = Vec::new();
                let mut add = |v: String| {
                    if !values.contains(&v) {
                        values.push(v);
                    }
                };
                let mut first = true;
                loop {
                    let (token, literal) = self.next(true);
                    match token {
                        Token::Identifier => {
                            add(literal);
                            let (token, literal) = self.peek(true);
                            match token {
                                Token::Comma => {}
                                Token::Close => break,
                                _ => {
                                    return Err(format!("found '{literal}', expected: ',' or ')'"));
                                }
                            }
                        }
                        Token::Comma => {
                            if first {
                                add(String::new());
                            }
                            match self.peek(true).0 {
                                Token::Close => {
                                    add(String::new());
                                    break;
                                }
                                Token::Comma => {
                                    self.next(true);
                                    add(String::new());
                                }
                                _ => {}
                            }
                        }
                        _ => {
                            return Err(format!("found '{literal}', expected: ',', or identifier"));
                        }
                    }
                    first = false;
                }
                let (token, literal) = self.next(true);
                if token != Token::Close {
                    return Err(format!("found '{literal}', expected: ')'"));
                }
                values.sort();
                Ok(values)
            }
            // upstream's parser takes nothing between the brackets for one empty value
            Token::Close => {
                self.next(true);
                Ok(vec![String::new()])
            }
            _ => Err(format!(
                "found '{literal}', expected: ',', ')' or identifier"
            )),
        }
    }
}

fn invalid(field: &str, value: &str, detail: String) -> String {
    FieldError::Invalid {
        field: field.into(),
        value: value.into(),
        detail,
    }
    .to_string()
}

fn special(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

fn symbol(literal: &str) -> Option<Token> {
    Some(match literal {
        ")" => Token::Close,
        "," => Token::Comma,
        "!" => Token::Not,
        "==" => Token::DoubleEquals,
        "=" => Token::Equals,
        ">" => Token::Greater,
        "<" => Token::Less,
        "!=" => Token::NotEquals,
        "(" => Token::Open,
        _ => return None,
    })
}

/// A `metav1.LabelSelector` (or, with `plain`, a map of labels) as the text `Scale.status.selector` carries.
pub fn label_selector_string(selector: &Value, plain: bool) -> String {
    let mut parts: Vec<(String, String)> = Vec::new();
    let labels = if plain {
        Some(selector)
    } else {
        selector.get("matchLabels")
    };
    for (k, v) in labels.and_then(Value::as_object).into_iter().flatten() {
        parts.push((k.clone(), format!("{k}={}", v.as_str().unwrap_or(""))));
    }
    if !plain {
        let expressions = selector.get("matchExpressions").and_then(Value::as_array);
        for e in expressions.into_iter().flatten() {
            let key = e.get("key").and_then(Value::as_str).unwrap_or("");
            let mut values: Vec<&str> = e
                .get("values")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            values.sort_unstable();
            let values = values.join(",");
            let text = match e.get("operator").and_then(Value::as_str).unwrap_or("") {
                "In" => format!("{key} in ({values})"),
                "NotIn" => format!("{key} notin ({values})"),
                "DoesNotExist" => format!("!{key}"),
                _ => key.to_string(),
            };
            parts.push((key.to_string(), text));
        }
    }
    parts.sort();
    let texts: Vec<String> = parts.into_iter().map(|(_, t)| t).collect();
    texts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selects() {
        let labels = json!({"x": "a", "y": "b", "n": "5", "in": "in"});
        for (selector, want) in [
            ("", true),
            ("x=a", true),
            ("x==a,y=b", true),
            ("x=b", false),
            ("x!=b", true),
            ("z!=b", true),
            ("x", true),
            ("!x", false),
            ("! z", true),
            ("x in (a,c)", true),
            ("x in ( b , c )", false),
            ("x notin (b)", true),
            ("z notin (b)", true),
            ("z in (b)", false),
            ("x in (,a)", true),
            ("n>4", true),
            ("n > 5", false),
            ("n<6", true),
            ("x<6", false),
            ("in=in", true),
            ("in in (in)", true),
            ("y=", false),
            ("a.b/c notin (),x", true),
            ("x in ()", false),
        ] {
            match LabelSelector::parse(selector) {
                Ok(s) => assert_eq!(s.matches(&labels), want, "{selector}"),
                Err(e) => panic!("{selector}: {e}"),
            }
        }
    }

    #[test]
    fn refuses_with_upstreams_words() {
        for (selector, want) in [
            (
                "x=a||y=b",
                "values[0][x]: Invalid value: \"a||y\": a valid label",
            ),
            ("x==a==b", "found '==', expected: ',' or 'end of string'"),
            ("x=,z= ", ""),
            (
                ",",
                "found ',', expected: !, identifier, or 'end of string'",
            ),
            ("x,", "found '', expected: identifier after ','"),
            (
                "x in",
                "unable to parse requirement: found '' expected: '('",
            ),
            (
                "x in (",
                "unable to parse requirement: found '', expected: ',', ')' or identifier",
            ),
            (
                "x in (a",
                "unable to parse requirement: found '', expected: ',' or ')'",
            ),
            ("x in ()", ""),
            (
                "x foo",
                "found 'foo', expected: in, notin, =, ==, !=, gt, lt",
            ),
            (
                "!",
                "unable to parse requirement: found '', expected: identifier",
            ),
            ("x>a", "the value must be an integer"),
            (
                "-x=a",
                "unable to parse requirement: <nil>: Invalid value: \"-x\": name part must consist of alphanumeric characters",
            ),
        ] {
            match LabelSelector::parse(selector) {
                Ok(_) => assert!(want.is_empty(), "{selector} was taken"),
                Err(e) => assert!(!want.is_empty() && e.contains(want), "{selector}: {e}"),
            }
        }
    }

    #[test]
    fn scale_selectors_print_as_upstream() {
        let s = json!({"matchLabels":{"b":"2","a":"1"},"matchExpressions":[{"key":"c","operator":"In","values":["z","y"]},{"key":"d","operator":"Exists"}]});
        assert_eq!(label_selector_string(&s, false), "a=1,b=2,c in (y,z),d");
        assert_eq!(label_selector_string(&json!({"q":"w"}), true), "q=w");
    }
}
