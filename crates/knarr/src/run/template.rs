//! `--format`: Go's templates, as `inspect` and lists are asked with them: fields, variables, pipelines, `if`, `range`, `with`, and
//! the functions that Docker has.
//!
//! SOURCE: Go `text/template`, docker/cli `templates/templates.go`

mod functions;
mod read;

use read::{Node, Operand, Pipeline};
use serde_json::Value;

/// Steps that one template may take: a loop in a loop is no way to use up the machine.
const STEPS_MAX: usize = 100_000;

/// Fills a template with what is known of one thing.
///
/// # Errors
/// What can't be read, or is not understood, by name.
pub fn fill(template: &str, value: &Value) -> Result<String, String> {
    let nodes = read::read(template).map_err(|why| format!("template parsing error: {why}"))?;
    let mut run = Run {
        template,
        variables: vec![("".into(), value.clone())],
        out: String::new(),
        steps: STEPS_MAX,
    };
    run.write(&nodes, value)?;
    Ok(run.out)
}

/// What ends a loop's turn.
#[derive(PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

struct Run<'a> {
    template: &'a str,
    /// The innermost last; without a name: what the template is filled with.
    variables: Vec<(String, Value)>,
    out: String,
    steps: usize,
}

impl Run<'_> {
    fn write(&mut self, nodes: &[Node], here: &Value) -> Result<Flow, String> {
        for node in nodes {
            self.steps = self
                .steps
                .checked_sub(1)
                .ok_or("the template does not end")?;
            let depth = self.variables.len();
            match node {
                Node::Text(text) => self.out.push_str(text),
                Node::Break => return Ok(Flow::Break),
                Node::Continue => return Ok(Flow::Continue),
                Node::Pipe(pipeline) => {
                    let value = self.pipeline(pipeline, here)?;
                    match pipeline.names.first() {
                        None => self.out.push_str(&functions::shown(&value)),
                        Some(name) => self.name(name, value, pipeline.known)?,
                    }
                }
                Node::If(asked, body, other) | Node::With(asked, body, other) => {
                    let value = self.pipeline(asked, here)?;
                    if let Some(name) = asked.names.first() {
                        self.name(name, value.clone(), false)?;
                    }
                    let flow = match (functions::holds(&value), node) {
                        (false, _) => self.write(other, here)?,
                        (true, Node::With(..)) => self.write(body, &value)?,
                        (true, _) => self.write(body, here)?,
                    };
                    self.variables.truncate(depth);
                    if flow != Flow::On {
                        return Ok(flow);
                    }
                }
                Node::Range(asked, body, other) => {
                    let all: Vec<(Value, Value)> = match self.pipeline(asked, here)? {
                        Value::Array(list) => (0_u64..).map(Value::from).zip(list).collect(),
                        Value::Object(map) => {
                            let pairs = map.into_iter();
                            pairs.map(|(k, v)| (Value::String(k), v)).collect()
                        }
                        Value::Null => Vec::new(),
                        other => {
                            let shown = functions::shown(&other);
                            return Err(
                                self.wrong(asked.at, &format!("range can't iterate over {shown}"))
                            );
                        }
                    };
                    if all.is_empty() {
                        let flow = self.write(other, here)?;
                        if flow != Flow::On {
                            return Ok(flow);
                        }
                    }
                    for (key, one) in &all {
                        match &asked.names[..] {
                            [] => {}
                            [value] => self.name(value, one.clone(), false)?,
                            [index, value, ..] => {
                                self.name(index, key.clone(), false)?;
                                self.name(value, one.clone(), false)?;
                            }
                        }
                        let flow = self.write(body, one)?;
                        self.variables.truncate(depth);
                        if flow == Flow::Break {
                            break;
                        }
                    }
                }
            }
        }
        Ok(Flow::On)
    }

    fn name(&mut self, name: &str, value: Value, known: bool) -> Result<(), String> {
        if !known {
            self.variables.push((name.into(), value));
            return Ok(());
        }
        let found = self.variables.iter_mut().rev().find(|(n, _)| n == name);
        let place = found
            .ok_or_else(|| format!("template parsing error: undefined variable \"${name}\""))?;
        place.1 = value;
        Ok(())
    }

    /// What went wrong, and where in the template.
    fn wrong(&self, at: usize, why: &str) -> String {
        let before = self.template.get(..at).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = at - before.rfind('\n').map_or(0, |n| n + 1);
        let rest = self.template.get(at..).unwrap_or_default();
        let end = rest.find(|c: char| c.is_whitespace() || matches!(c, '}' | ')' | '|'));
        let token = &rest[..end.unwrap_or(rest.len())];
        format!(
            "template parsing error: template: :{line}:{column}: executing \"\" at <{token}>: {why}"
        )
    }

    fn pipeline(&mut self, pipeline: &Pipeline, here: &Value) -> Result<Value, String> {
        let mut last = None;
        for command in &pipeline.commands {
            last = Some(self.command(command, last, here)?);
        }
        last.ok_or_else(|| "template parsing error: missing value for command".into())
    }

    fn command(
        &mut self,
        all: &[Operand],
        last: Option<Value>,
        here: &Value,
    ) -> Result<Value, String> {
        self.steps = self
            .steps
            .checked_sub(1)
            .ok_or("the template does not end")?;
        let (first, rest) = all
            .split_first()
            .ok_or("template parsing error: missing value for command")?;
        let mut arguments = Vec::new();
        for operand in rest {
            arguments.push(self.operand(operand, here)?);
        }
        arguments.extend(last);
        match first {
            Operand::Call(name, at) => {
                functions::call(name, &arguments).map_err(|why| self.wrong(*at, &why))
            }
            // of what lists show, one of the labels
            Operand::Field(path, at)
                if path.len() == 1 && path[0] == "Label" && arguments.len() == 1 =>
            {
                let labels = self.fields(here, &["Labels".into()], *at)?;
                let pairs = labels.as_str().unwrap_or_default().split(',');
                let found = pairs
                    .filter_map(|p| p.split_once('='))
                    .find(|(k, _)| arguments[0] == *k);
                Ok(Value::from(found.map_or("", |(_, value)| value)))
            }
            operand if arguments.is_empty() => self.operand(operand, here),
            _ => Err("template parsing error: can't give argument to non-function".into()),
        }
    }

    fn operand(&mut self, operand: &Operand, here: &Value) -> Result<Value, String> {
        match operand {
            Operand::Value(value) => Ok(value.clone()),
            Operand::Field(path, at) => self.fields(here, path, *at),
            Operand::Variable(name, path, at) => {
                let found = self.variables.iter().rev().find(|(n, _)| n == name);
                let (_, value) = found.ok_or_else(|| {
                    format!("template parsing error: undefined variable \"${name}\"")
                })?;
                self.fields(value, path, *at)
            }
            Operand::Nested(pipeline, path) => {
                let value = self.pipeline(pipeline, here)?;
                self.fields(&value, path, pipeline.at)
            }
            Operand::Call(name, at) => {
                functions::call(name, &[]).map_err(|why| self.wrong(*at, &why))
            }
        }
    }

    fn fields(&self, from: &Value, path: &[String], at: usize) -> Result<Value, String> {
        let (mut value, mut free) = (from, false);
        for name in path {
            value = match value {
                Value::Object(map) => match map.get(name) {
                    Some(found) => found,
                    None if free => &Value::Null,
                    None => {
                        return Err(self.wrong(at, &format!("map has no entry for key {name:?}")));
                    }
                },
                Value::Null => &Value::Null,
                other => {
                    let what = functions::shown(other);
                    return Err(self.wrong(at, &format!("can't evaluate field {name} in {what}")));
                }
            };
            free = KEYED.contains(&name.as_str());
        }
        Ok(value.clone())
    }
}

