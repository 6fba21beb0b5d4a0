//! Positions of a tensor's elements in its storage, and their conversion to `f32`.

use safetensors::tensor::Dtype;

/// More axes than any network has; bounds the memory of a shape.
pub(super) const AXES: usize = 16;

/// Offset, shape and strides in elements, as PyTorch counts them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

impl Layout {
    /// Row-major from the start of the storage; none if the number of elements overflows.
    pub(super) fn row_major(shape: Vec<usize>) -> Option<Self> {
        let mut strides = vec![0; shape.len()];
        let mut stride = 1_usize;
        for (slot, &length) in strides.iter_mut().zip(&shape).rev() {
            *slot = stride;
            stride = stride.checked_mul(length.max(1))?;
        }
        Some(Self { offset: 0, shape, strides })
    }

    /// Number of elements, if all of them are within a storage of `count`.
    pub(super) fn elements_within(&self, count: usize) -> Result<usize, String> {
        if self.shape.len() != self.strides.len() {
            return Err(format!("{} axes and {} strides", self.shape.len(), self.strides.len()));
        }
        if self.shape.contains(&0) {
            return Ok(0);
        }
        let elements = self.shape.iter().try_fold(1_usize, |product, &length| product.checked_mul(length));
        let last = self
            .shape
            .iter()
            .zip(&self.strides)
            .try_fold(self.offset, |last, (&length, &stride)| last.checked_add((length - 1).checked_mul(stride)?));
        match (elements, last) {
            (Some(elements), Some(last)) if last < count => Ok(elements),
            (Some(_), Some(last)) => {
                Err(format!("its last element is number {last} of a storage of {count} elements (counted from 0)"))
            }
            _ => Err(format!("shape {:?} with strides {:?} overflows", self.shape, self.strides)),
        }
    }

    fn is_row_major(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&length, &stride)| {
            let fits = length == 1 || stride == expected;
            expected *= length;
            fits
        })
    }

    /// The elements in row-major order; none if they are not within `storage`.
    fn gather<const N: usize>(&self, storage: &[u8], convert: impl Fn([u8; N]) -> f32) -> Option<Vec<f32>> {
        let storage = storage.as_chunks::<N>().0;
        let elements = self.elements_within(storage.len()).ok()?;
        if elements == 0 {
            return Some(Vec::new());
        }
        if self.is_row_major() {
            let run = storage.get(self.offset..self.offset.checked_add(elements)?)?;
            return Some(run.iter().map(|&bytes| convert(bytes)).collect());
        }
        let mut out = Vec::with_capacity(elements);
        let mut index = vec![0; self.shape.len()];
        let mut position = self.offset;
        loop {
            out.push(convert(*storage.get(position)?));
            // The next index: the last axis advances first, and an axis that reaches its end starts again.
            let mut through = true;
            for ((index, &length), &stride) in index.iter_mut().zip(&self.shape).zip(&self.strides).rev() {
                if *index + 1 < length {
                    *index += 1;
                    position += stride;
                    through = false;
                    break;
                }
                position -= *index * stride;
                *index = 0;
            }
            if through {
                return Some(out);
            }
        }
    }

    /// The elements in row-major order as `f32`, rounded to nearest where they are wider; none if they are not within
    /// `storage`, or are of a type that [`is_number`] excludes.
    pub(super) fn values(&self, dtype: Dtype, storage: &[u8]) -> Option<Vec<f32>> {
        match dtype {
            Dtype::F64 => self.gather(storage, |bytes| f64::from_le_bytes(bytes) as f32),
            Dtype::F32 => self.gather(storage, f32::from_le_bytes),
            Dtype::F16 => self.gather(storage, |bytes| half_to_single(u16::from_le_bytes(bytes))),
            Dtype::BF16 => self.gather(storage, |bytes| f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)),
            Dtype::I64 => self.gather(storage, |bytes| i64::from_le_bytes(bytes) as f32),
            Dtype::I32 => self.gather(storage, |bytes| i32::from_le_bytes(bytes) as f32),
            Dtype::I16 => self.gather(storage, |bytes| f32::from(i16::from_le_bytes(bytes))),
            Dtype::I8 => self.gather(storage, |bytes| f32::from(i8::from_le_bytes(bytes))),
            Dtype::U64 => self.gather(storage, |bytes| u64::from_le_bytes(bytes) as f32),
            Dtype::U32 => self.gather(storage, |bytes| u32::from_le_bytes(bytes) as f32),
            Dtype::U16 => self.gather(storage, |bytes| f32::from(u16::from_le_bytes(bytes))),
            Dtype::U8 => self.gather(storage, |[byte]| f32::from(byte)),
            Dtype::BOOL => self.gather(storage, |[byte]| f32::from(u8::from(byte != 0))),
            _ => None,
        }
    }
}

/// Whether elements of this type convert to `f32`: excludes complex numbers, and types of fewer than 16 bits whose
/// scale is stored elsewhere.
pub(super) fn is_number(dtype: Dtype) -> bool {
    let nothing = Layout { offset: 0, shape: vec![0], strides: vec![1] };
    nothing.values(dtype, &[]).is_some()
}

