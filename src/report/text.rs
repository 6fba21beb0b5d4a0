//! The table for a terminal: aligned columns between rules, split into blocks if it is wider than the terminal.

use unicode_width::UnicodeWidthStr;

use super::number::{column_label, mean, plus_minus};
use super::table::{Row, Table};

/// How the text is rendered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Style {
    /// Show the best in bold with ANSI escapes; otherwise a `*` marks it.
    pub ansi: bool,
    /// Characters per line; unlimited if absent.
    pub width: Option<usize>,
}

/// Maximum line length of caption and footnotes, for readability.
const PROSE: usize = 100;
/// Space between two columns.
const GAP: &str = "   ";
const BEST: &str = "*";

/// The whole table with title, caption and footnotes.
pub fn render(table: &Table, style: Style) -> String {
    let table = &table.shown();
    let mut columns: Vec<Column> = (0..table.columns.len()).map(|index| Column::new(table, style, index)).collect();
    let stub: Vec<usize> = (0..table.row_axes.len()).map(|level| stub_width(table, level)).collect();
    let stub_total = stub.iter().sum::<usize>() + GAP.len() * stub.len().saturating_sub(1);
    let space = style.width.map(|width| width.saturating_sub(stub_total));
    let all: Vec<usize> = (0..columns.len()).collect();
    fit_heads(&mut columns, &all);
    let mut drawn = Vec::new();
    for block in blocks(table, &columns, space) {
        fit_heads(&mut columns, &block);
        drawn.push(Block { table, stub: &stub, columns: &columns, block }.render(style));
    }
    let mut out = String::new();
    if let Some(title) = &table.title {
        out += &format!("{title}\n\n");
    }
    out += &drawn.join("\n");
    out.push('\n');
    let prose = style.width.unwrap_or(PROSE).min(PROSE);
    let best = match (table.marks_best(), style.ansi) {
        (false, _) => String::new(),
        (true, true) => " Bold: the best mean of its column.".to_owned(),
        (true, false) => format!(" {BEST}: the best mean of its column."),
    };
    wrap(&mut out, "", &format!("{}{best}", table.caption), prose);
    for note in &table.footnotes {
        wrap(&mut out, &format!("{} ", note.mark), &note.text, prose);
    }
    out
}

/// One column, in parts that are aligned separately.
struct Column {
    /// One per level.
    head: Vec<String>,
    /// One per row: number, interval, mark, number of runs.
    cells: Vec<[String; 4]>,
    parts: [usize; 4],
    width: usize,
}

impl Column {
    fn new(table: &Table, style: Style, index: usize) -> Column {
        let column = &table.columns[index];
        let head: Vec<String> = (0..table.column_axes.len()).map(|level| column_label(table, column, level)).collect();
        let cells: Vec<[String; 4]> = table.rows.iter().map(|row| parts(table, style, row, index)).collect();
        let parts = [0, 1, 2, 3].map(|part| cells.iter().map(|cell| cell[part].width()).max().unwrap_or(0));
        // Only the innermost label belongs to this column alone.
        let width = parts.iter().sum::<usize>().max(head.last().map_or(0, |label| label.width()));
        Column { head, cells, parts, width }
    }

    fn cell(&self, row: usize, bold: bool) -> String {
        let [number, interval, mark, runs] = &self.cells[row];
        let number = pad_left(number, self.parts[0]) + &pad_right(interval, self.parts[1]);
        let number = if bold { format!("\x1b[1m{number}\x1b[0m") } else { number };
        let slack = " ".repeat(self.width - self.parts.iter().sum::<usize>());
        format!("{slack}{number}{}{}", pad_right(mark, self.parts[2]), pad_right(runs, self.parts[3]))
    }

    /// The innermost label, aligned with the end of the numbers.
    fn title(&self) -> String {
        let label = self.head.last().map_or("", String::as_str);
        let tail = (self.parts[2] + self.parts[3]).min(self.width - label.width());
        pad_left(label, self.width - tail) + &" ".repeat(tail)
    }
}

fn parts(table: &Table, style: Style, row: &Row, index: usize) -> [String; 4] {
    let (cell, metric) = (&row.cells[index], table.columns[index].metric.as_str());
    let mark = if cell.best && !style.ansi { BEST } else { table.mark(row, index) };
    let runs = table.odd_runs(row, cell).map(|n| format!(" (n={n})")).unwrap_or_default();
    [mean(cell, metric, table.digits), plus_minus(cell, metric, table.digits), mark.to_owned(), runs]
}

/// Widens the last of the columns that share an outer label which is wider than they are.
fn fit_heads(columns: &mut [Column], block: &[usize]) {
    let levels = columns.first().map_or(0, |column| column.head.len());
    for level in 0..levels.saturating_sub(1) {
        let spans: Vec<Vec<usize>> = spans(columns, block, level).map(<[usize]>::to_vec).collect();
        for span in spans {
            let lacking = columns[span[0]].head[level].width().saturating_sub(span_width(columns, &span));
            columns[span[span.len() - 1]].width += lacking;
        }
    }
}

