//! Expressions that select devices (`dynamic-resource-allocation/cel`).

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, LazyLock},
};

use knarr_cel::{Activation, Budget, Env, Program, Type, Value};
use parking_lot::Mutex;

use crate::model::{Attribute, Device};

/// Compiled expressions that are kept; when there are more, all are forgotten.
const KEPT_MAX: usize = 256;

/// What an expression knows of a device.
pub fn environment() -> &'static Env {
    static ENV: LazyLock<Env> = LazyLock::new(|| {
        let by_name = |of| Type::map(Type::String, Type::map(Type::String, of));
        let device = Type::object(
            "kubernetes.DRADevice",
            [
                ("driver", Type::String),
                ("allowMultipleAllocations", Type::Bool),
                ("attributes", by_name(Type::Dyn)),
                ("capacity", by_name(Type::Opaque("kubernetes.Quantity"))),
            ],
        );
        Env::builder().variable("device", device).build()
    });
    &ENV
}

type Compiled = Arc<Result<Program, String>>;

/// Compiles each expression once.
#[derive(Default)]
pub struct Expressions {
    kept: Mutex<HashMap<Box<str>, Compiled>>,
}

impl Expressions {
    fn compiled(&self, text: &str) -> Compiled {
        let mut kept = self.kept.lock();
        if let Some(known) = kept.get(text) {
            return known.clone();
        }
        let new: Compiled = Arc::new(compile(text));
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(text.into(), new.clone());
        new
    }

    /// The device is one that the expression means; Err: upstream's words.
    pub(crate) fn matches(
        &self,
        text: &str,
        driver: &str,
        device: &Device,
    ) -> Result<bool, String> {
        let program = self.compiled(text);
        let program = match &*program {
            Ok(program) => program,
            Err(why) => return Err(format!("CEL compile error: {why}")),
        };
        evaluate(program, driver, device).map_err(|why| format!("CEL runtime error: {why}"))
    }
}

fn compile(text: &str) -> Result<Program, String> {
    let program = environment()
        .compile(text, &[])
        .map_err(|e| e.to_string())?;
    match program.result_type() {
        Type::Bool | Type::Dyn => Ok(program),
        other => Err(format!(
            "must evaluate to bool or the unknown type, not {other}"
        )),
    }
}

fn evaluate(program: &Program, driver: &str, device: &Device) -> Result<bool, String> {
    let mut vars = Activation::new();
    vars.bind("device", value(driver, device)?);
    let result = program
        .evaluate(&vars, &mut Budget::default())
        .map_err(|e| e.to_string())?;
    result.as_bool().ok_or_else(|| {
        let of = result.type_of();
        let of = of.name();
        format!(
            "CEL result of type {of} could not be converted to bool: type conversion error from '{of}' to 'bool'"
        )
    })
}

type ByDomain<'a> = BTreeMap<&'a str, Vec<(String, Value<'a>)>>;

/// A name without a domain is of the driver's.
fn put<'a>(all: &mut ByDomain<'a>, driver: &'a str, name: &'a str, value: Value<'a>) {
    let (domain, id) = name.split_once('/').unwrap_or((driver, name));
    all.entry(domain).or_default().push((id.to_owned(), value));
}

fn open(all: ByDomain<'_>) -> Value<'_> {
    Value::open_map(
        all.into_iter()
            .map(|(domain, ids)| (domain.to_owned(), Value::map_of(ids))),
    )
}

fn value<'a>(driver: &'a str, device: &'a Device) -> Result<Value<'a>, String> {
    let (mut attributes, mut capacity) = (ByDomain::new(), ByDomain::new());
    for (name, attribute) in &device.attributes {
        let value = match attribute {
            Attribute::Int(i) => Value::Int(*i),
            Attribute::Bool(b) => Value::Bool(*b),
            Attribute::String(s) => Value::string(&**s),
            Attribute::Version(v) => Value::semver(v)
                .map_err(|e| format!("attribute {name}: parse semantic version: {e}"))?,
            Attribute::Other(_) => {
                return Err(format!("attribute {name}: unsupported attribute value"));
            }
        };
        put(&mut attributes, driver, name, value);
    }
    for (name, of) in &device.capacity {
        let amount = of.value.clone().unwrap_or(knarr_quantity::Quantity::ZERO);
        put(&mut capacity, driver, name, Value::quantity(amount));
    }
    Ok(Value::map_of([
        ("driver".to_owned(), Value::string(driver)),
        (
            "allowMultipleAllocations".to_owned(),
            Value::Bool(device.allow_multiple_allocations),
        ),
        ("attributes".to_owned(), open(attributes)),
        ("capacity".to_owned(), open(capacity)),
    ]))
}
