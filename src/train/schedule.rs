//! Learning-rate schedules, by epoch.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the rates of all groups are multiplied by in an epoch, epochs counted from 0: as the schedulers of
/// `torch.optim.lr_scheduler` named below give it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// 1.
    #[default]
    Constant,
    /// `factor` for every `every` epochs that are over (`StepLR`).
    Step {
        /// Epochs between two steps.
        #[schemars(range(min = 1, max = 100_000), extend("x-unit" = "epochs"))]
        every: u32,
        /// Factor by which a step multiplies the rates.
        #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
        factor: f64,
    },
    /// `factor` for every epoch of `at` that has come (`MultiStepLR`).
    MultiStep {
        /// Milestones (0-based epochs), in rising order.
        #[schemars(inner(range(min = 1, max = 100_000)))]
        at: Vec<u32>,
        /// Factor by which a milestone multiplies the rates.
        #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
        factor: f64,
    },
    /// From 1 to `floor` along half a cosine over the epochs of the run (`CosineAnnealingLR` with `T_max = epochs` and
    /// `eta_min = floor * rate`). It reaches `floor` where the run ends.
    Cosine {
        /// Final learning rate as a fraction of the initial one; a run of another length is another run.
        #[serde(default)]
        #[schemars(range(min = 0, max = 1))]
        floor: f64,
    },
}

/// Rates that rise before the schedule begins: from `start` in epoch 0 along a line that reaches 1 in epoch `epochs`,
/// where the schedule starts with its own epoch 0 (`SequentialLR` of `LinearLR` and the schedule).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WarmUp {
    /// Epochs until the full rate.
    #[schemars(range(min = 1, max = 100_000), extend("x-unit" = "epochs"))]
    pub epochs: u32,
    /// Learning rate of the first epoch as a fraction of the full one.
    #[serde(default = "third")]
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
    pub start: f64,
}

fn third() -> f64 {
    1.0 / 3.0
}

