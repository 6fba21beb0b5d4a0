//! Losses that return errors or invalid results, in the training loop.

use super::run::train_with;
use super::*;
use crate::data::images::Plain;
use crate::loss::{Batch, Gradients, Loss, LossError, Parameter};
use crate::nn::Native;

/// A loss that returns whatever it is set to.
#[derive(Clone)]
struct Answers {
    value: f32,
    slope: f32,
    missing: usize,
    refuse: bool,
}

const WELL: Answers = Answers { value: 1.0, slope: 0.5, missing: 0, refuse: false };

impl Loss<f32> for Answers {
    fn parameters(&self, _: usize, _: usize) -> Vec<Parameter> {
        vec![]
    }

    fn evaluate(
        &self,
        batch: Batch<'_, f32>,
        classes: usize,
        _: &[&[f32]],
        gradients: &mut Gradients<f32>,
    ) -> Result<f32, LossError> {
        if self.refuse {
            return Err(LossError::Label { label: 9, position: 1, classes });
        }
        gradients.embeddings = (0..batch.embeddings.len() - self.missing).map(|at| self.slope * at as f32).collect();
        gradients.parameters = vec![];
        Ok(self.value)
    }
}

fn message(loss: Answers) -> Option<String> {
    let pixels: Vec<u8> = (0..8 * 16 * 16 * 3).map(|at| (at * 7 % 251) as u8).collect();
    let labels = [0, 0, 0, 0, 1, 1, 1, 1];
    let stored = Plain::new(&pixels, &labels, [16, 16]).unwrap();
    let data = TrainSet { images: &stored, height: 16, width: 16, classes: 2 };
    let text = r#"{"dim": 4, "epochs": 1, "batch": {"classes": 2, "per_class": 2}}"#;
    train_with(&Native::default(), &serde_json::from_str(text).unwrap(), &data, &loss, Start::default(), &mut |_| {})
        .err()
        .map(|error| crate::text::chain(&error))
}

#[test]
fn a_loss_that_is_not_finite_stops_the_training_at_its_step() {
    assert_eq!(message(WELL), None);
    for value in [f32::NAN, f32::INFINITY] {
        let found = message(Answers { value, ..WELL }).unwrap();
        assert!(found.starts_with("epoch 1, step 1: the ") && found.contains("not finite; lower"), "{found}");
    }
    let found = message(Answers { slope: f32::INFINITY, ..WELL }).unwrap();
    assert!(found.contains("gradient") && found.contains("not finite"), "{found}");
}

#[test]
fn a_loss_that_refuses_the_batch_or_gives_too_short_a_gradient_is_an_error() {
    let found = message(Answers { refuse: true, ..WELL }).unwrap();
    assert_eq!(found, "epoch 1, step 1: label 9 at position 1 is not below the number of classes, 2");
    let found = message(Answers { missing: 1, ..WELL }).unwrap();
    assert!(found.starts_with("the loss gave 15 gradient elements for its ") && found.ends_with("16"), "{found}");
}

#[test]
fn a_gradient_of_nothing_but_zeros_is_no_error() {
    assert_eq!(message(Answers { slope: 0.0, ..WELL }), None);
}