/// An IEEE 754 binary16 as binary32: exact.
fn half_to_single(half: u16) -> f32 {
    let bits = u32::from(half);
    let (sign, exponent, fraction) = ((bits & 0x8000) << 16, (bits >> 10) & 0x1f, bits & 0x3ff);
    match exponent {
        // Subnormal: multiples of 2^-24.
        0 => f32::from_bits(sign | (fraction as f32 * 2.0_f32.powi(-24)).to_bits()),
        0x1f => f32::from_bits(sign | 0x7f80_0000 | (fraction << 13)),
        _ => f32::from_bits(sign | ((exponent + 112) << 23) | (fraction << 13)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_its_formula() {
        for half in 0..=u16::MAX {
            let (exponent, fraction) = (i32::from(half >> 10 & 0x1f), f64::from(half & 0x3ff));
            let magnitude = match exponent {
                0 => fraction * 2.0_f64.powi(-24),
                31 if fraction == 0.0 => f64::INFINITY,
                31 => f64::NAN,
                _ => (1.0 + fraction / 1024.0) * 2.0_f64.powi(exponent - 15),
            };
            let expected = if half & 0x8000 == 0 { magnitude } else { -magnitude } as f32;
            let found = half_to_single(half);
            if expected.is_nan() {
                assert!(found.is_nan(), "{half:04x}: {found}");
            } else {
                assert_eq!(found.to_bits(), expected.to_bits(), "{half:04x}");
            }
        }
    }

    #[test]
    fn strides_and_offsets_are_followed() {
        let storage: Vec<u8> = (0..24).collect();
        let values = |offset, shape: &[usize], strides: &[usize]| {
            Layout { offset, shape: shape.to_vec(), strides: strides.to_vec() }.values(Dtype::U8, &storage)
        };
        assert_eq!(values(2, &[2, 2], &[2, 1]), Some(vec![2.0, 3.0, 4.0, 5.0]));
        assert_eq!(values(1, &[3, 2], &[1, 3]), Some(vec![1.0, 4.0, 2.0, 5.0, 3.0, 6.0]));
        assert_eq!(values(0, &[2, 1, 3], &[12, 99, 4]), Some(vec![0.0, 4.0, 8.0, 12.0, 16.0, 20.0]));
        assert_eq!(values(5, &[3], &[0]), Some(vec![5.0; 3]));
        assert_eq!(values(23, &[], &[]), Some(vec![23.0]));
        assert_eq!(values(24, &[], &[]), None);
        assert_eq!(values(99, &[usize::MAX, 0], &[usize::MAX, 7]), Some(vec![]));
        assert_eq!(values(4, &[5], &[5]), None);
        assert_eq!(values(3, &[5], &[5]), Some(vec![3.0, 8.0, 13.0, 18.0, 23.0]));
        assert_eq!(values(0, &[usize::MAX, 3], &[0, 1]), None);
        assert_eq!(values(1, &[2], &[usize::MAX]), None);
        assert_eq!(values(0, &[2], &[1, 1]), None);
    }

    #[test]
    fn integers_and_wide_floats_convert() {
        let one = Layout { offset: 1, shape: vec![], strides: vec![] };
        let values = |dtype, bytes: &[u8]| one.values(dtype, &[vec![0xee; bytes.len()], bytes.to_vec()].concat());
        assert_eq!(values(Dtype::I64, &(-7_i64).to_le_bytes()), Some(vec![-7.0]));
        assert_eq!(values(Dtype::I32, &(-8_i32).to_le_bytes()), Some(vec![-8.0]));
        assert_eq!(values(Dtype::I16, &(-9_i16).to_le_bytes()), Some(vec![-9.0]));
        assert_eq!(values(Dtype::I8, &(-10_i8).to_le_bytes()), Some(vec![-10.0]));
        assert_eq!(values(Dtype::U64, &11_u64.to_le_bytes()), Some(vec![11.0]));
        assert_eq!(values(Dtype::U32, &12_u32.to_le_bytes()), Some(vec![12.0]));
        assert_eq!(values(Dtype::U16, &65535_u16.to_le_bytes()), Some(vec![65535.0]));
        assert_eq!(values(Dtype::U8, &[200]), Some(vec![200.0]));
        assert_eq!(values(Dtype::BOOL, &[2]), Some(vec![1.0]));
        assert_eq!(values(Dtype::F64, &0.1_f64.to_le_bytes()), Some(vec![0.1]));
        assert_eq!(values(Dtype::F32, &0.1_f32.to_le_bytes()), Some(vec![0.1]));
        assert_eq!(values(Dtype::BF16, &[0x80, 0x3f]), Some(vec![1.0]));
        assert_eq!(values(Dtype::C64, &[0; 8]), None);
        assert!(is_number(Dtype::BF16) && !is_number(Dtype::C64) && !is_number(Dtype::F8_E4M3));
    }
}
