//! AdamW over a network and the matrices of its loss, the moments keyed by parameter name.

use std::collections::BTreeMap;

use dfdx::prelude::Gradients;

use super::TrainError;
use crate::nn::{AdamWStep, Backend, Error, Flat, Kind, Model, adamw, download};

/// The running means of a gradient and of its square.
type Moments<V> = BTreeMap<String, [V; 2]>;

/// The optimiser's state.
#[derive(Debug)]
pub(super) struct Optimiser<B: Backend> {
    network: Moments<Flat<B>>,
    loss: Moments<Vec<f32>>,
}

impl<B: Backend> Optimiser<B> {
    /// Before the first step.
    pub fn new() -> Self {
        Self { network: BTreeMap::new(), loss: BTreeMap::new() }
    }

    /// Moves every parameter of the network. With `all_learn`, a parameter whose gradient is zero throughout is an
    /// error: it has no part in the embeddings.
    pub fn step_network(
        &mut self,
        device: &B,
        model: &mut Model<B>,
        gradients: &mut Gradients<f32, B>,
        step: AdamWStep,
        all_learn: bool,
    ) -> Result<(), TrainError> {
        let failed = Error::device::<B::Err>;
        for tensor in model.tensors_mut().filter(|tensor| tensor.kind == Kind::Parameter) {
            // A parameter that no operation touched has no gradient yet, and `get` would panic.
            gradients.get_or_alloc_mut(&tensor.value).map_err(failed("a gradient"))?;
            let gradient = gradients.get(&tensor.value);
            if all_learn && download(&gradient).iter().all(|&element| element == 0.0) {
                return Err(TrainError::NoGradient { parameter: tensor.name.clone() });
            }
            if !self.network.contains_key(&tensor.name) {
                let zeros = || device.try_zeros_like(&tensor.value).map_err(failed("a moment"));
                self.network.insert(tensor.name.clone(), [zeros()?, zeros()?]);
            }
            if let Some(moments) = self.network.get_mut(&tensor.name) {
                device.adamw(step, &mut tensor.value, &gradient, moments).map_err(failed("an optimiser step"))?;
            }
        }
        Ok(())
    }

    /// Moves one matrix of the loss.
    pub fn step_loss(&mut self, name: &str, values: &mut [f32], gradient: &[f32], step: AdamWStep) {
        let moments = self.loss.entry(name.to_string());
        let [mean, square] = moments.or_insert_with(|| [vec![0.0; values.len()], vec![0.0; values.len()]]);
        adamw(step, values, gradient, mean, square);
    }
}
