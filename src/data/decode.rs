//! One image file to square RGB pixels.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};

/// An image that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Below the root of the image folder, `/` between components.
    pub path: String,
    pub reason: String,
}

/// Decodes `path` by its content (PNG, JPEG, the first frame of a GIF, BMP, WebP) and resizes it to
/// `size * size * 3` bytes, row by row.
///
/// Transparency is composited on white, 16-bit values are rounded to 8, grey becomes RGB; an orientation tag is not
/// applied. The resize is the antialiased bilinear one of Pillow (`resize((size, size), BILINEAR)`), to within 1.
///
/// # Errors
/// Why the image is broken, or that it has more than `max_pixels`, which its header already tells.
pub fn decode(path: &Path, size: u32, max_pixels: u64) -> Result<Vec<u8>, String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    let mut reader = ImageReader::new(BufReader::new(file)).with_guessed_format().map_err(|e| e.to_string())?;
    if reader.format().is_none() {
        return Err("its content is no PNG, JPEG, GIF, BMP or WebP image".to_owned());
    }
    // A 16-bit RGBA image takes 8 bytes a pixel; as much again is left to the decoder.
    let mut limits = Limits::default();
    limits.max_alloc = Some(max_pixels.saturating_mul(16).max(1 << 20));
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(|e| e.to_string())?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if !(1..=max_pixels).contains(&pixels) {
        return Err(format!("it has {width} x {height} pixels, expected 1 to max_pixels = {max_pixels}"));
    }
    let image = DynamicImage::from_decoder(decoder).map_err(|e| e.to_string())?;
    resized(&on_white(image), width, height, size)
}

/// RGB bytes over a white page.
fn on_white(image: DynamicImage) -> Vec<u8> {
    if !image.color().has_alpha() {
        return image.into_rgb8().into_raw();
    }
    let over = |value: u8, alpha: u8| {
        let (value, alpha) = (u32::from(value), u32::from(alpha));
        ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
    };
    image.into_rgba8().pixels().flat_map(|&image::Rgba([r, g, b, a])| [r, g, b].map(|v| over(v, a))).collect()
}

fn resized(rgb: &[u8], width: u32, height: u32, size: u32) -> Result<Vec<u8>, String> {
    let source = ImageRef::new(width, height, rgb, PixelType::U8x3).map_err(|e| e.to_string())?;
    let mut target = Image::new(size, size, PixelType::U8x3);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
    Resizer::new().resize(&source, &mut target, &options).map_err(|e| e.to_string())?;
    Ok(target.into_vec())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    /// Images of every format and mode, and what Pillow makes of them at 8 x 8; `make.py` beside them made both.
    fn fixtures() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/images")
    }

    #[test]
    fn every_format_and_mode_equals_pillow_to_within_one() {
        let expected = fs::read_to_string(fixtures().join("expected.txt")).unwrap();
        assert_eq!(expected.lines().count(), 12);
        for line in expected.lines() {
            let (name, values) = line.split_once(' ').unwrap();
            let values: Vec<u8> = values.split(' ').map(|v| v.parse().unwrap()).collect();
            let found = decode(&fixtures().join(name), 8, 1000).unwrap();
            assert_eq!(found.len(), values.len());
            // JPEG decoders may differ by one before the resize.
            let off = found.iter().zip(&values).map(|(&a, &b)| a.abs_diff(b)).max().unwrap();
            assert!(off <= 1, "{name}: off by {off}");
        }
    }

    #[test]
    fn an_image_of_the_right_size_keeps_its_pixels() {
        let rgb: Vec<u8> = (0..8 * 8 * 3).map(|i| (i * 37 % 251) as u8).collect();
        assert_eq!(resized(&rgb, 8, 8, 8).unwrap(), rgb);
    }

    #[test]
    fn the_content_decides_not_the_name() {
        let room = tempfile::tempdir().unwrap();
        let lying = room.path().join("jpeg.png");
        fs::copy(fixtures().join("photo.jpg"), &lying).unwrap();
        assert_eq!(decode(&lying, 8, 1000), decode(&fixtures().join("photo.jpg"), 8, 1000));
        fs::write(&lying, "no image at all").unwrap();
        assert!(decode(&lying, 8, 1000).unwrap_err().contains("content"));
    }

    #[test]
    fn every_truncation_is_an_error_or_an_image_never_a_panic() {
        let room = tempfile::tempdir().unwrap();
        for name in ["rgba.png", "photo.jpg", "rgb.bmp", "two_frames.gif", "lossless.webp"] {
            let bytes = fs::read(fixtures().join(name)).unwrap();
            let path = room.path().join(name);
            for cut in (0..bytes.len()).step_by(7) {
                fs::write(&path, &bytes[..cut]).unwrap();
                let result = decode(&path, 8, 1000);
                assert!(result.is_err() || cut > 40, "{name} cut at {cut}");
            }
        }
    }

    #[test]
    fn a_header_that_promises_too_many_pixels_is_refused_without_decoding() {
        let mut png = fs::read(fixtures().join("rgb.png")).unwrap();
        // Width of the IHDR chunk, and its checksum: CRC-32 over type and data.
        png[16..20].copy_from_slice(&60_000u32.to_be_bytes());
        png[20..24].copy_from_slice(&60_000u32.to_be_bytes());
        let mut crc = flate2::Crc::new();
        crc.update(&png[12..29]);
        png[29..33].copy_from_slice(&crc.sum().to_be_bytes());
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("bomb.png");
        fs::write(&path, png).unwrap();
        let reason = decode(&path, 8, 178_956_970).unwrap_err();
        assert!(reason.contains("60000 x 60000"), "{reason}");
        let (small, limit) = (fixtures().join("upscaled.png"), 30);
        assert!(decode(&small, 8, limit).is_ok() && decode(&small, 8, limit - 1).unwrap_err().contains("5 x 6"));
    }
}
