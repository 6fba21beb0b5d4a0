//! Convolution, normalisation, residual and ReLU as one operation on the tape.

use dfdx::prelude::{Cpu, CpuError, NoneTape, Tape};

use super::buffer::Buffer;
use super::conv::Geometry;
use super::groups;
use super::map::{Handle, NativeMap, NativeVector, Table, put, take};
use super::norm::{Moments, Normalisation, Windows, channel_sums, rectify};
use super::product::{Finish, LANES};
use super::{Native, failed};
use crate::nn::Error;
use crate::nn::backend::{After, Backend, Convolution, Norm, Reduce, Running, Shape, Unit, Window};

/// The shapes of a unit's convolution.
fn geometry(native: &Native, x: Shape, convolution: Convolution, outputs: usize) -> Geometry {
    let Convolution { kernel, stride, padding, .. } = convolution;
    let size = [x.rows, x.columns];
    Geometry { images: x.images, size, inputs: x.channels, outputs, kernel, stride, padding, winograd: native.winograd }
}

/// The result of [`forward`]: the map, and the running statistics of a unit normalised by its batch.
type Outcome<T> = Result<(NativeMap<T>, Option<Running<NativeVector>>), Error>;

pub(super) fn forward<T: Tape<f32, Cpu>>(
    native: &Native,
    x: NativeMap<T>,
    unit: Unit<'_, NativeVector>,
    residual: Option<NativeMap<T>>,
) -> Outcome<T> {
    match unit.norm {
        Norm::Batch { .. } => by_batch(native, x, unit, residual),
        // The maximum of ReLU outputs is the ReLU of the maximum.
        _ if unit.after == After::ReluMaxPool => {
            let (y, none) = folded(native, x, Unit { after: After::Relu, ..unit }, residual)?;
            let window = Window { size: 2, stride: 2, padding: 0, ceil: false };
            Ok((native.pool(y, window, Reduce::Max)?, none))
        }
        _ => folded(native, x, unit, residual),
    }
}

/// Separates the inputs of a unit from their tapes.
fn split<T: Tape<f32, Cpu>>(
    x: NativeMap<T>,
    residual: Option<NativeMap<T>>,
) -> (NativeMap<NoneTape>, Option<NativeMap<NoneTape>>, T) {
    let (x, tape) = x.split();
    match residual.map(NativeMap::split) {
        Some((residual, more)) => (x, Some(residual), tape.merge(more)),
        None => (x, None, tape),
    }
}

