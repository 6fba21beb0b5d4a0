//! Optimiser steps and gradient norms, where the vectors are.
//!
//! Every operation of a rule is a kernel over the whole vector. Only sums of squares, each over a thousand elements,
//! are copied to the host.

use std::ops::{Add, Div, Mul, Sub};
use std::rc::Rc;

use dfdx::prelude::*;

use super::map::PortableVector;
use super::{Row, to_host};
use crate::nn::backend::{Number, Rule};

/// The operand of a rule, or an earlier operation's error: operators cannot return errors, so they propagate the first
/// one.
#[derive(Debug)]
struct Elements<D: Device<f32>>(Result<Row<D>, Rc<D::Err>>);

impl<D: Device<f32>> Clone for Elements<D> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<D: Device<f32>> Elements<D> {
    fn then(self, operation: impl FnOnce(Row<D>) -> Result<Row<D>, D::Err>) -> Self {
        Self(self.0.and_then(|row| operation(row).map_err(Rc::new)))
    }

    fn with(self, other: Self, operation: impl FnOnce(Row<D>, Row<D>) -> Result<Row<D>, D::Err>) -> Self {
        Self(self.0.and_then(|row| operation(row, other.0?).map_err(Rc::new)))
    }
}

impl<D: Device<f32>> Add for Elements<D> {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.with(other, |x, y| x.try_add(y))
    }
}

impl<D: Device<f32>> Sub for Elements<D> {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.with(other, |x, y| x.try_sub(y))
    }
}

impl<D: Device<f32>> Mul for Elements<D> {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        self.with(other, |x, y| x.try_mul(y))
    }
}

impl<D: Device<f32>> Div for Elements<D> {
    type Output = Self;

    fn div(self, other: Self) -> Self {
        self.with(other, |x, y| x.try_div(y))
    }
}

impl<D: Device<f32>> Add<f32> for Elements<D> {
    type Output = Self;

    fn add(self, addend: f32) -> Self {
        self.then(|x| x.try_add(addend))
    }
}

impl<D: Device<f32>> Mul<f32> for Elements<D> {
    type Output = Self;

    fn mul(self, factor: f32) -> Self {
        if factor == 1.0 { self } else { self.then(|x| x.try_mul(factor)) }
    }
}

impl<D: Device<f32>> Div<f32> for Elements<D> {
    type Output = Self;

    fn div(self, divisor: f32) -> Self {
        if divisor == 1.0 { self } else { self.then(|x| x.try_div(divisor)) }
    }
}

impl<D: Device<f32>> Number for Elements<D> {
    fn mul_add(self, factor: f32, addend: Self) -> Self {
        if factor == 0.0 {
            return addend;
        }
        addend.with(self, |mut sum, x| {
            sum.try_axpy(1.0, &x, factor)?;
            Ok(sum)
        })
    }

    fn sqrt(self) -> Self {
        self.then(|x| x.try_sqrt())
    }

    fn min(self, most: f32) -> Self {
        if most == f32::INFINITY {
            return self;
        }
        self.then(|x| replaced(x.try_gt(most)?, most, x))
    }

    fn max(self, least: f32) -> Self {
        if least == f32::NEG_INFINITY {
            return self;
        }
        self.then(|x| replaced(x.try_lt(least)?, least, x))
    }
}

/// `value` at `places`, else the row's: dfdx's own clamping replaces NaN on a GPU.
fn replaced<D: Device<f32>>(places: Tensor<(usize,), bool, D>, value: f32, x: Row<D>) -> Result<Row<D>, D::Err> {
    let shape = *x.shape();
    let one: Tensor<Rank0, f32, D> = x.device().try_zeros()?;
    places.try_choose(one.try_add(value)?.try_broadcast_like::<_, Axis<0>>(&shape)?, x)
}

/// See [`Backend::update`](crate::nn::Backend::update).
pub(super) fn update<D: Device<f32>, const N: usize>(
    values: &mut PortableVector<D>,
    gradient: &PortableVector<D>,
    memory: [&mut PortableVector<D>; N],
    rule: impl Rule<N>,
) -> Result<(), Rc<D::Err>> {
    let row = |vector: &PortableVector<D>| Elements(Ok(vector.values.clone()));
    let (value, remembered) = rule.apply(row(values), row(gradient), memory.each_ref().map(|vector| row(vector)));
    // Either every vector is replaced, or none.
    let value = value.0?;
    let remembered = remembered.into_iter().map(|row| row.0).collect::<Result<Vec<_>, _>>()?;
    values.values = value;
    for (vector, row) in memory.into_iter().zip(remembered) {
        vector.values = row;
    }
    Ok(())
}

/// Elements per partial sum in single precision.
const PIECE: usize = 1 << 10;

/// The sum of the squares of all elements.
pub(super) fn square_sum<D: Device<f32>>(values: &Row<D>) -> Result<f64, D::Err> {
    let (len,) = *values.shape();
    let whole = len / PIECE * PIECE;
    // A GPU cannot launch a kernel over no elements.
    let part = |range: std::ops::Range<usize>| match range.len() {
        all if all == len => Ok(values.clone()),
        some => values.clone().try_slice((range,))?.try_reshape_like(&(some,)),
    };
    let mut sums = Vec::new();
    if whole > 0 {
        let squares = part(0..whole)?.try_reshape_like(&(whole / PIECE, PIECE))?.try_square()?;
        sums.extend(to_host(&squares.try_sum::<(usize,), Axis<1>>()?));
    }
    if whole < len {
        sums.extend(to_host(&part(whole..len)?.try_square()?));
    }
    Ok(sums.into_iter().map(f64::from).sum())
}
