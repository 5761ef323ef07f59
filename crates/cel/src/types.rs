//! CEL types: what the checker reasons about.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::schema::is_reserved;

/// A type of the language. Object types carry their fields, so no registry is needed to look one up.
#[derive(Clone, Debug)]
pub enum Type {
    /// The type of an expression that failed to check; assignable to everything, so one mistake is told once.
    Error,
    /// Known only when evaluated.
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Duration,
    Timestamp,
    List(Arc<Type>),
    Map(Arc<Type>, Arc<Type>),
    /// An object with declared fields.
    Object(Arc<ObjectType>),
    /// A type known by name only: the Kubernetes library's values. `Opaque` with no fields.
    Opaque(&'static str),
    Optional(Arc<Type>),
    /// The type of a type: `type(int)`. `None` is `type` itself.
    Type(Option<Arc<Type>>),
    /// A type variable of an overload or of an empty literal.
    Param(Arc<str>),
}

/// A named set of fields.
#[derive(Debug)]
pub struct ObjectType {
    /// The name in messages and of `type(x)`.
    pub name: String,
    /// What `x.field` may name.
    pub fields: Fields,
}

/// The fields of an object type.
#[derive(Debug)]
pub enum Fields {
    /// Exactly these, by the escaped name an expression uses.
    Declared(BTreeMap<String, Field>),
    /// Any field: `Object.spec.replicas` of a MutatingAdmissionPolicy, whose types follow from their names.
    Any,
}

/// A declared field.
#[derive(Clone, Debug)]
pub struct Field {
    pub ty: Type,
    /// Whether a valid object always has it. Not used in checking; kept for callers.
    pub required: bool,
}

impl ObjectType {
    /// An object type from its fields; names as expressions write them.
    pub fn new(
        name: impl Into<String>,
        fields: impl IntoIterator<Item = (String, Field)>,
    ) -> Arc<ObjectType> {
        Arc::new(ObjectType {
            name: name.into(),
            fields: Fields::Declared(fields.into_iter().collect()),
        })
    }

    pub(crate) fn field(&self, name: &str) -> Option<Type> {
        match &self.fields {
            // a keyword may be written as it is: `self.namespace` for `self.__namespace__`
            Fields::Declared(f) => f
                .get(name)
                .or_else(|| f.get(&format!("__{name}__")).filter(|_| is_reserved(name)))
                .map(|f| f.ty.clone()),
            Fields::Any => Some(Type::Dyn),
        }
    }
}

impl Type {
    /// `list(elem)`.
    pub fn list(elem: Type) -> Type {
        Type::List(Arc::new(elem))
    }
    /// `map(key, value)`.
    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new(key), Arc::new(value))
    }
    /// `optional_type(of)`.
    pub fn optional(of: Type) -> Type {
        Type::Optional(Arc::new(of))
    }
    /// An object type with these optional fields.
    pub fn object(name: &str, fields: impl IntoIterator<Item = (&'static str, Type)>) -> Type {
        let fields = fields.into_iter().map(|(n, ty)| {
            (
                n.to_string(),
                Field {
                    ty,
                    required: false,
                },
            )
        });
        Type::Object(ObjectType::new(name, fields))
    }
    pub(crate) fn type_of(of: Type) -> Type {
        Type::Type(Some(Arc::new(of)))
    }

    /// The type's own name, as `type(x)` prints it.
    pub fn name(&self) -> &str {
        match self {
            Type::Error => "!error!",
            Type::Dyn => "dyn",
            Type::Null => "null_type",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Uint => "uint",
            Type::Double => "double",
            Type::String => "string",
            Type::Bytes => "bytes",
            Type::Duration => "google.protobuf.Duration",
            Type::Timestamp => "google.protobuf.Timestamp",
            Type::List(_) => "list",
            Type::Map(..) => "map",
            Type::Object(o) => &o.name,
            Type::Opaque(n) => n,
            Type::Optional(_) => "optional_type",
            Type::Type(_) => "type",
            Type::Param(n) => n,
        }
    }

    /// The name with its parameters, as cel-go's `Type.String`: `google.protobuf.Duration`, `list(int)`.
    pub(crate) fn declared(&self) -> String {
        let params: Vec<String> = self.params().into_iter().map(Type::declared).collect();
        match params.is_empty() {
            true => self.name().to_string(),
            false => format!("{}({})", self.name(), params.join(", ")),
        }
    }

    pub(crate) fn params(&self) -> Vec<&Type> {
        match self {
            Type::List(e) | Type::Optional(e) => vec![e],
            Type::Map(k, v) => vec![k, v],
            Type::Type(Some(t)) => vec![t],
            _ => Vec::new(),
        }
    }

    /// The same type: parameters compared, objects by name.
    pub fn same(&self, other: &Type) -> bool {
        match (self, other) {
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => a.same(b),
            (Type::Map(a, b), Type::Map(c, d)) => a.same(c) && b.same(d),
            (Type::Type(Some(a)), Type::Type(Some(b))) => a.same(b),
            (Type::Type(None), Type::Type(None)) => true,
            (Type::Type(_), _) | (_, Type::Type(_)) => false,
            _ => {
                std::mem::discriminant(self) == std::mem::discriminant(other)
                    && self.name() == other.name()
            }
        }
    }

    pub(crate) fn is_dyn_or_error(&self) -> bool {
        matches!(self, Type::Dyn | Type::Error)
    }
}

/// As cel-go's `FormatCELType`: the form in "applied to '(int, list(string))'".
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Duration => f.write_str("duration"),
            Type::Timestamp => f.write_str("timestamp"),
            Type::Null => f.write_str("null"),
            _ => {
                f.write_str(self.name())?;
                let params = self.params();
                for (i, p) in params.iter().enumerate() {
                    write!(f, "{}{p}", if i == 0 { "(" } else { ", " })?;
                }
                if params.is_empty() {
                    Ok(())
                } else {
                    f.write_str(")")
                }
            }
        }
    }
}
