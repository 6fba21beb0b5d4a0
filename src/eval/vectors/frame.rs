//! Tables of vectors: which columns are the elements, which is the label, and what is left out.
//!
//! Not every number of a row is an element of its vector. So a column is only taken by its name or by its type: named by the user, a
//! list, or one of a series of numbered columns. Everything else is reported.

use super::{LABELS, Labels, Names, Other, VECTORS, Vectors, is_usual, only};
use crate::table::{Column, ColumnKind, Table, names};

/// Prefixes that are usual for the numbered columns of vectors, besides the names of whole ones; pandas itself has none.
const PREFIXES: [&str; 8] = ["", "f", "feat", "e", "v", "vec", "d", "dim"];

pub(super) fn vectors(table: &Table, asked: Names<'_>) -> Result<Vectors, String> {
    let columns = table.columns();
    let label = match asked.labels {
        Some(name) => table.find(name)?,
        None => usual_label(table),
    };
    let (taken, name) = match asked.vectors {
        Some(name) => (by_name(table, name, label)?, name.to_owned()),
        None => {
            let found = by_rule(columns, label)?;
            let name = found.name(columns);
            (found.columns, name)
        }
    };
    let matrix = table.matrix(&taken)?;
    if matrix.rows == 0 || matrix.dim == 0 {
        return Err(format!("it has {} vectors of length {}, expected at least 1 of each", matrix.rows, matrix.dim));
    }
    let others = columns.iter().enumerate().filter(|(at, _)| !taken.contains(at));
    let others = others.map(|(_, column)| Other { name: column.name.clone(), index: column.index }).collect();
    Ok(Vectors { matrix, name: Some(name), others })
}

pub(super) fn labels(table: &Table, name: Option<&str>) -> Result<Labels, String> {
    let columns = table.columns();
    let place = match name {
        Some(name) => {
            table.find(name)?.ok_or_else(|| format!("the columns are {}, expected a column {name:?}", table.names()))?
        }
        None => usual_label(table).or_else(|| only(0..columns.len(), |&at| !columns[at].index)).ok_or_else(|| {
            format!(
                "the columns are {}, expected one called \"label\"; name the labels with --labels-name",
                table.names()
            )
        })?,
    };
    let name = &columns[place].name;
    let missing = |row| format!("column {name:?} has no label in {}", table.place(row));
    let texts = table.texts(place)?.into_iter().enumerate();
    let texts = texts.map(|(row, text)| text.filter(|text| !text.is_empty()).ok_or_else(|| missing(row)));
    Ok(Labels { texts: texts.collect::<Result<_, _>>()?, name: Some(name.clone()) })
}

/// `labels`, else `label`, else the only column with another usual name.
pub(super) fn usual_label(table: &Table) -> Option<usize> {
    let columns = table.columns();
    let exact = |name: &str| columns.iter().position(|column| column.name == name);
    let usual = |&at: &usize| is_usual(&columns[at].name, &LABELS);
    exact(LABELS[0]).or_else(|| exact(LABELS[1])).or_else(|| only(0..columns.len(), usual))
}

/// Columns that may be the vectors: a list, or a series.
#[derive(Debug)]
struct Candidate {
    columns: Vec<usize>,
    usual: bool,
    /// What is wrong with it.
    fault: Option<String>,
}

impl Candidate {
    fn name(&self, columns: &[Column]) -> String {
        match self.columns[..] {
            [only] => columns[only].name.clone(),
            [first, .., last] => format!("{} to {}", columns[first].name, columns[last].name),
            [] => String::new(),
        }
    }
}

fn by_rule(columns: &[Column], label: Option<usize>) -> Result<Candidate, String> {
    let free = |at: &usize| Some(*at) != label && !columns[*at].index;
    let lists = (0..columns.len()).filter(|at| free(at) && columns[*at].kind == ColumnKind::List).map(|at| Candidate {
        columns: vec![at],
        usual: is_usual(&columns[at].name, &VECTORS),
        fault: None,
    });
    let mut candidates: Vec<Candidate> = lists.collect();
    candidates.extend(series(columns, (0..columns.len()).filter(free)));
    let described = |candidates: &[Candidate]| {
        let words: Vec<String> = candidates.iter().map(|candidate| candidate.name(columns)).collect();
        words.join(", ")
    };
    let help = "name the vectors with --vectors-name: a column, several as x,y, or 'f*' for f0, f1, ...";
    let usual = candidates.iter().filter(|candidate| candidate.usual).count();
    let place = match (usual, candidates.len()) {
        (1, _) => candidates.iter().position(|candidate| candidate.usual),
        (0, 1) => Some(0),
        _ => None,
    };
    let Some(place) = place else {
        return Err(if candidates.is_empty() {
            let all: Vec<String> = columns.iter().map(|column| format!("{} ({})", column.name, column.word)).collect();
            format!(
                "none of the columns is a list of numbers, and none are numbered: {}; {help}",
                names(all.iter().map(String::as_str))
            )
        } else {
            format!("these may all be vectors: {}; {help}", described(&candidates))
        });
    };
    let chosen = candidates.swap_remove(place);
    match &chosen.fault {
        Some(fault) => Err(format!("{fault}; {help}")),
        None => Ok(chosen),
    }
}

