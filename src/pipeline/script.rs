//! A command's text for a shell, with every value in it one word.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::interpolate::{self, RAW, Scope};
use super::problem::{Problem, Report, Span};
use super::quoting::{self, Place};
use super::shell::{self, Shell};
use super::yaml::Node;

/// A text for a shell.
#[derive(Debug, Clone, PartialEq)]
pub struct Script {
    /// The words that start the shell; the text is the last argument.
    pub shell: Shell,
    /// The text. It still holds `${in.NAME}` and `${out.NAME}`.
    pub text: String,
    /// What the text expands as `${MEANFIELD_VALUE_1}` and so on: values that are not plain words.
    pub values: Vec<String>,
}

/// A text that is ready for its shell.
#[derive(Debug, PartialEq)]
pub struct Filled {
    /// The text.
    pub text: String,
    /// The variables that it expands, for the environment.
    pub variables: Vec<(String, String)>,
}

fn variable(number: usize) -> String {
    format!("MEANFIELD_VALUE_{number}")
}

impl Script {
    /// Puts paths in the place of the references that `path` knows, each as one word.
    ///
    /// # Errors
    /// Why a path that needs quoting cannot have it where it is, after "the path ... is ".
    pub fn fill(&self, path: impl Fn(&str) -> Option<String>) -> Result<Filled, String> {
        let (mut parts, mut paths) = (Vec::new(), Vec::new());
        let mut rest = self.text.as_str();
        let mut start = 0;
        while let Some(at) = rest[start..].find("${").map(|at| start + at) {
            let inside = &rest[at + 2..];
            let length = inside.find('}').unwrap_or(inside.len());
            let name = &inside[..length];
            let (name, raw) = name.strip_suffix(RAW).map_or((name, false), |name| (name, true));
            match path(name).filter(|_| length < inside.len()) {
                Some(path) => {
                    parts.push(quoting::Part::Literal(&rest[..at]));
                    parts.push(quoting::Part::Reference);
                    paths.push((path, raw));
                    (rest, start) = (&inside[length + 1..], 0);
                }
                None => start = at + 2,
            }
        }
        parts.push(quoting::Part::Literal(rest));
        let places = if shell::quotes(&self.shell) {
            quoting::places(&parts).0
        } else {
            vec![Place::Refused(UNKNOWN); paths.len()]
        };
        let mut values = self.values.clone();
        let mut words = places.iter().zip(paths);
        let mut text = String::with_capacity(self.text.len() + 16);
        for part in parts {
            match part {
                quoting::Part::Literal(literal) => text.push_str(literal),
                quoting::Part::Reference => {
                    let Some((place, (path, raw))) = words.next() else { continue };
                    if raw {
                        text.push_str(&path);
                        continue;
                    }
                    write(&mut text, &mut values, place, &path)
                        .map_err(|why| format!("the path `{path}` is not a plain word and is {why}"))?;
                }
            }
        }
        let variables = values.into_iter().enumerate().map(|(i, value)| (variable(i + 1), value)).collect();
        Ok(Filled { text, variables })
    }

    /// The words that start the shell, as one line; words with anything odd in them are quoted.
    pub fn shell_line(&self) -> String {
        let word = |word: &String| if quoting::is_plain(word) { word.clone() } else { format!("{word:?}") };
        self.shell.iter().map(word).collect::<Vec<_>>().join(" ")
    }
}

const UNKNOWN: &str = "in the text of a shell whose quoting is not known";

/// Writes a value as one word.
fn write(text: &mut String, values: &mut Vec<String>, place: &Place, value: &str) -> Result<(), &'static str> {
    if place.takes(value) {
        text.push_str(value);
        return Ok(());
    }
    let expansion = place.expansion(&variable(values.len() + 1))?;
    text.push_str(&expansion);
    values.push(value.to_owned());
    Ok(())
}

/// A script in which only axis values are open.
#[derive(Debug)]
pub(super) struct Draft {
    shell: Shell,
    pieces: Vec<Piece>,
}

#[derive(Debug)]
enum Piece {
    Literal(String),
    Value(Slot, Arc<str>),
    Axis(Slot, usize, Arc<[Arc<str>]>),
}

/// How a value is written.
#[derive(Debug)]
enum Slot {
    /// As it is: the user asked for it.
    Raw,
    Word(Place),
}

