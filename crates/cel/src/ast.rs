//! The syntax tree. Macros are already expanded: what is left is what cel-go's tree has, because costs count its nodes.

/// A node: `id` names its place in the source and, once checked, its type.
#[derive(Debug, Clone)]
pub(crate) struct Expr {
    pub id: u32,
    pub kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Literal(Literal),
    Ident(String),
    Select {
        operand: Box<Expr>,
        field: String,
        test_only: bool,
    },
    Call {
        function: String,
        target: Option<Box<Expr>>,
        args: Vec<Expr>,
    },
    List {
        elems: Vec<Expr>,
        optional: Vec<bool>,
    },
    Map(Vec<Entry>),
    Struct {
        name: String,
        fields: Vec<FieldInit>,
    },
    Comprehension(Box<Comprehension>),
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub key: Expr,
    pub value: Expr,
    pub optional: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct FieldInit {
    pub id: u32,
    pub name: String,
    pub value: Expr,
    pub optional: bool,
}

/// `accu = init; for var[, var2] in range { if !condition break; accu = step }; result`.
#[derive(Debug, Clone)]
pub(crate) struct Comprehension {
    pub range: Expr,
    pub var: String,
    pub var2: Option<String>,
    pub accu: String,
    pub init: Expr,
    pub condition: Expr,
    pub step: Expr,
    pub result: Expr,
}

/// The operators' function names, as cel-go spells them.
pub(crate) mod op {
    pub const AND: &str = "_&&_";
    pub const OR: &str = "_||_";
    pub const NOT: &str = "!_";
    pub const NEGATE: &str = "-_";
    pub const CONDITIONAL: &str = "_?_:_";
    pub const EQ: &str = "_==_";
    pub const NE: &str = "_!=_";
    pub const ADD: &str = "_+_";
    pub const IN: &str = "@in";
    pub const INDEX: &str = "_[_]";
    pub const OPT_INDEX: &str = "_[?_]";
    pub const OPT_SELECT: &str = "_?._";
    pub const NOT_STRICTLY_FALSE: &str = "@not_strictly_false";
    pub const MAP_INSERT: &str = "cel.@mapInsert";
}

impl Expr {
    /// `a.b.c` as written, if it is a plain path that could also be a qualified name.
    pub fn qualified_name(&self) -> Option<String> {
        match &self.kind {
            Kind::Ident(n) => Some(n.clone()),
            Kind::Select {
                operand,
                field,
                test_only: false,
            } => Some(format!("{}.{field}", operand.qualified_name()?)),
            _ => None,
        }
    }
}

/// The source's positions: of every node, the code point it starts at.
#[derive(Debug, Default, Clone)]
pub(crate) struct Positions(pub Vec<u32>);

impl Positions {
    pub fn new_id(&mut self, at: u32) -> u32 {
        self.0.push(at);
        (self.0.len() - 1) as u32
    }
    pub fn of(&self, id: u32) -> u32 {
        self.0.get(id as usize).copied().unwrap_or(0)
    }
}