impl Schedule {
    /// The factor of the rates in `epoch` of a run of `epochs`.
    pub fn factor(&self, epoch: u32, epochs: u32) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::Step { every, factor } => factor.powf(f64::from(epoch / every.max(&1))),
            Self::MultiStep { at, factor } => {
                let come = at.iter().filter(|&&at| at <= epoch).count();
                factor.powf(come as f64)
            }
            Self::Cosine { floor } => {
                let share = f64::from(epoch) / f64::from(epochs.max(1));
                floor + (1.0 - floor) * (1.0 + (std::f64::consts::PI * share).cos()) / 2.0
            }
        }
    }

    /// The same with a warm-up before it, whose epochs count among the run's.
    pub fn factor_after(&self, warm_up: Option<WarmUp>, epoch: u32, epochs: u32) -> f64 {
        let Some(WarmUp { epochs: rising, start }) = warm_up else { return self.factor(epoch, epochs) };
        match epoch.checked_sub(rising) {
            Some(epoch) => self.factor(epoch, epochs.saturating_sub(rising)),
            None => start + (1.0 - start) * f64::from(epoch) / f64::from(rising),
        }
    }

    /// Whether an epoch's factor depends on the number of epochs of the run. If so, a run of more epochs differs from
    /// its first epoch on, and cannot continue where a shorter one ended.
    pub fn depends_on_total(&self) -> bool {
        matches!(self, Self::Cosine { .. })
    }

    /// Settings that do not fit together: (path of the field, message) pairs.
    pub(super) fn check(&self) -> Vec<(String, String)> {
        match self {
            Self::MultiStep { at, .. } if !at.is_sorted_by(|a, b| a < b) => {
                vec![("at".to_owned(), format!("must be epochs in rising order, but is {at:?}"))]
            }
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Setting, Settings};

    fn faults_of(schedule: &Schedule) -> Vec<(String, String)> {
        Setting::faults_of(schedule).into_iter().chain(schedule.check()).collect()
    }

    /// Factors computed by PyTorch; `tests/data/optimisers.py` wrote the file.
    const REFERENCE: &str = include_str!("../../tests/data/optimisers.json");

    #[derive(Deserialize)]
    struct Reference {
        schedules: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        schedule: Schedule,
        warm_up: Option<WarmUp>,
        epochs: u32,
        factors: Vec<f64>,
    }

    #[test]
    fn factors_are_those_of_pytorch() {
        let Reference { schedules } = serde_json::from_str(REFERENCE).unwrap();
        let kinds: std::collections::BTreeSet<String> = schedules
            .iter()
            .map(|case| format!("{} {}", serde_json::to_value(&case.schedule).unwrap()["kind"], case.warm_up.is_some()))
            .collect();
        assert_eq!(kinds.len(), 8, "each kind alone and after a warm-up: {kinds:?}");
        for Case { schedule, warm_up, epochs, factors } in schedules {
            let faults = warm_up.map_or(vec![], |warm_up| Settings::faults_of(&warm_up));
            assert_eq!((faults_of(&schedule), faults), (vec![], vec![]));
            assert_eq!(factors.len(), epochs as usize);
            let moved = factors.iter().any(|&factor| factor != factors[0]);
            assert!(moved || (schedule == Schedule::Constant && warm_up.is_none()), "the case changes its rate");
            for (epoch, expected) in factors.into_iter().enumerate() {
                let found = schedule.factor_after(warm_up, epoch as u32, epochs);
                assert!((found - expected).abs() <= 1e-12, "{schedule:?} {warm_up:?} in epoch {epoch}: {found}");
            }
        }
    }

    #[test]
    fn only_what_does_not_depend_on_the_total_is_the_same_in_a_longer_run() {
        let warm_up = Some(WarmUp { epochs: 3, start: 0.1 });
        for schedule in [
            Schedule::Constant,
            Schedule::Step { every: 4, factor: 0.5 },
            Schedule::MultiStep { at: vec![2, 7], factor: 0.1 },
            Schedule::Cosine { floor: 0.0 },
        ] {
            for warm_up in [None, warm_up] {
                let same = (0..10).all(|epoch| {
                    let [short, long] = [10, 20].map(|epochs| schedule.factor_after(warm_up, epoch, epochs));
                    short == long
                });
                assert_eq!(same, !schedule.depends_on_total(), "{schedule:?} {warm_up:?}");
            }
        }
    }

    #[test]
    fn a_warm_up_as_long_as_the_run_is_all_of_it() {
        let warm_up = Some(WarmUp { epochs: 4, start: 0.2 });
        let factors: Vec<f64> =
            (0..6).map(|epoch| Schedule::Cosine { floor: 0.0 }.factor_after(warm_up, epoch, 4)).collect();
        assert!(factors.iter().all(|factor| factor.is_finite()), "{factors:?}");
        assert!((factors[3] - 0.8).abs() < 1e-15, "{factors:?}");
    }

    #[test]
    fn values_out_of_range_are_named() {
        let paths = |mistakes: Vec<(String, String)>| {
            mistakes.into_iter().map(|(path, _)| path).collect::<Vec<String>>().join(" ")
        };
        assert_eq!(paths(faults_of(&Schedule::Step { every: 0, factor: f64::NAN })), "every factor");
        assert_eq!(paths(faults_of(&Schedule::MultiStep { at: vec![0, 2], factor: 0.0 })), "at.0 factor");
        for at in [vec![3, 3], vec![5, 2]] {
            assert_eq!(paths(faults_of(&Schedule::MultiStep { at, factor: 1.0 })), "at");
        }
        assert_eq!(paths(faults_of(&Schedule::MultiStep { at: vec![], factor: 1.0 })), "");
        for floor in [-0.1, 1.1, f64::NAN] {
            assert_eq!(paths(faults_of(&Schedule::Cosine { floor })), "floor");
        }
        assert_eq!(paths(Settings::faults_of(&WarmUp { epochs: 0, start: 0.0 })), "epochs start");
    }

    #[test]
    fn documents_name_a_schedule_by_its_kind() {
        let parse = |text: &str| serde_json::from_str::<Schedule>(text);
        assert_eq!(parse(r#"{"kind": "cosine"}"#).unwrap(), Schedule::Cosine { floor: 0.0 });
        assert_eq!(
            parse(r#"{"kind": "multi_step", "at": [3, 9], "factor": 0.1}"#).unwrap(),
            Schedule::MultiStep { at: vec![3, 9], factor: 0.1 }
        );
        let error = parse(r#"{"kind": "step", "evry": 1, "factor": 0.5}"#).unwrap_err().to_string();
        assert!(error.starts_with("unknown field `evry`, expected"), "{error}");
    }
}
