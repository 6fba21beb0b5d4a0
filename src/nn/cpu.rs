//! The CPU backend: the operations that carry the time, written for this machine's vector units.
//!
//! Their intermediate values (the convolution's output above all) never become dfdx tensors. They live in buffers that
//! the training thread keeps from step to step, and the closure on the tape hands them back.

use dfdx::prelude::*;

use super::adamw::{AdamWStep, adamw};
use super::backend::{Backend, BlockTensors, Flat, Images, Recording, download};
use super::buffer::Buffer;
use super::conv::{self, Geometry};
use super::norm::{Moments, Normalisation, Windows};

/// The shapes of a block's convolution and of its pooling.
fn shapes(x: (usize, usize, usize, usize), block: &BlockTensors<'_, Cpu>) -> (Geometry, Windows) {
    let (images, height, width, inputs) = x;
    let (outputs,) = *block.bias.shape();
    (Geometry { images, height, width, inputs, outputs }, Windows { height, width, channels: outputs })
}

impl Backend for Cpu {
    fn block_train(
        &self,
        x: Images<Self, Recording<Self>>,
        block: BlockTensors<'_, Self>,
        running: (&mut Flat<Self>, &mut Flat<Self>),
        input_gradient: bool,
    ) -> Result<Images<Self, Recording<Self>>, CpuError> {
        let (x, mut tape) = x.split_tape();
        let (geometry, windows) = shapes(*x.shape(), &block);
        let (input, kernel) = (Buffer::of(&x), Buffer::of(block.kernel));
        let mut output = Buffer::new(geometry.images * geometry.pixels() * geometry.outputs);
        let groups = conv::forward(geometry, &input, &kernel, &mut output, |y| Moments::of(y, geometry.outputs));
        let Some(moments) = groups.into_iter().reduce(|all, group| all.merge(&group)) else {
            return Err(CpuError::WrongNumElements);
        };
        let (mut mean, mut variance) = (download(running.0), download(running.1));
        moments.update_running(&mut mean, &mut variance);
        running.0.copy_from(&mean);
        running.1.copy_from(&variance);
        let normalisation = moments.normalisation(&download(block.weight), &download(block.bias));
        let mut pooled = Buffer::new(geometry.images * windows.pooled());
        normalisation.forward(windows, &output, &mut pooled);
        let y = self.upload(&pooled, (geometry.images, windows.height / 2, windows.width / 2, windows.channels))?;

        let (tensors, result) = ([block.kernel, block.weight, block.bias].map(Clone::clone), y.clone());
        tape.add_backward_op(move |gradients| {
            let [kernel_tensor, weight, bias] = tensors;
            // Two gradients are needed at once and dfdx lends one at a time: they are taken out and put back.
            let dy = std::mem::take(&mut **gradients.get_or_alloc_mut(&result)?);
            let sums = normalisation.parameter_gradients(windows, &output, &dy);
            for (tensor, sums) in [&bias, &weight].into_iter().zip(&sums) {
                let gradient = gradients.get_or_alloc_mut(tensor)?;
                gradient.iter_mut().zip(sums).for_each(|(gradient, &sum)| *gradient += sum as f32);
            }
            let mut dx = match input_gradient {
                true => Some(std::mem::take(&mut **gradients.get_or_alloc_mut(&x)?)),
                false => None,
            };
            conv::backward(
                geometry,
                &input,
                &kernel,
                |range, dz| normalisation.input_gradient(windows, (&output, &dy), &sums, moments.count, range, dz),
                gradients.get_or_alloc_mut(&kernel_tensor)?,
                dx.as_deref_mut(),
            );
            if let Some(dx) = dx {
                **gradients.get_or_alloc_mut(&x)? = dx;
            }
            **gradients.get_or_alloc_mut(&result)? = dy;
            Ok(())
        });
        Ok(y.put_tape(tape))
    }

    fn block_eval(
        &self,
        x: Images<Self>,
        block: BlockTensors<'_, Self>,
        running: (&Flat<Self>, &Flat<Self>),
    ) -> Result<Images<Self>, CpuError> {
        let (geometry, windows) = shapes(*x.shape(), &block);
        let mut output = Buffer::new(geometry.images * geometry.pixels() * geometry.outputs);
        conv::forward(geometry, &Buffer::of(&x), &Buffer::of(block.kernel), &mut output, |_| ());
        let (mean, variance) = (download(running.0), download(running.1));
        let normalisation = Normalisation::running(&mean, &variance, &download(block.weight), &download(block.bias));
        let mut pooled = Buffer::new(geometry.images * windows.pooled());
        normalisation.forward(windows, &output, &mut pooled);
        self.upload(&pooled, (geometry.images, windows.height / 2, windows.width / 2, windows.channels))
    }

    fn adamw(
        &self,
        step: AdamWStep,
        parameter: &mut Flat<Self>,
        gradient: &Flat<Self>,
        moments: &mut [Flat<Self>; 2],
    ) -> Result<(), CpuError> {
        let (mut values, gradient) = (Buffer::of(parameter), Buffer::of(gradient));
        let [mut mean, mut square] = [Buffer::of(&moments[0]), Buffer::of(&moments[1])];
        adamw(step, &mut values, &gradient, &mut mean, &mut square);
        parameter.copy_from(&values);
        moments[0].copy_from(&mean);
        moments[1].copy_from(&square);
        Ok(())
    }
}
