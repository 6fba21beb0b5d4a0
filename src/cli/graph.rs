//! `meanfield graph`: the stages and what reads what, as DOT, Mermaid or SVG.

use std::fmt::Write as _;

use clap::ValueEnum;

use super::failure::Failure;
use super::project::{Project, Target};
use super::{Global, Ui};
use crate::pipeline::model::Pipeline;

/// Show the stage graph
///
/// Prints the stages, the number of their cells and what each stage reads, as a graph for Graphviz (DOT), for Markdown
/// (Mermaid) or as an SVG image.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meanfield graph quickstart --format mermaid")]
pub struct Args {
    #[command(flatten)]
    target: Target,
    /// Output format
    #[arg(long, short, value_name = "FORMAT", default_value = "dot")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Dot,
    Mermaid,
    Svg,
}

/// Runs the command.
pub fn run(args: &Args, global: &Global, ui: &mut Ui<'_>) -> Result<(), Failure> {
    let project = Project::open(&args.target, global)?;
    let nodes = nodes(&project.pipeline);
    let text = match args.format {
        Format::Dot => dot(&project.pipeline.name, &nodes),
        Format::Mermaid => mermaid(&nodes),
        Format::Svg => svg(&nodes),
    };
    write!(ui.out, "{text}")?;
    project.close()
}

/// A stage as it is drawn.
struct Node<'a> {
    name: &'a str,
    /// Its axes and its number of cells: `dataset x loss x seed: 36 cells`.
    cells: String,
    reads: &'a [usize],
    /// Stages of which it reads earlier cells, drawn dashed.
    recalls: &'a [usize],
}

fn nodes(pipeline: &Pipeline) -> Vec<Node<'_>> {
    let mut counts = vec![0usize; pipeline.stages.len()];
    pipeline.cells.iter().for_each(|cell| counts[cell.stage as usize] += 1);
    let node = |(stage, count): (&'_ crate::pipeline::model::Stage, usize)| {
        let axes: Vec<&str> = stage.axes.iter().map(|&axis| &*pipeline.axes[axis].name).collect();
        match (axes.is_empty(), count) {
            (true, _) => "1 cell".to_owned(),
            (false, count) => format!("{}: {count} cells", axes.join(" × ")),
        }
    };
    pipeline
        .stages
        .iter()
        .zip(counts)
        .map(|(stage, count)| Node {
            name: &stage.name,
            cells: node((stage, count)),
            reads: &stage.reads,
            recalls: &stage.recalls,
        })
        .collect()
}

fn dot(name: &str, nodes: &[Node<'_>]) -> String {
    let mut text = format!("digraph {name:?} {{\n  rankdir=LR;\n  node [shape=box, style=rounded];\n");
    for node in nodes {
        let _ = writeln!(text, "  {:?} [label=\"{}\\n{}\"];", node.name, node.name, node.cells);
    }
    for node in nodes {
        for &input in node.reads {
            let _ = writeln!(text, "  {:?} -> {:?};", nodes[input].name, node.name);
        }
        for &input in node.recalls {
            let _ = writeln!(text, "  {:?} -> {:?} [style=dashed];", nodes[input].name, node.name);
        }
    }
    text.push_str("}\n");
    text
}

fn mermaid(nodes: &[Node<'_>]) -> String {
    let mut text = String::from("flowchart LR\n");
    for (i, node) in nodes.iter().enumerate() {
        let _ = writeln!(text, "  s{i}[\"{}<br/>{}\"]", node.name, node.cells);
    }
    for (i, node) in nodes.iter().enumerate() {
        for input in node.reads {
            let _ = writeln!(text, "  s{input} --> s{i}");
        }
        for input in node.recalls {
            let _ = writeln!(text, "  s{input} -.-> s{i}");
        }
    }
    text
}

/// Layers from left to right: a stage is one layer to the right of its rightmost input.
fn svg(nodes: &[Node<'_>]) -> String {
    const GAP: (usize, usize) = (60, 24);
    const HEIGHT: usize = 48;
    let width = nodes.iter().map(|n| n.name.chars().count().max(n.cells.chars().count())).max().unwrap_or(0) * 8 + 24;
    let mut layers: Vec<usize> = Vec::with_capacity(nodes.len());
    let mut rows: Vec<usize> = Vec::with_capacity(nodes.len());
    let mut filled: Vec<usize> = Vec::new();
    for node in nodes {
        let layer = node.reads.iter().map(|&input| layers[input] + 1).max().unwrap_or(0);
        filled.resize(filled.len().max(layer + 1), 0);
        layers.push(layer);
        rows.push(filled[layer]);
        filled[layer] += 1;
    }
    let place = |i: usize| (20 + layers[i] * (width + GAP.0), 20 + rows[i] * (HEIGHT + GAP.1));
    let tallest = filled.iter().copied().max().unwrap_or(0);
    let size = (20 + filled.len() * (width + GAP.0), 20 + tallest * (HEIGHT + GAP.1));
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <defs><marker id=\"to\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" \
         orient=\"auto\"><path d=\"M0 0 8 4 0 8z\" fill=\"#567\"/></marker></defs>\n",
        size.0, size.1
    );
    for (i, node) in nodes.iter().enumerate() {
        let solid = node.reads.iter().map(|&input| (input, ""));
        let dashed = node.recalls.iter().map(|&input| (input, "stroke-dasharray=\"5 4\" "));
        for (input, style) in solid.chain(dashed) {
            let ((x1, y1), (x2, y2)) = (place(input), place(i));
            let (x1, y1, y2) = (x1 + width, y1 + HEIGHT / 2, y2 + HEIGHT / 2);
            let middle = (x1 + x2) / 2;
            let _ = writeln!(
                text,
                "<path d=\"M{x1} {y1} C{middle} {y1} {middle} {y2} {x2} {y2}\" fill=\"none\" stroke=\"#567\" {style}\
                 marker-end=\"url(#to)\"/>"
            );
        }
    }
    for (i, node) in nodes.iter().enumerate() {
        let (x, y) = place(i);
        let middle = x + width / 2;
        let _ = writeln!(
            text,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{HEIGHT}\" rx=\"6\" fill=\"#eef3f8\" \
             stroke=\"#567\"/><text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\" font-weight=\"bold\">{}</text>\
             <text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\" fill=\"#456\">{}</text>",
            y + 20,
            node.name,
            y + 38,
            node.cells
        );
    }
    text.push_str("</svg>\n");
    text
}
