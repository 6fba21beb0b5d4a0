//! Which part of an image a network sees: the rounding rules of torchvision, which the published protocols use.

use crate::math::random::Stream;

/// Rows and columns, in this order.
pub type Size = [u32; 2];

/// A rectangle of an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    pub top: u32,
    pub left: u32,
    pub rows: u32,
    pub columns: u32,
}

impl Region {
    /// The whole image.
    pub fn whole([rows, columns]: Size) -> Region {
        Region { top: 0, left: 0, rows, columns }
    }
}

/// The size of an image whose short side becomes `short`: the long side is rounded down, as by `Resize(short)`.
pub fn with_short_side([rows, columns]: Size, short: u32) -> Size {
    let long = |long: u32, of: u32| (u64::from(short) * u64::from(long) / u64::from(of.max(1))) as u32;
    if rows <= columns { [short, long(columns, rows)] } else { [long(rows, columns), short] }
}

/// The centre of an image, as by `CenterCrop`: halves of pixels go to the even side. None if the image is smaller.
pub fn centre([rows, columns]: Size, size: Size) -> Option<Region> {
    let before = |all: u32, part: u32| Some((f64::from(all.checked_sub(part)?) / 2.0).round_ties_even() as u32);
    Some(Region { top: before(rows, size[0])?, left: before(columns, size[1])?, rows: size[0], columns: size[1] })
}

/// What `RandomResizedCrop` draws from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RandomCrop {
    /// Share of the image's area, uniform between the two.
    pub scale: [f64; 2],
    /// Width over height, its logarithm uniform between those of the two.
    pub ratio: [f64; 2],
}

impl RandomCrop {
    /// Ten attempts at a share and a ratio that fit into the image, each position being as likely; then the largest part
    /// at its centre whose ratio is in range.
    pub fn draw(&self, [rows, columns]: Size, random: &mut Stream) -> Region {
        let [low, high] = self.ratio;
        let (height, width) = (f64::from(rows), f64::from(columns));
        for _ in 0..10 {
            let area = height * width * random.between(self.scale[0], self.scale[1]);
            let ratio = random.between(low.ln(), high.ln()).exp();
            let side = |square: f64| square.sqrt().round_ties_even();
            let (w, h) = (side(area * ratio), side(area / ratio));
            if (1.0..=width).contains(&w) && (1.0..=height).contains(&h) {
                let (w, h) = (w as u32, h as u32);
                let top = random.below(u64::from(rows - h) + 1) as u32;
                let left = random.below(u64::from(columns - w) + 1) as u32;
                return Region { top, left, rows: h, columns: w };
            }
        }
        let (w, h) = match width / height {
            ratio if ratio < low => (columns, ((width / low).round_ties_even() as u32).clamp(1, rows)),
            ratio if ratio > high => (((height * high).round_ties_even() as u32).clamp(1, columns), rows),
            _ => (columns, rows),
        };
        Region { top: (rows - h) / 2, left: (columns - w) / 2, rows: h, columns: w }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::random::stream;

    #[test]
    fn sizes_and_centres_are_those_of_torchvision() {
        // torchvision 0.29: resize(zeros(3, 375, 500), 256).shape and so on.
        assert_eq!(with_short_side([375, 500], 256), [256, 341]);
        assert_eq!(with_short_side([500, 333], 256), [384, 256]);
        assert_eq!(with_short_side([100, 100], 256), [256, 256]);
        assert_eq!(with_short_side([256, 400], 256), [256, 400]);
        assert_eq!(with_short_side([1, 5000], 256), [256, 1_280_000]);
        // (341 - 224) / 2 = 58.5 goes to 58, (343 - 224) / 2 = 59.5 to 60.
        assert_eq!(centre([256, 341], [224, 224]), Some(Region { top: 16, left: 58, rows: 224, columns: 224 }));
        assert_eq!(centre([343, 256], [224, 224]), Some(Region { top: 60, left: 16, rows: 224, columns: 224 }));
        // 14.5 and 57.
        assert_eq!(centre([256, 341], [227, 227]), Some(Region { top: 14, left: 57, rows: 227, columns: 227 }));
        assert_eq!(centre([224, 224], [224, 224]), Some(Region::whole([224, 224])));
        assert_eq!(centre([224, 223], [224, 224]), None);
    }

    #[test]
    fn crops_have_the_stated_distribution() {
        let crop = RandomCrop { scale: [0.08, 1.0], ratio: [0.75, 4.0 / 3.0] };
        // Large and square, so that rounding is small; a crop that does not fit is drawn again, which the small scales here
        // never are.
        let small = RandomCrop { scale: [0.1, 0.5], ..crop };
        let size = [4000, 4000];
        let n = 20_000;
        let (mut scale, mut scale2, mut log, mut log2, mut top, mut left) = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0);
        for item in 0..n {
            let region = small.draw(size, &mut stream(1, "crop", 0, item));
            let (h, w) = (f64::from(region.rows), f64::from(region.columns));
            let share = h * w / 16e6;
            scale += share;
            scale2 += share * share;
            log += (w / h).ln();
            log2 += (w / h).ln().powi(2);
            top += f64::from(region.top) / (4000.0 - h);
            left += f64::from(region.left) / (4000.0 - w);
        }
        let n = n as f64;
        let near = |found: f64, expected: f64, deviation: f64| {
            assert!((found - expected).abs() < 4.0 * deviation / n.sqrt(), "{found}, expected {expected}");
        };
        // Uniform on [a, b]: mean (a + b) / 2, variance (b - a)^2 / 12.
        near(scale / n, 0.3, 0.4 / 12f64.sqrt());
        near(scale2 / n, 0.3f64.powi(2) + 0.4f64.powi(2) / 12.0, 0.08);
        let range = 2.0 * (4.0f64 / 3.0).ln();
        near(log / n, 0.0, range / 12f64.sqrt());
        near(log2 / n, range * range / 12.0, 0.03);
        near(top / n, 0.5, 1.0 / 12f64.sqrt());
        near(left / n, 0.5, 1.0 / 12f64.sqrt());
        for item in 0..2000 {
            let region = crop.draw([40, 60], &mut stream(2, "crop", 0, item));
            assert!(region.top + region.rows <= 40 && region.left + region.columns <= 60 && region.rows > 0);
        }
    }

    #[test]
    fn what_never_fits_becomes_the_centre() {
        let crop = RandomCrop { scale: [0.5, 1.0], ratio: [0.75, 4.0 / 3.0] };
        let draw = |size| crop.draw(size, &mut stream(3, "crop", 0, 0));
        // Half of the area at a ratio of 4 / 3 has sqrt(0.5 * 1000 * 10 / (4 / 3)) = 61 rows.
        assert_eq!(draw([10, 1000]), Region { top: 0, left: 493, rows: 10, columns: 13 });
        // 10 / 0.75 = 13.33 rows.
        assert_eq!(draw([1000, 10]), Region { top: 493, left: 0, rows: 13, columns: 10 });
        let none = RandomCrop { scale: [2.0, 2.0], ratio: [1.0, 1.0] };
        assert_eq!(none.draw([7, 7], &mut stream(3, "crop", 0, 0)), Region::whole([7, 7]));
    }
}
