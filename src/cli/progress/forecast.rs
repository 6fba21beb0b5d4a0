//! How long the cells that are left will take: from earlier runs where they know the cells, else from what has finished.

use std::collections::HashMap;

use crate::engine::journal::{CellLine, CellOutcome, Line};
use crate::engine::plan::{Decision, Plan};
use crate::engine::resources::Capacities;
use crate::pipeline::model::{CellId, Pipeline};

/// Estimates of the cells of a plan.
#[derive(Debug)]
pub struct Forecast {
    stages: Vec<StageForecast>,
    /// Seconds that each cell took when it was last executed.
    past: HashMap<CellId, f64>,
    stage_of: Vec<u32>,
}

#[derive(Debug, Clone, Default)]
struct StageForecast {
    /// How many of its cells can run at once.
    slots: usize,
    /// Cells that have not ended: those that earlier runs know, with the sum of their seconds, and the others.
    known: usize,
    known_seconds: f64,
    unknown: usize,
    /// Cells that were executed in this run, and their seconds.
    executed: usize,
    seconds: f64,
    /// Of these, the ones that earlier runs know: their seconds now, and then.
    now: f64,
    then: f64,
    /// Cells of the stage that earlier runs executed, and their seconds.
    past_cells: usize,
    past_seconds: f64,
}

impl StageForecast {
    /// By how much this run is slower than the earlier ones.
    fn pace(&self) -> f64 {
        if self.then > 0.0 { self.now / self.then } else { 1.0 }
    }

    /// Seconds of a cell that no earlier run knows.
    fn mean(&self) -> Option<f64> {
        match (self.executed, self.past_cells) {
            (0, 0) => None,
            (0, cells) => Some(self.past_seconds / cells as f64),
            (cells, _) => Some(self.seconds / cells as f64),
        }
    }
}

/// The time left.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimeLeft {
    pub seconds: f64,
    /// Whether all cells that are left could be estimated; otherwise it takes longer.
    pub complete: bool,
}

/// A running cell: how long it has run, and how long it will continue by its own estimate.
#[derive(Debug, Clone, Copy)]
pub struct InProgress {
    pub cell: CellId,
    pub elapsed: f64,
    pub left: Option<f64>,
}

impl Forecast {
    /// Of the cells of `plan` that have no result, `jobs` at once. `journals` are the lines of earlier runs, newest
    /// first, read until they know every stage.
    pub fn new(
        pipeline: &Pipeline,
        plan: &Plan,
        jobs: usize,
        capacities: &Capacities,
        journals: impl Iterator<Item = Vec<Line>>,
    ) -> Forecast {
        let stages = pipeline.stages.iter().map(|stage| {
            let fit = stage.policy.resources.iter().filter_map(|(name, &asked)| {
                capacities
                    .0
                    .get(name)
                    .copied()
                    .unwrap_or(0)
                    .checked_div(asked)
                    .and_then(|fit| usize::try_from(fit).ok())
            });
            StageForecast { slots: fit.min().unwrap_or(jobs).clamp(1, jobs.max(1)), ..StageForecast::default() }
        });
        let mut forecast = Forecast {
            stages: stages.collect(),
            past: HashMap::new(),
            stage_of: pipeline.cells.iter().map(|cell| cell.stage).collect(),
        };
        let left: Vec<CellId> = to_run(plan).collect();
        forecast.read(pipeline, &left, journals);
        for cell in left {
            let past = forecast.past.get(&cell).copied();
            let stage = forecast.stage(cell);
            match past {
                Some(seconds) => {
                    stage.known += 1;
                    stage.known_seconds += seconds;
                }
                None => stage.unknown += 1,
            }
        }
        forecast
    }

