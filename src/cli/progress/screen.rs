//! Standard error of a command: lasting lines, and on a terminal below them lines that are redrawn in place.
//!
//! No state of the terminal is changed, and the cursor always rests below the last line: a run that is killed leaves a
//! prompt in its place. Everything goes through one lock, warnings of the log too, so that nothing is printed into the
//! redrawn lines.
//!
//! indicatif draws one bar after the other, each by its own template. Here the lines share the columns of one layout
//! and the height of the terminal, and a test wants them as a value: what remains for a library is a dozen lines.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::columns;
use crate::text;

/// Columns and rows of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub columns: usize,
    pub rows: usize,
}

/// Standard error, shared by all who write there.
#[derive(Debug, Clone, Default)]
pub struct Screen(Arc<Mutex<Vec<String>>>);

impl Screen {
    /// The size of the terminal, if standard error is one and knows its size.
    pub fn size(&self) -> Option<Size> {
        let (columns, rows) = terminal_size::terminal_size_of(io::stderr())?;
        Some(Size { columns: columns.0.into(), rows: rows.0.into() })
    }

    /// Whether lines can be redrawn: on a terminal that understands cursor movement.
    pub fn is_live(&self) -> bool {
        let term = std::env::var("TERM").unwrap_or_default();
        self.size().is_some() && !matches!(&*term, "" | "dumb")
    }

    /// Prints lasting text above the redrawn lines; it ends with a line end.
    pub fn print(&self, text: &str) {
        let drawn = self.lock();
        let erased = if drawn.is_empty() { String::new() } else { format!("{}\x1b[J", self.top(&drawn)) };
        write(&format!("{erased}{text}{}", body(&drawn)));
    }

    /// Replaces the redrawn lines, none of which may be wider than the terminal.
    pub fn draw(&self, lines: Vec<String>) {
        let mut drawn = self.lock();
        if *drawn != lines {
            write(&format!("{}{}\x1b[J", self.top(&drawn), body(&lines)));
            *drawn = lines;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the cursor to where the first of the drawn lines begins. A terminal that became narrower has broken them.
    fn top(&self, drawn: &[String]) -> String {
        match rows(drawn, self.size().map_or(usize::MAX, |size| size.columns)) {
            0 => "\r".to_owned(),
            rows => format!("\r\x1b[{rows}A"),
        }
    }
}

/// Rows that lines take on a terminal of that width.
fn rows(lines: &[String], width: usize) -> usize {
    lines.iter().map(|line| columns::width(&text::settled(line)).div_ceil(width).max(1)).sum()
}

/// Lines over whatever is there.
fn body(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\x1b[K\n")).collect()
}

/// In one write, so that no half of it is seen. The reader of standard error may be gone, which does not stop a run.
fn write(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Log events, each of which is written at once.
impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.print(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_takes_more_rows_once_the_terminal_is_narrower_and_colours_take_none() {
        let lines = ["\x1b[1;36mmodel\x1b[0m epoch 1/2".to_owned(), String::new(), "損失".to_owned()];
        assert_eq!([80, 15, 14, 3].map(|width| rows(&lines, width)), [3, 3, 4, 8]);
    }
}
