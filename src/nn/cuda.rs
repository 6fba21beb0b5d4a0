//! The CUDA backend: dfdx's device and dfdx's kernels.

use dfdx::prelude::*;

use super::adamw::AdamWStep;
use super::backend::{Backend, BlockTensors, Flat, Images, Recording};
use super::portable::{self, Statistics};

impl Backend for Cuda {
    fn block_train(
        &self,
        x: Images<Self, Recording<Self>>,
        block: BlockTensors<'_, Self>,
        running: (&mut Flat<Self>, &mut Flat<Self>),
        input_gradient: bool,
    ) -> Result<Images<Self, Recording<Self>>, CudaError> {
        // Without a gradient of the input its tape, on which nothing has happened yet, is dropped.
        let x = if input_gradient { x } else { x.split_tape().0.put_tape(OwnedTape::default()) };
        portable::block(self, x, block, Statistics::Batch(running.0, running.1))
    }

    fn block_eval(
        &self,
        x: Images<Self>,
        block: BlockTensors<'_, Self>,
        running: (&Flat<Self>, &Flat<Self>),
    ) -> Result<Images<Self>, CudaError> {
        portable::block(self, x, block, Statistics::Running(running.0, running.1))
    }

    fn adamw(
        &self,
        step: AdamWStep,
        parameter: &mut Flat<Self>,
        gradient: &Flat<Self>,
        moments: &mut [Flat<Self>; 2],
    ) -> Result<(), CudaError> {
        portable::adamw_step(step, parameter, gradient, moments)
    }
}
