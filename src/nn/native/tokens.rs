//! Images as sequences of tokens, and ranges of them.

use std::ops::Range;

use dfdx::prelude::{Cpu, Tape};
use rayon::prelude::*;

use super::buffer::Buffer;
use super::map::{NativeMap, NativeVector, put, take};
use super::{Native, failed};
use crate::nn::Error;
use crate::nn::backend::Shape;

pub(super) fn forward<T: Tape<f32, Cpu>>(
    native: &Native,
    x: NativeMap<T>,
    class: &NativeVector,
    positions: &NativeVector,
) -> Result<NativeMap<T>, Error> {
    let (x, mut tape) = x.split();
    let Shape { images, rows, columns, channels } = x.shape;
    let (patches, image) = (rows * columns * channels, (rows * columns + 1) * channels);
    let shape = Shape { images, rows: 1, columns: rows * columns + 1, channels };
    let mut values = Buffer::new(shape.len());
    values.par_chunks_mut(image).zip(x.values.par_chunks(patches)).for_each(|(y, x)| {
        let (y, (first, others)) = (y.split_at_mut(channels), positions.values.split_at(channels));
        sum(y.0, &class.values, first);
        sum(y.1, x, others);
    });
    let y = NativeMap::new(&native.cpu, values, shape).map_err(failed("tokens"))?;
    let (result, class, positions) = (y.handle.clone(), class.handle.clone(), positions.handle.clone());
    tape.add_backward_op(move |table| {
        let Some(dy) = take(table, &result)? else { return Ok(()) };
        let mut all = Buffer::zeros(image);
        for dy in dy.chunks_exact(image) {
            all.iter_mut().zip(dy).for_each(|(all, dy)| *all += dy);
        }
        put(table, &class, Buffer::copy_of(&all[..channels]))?;
        put(table, &positions, all)?;
        if x.traced { put(table, &x.handle, cut(&dy, image, channels..image)) } else { Ok(()) }
    });
    Ok(y.on(tape, T::OWNS_TAPE))
}

/// `y = a + b`.
fn sum(y: &mut [f32], a: &[f32], b: &[f32]) {
    y.iter_mut().zip(a).zip(b).for_each(|((y, a), b)| *y = a + b);
}

/// The elements `part` of each stretch of `image` elements.
pub(super) fn cut(x: &[f32], image: usize, part: Range<usize>) -> Buffer {
    let mut y = Buffer::new(x.len() / image * part.len());
    y.par_chunks_mut(part.len()).zip(x.par_chunks(image)).for_each(|(y, x)| y.copy_from_slice(&x[part.clone()]));
    y
}

/// The adjoint of [`cut`]: the elements back in their positions, zeros in the others.
pub(super) fn uncut(y: &[f32], image: usize, part: Range<usize>) -> Buffer {
    let mut x = Buffer::new(y.len() / part.len() * image);
    x.par_chunks_mut(image).zip(y.par_chunks(part.len())).for_each(|(x, y)| {
        x[..part.start].fill(0.0);
        x[part.clone()].copy_from_slice(y);
        x[part.end..].fill(0.0);
    });
    x
}
