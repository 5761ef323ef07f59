//! `--call`: what is asked of a Dockerfile instead of a build.

/// A question about a Dockerfile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// None: it is to be built.
    Build,
    Check,
    Outline,
    Targets,
    Describe,
}

/// A question, and how its answer is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    pub question: Question,
    pub json: bool,
    /// What a check finds is no failure.
    pub ignore_status: bool,
}

impl Call {
    pub fn of(question: Question) -> Call {
        Call {
            question,
            json: false,
            ignore_status: false,
        }
    }
}

/// `outline,format=json`. SOURCE: buildx util/buildflags/call.go
pub fn call(text: &str) -> Result<Call, String> {
    let mut fields = text.split(',');
    let question = match fields.next().unwrap_or_default() {
        "build" | "" => Question::Build,
        "check" | "lint" => Question::Check,
        "outline" => Question::Outline,
        "targets" => Question::Targets,
        "subrequests.describe" => Question::Describe,
        other => {
            return Err(format!(
                "{other:?} is none of build, check, outline, targets"
            ));
        }
    };
    let mut call = Call::of(question);
    for field in fields {
        match field.split_once('=') {
            Some(("format", "json")) => call.json = true,
            Some(("format", "text" | "default")) => call.json = false,
            Some(("ignorestatus", value)) => {
                call.ignore_status = value
                    .parse()
                    .map_err(|_| format!("{field:?} is no boolean"))?;
            }
            _ => {
                return Err(format!(
                    "{field:?} is neither format=text|json nor ignorestatus=true|false"
                ));
            }
        }
    }
    Ok(call)
}
