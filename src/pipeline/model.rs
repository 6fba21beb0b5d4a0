//! The checked pipeline and its cells: plain values, in topological order.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

pub use super::cell_map::{CellId, CellMap};
pub use super::script::{Filled, Script};

/// A pipeline that has passed every check.
#[derive(Debug)]
pub struct Pipeline {
    /// `name:` of the file, or the file's stem.
    pub name: String,
    /// The file that was read.
    pub file: PathBuf,
    /// `description:`, if any.
    pub description: Option<String>,
    /// The axes, in the order of the file.
    pub axes: Vec<Axis>,
    /// The stages in topological order, ties in the order of the file.
    pub stages: Vec<Stage>,
    /// Every cell. A cell comes after all of its inputs; cells of one stage are neighbours, the last axis fastest, unless
    /// the stage reads earlier cells, or what these read: such stages take turns, one value of that axis after the other.
    pub cells: CellMap<Cell>,
    /// Capacities of named resources that the file declares (`resources:` at the top level).
    pub resources: BTreeMap<String, u64>,
    /// The definitions that it uses in place of built-in ones of the same name.
    pub replaced: Vec<Replaced>,
}

/// A definition of the project that replaces a built-in one and differs from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// The name of both, such as `report`.
    pub name: String,
    /// The project's file.
    pub file: PathBuf,
}

/// An axis: a name and its values.
#[derive(Debug)]
pub struct Axis {
    /// Its name, such as `seed`.
    pub name: Arc<str>,
    /// Its values in the order of the file.
    pub values: Vec<AxisValue>,
}

/// One value of an axis.
#[derive(Debug)]
pub struct AxisValue {
    /// How cells and tables call it: `glyphs`, `3`.
    pub name: Arc<str>,
    /// The value of `${axis}` where it is the whole value: the fields, or the scalar itself.
    pub value: Value,
}

/// What all cells of a stage share.
#[derive(Debug)]
pub struct Stage {
    /// Its name in the pipeline.
    pub name: Arc<str>,
    /// `description:` of the stage, if any.
    pub description: Option<String>,
    /// The axes it has, as indices into [`Pipeline::axes`], ascending.
    pub axes: Vec<usize>,
    /// The stages it reads, as indices into [`Pipeline::stages`].
    pub reads: Vec<usize>,
    /// Those of which it reads earlier cells of an axis, itself and later ones among them.
    pub recalls: Vec<usize>,
    /// How it is run; none of this enters a key.
    pub policy: Policy,
}

/// How a stage is run: nothing here changes a result, so nothing here enters a key.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Amounts of named resources that a running cell holds: `cpu`, `gpu`, `memory` (bytes) or any other name.
    pub resources: BTreeMap<String, u64>,
    /// How often a failed cell is retried.
    pub retry: u32,
    /// After this long a cell is stopped and counts as failed.
    pub timeout: Option<Duration>,
}

/// One cell: a stage at one point of its axes.
#[derive(Debug)]
pub struct Cell {
    /// Index into [`Pipeline::stages`].
    pub stage: u32,
    /// The index of the value on each of the stage's axes, parallel to [`Stage::axes`].
    pub coordinates: Box<[u32]>,
    /// What it does.
    pub task: Task,
    /// What it reads, in the order of the file.
    pub inputs: Vec<Input>,
    /// What it writes, in the order of the file; never empty.
    pub outputs: Vec<Output>,
    /// Environment variables that the stage declares, resolved; they enter the key and the process.
    pub env: BTreeMap<String, String>,
    /// Names of variables that it gets from this process's environment and whose values are never written to disk.
    pub secrets: Vec<Arc<str>>,
}

/// What a cell does.
#[derive(Debug, Clone, PartialEq)]
pub enum Task {
    /// A built-in kind with its resolved parameters, defaults filled in; cells with equal ones share them. `continues` are
    /// those in which it may differ from an earlier cell whose work it continues.
    Kind { name: Arc<str>, version: u32, parameters: Arc<Map<String, Value>>, continues: &'static [&'static str] },
    /// A text for a shell.
    Shell(Script),
    /// A program and its arguments, run without a shell. They still hold `${in.NAME}` and `${out.NAME}`.
    Program(Vec<String>),
}

/// One input of a cell.
#[derive(Debug)]
pub struct Input {
    /// Its name below `in:`.
    pub name: Arc<str>,
    /// Where it comes from.
    pub source: Source,
}

/// Where an input comes from.
#[derive(Debug)]
pub enum Source {
    /// One output of one cell.
    Cell { cell: CellId, output: Arc<str> },
    /// One output of many cells, each with its label (`dataset=glyphs,seed=0`, over the axes that the reader does not
    /// have, and the one whose earlier cells it reads), in the order of the cells.
    Gathered { members: Vec<(Arc<str>, CellId)>, output: Arc<str> },
    /// A file or folder, already resolved against the pipeline's folder.
    Path(PathBuf),
}

/// One output of a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its name below `out:`.
    pub name: Arc<str>,
    /// Its path inside the cell's own folder, relative, without `..`.
    pub path: String,
    /// Its path below the reports folder, if it is put there too.
    pub publish: Option<PathBuf>,
}

impl Pipeline {
    /// The stage of a cell.
    pub fn stage_of(&self, cell: CellId) -> &Stage {
        &self.stages[self.cells[cell].stage as usize]
    }

    /// The axis values of a cell as (axis name, value name), in axis order.
    pub fn coordinates(&self, cell: CellId) -> impl Iterator<Item = (&Arc<str>, &AxisValue)> {
        let stage = self.stage_of(cell);
        let cell = &self.cells[cell];
        stage.axes.iter().zip(cell.coordinates.iter()).map(|(&axis, &value)| {
            let axis = &self.axes[axis];
            (&axis.name, &axis.values[value as usize])
        })
    }

    /// The cell's name: `model[dataset=glyphs,loss=contrastive,seed=0]`, or `table` for a stage without axes.
    pub fn cell_name(&self, cell: CellId) -> String {
        let mut name = self.stage_of(cell).name.to_string();
        for (i, (axis, value)) in self.coordinates(cell).enumerate() {
            name.push(if i == 0 { '[' } else { ',' });
            name.push_str(axis);
            name.push('=');
            name.push_str(&value.name);
        }
        if name.contains('[') {
            name.push(']');
        }
        name
    }
}