impl Draft {
    /// Looks up every reference of a shell text.
    pub(super) fn read(node: &Node, shell: Shell, scope: &mut dyn Scope, report: &mut Report) -> Option<Draft> {
        let written = node.scalar()?;
        let parts = interpolate::parse(&written, node.span, report)?;
        let known = shell::quotes(&shell);
        let places = if known {
            let borrowed: Vec<quoting::Part<'_>> = parts
                .iter()
                .map(|part| match part {
                    interpolate::Part::Literal(text) => quoting::Part::Literal(text),
                    interpolate::Part::Reference(_) => quoting::Part::Reference,
                })
                .collect();
            let (places, odd) = quoting::places(&borrowed);
            refuse_look_alikes(&odd, node.span, report);
            places
        } else {
            parts.iter().map(|_| Place::Refused(UNKNOWN)).collect()
        };
        let mut places = places.into_iter();
        let mut pieces = Vec::with_capacity(parts.len());
        let mut complete = true;
        for part in parts {
            let reference = match part {
                interpolate::Part::Literal(text) => {
                    pieces.push(Piece::Literal(text));
                    continue;
                }
                interpolate::Part::Reference(reference) => reference,
            };
            let place = places.next().unwrap_or(Place::Refused(UNKNOWN));
            let slot = if reference.raw { Slot::Raw } else { Slot::Word(place) };
            match interpolate::text_of(&reference, scope, report) {
                Some(interpolate::Texts::Kept) => pieces.push(Piece::Literal(reference.written())),
                Some(interpolate::Texts::One(text)) => {
                    complete &= check(&slot, std::slice::from_ref(&text), &reference, report);
                    pieces.push(Piece::Value(slot, text));
                }
                Some(interpolate::Texts::Each(axis, texts)) => {
                    complete &= check(&slot, &texts, &reference, report);
                    pieces.push(Piece::Axis(slot, axis, texts));
                }
                None => complete = false,
            }
        }
        complete.then_some(Draft { shell, pieces })
    }

    /// The script at one point; `point` has an index for every axis of the pipeline.
    pub(super) fn fill(&self, point: &[u32]) -> Script {
        let (mut text, mut values) = (String::with_capacity(32), Vec::new());
        for piece in &self.pieces {
            let (slot, value) = match piece {
                Piece::Literal(literal) => {
                    text.push_str(literal);
                    continue;
                }
                Piece::Value(slot, value) => (slot, value),
                Piece::Axis(slot, axis, texts) => (slot, &texts[point[*axis] as usize]),
            };
            let written = match slot {
                Slot::Raw => Err(""),
                Slot::Word(place) => write(&mut text, &mut values, place, value),
            };
            // A value that cannot be a word has been refused.
            if written.is_err() {
                text.push_str(value);
            }
        }
        Script { shell: self.shell.clone(), text, values }
    }

    /// Adds the axes that it mentions.
    pub(super) fn mentions(&self, axes: &mut BTreeSet<usize>) {
        for piece in &self.pieces {
            if let Piece::Axis(_, axis, _) = piece {
                axes.insert(*axis);
            }
        }
    }
}

/// Refuses values that cannot be one word where their reference is.
fn check(slot: &Slot, values: &[Arc<str>], reference: &interpolate::Reference, report: &mut Report) -> bool {
    let Slot::Word(place) = slot else { return true };
    let refused = values.iter().find_map(|value| match place.takes(value) {
        true => None,
        false if value.contains('\0') => Some((value, "where a NUL byte cannot be")),
        false => Some((value, place.expansion("").err()?)),
    });
    let Some((value, why)) = refused else { return true };
    let shown = crate::text::escaped(value);
    let title = format!("`{}` is {why}", reference.written());
    let problem = Problem::new("not_a_word", reference.span, title).label(format!("its value `{shown}` needs quoting"));
    let raw = format!("`{}` puts the value in as it is, to be read by the shell", reference.written_raw());
    report.add(problem.help(raw));
    false
}

fn refuse_look_alikes(found: &[char], span: Span, report: &mut Report) {
    for &c in found {
        let Some((what, instead)) = quoting::look_alike(c) else { continue };
        let place = interpolate::find(&c.to_string(), span, report);
        let title = format!("the shell's text holds {what} (U+{:04X})", c as u32);
        let problem = Problem::new("look_alike", place, title).label(format!("write {instead} instead"));
        report.add(problem.help("put it in quotes if it is meant".to_owned()));
    }
}