    fn read(&mut self, pipeline: &Pipeline, left: &[CellId], journals: impl Iterator<Item = Vec<Line>>) {
        const MOST_JOURNALS: usize = 20;
        let ids: HashMap<String, CellId> = left.iter().map(|&cell| (pipeline.cell_name(cell), cell)).collect();
        let names: HashMap<&str, usize> =
            pipeline.stages.iter().enumerate().map(|(index, stage)| (&*stage.name, index)).collect();
        let wanted: std::collections::HashSet<u32> = left.iter().map(|cell| self.stage_of[cell.0 as usize]).collect();
        for lines in journals.take(MOST_JOURNALS) {
            if !matches!(lines.first(), Some(Line::Run { pipeline: name, .. }) if *name == pipeline.name) {
                continue;
            }
            for line in &lines {
                let Line::Cell(CellLine { cell, outcome, seconds, .. }) = line else { continue };
                let stage = cell.split('[').next().and_then(|stage| names.get(stage));
                if let Some(&stage) = stage.filter(|_| *outcome == CellOutcome::Executed && seconds.is_finite()) {
                    self.stages[stage].past_cells += 1;
                    self.stages[stage].past_seconds += seconds;
                    if let Some(&id) = ids.get(cell) {
                        self.past.entry(id).or_insert(*seconds);
                    }
                }
            }
            if wanted.iter().all(|&stage| self.stages[stage as usize].past_cells > 0) {
                break;
            }
        }
    }

    fn stage(&mut self, cell: CellId) -> &mut StageForecast {
        &mut self.stages[self.stage_of[cell.0 as usize] as usize]
    }

    /// A cell has ended; `seconds` if it was executed.
    pub fn ended(&mut self, cell: CellId, seconds: Option<f64>) {
        let past = self.past.get(&cell).copied();
        let stage = self.stage(cell);
        match past {
            Some(then) => {
                stage.known = stage.known.saturating_sub(1);
                stage.known_seconds = if stage.known == 0 { 0.0 } else { stage.known_seconds - then };
            }
            None => stage.unknown = stage.unknown.saturating_sub(1),
        }
        if let Some(seconds) = seconds {
            stage.executed += 1;
            stage.seconds += seconds;
            if let Some(then) = past {
                stage.now += seconds;
                stage.then += then;
            }
        }
    }

    /// The time until all cells have ended; nothing if no cell that is left can be estimated.
    pub fn left(&self, running: &[InProgress]) -> Option<TimeLeft> {
        let mut waiting = self.stages.clone();
        // By stage, the seconds of the running cells, and whether all of them are known.
        let mut busy = vec![0.0; waiting.len()];
        let (mut longest, mut complete, mut estimated) = (0f64, true, false);
        for InProgress { cell, elapsed, left } in running {
            let index = self.stage_of[cell.0 as usize] as usize;
            let stage = &mut waiting[index];
            let whole = match self.past.get(cell) {
                Some(seconds) => {
                    stage.known = stage.known.saturating_sub(1);
                    stage.known_seconds -= seconds;
                    Some(seconds * stage.pace())
                }
                None => {
                    stage.unknown = stage.unknown.saturating_sub(1);
                    stage.mean()
                }
            };
            match left.or(whole.map(|whole| (whole - elapsed).max(0.0))) {
                Some(left) => {
                    busy[index] += left;
                    longest = longest.max(left);
                    estimated = true;
                }
                None => complete = false,
            }
        }
        let mut seconds = 0.0;
        for (stage, busy) in waiting.iter().zip(busy) {
            let mut work = busy + stage.known_seconds.max(0.0) * stage.pace();
            estimated |= stage.known > 0;
            match stage.mean() {
                Some(mean) if stage.unknown > 0 => {
                    work += mean * stage.unknown as f64;
                    estimated = true;
                }
                Some(_) => {}
                None => complete &= stage.unknown == 0,
            }
            seconds += work / stage.slots as f64;
        }
        estimated.then_some(TimeLeft { seconds: seconds.max(longest), complete })
    }
}