/// Normalised by the batch's own statistics: a channel's mean is known only after the convolution.
fn by_batch<T: Tape<f32, Cpu>>(
    native: &Native,
    x: NativeMap<T>,
    unit: Unit<'_, NativeVector>,
    residual: Option<NativeMap<T>>,
) -> Outcome<T> {
    let Unit { convolution, kernel, bias: conv_bias, outputs, norm, after } = unit;
    let Norm::Batch { weight, bias, mean, variance, epsilon, momentum } = norm else {
        return Err(Error::Device { operation: "a unit", message: "not normalised by its batch".into() });
    };
    let (x, residual, mut tape) = split(x, residual);
    let geometry = geometry(native, x.shape, convolution, outputs);
    let [rows, columns] = geometry.out();
    let full = Shape { images: geometry.images, rows, columns, channels: outputs };
    let mut z = Buffer::new(full.len());
    let padded_bias = conv_bias.map(|bias| padded(&bias.values));
    let finish = Finish { bias: padded_bias.as_deref(), ..Finish::default() };
    let parts = groups::forward(&geometry, convolution.groups, &x.values, &kernel.values, None, finish, &mut z, |z| {
        Moments::of(z, outputs)
    });
    let Some(moments) = parts.into_iter().reduce(|all, part| all.merge(&part)) else {
        return Err(Error::Device { operation: "a unit", message: "an empty batch".into() });
    };
    let (mut new_mean, mut new_variance) = (Buffer::copy_of(&mean.values), Buffer::copy_of(&variance.values));
    moments.update_running(&mut new_mean, &mut new_variance, momentum);
    let normalisation = moments.normalisation(&weight.values, &bias.values, epsilon);
    let windows = Windows { height: rows, width: columns, channels: outputs };
    let (y, shape) = match after {
        After::ReluMaxPool => {
            let mut y = Buffer::new(geometry.images * windows.pooled());
            normalisation.forward(windows, &z, &mut y);
            (y, Shape { rows: rows / 2, columns: columns / 2, ..full })
        }
        _ => {
            let mut y = Buffer::new(full.len());
            let residual = residual.as_ref().map(|residual| &residual.values[..]);
            normalisation.apply(&z, residual, after == After::Relu, &mut y);
            (y, full)
        }
    };
    let y = NativeMap::new(&native.cpu, y, shape).map_err(failed("a unit"))?;
    let new = |values| NativeVector::new(&native.cpu, values).map_err(failed("running statistics"));
    let running = [new(new_mean)?, new(new_variance)?];

    let (result, values) = (y.handle.clone(), y.values.clone());
    let kernel = kernel.clone();
    let [weight, bias] = [weight, bias].map(|vector| vector.handle.clone());
    let conv_bias = conv_bias.map(|bias| bias.handle.clone());
    tape.add_backward_op(move |table| {
        let Some(mut dy) = take(table, &result)? else { return Ok(()) };
        let sums;
        let dz = match after {
            After::ReluMaxPool => {
                sums = normalisation.parameter_gradients(windows, &z, &dy);
                let mut dz = Buffer::new(z.len());
                normalisation.input_gradient(windows, &z, &dy, &sums, &mut dz);
                dz
            }
            _ => {
                let rectified = (after == After::Relu).then_some(&values[..]);
                sums = normalisation.sums(&z, rectified, &mut dy);
                match residual.filter(|residual| residual.traced) {
                    Some(residual) => {
                        let mut dz = Buffer::new(dy.len());
                        normalisation.back_from(&z, &sums, &dy, &mut dz);
                        put(table, &residual.handle, dy)?;
                        dz
                    }
                    None => {
                        normalisation.back(&z, &sums, &mut dy);
                        dy
                    }
                }
            }
        };
        drop((z, values));
        for (vector, sums) in [&bias, &weight].into_iter().zip(&sums) {
            put(table, vector, Buffer::of(sums.iter().map(|&sum| sum as f32).collect()))?;
        }
        if let Some(conv_bias) = &conv_bias {
            put(table, conv_bias, Buffer::of(channel_sums(&dz, outputs)))?;
        }
        let mut dw = Buffer::new(kernel.values.len());
        groups::weight_gradient(&geometry, convolution.groups, &x.values, &dz, &mut dw);
        put(table, &kernel.handle, dw)?;
        input_gradient(table, &geometry, convolution.groups, &x, &kernel, None, &dz)
    });
    let map = y.on(tape, T::OWNS_TAPE);
    Ok((map, Some(running)))
}

/// The gradient of a convolution's input, where it is needed: added to an existing one.
fn input_gradient(
    table: &mut Table,
    geometry: &Geometry,
    groups: usize,
    x: &NativeMap<NoneTape>,
    kernel: &NativeVector,
    scale: Option<&[f32]>,
    dz: &[f32],
) -> Result<(), CpuError> {
    if !x.traced {
        return Ok(());
    }
    let there = take(table, &x.handle)?;
    let add = there.is_some();
    let mut dx = there.unwrap_or_else(|| Buffer::new(x.values.len()));
    groups::input_gradient(geometry, groups, &kernel.values, scale, dz, &mut dx, add);
    put(table, &x.handle, dx)
}