/// Fields whose own fields anybody names: one that isn't there has no value.
const KEYED: [&str; 10] = [
    "Labels",
    "Options",
    "Ports",
    "Networks",
    "PortBindings",
    "ExposedPorts",
    "Volumes",
    "Sysctls",
    "Tmpfs",
    "Containers",
];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn templates_are_filled() {
        let value = json!({
            "Name": "/web", "State": { "Running": true, "Pid": 7 },
            "Config": { "Labels": { "a.b": "c" }, "Env": ["A=1", "B=2"] },
            "Mounts": [{ "Source": "/x" }, { "Source": "/y" }],
            "Ports": {}, "Labels": "x=1,y=2", "Unset": null, "Half": 0.5,
            "Net": { "80/tcp": [{ "HostPort": "8080" }], "90/tcp": null },
        });
        for (template, wanted) in [
            ("{{.Name}}", Ok("/web")),
            ("a {{ .State.Pid }} b", Ok("a 7 b")),
            ("{{json .State}}", Ok(r#"{"Pid":7,"Running":true}"#)),
            ("{{.State.Pid | json}}", Ok("7")),
            ("{{json .}}", Ok("")),
            (r#"{{index .Config.Labels "a.b"}}"#, Ok("c")),
            (r#"{{index .Config.Labels "none"}}"#, Ok("")),
            ("{{.Config.Labels.none}}", Ok("<no value>")),
            ("{{index .Config.Env 1}}", Ok("B=2")),
            ("{{.Config.Env}}", Ok("[A=1 B=2]")),
            ("{{.Config.Labels}}", Ok("map[a.b:c]")),
            ("{{len .Mounts}}", Ok("2")),
            ("{{range .Mounts}}{{.Source}};{{end}}", Ok("/x;/y;")),
            (
                "{{range $i, $m := .Mounts}}{{$i}}={{$m.Source}} {{end}}",
                Ok("0=/x 1=/y "),
            ),
            (
                "{{range $p, $c := .Net}}{{$p}}->{{with $c}}{{(index . 0).HostPort}}{{else}}-{{end}} {{end}}",
                Ok("80/tcp->8080 90/tcp->- "),
            ),
            (
                r#"{{(index (index .Net "80/tcp") 0).HostPort}}"#,
                Ok("8080"),
            ),
            ("{{range .Ports}}x{{else}}none{{end}}", Ok("none")),
            (
                "{{range .Config.Env}}{{if eq . \"B=2\"}}{{break}}{{end}}{{.}}{{end}}",
                Ok("A=1"),
            ),
            (
                "{{range .Config.Env}}{{if eq . \"A=1\"}}{{continue}}{{end}}{{.}}{{end}}",
                Ok("B=2"),
            ),
            ("{{if .State.Running}}up{{else}}down{{end}}", Ok("up")),
            (
                "{{if .Ports}}up{{else if .Name}}named{{else}}down{{end}}",
                Ok("named"),
            ),
            (
                "{{if and .State.Running (not .Ports)}}a{{end}}{{if or .Ports .Unset}}b{{end}}",
                Ok("a"),
            ),
            (
                "{{if gt .State.Pid 6}}big{{end}}{{if lt 2 1}}no{{end}}",
                Ok("big"),
            ),
            ("{{if eq .State.Pid 1 7}}one of{{end}}", Ok("one of")),
            (
                "{{$n := .Name}}{{range .Mounts}}{{$n}}{{$.State.Pid}}{{end}}",
                Ok("/web7/web7"),
            ),
            (
                "{{$n := 1}}{{range .Mounts}}{{$n = .Source}}{{end}}{{$n}}",
                Ok("/y"),
            ),
            (r#"{{join .Config.Env ","}}"#, Ok("A=1,B=2")),
            (
                r#"{{join (split "a-b" "-") "+"}}{{upper "x"}}{{title "ab"}}"#,
                Ok("a+bXAb"),
            ),
            (
                r#"{{printf "%s is %d, %5.1f|%-4s|%04d|%q|%v%%" .Name .State.Pid .Half "x" 7 "q" true}}"#,
                Ok("/web is 7,   0.5|x   |0007|\"q\"|true%"),
            ),
            (
                r#"{{slice .Name 1}}{{slice .Name 1 2}}{{truncate "abc" 2}}{{pad "x" 1 1}}|"#,
                Ok("webwab x |"),
            ),
            ("{{ .Name -}}   x", Ok("/webx")),
            ("x  {{- /* nothing */ -}}  y", Ok("xy")),
            ("{{\"}}\"}}", Ok("}}")),
            (r#"{{.Label "y"}}{{.Label "z"}}"#, Ok("2")),
            (
                "{{.None}}",
                Err("template: :1:2: executing \"\" at <.None>: map has no entry for key \"None\""),
            ),
            ("{{.Name.Further}}", Err("can't evaluate field Further")),
            ("{{.Name", Err("unclosed action")),
            ("{{nope .Name}}", Err("function \"nope\" not defined")),
            ("{{if .Name}}", Err("unexpected EOF")),
            ("{{end}}", Err("unexpected {{end}}")),
            ("{{$x}}", Err("undefined variable \"$x\"")),
            (
                "{{range .Name}}{{end}}",
                Err("range can't iterate over /web"),
            ),
            ("{{index .Mounts 5}}", Err("index out of range: 5")),
            ("{{(.Name}}", Err("unclosed left paren")),
            ("{{\"x}}", Err("unterminated quoted string")),
        ] {
            match (fill(template, &value), wanted) {
                (Ok(got), Ok("")) if template == "{{json .}}" => assert_eq!(got, value.to_string()),
                (Ok(got), Ok(wanted)) => assert_eq!(got, wanted, "{template}"),
                (Err(got), Err(part)) => assert!(got.contains(part), "{template}: {got}"),
                (got, _) => panic!("{template}: {got:?}"),
            }
        }
    }

    #[test]
    fn templates_end() {
        let list = json!({ "A": vec![0; 400] });
        let loops = "{{range .A}}{{range $.A}}{{range $.A}}x{{end}}{{end}}{{end}}";
        assert!(fill(loops, &list).unwrap_err().contains("does not end"));
        let deep = format!("{{{{{}.A{}}}}}", "(".repeat(5000), ")".repeat(5000));
        assert!(fill(&deep, &list).unwrap_err().contains("too deep"));
        assert!(
            fill(&"{{if .A}}".repeat(5000), &list)
                .unwrap_err()
                .contains("too deep")
        );
        assert!(fill("{{printf \"%999999999d\" 1}}", &list).is_err());
    }
}