/// The runs of columns in `block` that have the same labels down to `level`.
fn spans<'b>(columns: &[Column], block: &'b [usize], level: usize) -> impl Iterator<Item = &'b [usize]> {
    block.chunk_by(move |&a, &b| columns[a].head[..=level] == columns[b].head[..=level])
}

fn span_width(columns: &[Column], span: &[usize]) -> usize {
    span.iter().map(|&index| columns[index].width).sum::<usize>() + GAP.len() * (span.len() - 1)
}

/// The columns of each block: as many groups of equal outermost label as fit; a group that does not fit alone is split.
fn blocks(table: &Table, columns: &[Column], space: Option<usize>) -> Vec<Vec<usize>> {
    let all: Vec<usize> = (0..columns.len()).collect();
    let Some(space) = space else { return vec![all] };
    let width = |block: &[usize]| block.iter().map(|&index| GAP.len() + columns[index].width).sum::<usize>();
    let mut blocks: Vec<Vec<usize>> = Vec::new();
    for group in all.chunk_by(|&a, &b| table.column_axes.len() > 1 && columns[a].head[0] == columns[b].head[0]) {
        let pieces: Vec<&[usize]> = if width(group) <= space { vec![group] } else { group.chunks(1).collect() };
        for piece in pieces {
            match blocks.last_mut() {
                Some(block) if width(block) + width(piece) <= space => block.extend(piece),
                _ => blocks.push(piece.to_vec()),
            }
        }
    }
    blocks
}

/// A block of columns, with the labels of the rows before them.
struct Block<'a> {
    table: &'a Table,
    stub: &'a [usize],
    columns: &'a [Column],
    block: Vec<usize>,
}

impl Block<'_> {
    fn render(&self, style: Style) -> String {
        let levels = self.table.column_axes.len();
        let mut lines = Vec::new();
        for level in 0..levels.saturating_sub(1) {
            let (labels, rules) = self.spans(level);
            lines.push(self.stub_line(|_| "") + &labels);
            lines.push(self.stub_line(|_| "") + &rules);
        }
        let titles: String = self.block.iter().map(|&index| GAP.to_owned() + &self.columns[index].title()).collect();
        lines.push(self.stub_line(|level| &self.table.row_axes[level]) + &titles);
        let rule = |line: &str| line.repeat(lines.iter().map(|line| line.width()).max().unwrap_or(0));
        let (heavy, light) = (rule("━"), rule("─"));
        lines.insert(0, heavy.clone());
        lines.push(light.clone());
        for (index, row) in self.table.rows.iter().enumerate() {
            if index > 0 && self.table.rows[index - 1].baseline && !row.baseline {
                lines.push(light.clone());
            }
            let cells: String = (self.block.iter())
                .map(|&column| GAP.to_owned() + &self.columns[column].cell(index, style.ansi && row.cells[column].best))
                .collect();
            lines.push(self.stub_line(|level| &row.labels[level]) + &cells);
        }
        lines.push(heavy);
        lines.iter().map(|line| line.trim_end().to_owned() + "\n").collect()
    }

    /// The labels of an outer level, each centred over the columns that share it, and the rules below them.
    fn spans(&self, level: usize) -> (String, String) {
        let (mut labels, mut rules) = (String::new(), String::new());
        for span in spans(self.columns, &self.block, level) {
            let width = span_width(self.columns, span);
            let label = &self.columns[span[0]].head[level];
            let before = (width - label.width()) / 2;
            labels += &format!("{GAP}{}", pad_right(&(" ".repeat(before) + label), width));
            rules += &format!("{GAP}{}", "─".repeat(width));
        }
        (labels, rules)
    }

    fn stub_line<'s>(&self, label: impl Fn(usize) -> &'s str) -> String {
        let labels = self.stub.iter().enumerate().map(|(level, width)| pad_right(label(level), *width));
        labels.collect::<Vec<_>>().join(GAP)
    }
}

fn stub_width(table: &Table, level: usize) -> usize {
    let labels = table.rows.iter().map(|row| row.labels[level].width());
    labels.chain([table.row_axes[level].width()]).max().unwrap_or(0)
}

fn pad_left(text: &str, width: usize) -> String {
    " ".repeat(width.saturating_sub(text.width())) + text
}

fn pad_right(text: &str, width: usize) -> String {
    text.to_owned() + &" ".repeat(width.saturating_sub(text.width()))
}

/// Appends `text` in lines of at most `width`: the first after `head`, the others with the same indentation.
fn wrap(out: &mut String, head: &str, text: &str, width: usize) {
    let indent = " ".repeat(head.width());
    let mut line = head.to_owned();
    for word in text.split(' ') {
        if line.width() > indent.len() && line.width() + 1 + word.width() > width {
            *out += &format!("{}\n", line.trim_end());
            line = indent.clone();
        }
        if line.width() > indent.len() {
            line.push(' ');
        }
        line += word;
    }
    *out += &format!("{}\n", line.trim_end());
}