/// The cells of a plan that have no result.
pub fn to_run(plan: &Plan) -> impl Iterator<Item = CellId> {
    plan.cells()
        .filter(|(_, decision)| matches!(decision, Decision::Run { .. } | Decision::May { .. }))
        .map(|(cell, _)| cell)
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use super::*;
    use crate::pipeline::kinds::Kinds;

    /// Four models, two at once by their resource, and a table.
    pub fn cells() -> (Pipeline, Plan) {
        const PIPELINE: &str = "
name: paper
axes: { dataset: [glyphs, textures], seed: 0..2 }
resources: { seat: 2 }
stages:
  model: { run: 'echo ${dataset} ${seed} > ${out.m}', out: [m], resources: { seat: 1 } }
  table: { run: 'cat ${in.m}/* > ${out.t}', in: { m: { from: model, gather: all } }, out: [t] }
";
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("paper.yaml");
        std::fs::write(&file, PIPELINE).unwrap();
        let pipeline = crate::pipeline::load(&file, &[], &Kinds(vec![]), &[]).unwrap();
        let decisions = pipeline.cells.iter().map(|_| Some(Decision::May { upstream: Vec::new() })).collect();
        (pipeline, Plan { decisions, forced: Default::default() })
    }

    /// Four cells at once, after a run in which those cells took so long.
    pub fn forecast(pipeline: &Pipeline, plan: &Plan, past: &[(&str, f64)]) -> Forecast {
        let mut journal = vec![Line::Run {
            run: "r".into(),
            started: "now".into(),
            pipeline: "paper".into(),
            file: PathBuf::new(),
            command: Vec::new(),
            version: String::new(),
            format: String::new(),
        }];
        journal.extend(past.iter().map(|(cell, seconds)| {
            let line = CellLine::new((*cell).to_owned());
            Line::Cell(CellLine { outcome: CellOutcome::Executed, seconds: *seconds, attempts: 1, ..line })
        }));
        let capacities = Capacities(BTreeMap::from([("seat".to_owned(), 2)]));
        Forecast::new(pipeline, plan, 4, &capacities, [Vec::new(), journal].into_iter())
    }

    fn left(forecast: &Forecast, running: &[InProgress]) -> Option<(f64, bool)> {
        forecast.left(running).map(|left| (left.seconds, left.complete))
    }

    fn running(cell: u32, elapsed: f64, left: Option<f64>) -> InProgress {
        InProgress { cell: CellId(cell), elapsed, left }
    }

    #[test]
    fn without_earlier_runs_the_time_left_comes_from_what_has_finished() {
        let (pipeline, plan) = cells();
        let mut forecast = forecast(&pipeline, &plan, &[]);
        assert_eq!(left(&forecast, &[]), None, "nothing is known");
        assert_eq!(left(&forecast, &[running(0, 1.0, Some(9.0))]), Some((9.0, false)), "the cell's own account");
        forecast.ended(CellId(0), Some(10.0));
        // Three models of ten seconds, two at once; of the table nothing is known.
        assert_eq!(left(&forecast, &[]), Some((15.0, false)));
        assert_eq!(left(&forecast, &[running(1, 4.0, None), running(2, 12.0, None)]), Some((8.0, false)));
        for cell in 1..4 {
            forecast.ended(CellId(cell), Some(10.0));
        }
        assert_eq!(left(&forecast, &[]), None);
        forecast.ended(CellId(4), Some(1.0));
        assert_eq!(left(&forecast, &[]), None, "nothing is left");
    }

    #[test]
    fn earlier_runs_know_cells_and_are_scaled_by_this_run() {
        let (pipeline, plan) = cells();
        let past = [
            ("model[dataset=glyphs,seed=0]", 10.0),
            ("model[dataset=glyphs,seed=1]", 20.0),
            ("model[dataset=textures,seed=0]", 30.0),
            ("table", 2.0),
        ];
        let mut forecast = forecast(&pipeline, &plan, &past);
        // 10 + 20 + 30 and their mean for the model that was not there, two at once; then the table, alone.
        assert_eq!(left(&forecast, &[]), Some((40.0 + 0.5, true)));
        // This run is twice as fast, and the mean is its own.
        forecast.ended(CellId(0), Some(5.0));
        assert_eq!(left(&forecast, &[]), Some(((10.0 + 15.0 + 5.0) / 2.0 + 0.5, true)));
        // A cell that is up to date takes no time.
        forecast.ended(CellId(1), None);
        assert_eq!(left(&forecast, &[]), Some(((15.0 + 5.0) / 2.0 + 0.5, true)));
        // It takes at least as long as its longest cell.
        assert_eq!(left(&forecast, &[running(2, 1.0, Some(90.0))]), Some((90.0, true)));
    }
}
