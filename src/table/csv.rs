//! Rows of text: CSV as it is written by scripts and by spreadsheets.

use std::path::Path;

use csv::{ReaderBuilder, StringRecord, Trim};

use crate::text;

/// A row and where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// From 1.
    pub line: usize,
    /// Without quotes, and without blanks around them. A blank line has none.
    pub fields: Vec<String>,
}

impl Row {
    /// Whether nothing is in it.
    pub fn is_blank(&self) -> bool {
        self.fields.iter().all(String::is_empty)
    }
}

/// The rows of the text file at `path`, blank lines between them included, those at the end not. The separator is the one
/// of `,`, `;` and tab that the first line has most of, or the one that a line `sep=;` of Excel names; in `.tsv` the tab.
///
/// # Errors
/// What [`text::read`] refuses, without the path.
pub fn read(path: &Path) -> Result<Vec<Row>, String> {
    let text = text::read_unnamed(path).map_err(|e| e.to_string())?;
    let tabs = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("tsv"));
    rows(&text, tabs.then_some(b'\t'))
}

/// [`read`] of text in memory.
///
/// # Errors
/// As [`read`].
pub fn rows(text: &str, separator: Option<u8>) -> Result<Vec<Row>, String> {
    let first = text.lines().next().unwrap_or_default();
    let named = first.strip_prefix("sep=").and_then(|rest| match rest.trim_end().as_bytes() {
        [separator] => Some(*separator),
        _ => None,
    });
    let (body, mut line) = match named {
        Some(_) => (text.split_once('\n').map_or("", |(_, body)| body), 2),
        None => (text, 1),
    };
    let separator = separator.or(named).unwrap_or_else(|| most(body.lines().find(|line| !line.trim().is_empty())));
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(Trim::All)
        .delimiter(separator)
        .from_reader(body.as_bytes());
    let (mut rows, mut record) = (Vec::new(), StringRecord::new());
    let mut counted = 0;
    while reader.read_record(&mut record).map_err(|e| e.to_string())? {
        // Where the reader was before it skipped blank lines, and the second half of a CRLF.
        let start = record.position().map_or(0, |position| position.byte() as usize);
        let begin = start + body[start..].bytes().take_while(|byte| b"\r\n".contains(byte)).count();
        let half = body[..start].ends_with('\r') && body[start..].starts_with('\n');
        let blank = breaks(&body[start..begin]) - usize::from(half);
        line += breaks(&body[counted..begin]);
        counted = begin;
        rows.extend((line - blank..line).map(|line| Row { line, fields: Vec::new() }));
        rows.push(Row { line, fields: record.iter().map(str::to_owned).collect() });
    }
    while rows.last().is_some_and(Row::is_blank) {
        rows.pop();
    }
    Ok(rows)
}

fn breaks(text: &str) -> usize {
    text.matches('\n').count()
}

/// The separator that a header has most of, outside quotes; the comma where there is none.
fn most(header: Option<&str>) -> u8 {
    let header = header.unwrap_or_default();
    let count = |separator: u8| {
        let mut quoted = false;
        let outside = header.bytes().filter(|&byte| {
            quoted ^= byte == b'"';
            byte == separator && !quoted
        });
        outside.count()
    };
    // Of equal ones, the last is taken.
    *b"\t;,".iter().max_by_key(|separator| count(**separator)).unwrap_or(&b',')
}
