//! The device of a job: the CPU, or the GPU that the engine has given it.

use thiserror::Error;

#[cfg(feature = "cuda")]
use crate::nn::Gpu;
use crate::nn::{Backend, Native};

/// Work that runs on any device.
pub(super) trait Work {
    /// Its result.
    type Output;

    /// Runs it.
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
    #[error("cannot open the GPU: {reason}; CUDA_VISIBLE_DEVICES is `{devices}`, and `nvidia-smi` lists what there is")]
    Unusable { reason: String, devices: String },
}

/// Runs `work` on the GPU if the job has one, else on the CPU.
pub(super) fn run<W: Work>(work: W) -> Result<W::Output, DeviceError> {
    let devices = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
    if devices.is_empty() {
        return Ok(work.on(&Native::default()));
    }
    #[cfg(feature = "cuda")]
    {
        let device = open().map_err(|reason| DeviceError::Unusable { reason, devices })?;
        Ok(work.on(&Gpu::new(device)))
    }
    #[cfg(not(feature = "cuda"))]
    Err(DeviceError::WithoutCuda)
}

/// The first of the GPUs that the job may see.
#[cfg(feature = "cuda")]
fn open() -> Result<dfdx::tensor::Cuda, String> {
    use cudarc::driver::result::{device, init};
    // dfdx would panic where these fail.
    init().and_then(|()| device::get(0)).map_err(|error| format!("{error:?}"))?;
    dfdx::tensor::Cuda::try_build(0, 0).map_err(|error| format!("{error:?}"))
}
