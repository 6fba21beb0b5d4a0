//! Watching a run: redrawn lines on a terminal, one line per event elsewhere, and the summary at its end.

mod board;
mod columns;
mod forecast;
mod screen;

use std::collections::HashSet;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::board::{Board, RunningCell};
use self::forecast::{Forecast, to_run};
pub use self::screen::Screen;
use super::paint::Paint;
use super::project::{Project, from_here};
use crate::engine::event::{Completion, Event, Failure, Observer};
use crate::engine::journal;
use crate::engine::outcome::Summary;
use crate::engine::plan::Plan;
use crate::engine::resources::Capacities;
use crate::pipeline::model::{CellId, Pipeline};
use crate::text::escaped;

/// Time between two drawings of the redrawn lines.
const TICK: Duration = Duration::from_millis(100);
/// Columns of the verb that a lasting line begins with.
const VERB: usize = 12;

/// Shows a run on standard error, and remembers its failures.
pub struct Watcher<'a> {
    pipeline: &'a Pipeline,
    paint: Paint,
    quiet: bool,
    screen: Screen,
    live: Option<Live>,
    /// Cells that are not up to date, and how many of them have ended.
    total: usize,
    ended: usize,
    /// One for each stage of the pipeline.
    stages: Vec<StageProgress>,
    failures: Vec<Value>,
    /// Failures with the same message in the same stage, in the order of their first.
    failed: Vec<FailedCells>,
    /// Failures that were shown in full: message and last lines of the log.
    shown: HashSet<(String, Vec<String>)>,
}

/// How far the cells of a stage are.
#[derive(Debug, Clone, Default)]
struct StageProgress {
    /// Cells without a result that have not ended.
    left: usize,
    /// Positions, in a cell's coordinates, of the axes on which the cells to run differ.
    varying: Vec<usize>,
    start: Option<Instant>,
    executed: usize,
    unchanged: usize,
    failed: usize,
    skipped: usize,
}

/// Cells of one stage that failed with one message.
struct FailedCells {
    stage: u32,
    message: String,
    cells: Vec<CellId>,
    log: Option<String>,
}

/// The redrawn lines and the thread that draws them.
struct Live {
    board: Arc<Mutex<Board>>,
    screen: Screen,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Live {
    /// Nothing if no thread can be started.
    fn new(screen: &Screen, board: Board) -> Option<Live> {
        let board = Arc::new(Mutex::new(board));
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = {
            let (board, screen) = (Arc::clone(&board), screen.clone());
            std::thread::Builder::new().spawn(move || {
                while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                    if let Some(size) = screen.size() {
                        let lines = board.lock().unwrap_or_else(PoisonError::into_inner).lines(Instant::now(), size);
                        screen.draw(lines);
                    }
                }
            })
        };
        Some(Live { board, screen: screen.clone(), stop: Some(stop), thread: Some(thread.ok()?) })
    }

    fn change(&self, change: impl FnOnce(&mut Board)) {
        change(&mut self.board.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.stop.take();
        // It panics only if a lock of its own does.
        let _ = self.thread.take().map(JoinHandle::join);
        self.screen.draw(Vec::new());
    }
}

impl<'a> Watcher<'a> {
    /// Watches a run of `plan` with `jobs` cells at once; a quiet one shows failures only.
    pub fn new(
        project: &'a Project,
        plan: &Plan,
        (jobs, capacities): (usize, &Capacities),
        (quiet, paint): (bool, Paint),
        screen: &Screen,
    ) -> Watcher<'a> {
        let pipeline = &project.pipeline;
        let stages = stages(pipeline, plan);
        let total = stages.iter().map(|stage| stage.left).sum();
        let live = (!quiet && total > 0 && screen.is_live()).then(|| {
            let journals = journal::newest_first(&project.store.journals());
            let forecast = Forecast::new(pipeline, plan, jobs, capacities, journals);
            let board = Board { paint, total, done: 0, failed: 0, not_run: 0, running: Vec::new(), forecast };
            Live::new(screen, board)
        });
        Watcher {
            pipeline,
            paint,
            quiet,
            screen: screen.clone(),
            live: live.flatten(),
            total,
            ended: 0,
            stages,
            failures: Vec::new(),
            failed: Vec::new(),
            shown: HashSet::new(),
        }
    }

    /// Names the definitions that replace built-in ones.
    pub fn replaced(&self) {
        for it in self.pipeline.replaced.iter().filter(|_| !self.quiet) {
            let what = format!("{} in place of the built-in `{}`", from_here(&it.file).display(), it.name);
            self.say(Tone::Notice, "Uses", &escaped(&what));
        }
    }

