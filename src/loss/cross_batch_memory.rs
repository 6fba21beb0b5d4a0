//! Cross-batch memory: a loss of samples whose references include the embeddings of past batches.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::formula::References;
use super::geometry::embeddings;
use super::memory::Memory;
use super::registry::LossSpec;
use super::{Batch, Gradients, Loss, LossError, Parameter};
use crate::math::real::Real;

/// Cross-batch memory around a loss of samples.
///
/// ```text
/// M <- M with its oldest embeddings replaced by the batch, at most memory_size in total
/// L  = loss of the pairs (i, j), i in the batch, j in M, i != j
/// ```
///
/// The batch itself is in the memory `M`; a sample is not compared with itself. Sums and means of the wrapped loss
/// over samples are over those of the batch as anchors. [`Loss::step`] keeps the memory between steps;
/// [`Loss::evaluate`] is the first step, with only the batch in it. A batch that is larger than the memory is an error.
///
/// # Shapes
/// Embeddings `B x D`; the parameters of the wrapped loss.
///
/// # Parameters
/// The fields below.
///
/// # Gradient
/// That of the wrapped loss with respect to the anchors; the memory is constant, including the batch's own embeddings in it. So it
/// is not the derivative of the value: on the batch alone a symmetric loss has half its usual gradient.
///
/// # Cost
/// With `M` embeddings in memory O(B M D) time, O(M D + B M) memory; free of `C`.
///
/// # Source
/// Wang et al., *Cross-Batch Memory for Embedding Learning*, CVPR 2020. Equal to pytorch-metric-learning's `CrossBatchMemory`,
/// except that the miner of `multi_similarity` does not see the pair of a sample with itself; it also wraps `fast_ap`. The
/// paper enables the memory after some epochs of training and adds the loss of the batch alone; here, as there, neither is done.
#[derive(Debug, Clone, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CrossBatchMemory {
    /// Number of embeddings in the memory, including those of the batch.
    #[default = 1024]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub memory_size: u64,
    /// The loss whose pairs reach into the memory.
    #[schemars(schema_with = "LossSpec::of_samples_schema")]
    pub loss: Box<LossSpec>,
}

impl<T: Real> Loss<T> for CrossBatchMemory {
    fn parameters(&self, classes: usize, dim: usize) -> Vec<Parameter> {
        self.loss.of_samples::<T>().map_or(Vec::new(), |loss| loss.parameters(classes, dim))
    }

    fn evaluate(
        &self,
        batch: Batch<'_, T>,
        classes: usize,
        parameters: &[&[T]],
        gradients: &mut Gradients<T>,
    ) -> Result<T, LossError> {
        self.step(&mut Memory::default(), batch, classes, parameters, gradients)
    }

    fn step(
        &self,
        memory: &mut Memory<T>,
        batch: Batch<'_, T>,
        classes: usize,
        parameters: &[&[T]],
        gradients: &mut Gradients<T>,
    ) -> Result<T, LossError> {
        let loss = self.loss.of_samples::<T>().ok_or(LossError::NotOfSamples)?;
        let units = embeddings(batch, classes)?;
        let first = memory.insert(self.memory_size as usize, &units, batch.labels)?;
        let references = References { rows: &memory.rows, labels: &memory.labels, first, constant: true };
        loss.with_references(&units, batch.labels, references, classes, parameters, gradients)
    }
}

#[cfg(test)]
mod tests {
    use super::super::registry::ComparedWith;
    use super::*;
    use crate::loss::geometry::Units;
    use crate::loss::testing;
    use crate::math::random::stream;

    #[test]
    fn it_equals_the_reference() {
        testing::equals_more_reference("cross_batch_memory", 17);
    }

    /// A loss with constant references, the first of which are copies of the samples of the batch.
    struct Fixed(LossSpec);

    impl Loss<f64> for Fixed {
        fn parameters(&self, classes: usize, dim: usize) -> Vec<Parameter> {
            self.0.of_samples::<f64>().unwrap().parameters(classes, dim)
        }

        fn evaluate(
            &self,
            batch: Batch<'_, f64>,
            classes: usize,
            parameters: &[&[f64]],
            gradients: &mut Gradients<f64>,
        ) -> Result<f64, LossError> {
            let units = embeddings(batch, classes)?;
            let mut s = stream(4, "memory test", 0, 0);
            let mut labels = batch.labels.to_vec();
            labels.extend((0..7).map(|_| s.below(classes as u64) as u32));
            let rows: Vec<f64> = (0..labels.len() * batch.dim).map(|_| s.normal()).collect();
            let rows = Units::new(&rows, batch.dim).rows;
            let references = References { rows: &rows, labels: &labels, first: 0, constant: true };
            let loss = self.0.of_samples::<f64>().unwrap();
            loss.with_references(&units, batch.labels, references, classes, parameters, gradients)
        }
    }

    #[test]
    fn the_gradient_of_the_anchors_is_the_slope_of_the_value_against_constant_references() {
        for name in LossSpec::names_compared_with(ComparedWith::Samples) {
            let mut values = serde_json::to_value(LossSpec::named(name).unwrap()).unwrap();
            let gentle = [("beta", 1.2), ("temperature", 0.4), ("zero_mean_reg", 0.3), ("margin", 0.3)];
            for (field, value) in
                gentle.into_iter().filter(|(field, _)| values.get(field).is_some()).collect::<Vec<_>>()
            {
                values[field] = value.into();
            }
            testing::slopes(&Fixed(serde_json::from_value(values).unwrap()));
        }
    }

    #[test]
    fn a_second_step_meets_the_first_batch() {
        let loss = CrossBatchMemory::default();
        let mut memory = Memory::default();
        let mut step = |embeddings: &[f64], labels: &[u32]| {
            let batch = Batch { embeddings, labels, dim: 2 };
            loss.step(&mut memory, batch, 2, &[], &mut Gradients::default()).unwrap()
        };
        assert_eq!(step(&[1.0, 0.0], &[0]), 0.0);
        // A positive at distance 2; then one negative at distance 0, farther ones at 2 that contribute nothing, and no positive.
        assert!((step(&[-3.0, 0.0], &[0]) - 2.0).abs() <= 1e-15);
        assert!((step(&[0.5, 0.0], &[1]) - 1.0).abs() <= 1e-15);
    }

    #[test]
    fn a_loss_of_class_vectors_is_refused_by_name_and_a_wrapped_range_by_its_path() {
        let wrap = |loss| LossSpec::CrossBatchMemory(CrossBatchMemory { loss: Box::new(loss), ..Default::default() });
        let problems = wrap(LossSpec::named("cosface").unwrap()).check();
        assert_eq!(problems[0].0, "loss");
        assert!(problems[0].1.starts_with("has no kind `cosface`; expected one of `contrastive`, "), "{problems:?}");
        let problems = wrap(LossSpec::NtXent(super::super::nt_xent::NtXent { temperature: 0.0 })).check();
        assert_eq!(problems[0].0, "loss.temperature");
        let batch = Batch { embeddings: &[1.0f64], labels: &[0], dim: 1 };
        let wrapped = CrossBatchMemory { loss: Box::new(LossSpec::named("cosface").unwrap()), ..Default::default() };
        assert_eq!(wrapped.evaluate(batch, 1, &[], &mut Gradients::default()), Err(LossError::NotOfSamples));
    }
}
