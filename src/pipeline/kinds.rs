//! What a stage kind declares of itself, so that a pipeline can be checked without knowing what the kind does.

use serde_json::{Map, Value};

/// The declaration of one stage kind.
#[derive(Clone, Copy)]
pub struct Kind {
    /// Its name, as `kind:` in a stage definition says it.
    pub name: &'static str,
    /// Version of the implementation; part of every key, raised when the same parameters give other bytes.
    pub version: u32,
    /// Which inputs it takes.
    pub inputs: Inputs,
    /// Its outputs as (name, path inside the cell); the first is the one that a bare stage name refers to.
    pub outputs: &'static [(&'static str, &'static str)],
    /// Whether its outputs are also put below the reports folder.
    pub publish: bool,
    /// Parameters in which a job may differ from an earlier one whose work it continues. If there are any, what a job
    /// leaves in its resume folder stays after it, for a job that goes further.
    pub continues: &'static [&'static str],
    /// How many secrets it takes at most. It finds their names in the job and their values in its environment.
    pub secrets: usize,
    /// Refuses resolved parameters that the kind cannot run with. An empty result accepts them.
    pub check: fn(&Map<String, Value>) -> Vec<ParameterProblem>,
}

/// The inputs that a kind takes.
#[derive(Clone, Copy)]
pub enum Inputs {
    /// These and no others, each one cell's output or a path.
    Named(&'static [InputSpec]),
    /// Any names, at least one; each gathers every cell of the axes that the stage itself does not have. None of those axes may
    /// have a `reserved` name: a word of the kind's parameters that means something else.
    Gathered { reserved: &'static [&'static str] },
}

/// One named input of a kind.
pub struct InputSpec {
    /// The name below `in:`.
    pub name: &'static str,
    /// Whether a pipeline must give it.
    pub required: bool,
}

/// A parameter that a kind refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterProblem {
    /// Where below `with:`, such as `["loss", "pos_margin"]`.
    pub path: Vec<String>,
    /// What is wrong and what was expected, as half a sentence: "is 3.0, expected a number in [0, 2]".
    pub message: String,
}

/// Every kind that this program has. The engine half sees kinds only through this list.
pub struct Kinds(pub Vec<Kind>);

impl Kinds {
    /// The kind of that name.
    pub fn get(&self, name: &str) -> Option<&Kind> {
        self.0.iter().find(|kind| kind.name == name)
    }

    /// All names, in the order of declaration.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|kind| kind.name)
    }
}