    /// Ends the redrawn lines. What has ended of stages that are not complete is printed.
    pub fn close(&mut self) {
        for stage in 0..self.stages.len() {
            if self.live.is_some() && self.stages[stage].left > 0 {
                self.show_stage(stage);
            }
        }
        self.live = None;
    }

    /// The failures as JSON: cell, message, log.
    pub fn failures(&self) -> &[Value] {
        &self.failures
    }

    /// The last lines: failures by stage and message, the counts, and what to do next.
    pub fn summary(&self, summary: &Summary) {
        let Summary { executed, cached, failed, skipped, unpublished, interrupted, seconds } = *summary;
        if self.quiet && failed + unpublished == 0 && !interrupted {
            return;
        }
        // The only failure is shown a few lines above.
        if self.failures.len() > 1 {
            self.failed.iter().for_each(|it| self.show_failed(it));
        }
        let mut parts = vec![format!("{executed} cells run"), format!("{cached} cached")];
        for (count, words) in [(failed, "failed"), (skipped, "not run"), (unpublished, "not written to the reports")] {
            if count > 0 {
                parts.push(format!("{count} {words}"));
            }
        }
        let (tone, verb, next) = match (interrupted, failed) {
            (true, _) => (Tone::Notice, "Interrupted", "run again to resume: finished cells are cached"),
            (_, 0) if unpublished == 0 => (Tone::Good, "Finished", ""),
            (_, 0) => (Tone::Bad, "Failed", "move those files away and run again: finished cells are cached"),
            _ => (Tone::Bad, "Failed", "fix the error and run again: finished cells are cached"),
        };
        self.say(tone, verb, &format!("{} in {}", parts.join(", "), duration(seconds)));
        if !next.is_empty() {
            self.say(Tone::Plain, "Next", next);
        }
    }

    fn show_failed(&self, FailedCells { stage, message, cells, log }: &FailedCells) {
        const MOST_NAMES: usize = 3;
        let stage = &self.pipeline.stages[*stage as usize].name;
        let count = if cells.len() == 1 { String::new() } else { format!(", {} cells", cells.len()) };
        self.say(Tone::Bad, "Failed", &format!("{stage}{count}: {}", escaped(message)));
        let more = if cells.len() > MOST_NAMES { MOST_NAMES - 1 } else { cells.len() };
        let named = cells.iter().take(more).filter(|cell| self.pipeline.coordinates(**cell).next().is_some());
        named.for_each(|cell| self.say(Tone::Plain, "", &self.name(*cell)));
        if more < cells.len() {
            self.say(Tone::Plain, "", &format!("and {} more", cells.len() - more));
        }
        if let Some(log) = log {
            self.say(Tone::Plain, "log", log);
        }
    }

    /// Prints a lasting line. On a terminal it is broken between words, below its own start.
    fn say(&self, tone: Tone, verb: &str, text: &str) {
        let verb = format!("{verb:>VERB$}");
        let verb = match tone {
            Tone::Good => self.paint.good(verb),
            Tone::Bad => self.paint.bad(verb),
            Tone::Notice => self.paint.notice(verb),
            Tone::Plain => verb,
        };
        let text = match self.room() {
            Some(room) => columns::wrap(text, room).join(&format!("\n{:1$}", "", VERB + 1)),
            None => text.to_owned(),
        };
        self.screen.print(&format!("{verb} {text}\n"));
    }

    /// Columns behind the verb, on a terminal that has space for words there.
    fn room(&self) -> Option<usize> {
        let room = self.screen.size()?.columns.checked_sub(VERB + 2)?;
        (room >= VERB).then_some(room)
    }

    fn name(&self, cell: CellId) -> String {
        self.pipeline.cell_name(cell)
    }

    fn stage(&mut self, cell: CellId) -> &mut StageProgress {
        &mut self.stages[self.pipeline.cells[cell].stage as usize]
    }

    /// The values of a cell on the axes on which the cells to run differ. A number is called by its axis too.
    fn values(&self, cell: CellId) -> Vec<String> {
        let varying = &self.stages[self.pipeline.cells[cell].stage as usize].varying;
        let coordinates: Vec<_> = self.pipeline.coordinates(cell).collect();
        let values =
            varying.iter().filter_map(|&at| coordinates.get(at)).map(|(axis, value)| match value.name.parse::<f64>() {
                Ok(_) => format!("{axis}={}", value.name),
                Err(_) => value.name.to_string(),
            });
        values.map(|value| escaped(&value).into_owned()).collect()
    }

    fn start(&mut self, cell: CellId) {
        let now = Instant::now();
        self.stage(cell).start.get_or_insert(now);
        if let Some(live) = &self.live {
            let (values, stage) = (self.values(cell), self.pipeline.stage_of(cell).name.to_string());
            live.change(|board| board.running.push(RunningCell { cell, values, stage, start: now, progress: None }));
        }
    }

