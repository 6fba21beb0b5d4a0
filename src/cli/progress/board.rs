//! The redrawn lines as a value: one for each running cell, what sets it apart from the others first, and one for the run.

use std::time::Instant;

use super::columns::{cut, join, padded, width};
use super::forecast::{Forecast, InProgress, TimeLeft};
use super::screen::Size;
use crate::cli::paint::Paint;
use crate::engine::event::Progress;
use crate::pipeline::model::CellId;

/// Blanks between two columns.
const GAP: usize = 2;
/// Columns of the bar.
const BAR: std::ops::RangeInclusive<usize> = 10..=30;

/// What a run looks like at one moment.
#[derive(Debug)]
pub struct Board {
    pub paint: Paint,
    /// Cells to run, and of these the ones with a result, the failed ones and those that will not run because of them.
    pub total: usize,
    pub done: usize,
    pub failed: usize,
    pub not_run: usize,
    /// In the order in which they were started.
    pub running: Vec<RunningCell>,
    pub forecast: Forecast,
}

/// A running cell.
#[derive(Debug)]
pub struct RunningCell {
    pub cell: CellId,
    /// Its values on the axes on which the cells of its stage differ.
    pub values: Vec<String>,
    pub stage: String,
    pub start: Instant,
    pub progress: Option<Progress>,
}

impl RunningCell {
    fn elapsed(&self, now: Instant) -> f64 {
        now.saturating_duration_since(self.start).as_secs_f64()
    }

    /// Seconds that are left by its own estimate.
    fn left(&self, now: Instant) -> Option<f64> {
        let Progress { done, total, .. } = self.progress.as_ref()?;
        (*done > 0 && done <= total).then(|| self.elapsed(now) / *done as f64 * (total - done) as f64)
    }

    /// How far it is, the most important part first.
    fn parts(&self, now: Instant) -> Vec<String> {
        let Some(Progress { done, total, unit, figures }) = &self.progress else {
            return vec![whole(self.elapsed(now))];
        };
        let mut parts = vec![match total {
            0 => format!("{done} {unit}"),
            total => format!("{unit} {done}/{total}"),
        }];
        match self.left(now) {
            Some(left) if left > 0.0 => parts.push(format!("{} left", whole(left))),
            _ => parts.push(whole(self.elapsed(now))),
        }
        for (name, value) in figures {
            let value =
                if *value != 0.0 && value.abs() < 1e-3 { format!("{value:.1e}") } else { format!("{value:.4}") };
            parts.push(format!("{name} {value}"));
        }
        parts
    }
}

impl Board {
    /// The lines for a terminal of that size, each narrower than it.
    pub fn lines(&self, now: Instant, size: Size) -> Vec<String> {
        // A full line would leave the cursor at the margin, where terminals differ.
        let room = size.columns.saturating_sub(1);
        // The overall line, the cursor's, and one of what was printed before.
        let most = size.rows.saturating_sub(3).max(1);
        let shown = if self.running.len() > most { most - 1 } else { self.running.len() };
        let mut lines = self.cells(&self.running[..shown], now, room);
        if shown < self.running.len() {
            lines.push(self.paint.faint(cut(&format!("  and {} more cells", self.running.len() - shown), room)));
        }
        lines.push(self.overall(now, room));
        lines
    }

    fn cells(&self, cells: &[RunningCell], now: Instant, room: usize) -> Vec<String> {
        let indent = if room < 30 { 0 } else { GAP };
        let room = room.saturating_sub(indent);
        // A cell that is alone in its stage is called by it.
        let label = |cell: &RunningCell| match &cell.values[..] {
            [] => vec![cell.stage.clone()],
            values => values.to_vec(),
        };
        let stage = |cell: &RunningCell| if cell.values.is_empty() { String::new() } else { cell.stage.clone() };
        let widest = cells.iter().map(|cell| width(&label(cell).join(" "))).max().unwrap_or(0);
        let stages = cells.iter().map(|cell| width(&stage(cell))).max().unwrap_or(0).min(room / 5);
        // The labels leave space for how far a cell is and, if that takes little of the line, for the time left.
        let needed = |count: usize| {
            let columns = |cell: &RunningCell| -> usize {
                cell.parts(now).iter().take(count).map(|part| GAP + width(part)).sum()
            };
            cells.iter().map(columns).max().unwrap_or(0).next_multiple_of(4)
        };
        let progress = if needed(2) <= room * 2 / 5 { needed(2) } else { needed(1) };
        // Where it is narrow the stage gives way first, then the progress.
        let with_stage = room.saturating_sub(GAP + stages + progress);
        let without = room.saturating_sub(progress);
        let (labels, stages) = match () {
            () if with_stage >= widest.min(24) => (widest.min(with_stage), stages),
            () if without >= 12 => (widest.min(without), 0),
            () => (widest.min(room), 0),
        };
        let line = |cell: &RunningCell| {
            let mut line = format!("{:indent$}{}", "", padded(&join(&label(cell), labels), labels));
            let mut left = room - labels;
            if stages > 0 {
                let name = padded(&cut(&stage(cell), stages), stages);
                line += &format!("{:GAP$}{}", "", self.paint.faint(name));
                left = left.saturating_sub(GAP + stages);
            }
            for part in cell.parts(now) {
                if GAP + width(&part) > left {
                    break;
                }
                left -= GAP + width(&part);
                line += &format!("{:GAP$}{part}", "");
            }
            line.trim_end().to_owned()
        };
        cells.iter().map(line).collect()
    }

    /// Cells done, running and failed, and the time left, in as many words as fit.
    fn overall(&self, now: Instant, room: usize) -> String {
        let running: Vec<InProgress> = self
            .running
            .iter()
            .map(|it| InProgress { cell: it.cell, elapsed: it.elapsed(now), left: it.left(now) })
            .collect();
        let left = self.forecast.left(&running);
        let counts = format!("{}/{}", self.done, self.total);
        let (running, failed) = (self.running.len(), self.failed);
        let mut long = vec![format!("{counts} done"), format!("{running} running"), format!("{failed} failed")];
        if self.not_run > 0 {
            long.push(format!("{} not run", self.not_run));
        }
        let mut middle = vec![counts.clone(), format!("{running} running"), format!("{failed} failed")];
        let mut short = vec![counts.clone()];
        let mut shortest = vec![counts];
        if failed > 0 {
            short.push(format!("{failed} failed"));
            shortest.push(format!("{failed} failed"));
        }
        if let Some(TimeLeft { seconds, complete }) = left {
            let about = if complete { "about" } else { "over" };
            long.push(format!("{about} {} left", whole(seconds)));
            middle.push(format!("{} left", whole(seconds)));
            short.push(whole(seconds));
        }
        let texts = [long, middle, short, shortest].map(|parts| parts.join(", "));
        let text = texts.iter().find(|text| width(text) <= room).unwrap_or(&texts[3]);
        let bar = room.saturating_sub(width(text) + "[] ".len()).min(*BAR.end());
        if bar < *BAR.start() {
            return cut(text, room);
        }
        let ended = self.done + self.failed + self.not_run;
        let filled = (bar * ended.min(self.total)).checked_div(self.total).unwrap_or(bar);
        let bar = format!("[{}{}]", "=".repeat(filled), " ".repeat(bar - filled));
        format!("{} {text}", self.paint.busy(bar))
    }
}

/// Seconds without a fraction: 9 s, 4 min 5 s, 12 min, 2 h 3 min.
fn whole(seconds: f64) -> String {
    let seconds = seconds.ceil() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..600 => format!("{} min {} s", seconds / 60, seconds % 60),
        600..3600 => format!("{} min", seconds / 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests;
