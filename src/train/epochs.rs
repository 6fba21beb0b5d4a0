//! The epochs of a training as a table for readers, and as one line per epoch for the log.

use std::fmt::Write as _;

use super::config::Config;
use super::log::{EpochLog, Measured};

/// `epochs.csv`: one row per epoch, with the columns that the settings ask for. It has no times, so that equal
/// trainings have equal tables; times are in the log.
#[derive(Debug, Clone)]
pub struct EpochTable {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    /// Whether it has the columns of [`Measured`].
    measured: bool,
    /// Whether it has a column of scores.
    scored: bool,
}

impl EpochTable {
    /// A table without rows. The columns are `epoch,loss,learning_rate,loss_learning_rate`, the figures of `measure`,
    /// and the score of `validate` as `<split>_<metric>`.
    pub fn new(config: &Config) -> Self {
        let mut header = ["epoch", "loss", "learning_rate", "loss_learning_rate"].map(str::to_owned).to_vec();
        if config.measure.is_some() {
            header.extend(Measured::NAMES.map(str::to_owned));
        }
        if let Some(validate) = &config.validate {
            header.push(format!("{}_{}", validate.on.name(), String::from(validate.metric)));
        }
        Self { header, rows: Vec::new(), measured: config.measure.is_some(), scored: config.validate.is_some() }
    }

    /// Appends an epoch. A figure that it lacks is an empty field.
    pub fn push(&mut self, log: &EpochLog) {
        let mut figures = vec![Some(log.mean_loss), Some(log.learning_rate), Some(log.loss_learning_rate)];
        if self.measured {
            figures.extend(log.measured.map(|measured| measured.values()).unwrap_or_default());
        }
        if self.scored {
            figures.push(log.score);
        }
        let fields = figures.into_iter().map(|value| value.map(|value| value.to_string()).unwrap_or_default());
        self.rows.push([log.epoch.to_string()].into_iter().chain(fields).collect());
    }

    /// Appends the epoch in which the training diverged: NaN in every column but the first. Readers take the last row.
    pub fn push_nan(&mut self) {
        let mut row = vec!["NaN".to_owned(); self.header.len()];
        row[0] = (self.rows.len() + 1).to_string();
        self.rows.push(row);
    }

    /// The text of the file.
    pub fn to_csv(&self) -> csv::Result<Vec<u8>> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        for row in [&self.header].into_iter().chain(&self.rows) {
            writer.write_record(row)?;
        }
        writer.into_inner().map_err(|error| error.into_error().into())
    }
}

/// The line of the log for an epoch: loss, rates, speed and memory, then what only some trainings have.
pub fn summary(config: &Config, log: &EpochLog) -> String {
    let EpochLog { epoch, mean_loss, learning_rate, loss_learning_rate, seconds, images_per_second, .. } = *log;
    let mut line = format!(
        "epoch {epoch}/{}: loss {mean_loss:.5}, learning rate {learning_rate:e}, loss learning rate {loss_learning_rate:e}, \
         {seconds:.2} s, {images_per_second:.0} images/s, {:.1} % waiting for images, {} MiB per step",
        config.epochs,
        100.0 * log.waiting,
        log.step_memory >> 20,
    );
    // Writing to a string cannot fail.
    if let Some(bytes) = log.device_memory {
        let _ = write!(line, ", {} MiB in use on the GPU", bytes >> 20);
    }
    if let Some(scale) = log.loss_scale {
        let _ = write!(line, ", loss scale {}, {} steps skipped", scale.factor, scale.skipped);
    }
    for (name, value) in Measured::NAMES.iter().zip(log.measured.map(|measured| measured.values()).unwrap_or_default())
    {
        if let Some(value) = value {
            let _ = write!(line, ", {name} {value:.4}");
        }
    }
    if let (Some(validate), Some(score)) = (&config.validate, log.score) {
        let _ = write!(line, ", {} {} {score:.4}", validate.on.name(), validate.metric.title());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::LossScale;

    fn config(fields: &str) -> Config {
        serde_json::from_str(fields).unwrap()
    }

    fn log(epoch: u32) -> EpochLog {
        EpochLog {
            epoch,
            mean_loss: 0.1 + 0.2,
            learning_rate: 1e-7,
            loss_learning_rate: 0.1,
            seconds: 1.256,
            images_per_second: 512.7,
            peak_memory: None,
            step_memory: 3 << 20,
            device_memory: None,
            loss_scale: None,
            waiting: 0.0625,
            measured: None,
            score: None,
        }
    }

    fn text(table: &EpochTable) -> String {
        String::from_utf8(table.to_csv().unwrap()).unwrap()
    }

    #[test]
    fn a_table_without_measurements_has_four_columns_and_all_digits() {
        let mut table = EpochTable::new(&config("{}"));
        table.push(&log(1));
        table.push(&log(2));
        let expected = "epoch,loss,learning_rate,loss_learning_rate\n\
                        1,0.30000000000000004,0.0000001,0.1\n\
                        2,0.30000000000000004,0.0000001,0.1\n";
        assert_eq!(text(&table), expected);
    }

    #[test]
    fn absent_figures_are_empty_fields_and_divergence_is_a_row_of_nan() {
        let settings = r#"{"measure": {"every": 2}, "validate": {"on": "test", "metric": "r@2"}}"#;
        let mut table = EpochTable::new(&config(settings));
        let noise = Some(2.5);
        let measured = Measured { field_angle: None, spread: Some(0.25), parent_gap: None, noise, parent_noise: None };
        table.push(&EpochLog { score: Some(0.5), ..log(1) });
        table.push(&EpochLog { measured: Some(measured), ..log(2) });
        table.push_nan();
        let expected = "epoch,loss,learning_rate,loss_learning_rate,field_angle,spread,parent_gap,noise,parent_noise,test_r@2\n\
                        1,0.30000000000000004,0.0000001,0.1,,,,,,0.5\n\
                        2,0.30000000000000004,0.0000001,0.1,,0.25,,2.5,,\n\
                        3,NaN,NaN,NaN,NaN,NaN,NaN,NaN,NaN,NaN\n";
        assert_eq!(text(&table), expected);
    }

    #[test]
    fn a_summary_ends_with_what_only_some_trainings_have() {
        let plain = "epoch 2/20: loss 0.30000, learning rate 1e-7, loss learning rate 1e-1, 1.26 s, 513 images/s, \
                     6.2 % waiting for images, 3 MiB per step";
        assert_eq!(summary(&config("{}"), &log(2)), plain);
        let settings = config(r#"{"measure": {}, "validate": {"on": "validation"}}"#);
        let measured =
            Measured { field_angle: Some(45.0), spread: None, parent_gap: None, noise: None, parent_noise: None };
        let full = EpochLog {
            device_memory: Some(5 << 20),
            loss_scale: Some(LossScale::default()),
            measured: Some(measured),
            score: Some(0.75),
            ..log(2)
        };
        let more = ", 5 MiB in use on the GPU, loss scale 65536, 0 steps skipped, field_angle 45.0000, validation MAP@R 0.7500";
        assert_eq!(summary(&settings, &full), format!("{plain}{more}"));
        // Nothing is due after this epoch.
        assert_eq!(summary(&settings, &log(2)), plain);
    }
}