/// Groups of columns, at least two of them numeric, whose names differ only in a number, in the order of that number.
fn series(columns: &[Column], among: impl Iterator<Item = usize>) -> Vec<Candidate> {
    let mut groups: std::collections::BTreeMap<(&str, &str), Vec<(u64, usize)>> = std::collections::BTreeMap::new();
    for at in among {
        if let Some((prefix, number, suffix)) = numbered(&columns[at].name) {
            groups.entry((prefix, suffix)).or_default().push((number, at));
        }
    }
    groups.retain(|_, members| {
        members.sort_unstable();
        members.iter().filter(|(_, at)| columns[*at].kind == ColumnKind::Number).count() > 1
    });
    let candidates = groups.into_iter().map(|((prefix, _), members)| {
        let word = prefix.trim_matches(|c: char| !c.is_alphanumeric());
        Candidate {
            usual: is_usual(word, &VECTORS) || is_usual(word, &PREFIXES),
            fault: fault(columns, &members),
            columns: members.iter().map(|(_, at)| *at).collect(),
        }
    });
    candidates.collect()
}

/// What keeps numbered columns from being a series.
fn fault(columns: &[Column], members: &[(u64, usize)]) -> Option<String> {
    let name = |place: usize| &columns[members[place].1].name;
    let (first, last) = (name(0), name(members.len() - 1));
    if let Some((_, at)) = members.iter().find(|(_, at)| columns[*at].kind != ColumnKind::Number) {
        let Column { name, word, .. } = &columns[*at];
        return Some(format!("the columns {first} to {last} are numbered, but {name} is {word}, expected numbers"));
    }
    if members[0].0 > 1 {
        return Some(format!("the columns {first} to {last} are numbered from {}, expected from 0 or 1", members[0].0));
    }
    let gap = members.windows(2).position(|pair| pair[1].0 != pair[0].0 + 1)?;
    Some(format!(
        "the columns {first} to {last} are numbered, but {} comes after {}, expected consecutive numbers",
        name(gap + 1),
        name(gap)
    ))
}

/// The parts of a name around its last number: `emb_7` is `emb_`, 7 and nothing, `('f', 7)` of pandas' column levels is
/// `('f', `, 7 and `)`. After the number may only come what closes it.
fn numbered(name: &str) -> Option<(&str, u64, &str)> {
    let end = name.trim_end_matches(|c: char| c.is_whitespace() || "'\")]".contains(c)).len();
    let digits = name[..end].bytes().rev().take_while(u8::is_ascii_digit).count();
    let (prefix, number) = name[..end].split_at(end - digits);
    Some((prefix, number.parse().ok()?, &name[end..]))
}

/// The columns of `asked`: one name, several with commas between them, or numbered ones with a `*` for their number.
fn by_name(table: &Table, asked: &str, label: Option<usize>) -> Result<Vec<usize>, String> {
    let columns = table.columns();
    if let Some(place) = table.find(asked)? {
        return Ok(vec![place]);
    }
    let mut taken = Vec::new();
    for name in asked.split(',').map(str::trim) {
        let missing = || format!("the columns are {}, expected a column {name:?}", table.names());
        match (table.find(name)?, name.split_once('*')) {
            (Some(place), _) => taken.push(place),
            (None, Some((prefix, suffix))) => {
                let number = |at: &usize| {
                    let rest = columns[*at].name.strip_prefix(prefix)?.strip_suffix(suffix)?;
                    rest.bytes().all(|byte| byte.is_ascii_digit()).then(|| rest.parse::<u64>().ok())?
                };
                let mut found: Vec<usize> =
                    (0..columns.len()).filter(|at| Some(*at) != label && number(at).is_some()).collect();
                if found.is_empty() {
                    return Err(missing());
                }
                found.sort_by_key(number);
                taken.extend(found);
            }
            (None, None) => return Err(missing()),
        }
    }
    let twice = taken.iter().enumerate().find(|(place, at)| taken[..*place].contains(at));
    match twice {
        Some((_, at)) => Err(format!("--vectors-name names the column {:?} twice", columns[*at].name)),
        None => Ok(taken),
    }
}