    /// Takes the end of a cell: `count` in its stage and on the board, and its seconds if it was executed.
    fn end(&mut self, cell: CellId, seconds: Option<f64>, ending: Ending) {
        self.ended += 1;
        let index = self.pipeline.cells[cell].stage as usize;
        let stage = &mut self.stages[index];
        stage.left = stage.left.saturating_sub(1);
        *match ending {
            Ending::Executed => &mut stage.executed,
            Ending::Unchanged => &mut stage.unchanged,
            Ending::Failed => &mut stage.failed,
            Ending::Skipped => &mut stage.skipped,
        } += 1;
        let complete = stage.left == 0;
        if let Some(live) = &self.live {
            live.change(|board| {
                board.running.retain(|running| running.cell != cell);
                board.forecast.ended(cell, seconds);
                *match ending {
                    Ending::Executed | Ending::Unchanged => &mut board.done,
                    Ending::Failed => &mut board.failed,
                    Ending::Skipped => &mut board.not_run,
                } += 1;
            });
            if complete {
                self.show_stage(index);
            }
        }
    }

    /// One line for the cells of a stage that have ended.
    fn show_stage(&self, stage: usize) {
        let StageProgress { left, start, executed, unchanged, failed, skipped, .. } = self.stages[stage];
        let counts = [(executed, "run"), (unchanged, "cached"), (failed, "failed"), (skipped + left, "not run")];
        let parts: Vec<String> =
            counts.iter().filter(|(n, _)| *n > 0).map(|(n, words)| format!("{n} {words}")).collect();
        if executed + unchanged + failed == 0 {
            return;
        }
        let (tone, verb) = match (failed, skipped + left) {
            (0, 0) => (Tone::Good, "Done"),
            (0, _) => (Tone::Notice, "Partly"),
            _ => (Tone::Bad, "Failed"),
        };
        let time = start
            .map_or(String::new(), |start| self.paint.faint(format!("  {}", duration(start.elapsed().as_secs_f64()))));
        self.say(tone, verb, &format!("{}: {}{time}", self.pipeline.stages[stage].name, parts.join(", ")));
    }

    /// Shows a failed attempt with its log. On a terminal, one that is like an earlier one is only counted.
    fn show_failure(&mut self, verb: &str, tail: &str, cell: CellId, failure: &Failure) {
        let fresh = self.shown.insert((failure.message.clone(), failure.log_tail.clone()));
        if !fresh && self.live.is_some() {
            return;
        }
        let known = !fresh && !failure.log_tail.is_empty();
        let same = if known { ", with the same last lines of its log as one above" } else { "" };
        let tone = if verb == "Failed" { Tone::Bad } else { Tone::Notice };
        self.say(tone, verb, &format!("{}: {}{tail}{same}", self.name(cell), escaped(&failure.message)));
        if let Some(help) = failure.help.as_ref().filter(|_| fresh) {
            self.say(Tone::Plain, "help", &escaped(help));
        }
        if known {
            return;
        }
        for line in &failure.log_tail {
            // The whole line is in the log.
            let line = self.room().map_or_else(|| line.clone(), |room| columns::cut(line, room));
            self.screen.print(&format!("{} {line}\n", self.paint.faint(format!("{:>VERB$}", "|"))));
        }
        if let Some(log) = &failure.log {
            self.say(Tone::Plain, "log", &shown(log));
        }
    }

    /// Adds a failure to those with the same message.
    fn group(&mut self, cell: CellId, failure: &Failure) {
        let stage = self.pipeline.cells[cell].stage;
        match self.failed.iter_mut().find(|it| it.stage == stage && it.message == failure.message) {
            Some(group) => group.cells.push(cell),
            None => self.failed.push(FailedCells {
                stage,
                message: failure.message.clone(),
                cells: vec![cell],
                log: failure.log.as_deref().map(shown),
            }),
        }
    }
}

/// What a lasting line reports.
#[derive(Debug, Clone, Copy)]
enum Tone {
    Good,
    Bad,
    Notice,
    Plain,
}

/// How a cell ended.
#[derive(Debug, Clone, Copy)]
enum Ending {
    Executed,
    Unchanged,
    Failed,
    Skipped,
}

