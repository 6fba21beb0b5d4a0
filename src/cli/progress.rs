//! Watching a run: live lines on a terminal, one line an ended cell elsewhere.

use std::collections::{HashMap, HashSet};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::paint::Paint;
use super::project::from_here;
use crate::engine::event::{Event, Failure, How, Observer, Progress};
use crate::engine::outcome::Summary;
use crate::pipeline::model::{CellId, Pipeline};
use crate::text::escaped;

/// Shows a run on standard error, and remembers its failures.
pub struct Watcher<'a> {
    pipeline: &'a Pipeline,
    paint: Paint,
    quiet: bool,
    live: Option<Live>,
    /// Cells that are not up to date, and how many of them have ended.
    total: usize,
    ended: usize,
    failures: Vec<Value>,
    /// Failures already shown in full.
    shown: HashSet<(String, Vec<String>)>,
}

/// The lines of a terminal that change.
struct Live {
    lines: MultiProgress,
    overall: ProgressBar,
    cells: HashMap<CellId, (ProgressBar, Instant)>,
}

impl<'a> Watcher<'a> {
    /// Watches a run of `pipeline`; a quiet one shows failures only.
    pub fn new(pipeline: &'a Pipeline, quiet: bool, paint: Paint) -> Watcher<'a> {
        let live = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let lines = MultiProgress::new();
            let overall = lines.add(ProgressBar::new(0));
            overall.set_style(style("{prefix:>12.cyan.bold} [{bar:30}] {pos}/{len} {elapsed}"));
            overall.set_prefix("Running");
            Live { lines, overall, cells: HashMap::new() }
        });
        Watcher { pipeline, paint, quiet, live, total: 0, ended: 0, failures: Vec::new(), shown: HashSet::new() }
    }

    /// Names the definitions that stand in the place of built-in ones.
    pub fn replaced(&self) {
        for it in self.pipeline.replaced.iter().filter(|_| !self.quiet) {
            let what = format!("{} in place of the built-in `{}`", from_here(&it.file).display(), it.name);
            self.say(self.paint.notice(format!("{:>12}", "Uses")), &escaped(&what));
        }
    }

    /// Takes the changing lines off the terminal.
    pub fn close(&mut self) {
        if let Some(live) = self.live.take() {
            live.overall.finish_and_clear();
            live.cells.values().for_each(|(bar, _)| bar.finish_and_clear());
        }
    }

    /// The failures as JSON: cell, message, log.
    pub fn failures(&self) -> &[Value] {
        &self.failures
    }

    /// The last line.
    pub fn summary(&self, summary: &Summary) {
        if self.quiet && summary.failed + summary.unpublished == 0 && !summary.interrupted {
            return;
        }
        let Summary { executed, cached, failed, skipped, unpublished, interrupted, seconds } = *summary;
        let mut parts = vec![format!("{executed} cells run"), format!("{cached} up to date")];
        if failed > 0 {
            parts.push(format!("{failed} failed"));
        }
        if skipped > 0 {
            parts.push(format!("{skipped} not run"));
        }
        if unpublished > 0 {
            parts.push(format!("{unpublished} not written to the reports"));
        }
        let (verb, rest) = match (interrupted, failed) {
            (true, _) => (self.paint.notice("Interrupted"), "; run again to go on"),
            (_, 0) if unpublished == 0 => (self.paint.good(format!("{:>12}", "Finished")), ""),
            _ => (self.paint.bad(format!("{:>12}", "Failed")), "; what is done is kept, run again after mending"),
        };
        print(&format!("{verb} {} in {}{rest}", parts.join(", "), duration(seconds)));
    }

    fn say(&self, verb: String, text: &str) {
        let line = format!("{verb} {text}");
        match &self.live {
            // A line that cannot be drawn is no reason to stop a run.
            Some(live) => drop(live.lines.println(line)),
            None => print(&line),
        }
    }

    fn name(&self, cell: CellId) -> String {
        self.pipeline.cell_name(cell)
    }

    fn end(&mut self, cell: CellId) {
        self.ended += 1;
        if let Some(live) = &mut self.live {
            live.overall.set_position(self.ended as u64);
            if let Some((bar, _)) = live.cells.remove(&cell) {
                bar.finish_and_clear();
                live.lines.remove(&bar);
            }
        }
    }

    fn show_failure(&mut self, verb: &str, cell: CellId, failure: &Failure) {
        // One mistake often fails every cell of a stage: its log is shown once.
        let fresh = self.shown.insert((failure.message.clone(), failure.log_tail.clone()));
        let known = !fresh && !failure.log_tail.is_empty();
        let tail = if known { ", with the same last words as one above" } else { "" };
        let text = format!("{}: {}{tail}", self.name(cell), escaped(&failure.message));
        self.say(self.paint.bad(format!("{verb:>12}")), &text);
        if let Some(help) = failure.help.as_ref().filter(|_| fresh) {
            self.say(format!("{:>12}", "help"), &escaped(help));
        }
        if known {
            return;
        }
        for line in &failure.log_tail {
            self.say(self.paint.faint(format!("{:>12}", "|")), line);
        }
        if let Some(log) = &failure.log {
            self.say(format!("{:>12}", "log"), &shown(log));
        }
    }
}

