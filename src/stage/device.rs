//! The device of a job: the CPU, or the GPU that the engine has given it.

use thiserror::Error;

#[cfg(feature = "cuda")]
use crate::nn::Gpu;
use crate::nn::{Backend, Native};

/// Something to do on whichever device there is.
pub(super) trait Work {
    /// What it gives.
    type Output;

    /// Does it.
    fn on<B: Backend>(self, device: &B) -> Self::Output;
}

/// A job has a GPU that this program cannot use.
#[derive(Debug, Error)]
pub(super) enum DeviceError {
    #[cfg(not(feature = "cuda"))]
    #[error(
        "the stage has a GPU, but this program was built without CUDA; build it with --features cuda, or ask for no gpu"
    )]
    WithoutCuda,
    #[cfg(feature = "cuda")]
    #[error("cannot open the GPU: {0}")]
    Unusable(String),
}

/// Runs `work` on the GPU if the job has one, else on the CPU.
pub(super) fn run<W: Work>(work: W) -> Result<W::Output, DeviceError> {
    let gpu = std::env::var("CUDA_VISIBLE_DEVICES").is_ok_and(|devices| !devices.is_empty());
    if !gpu {
        return Ok(work.on(&Native::default()));
    }
    #[cfg(feature = "cuda")]
    {
        let device =
            dfdx::tensor::Cuda::try_build(0, 0).map_err(|error| DeviceError::Unusable(format!("{error:?}")))?;
        Ok(work.on(&Gpu::new(device)))
    }
    #[cfg(not(feature = "cuda"))]
    Err(DeviceError::WithoutCuda)
}