impl Observer for Watcher<'_> {
    fn event(&mut self, event: &Event<'_>) {
        if let Event::Failed { cell, failure } = event {
            self.failures.push(json!({ "cell": self.name(*cell), "message": failure.message, "help": failure.help, "log": failure.log }));
            self.group(*cell, failure);
            self.show_failure("Failed", "", *cell, failure);
            self.end(*cell, None, Ending::Failed);
        }
        if self.quiet {
            return;
        }
        match event {
            Event::Planned(counts) => {
                if counts.cached > 0 && self.total > 0 {
                    self.say(
                        Tone::Good,
                        "Cached",
                        &format!("{} of {} cells", counts.cached, counts.cached + self.total),
                    );
                }
            }
            Event::Damaged { cell, digest, damage } => {
                let what = format!(
                    "stored object {} of {} is {}; made again",
                    digest.short(),
                    self.name(*cell),
                    damage.as_str()
                );
                self.say(Tone::Notice, "Damaged", &what);
            }
            Event::Waiting { cell } => {
                self.say(Tone::Plain, "Waiting", &format!("{}: another run is executing it", self.name(*cell)));
            }
            Event::Running { cell } => self.start(*cell),
            Event::Progress { cell, progress } => {
                if let Some(live) = &self.live {
                    live.change(|board| {
                        if let Some(running) = board.running.iter_mut().find(|running| running.cell == *cell) {
                            running.progress = Some((*progress).clone());
                        }
                    });
                }
            }
            Event::Halted { cell, signal } => {
                let text = format!("{}: {signal} has stopped it, and it waits to be continued", self.name(*cell));
                self.say(Tone::Notice, "Stopped", &text);
            }
            Event::Finished { cell, how, seconds } => {
                let (ending, time, verb, tail) = match how {
                    Completion::Executed => (Ending::Executed, Some(*seconds), "Done", duration(*seconds)),
                    Completion::UpToDate => (Ending::Unchanged, None, "Cached", "its inputs did not change".to_owned()),
                    Completion::Shared => (Ending::Unchanged, None, "Cached", "another run executed it".to_owned()),
                };
                self.end(*cell, time, ending);
                if self.live.is_none() {
                    let count = format!("[{:>2$}/{}]", self.ended, self.total, self.total.to_string().len());
                    let text = format!("{count} {}{}", self.name(*cell), self.paint.faint(format!("  {tail}")));
                    self.say(Tone::Good, verb, &text);
                }
            }
            Event::Replicate { cell } => {
                let text = format!("{}: its output differs from the first run's, which is kept", self.name(*cell));
                self.say(Tone::Notice, "Different", &text);
            }
            Event::Retrying { cell, failure, attempts_left } => {
                if let Some(live) = &self.live {
                    live.change(|board| board.running.retain(|running| running.cell != *cell));
                }
                let left =
                    if *attempts_left == 1 { "1 attempt".to_owned() } else { format!("{attempts_left} attempts") };
                let text = format!("{}: {}; {left} left", self.name(*cell), escaped(&failure.message));
                self.say(Tone::Notice, "Retrying", &text);
            }
            Event::Skipped { cell, .. } => self.end(*cell, None, Ending::Skipped),
            Event::Published { path } => self.say(Tone::Good, "Wrote", &shown(path)),
            Event::Rescued { path } => {
                let text = format!("{}, which a command had moved into its folder", shown(path));
                self.say(Tone::Notice, "Kept", &text);
            }
            Event::Kept { path, files } => {
                let text = format!("{} in {}, which no run put there", few(files), shown(path));
                self.say(Tone::Notice, "Kept", &text);
            }
            Event::InTheWay { path, files } => {
                let text = format!(
                    "{}: no run put {} there, or it was changed since; move it away and run again",
                    shown(path),
                    few(files),
                );
                self.say(Tone::Bad, "Not written", &text);
            }
            Event::Interrupted => {
                self.say(Tone::Notice, "Stopping", "running cells; press Ctrl-C again to kill them");
            }
            Event::Failed { .. } => {}
        }
    }
}

/// Of each stage, how many of its cells are to run, and on which axes these differ.
fn stages(pipeline: &Pipeline, plan: &Plan) -> Vec<StageProgress> {
    let mut stages = vec![StageProgress::default(); pipeline.stages.len()];
    let mut first: Vec<Option<&[u32]>> = vec![None; stages.len()];
    for id in to_run(plan) {
        let cell = &pipeline.cells[id];
        let stage = &mut stages[cell.stage as usize];
        stage.left += 1;
        let first = *first[cell.stage as usize].get_or_insert(&cell.coordinates);
        for (at, (a, b)) in first.iter().zip(&cell.coordinates).enumerate() {
            if a != b && !stage.varying.contains(&at) {
                stage.varying.push(at);
            }
        }
    }
    stages.iter_mut().for_each(|stage| stage.varying.sort_unstable());
    stages
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

/// Seconds for people: 0.04 s, 12.3 s, 4 min 5 s, 2 h 3 min.
fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 if seconds < 1.0 => format!("{seconds:.2} s"),
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}