/// Normalised by constants, or not at all: folded into the convolution, whose own output is never written.
fn folded<T: Tape<f32, Cpu>>(
    native: &Native,
    x: NativeMap<T>,
    unit: Unit<'_, NativeVector>,
    residual: Option<NativeMap<T>>,
) -> Outcome<T> {
    let Unit { convolution, kernel, bias: conv_bias, outputs, norm, after } = unit;
    let (x, residual, mut tape) = split(x, residual);
    let geometry = geometry(native, x.shape, convolution, outputs);
    let [rows, columns] = geometry.out();
    let shape = Shape { images: geometry.images, rows, columns, channels: outputs };
    let normalisation = match norm {
        Norm::Running { weight, bias, mean, variance, epsilon, .. } => {
            Some(Normalisation::running(&mean.values, &variance.values, &weight.values, &bias.values, epsilon))
        }
        _ => None,
    };
    // The normalisation scales the convolution's bias too.
    let mut shift = normalisation.as_ref().map_or_else(|| vec![0.0; outputs], |n| n.shift.clone());
    if let Some(bias) = conv_bias {
        for (c, (shift, bias)) in shift.iter_mut().zip(bias.values.iter()).enumerate() {
            *shift += bias * normalisation.as_ref().map_or(1.0, |n| n.scale[c]);
        }
    }
    let mut y = Buffer::new(shape.len());
    let relu = after == After::Relu;
    let bias = padded(&shift);
    let residual_values = residual.as_ref().map(|residual| &residual.values[..]);
    let finish = Finish { bias: Some(&bias), residual: residual_values, relu, add: false };
    let scale = normalisation.as_ref().map(|n| &n.scale[..]);
    groups::forward(&geometry, convolution.groups, &x.values, &kernel.values, scale, finish, &mut y, |_| ());
    let y = NativeMap::new(&native.cpu, y, shape).map_err(failed("a unit"))?;

    let (result, values) = (y.handle.clone(), y.values.clone());
    let kernel = kernel.clone();
    let conv_bias = conv_bias.cloned();
    let learned: Option<[Handle; 2]> = match norm {
        Norm::Running { weight, bias, learn: true, .. } => Some([weight, bias].map(|vector| vector.handle.clone())),
        _ => None,
    };
    tape.add_backward_op(move |table| {
        let Some(mut dy) = take(table, &result)? else { return Ok(()) };
        if relu {
            rectify(&values, &mut dy);
        }
        drop(values);
        let mut dw = Buffer::new(kernel.values.len());
        groups::weight_gradient(&geometry, convolution.groups, &x.values, &dy, &mut dw);
        if conv_bias.is_some() || learned.is_some() {
            let sums = channel_sums(&dy, outputs);
            if let (Some([weight, bias]), Some(n)) = (&learned, &normalisation) {
                // The scale multiplies the kernel and the bias, so its gradient is the dot product of their gradients
                // with them.
                let mut slopes = groups::channel_products(&dw, &kernel.values, outputs);
                for (c, slope) in slopes.iter_mut().enumerate() {
                    let offset = conv_bias.as_ref().map_or(0.0, |bias| bias.values[c]) - n.mean[c];
                    *slope = (*slope + offset * sums[c]) * n.inverse[c];
                }
                put(table, weight, Buffer::of(slopes))?;
                put(table, bias, Buffer::copy_of(&sums))?;
            }
            if let Some(bias) = &conv_bias {
                let scaled =
                    sums.iter().enumerate().map(|(c, sum)| sum * normalisation.as_ref().map_or(1.0, |n| n.scale[c]));
                put(table, &bias.handle, Buffer::of(scaled.collect()))?;
            }
        }
        let scale = normalisation.as_ref().map(|n| &n.scale[..]);
        if let Some(scale) = scale {
            groups::scale_channels(&mut dw, scale);
        }
        put(table, &kernel.handle, dw)?;
        input_gradient(table, &geometry, convolution.groups, &x, &kernel, scale, &dy)?;
        match residual.filter(|residual| residual.traced) {
            Some(residual) => put(table, &residual.handle, dy),
            None => Ok(()),
        }
    });
    let map = y.on(tape, T::OWNS_TAPE);
    Ok((map, None))
}

/// A vector padded to whole panels.
fn padded(values: &[f32]) -> Vec<f32> {
    let mut padded = values.to_vec();
    padded.resize(values.len().next_multiple_of(LANES), 0.0);
    padded
}