impl Observer for Watcher<'_> {
    fn event(&mut self, event: &Event<'_>) {
        if let Event::Failed { cell, failure } = event {
            self.end(*cell);
            self.failures.push(json!({ "cell": self.name(*cell), "message": failure.message, "help": failure.help, "log": failure.log }));
            self.show_failure("Failed", *cell, failure);
        }
        if self.quiet {
            return;
        }
        match event {
            Event::Planned(counts) => {
                self.total = counts.run + counts.may;
                if let Some(live) = &self.live {
                    live.overall.set_length(self.total as u64);
                }
            }
            Event::Damaged { cell, digest, damage } => {
                let what = format!(
                    "stored object {} of {} is {}; made again",
                    digest.short(),
                    self.name(*cell),
                    damage.as_str()
                );
                self.say(self.paint.notice(format!("{:>12}", "Damaged")), &what);
            }
            Event::Waiting { cell } => {
                self.say(format!("{:>12}", "Waiting"), &format!("{}: another run is at it", self.name(*cell)));
            }
            Event::Running { cell } => {
                let name = self.name(*cell);
                if let Some(live) = &mut self.live {
                    let bar = live.lines.add(ProgressBar::new_spinner());
                    bar.set_style(style("{prefix:>12.dim} {msg}"));
                    bar.set_message(name);
                    bar.enable_steady_tick(Duration::from_millis(500));
                    live.cells.insert(*cell, (bar, Instant::now()));
                }
            }
            Event::Progress { cell, progress } => {
                let name = self.name(*cell);
                if let Some((bar, start)) = self.live.as_ref().and_then(|live| live.cells.get(cell)) {
                    bar.set_message(format!("{name} {}", describe(progress, start.elapsed())));
                }
            }
            Event::Halted { cell, signal } => {
                let text = format!("{}: {signal} has stopped it, and it waits to be continued", self.name(*cell));
                self.say(self.paint.notice(format!("{:>12}", "Stopped")), &text);
            }
            Event::Finished { cell, how, seconds } => {
                self.end(*cell);
                let (verb, tail) = match how {
                    How::Executed => ("Done", format!("  {}", duration(*seconds))),
                    How::UpToDate => ("Same", "  its inputs came out the same".to_owned()),
                    How::Shared => ("Shared", "  done elsewhere meanwhile".to_owned()),
                };
                // On a terminal the bar tells of short cells.
                if self.live.is_none() || *seconds >= 1.0 {
                    let text =
                        format!("[{}/{}] {}{}", self.ended, self.total, self.name(*cell), self.paint.faint(tail));
                    self.say(self.paint.good(format!("{verb:>12}")), &text);
                }
            }
            Event::Replicate { cell } => {
                let text =
                    format!("{}: came out different; the first result stays, this one is noted", self.name(*cell));
                self.say(self.paint.notice(format!("{:>12}", "Different")), &text);
            }
            Event::Retrying { cell, failure, attempts_left } => {
                let tail =
                    format!("{}: {}; {attempts_left} attempts left", self.name(*cell), escaped(&failure.message));
                self.say(self.paint.notice(format!("{:>12}", "Retrying")), &tail);
            }
            Event::Skipped { cell, .. } => self.end(*cell),
            Event::Published { path } => {
                self.say(self.paint.good(format!("{:>12}", "Wrote")), &shown(path));
            }
            Event::Rescued { path } => {
                let text = format!("{}, which a command had moved into its folder", shown(path));
                self.say(self.paint.notice(format!("{:>12}", "Kept")), &text);
            }
            Event::Kept { path, files } => {
                let text = format!("{} in {}, which no run put there", few(files), shown(path));
                self.say(self.paint.notice(format!("{:>12}", "Kept")), &text);
            }
            Event::InTheWay { path, files } => {
                let text = format!(
                    "{}: no run put {} there, or it was changed since; move it away and run again",
                    shown(path),
                    few(files),
                );
                self.say(self.paint.bad(format!("{:>12}", "Not written")), &text);
            }
            Event::Interrupted => {
                let text = "running cells; once more to kill them";
                self.say(self.paint.notice(format!("{:>12}", "Stopping")), text);
            }
            Event::Failed { .. } => {}
        }
    }
}

/// `a, b, c and 4 more`, as paths from here.
fn few(files: &[String]) -> String {
    let named: Vec<String> = files.iter().take(3).map(|file| shown(Path::new(file))).collect();
    match files.len() - named.len() {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// A path as the user would write it from here.
fn shown(path: &Path) -> String {
    escaped(&from_here(path).display().to_string()).into_owned()
}

/// Writes a line to standard error, if anybody still reads it.
fn print(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A template of ours; the fallback is never seen.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

fn describe(progress: &Progress, elapsed: Duration) -> String {
    let Progress { done, total, unit, figures } = progress;
    let mut text = if *total > 0 { format!("{unit} {done}/{total}") } else { format!("{done} {unit}") };
    for (name, value) in figures {
        let value = if *value != 0.0 && value.abs() < 1e-3 { format!("{value:.1e}") } else { format!("{value:.4}") };
        text.push_str(&format!("  {name} {value}"));
    }
    if *done > 0 && *total > *done {
        let left = elapsed.as_secs_f64() / *done as f64 * (*total - *done) as f64;
        text.push_str(&format!("  {} left", duration(left)));
    }
    text
}

/// Seconds for people: 0.04 s, 12.3 s, 4 min 5 s, 2 h 3 min.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 if seconds < 1.0 => format!("{seconds:.2} s"),
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}
