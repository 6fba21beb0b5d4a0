use std::fs;
use std::path::{Path, PathBuf};

use super::*;

/// The file at `path` at `size x size`.
fn decode(path: &Path, size: u32, max_pixels: u64) -> Result<Vec<u8>, String> {
    let bytes = fs::read(path).unwrap();
    decoder(|decoder| {
        let whole = Region::whole(decoder.decode(&bytes, max_pixels, None)?.size);
        let mut out = vec![0; rgb_len([size; 2])];
        decoder.resize(whole, [size; 2], &mut out)?;
        Ok(out)
    })
}

/// Images of every format and mode, and their pixels by Pillow at 8 x 8; `make.py` next to them wrote both.
fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/images")
}

#[test]
fn every_format_and_mode_equals_pillow_to_within_one() {
    let expected = fs::read_to_string(fixtures().join("expected.txt")).unwrap();
    assert_eq!(expected.lines().count(), 17);
    for line in expected.lines() {
        let (name, values) = line.split_once(' ').unwrap();
        let values: Vec<u8> = values.split(' ').map(|v| v.parse().unwrap()).collect();
        let found = decode(&fixtures().join(name), 8, 100_000).unwrap();
        assert_eq!(found.len(), values.len());
        // JPEG decoders may differ by one before the resize.
        let off = found.iter().zip(&values).map(|(&a, &b)| a.abs_diff(b)).max().unwrap();
        assert!(off <= 1, "{name}: off by {off}");
    }
}

#[test]
fn an_image_of_the_right_size_keeps_its_pixels() {
    let rgb: Vec<u8> = (0..8 * 8 * 3).map(|i| (i * 37 % 251) as u8).collect();
    let mut out = vec![0; rgb.len()];
    decoder(|decoder| {
        decoder.load([8, 8], &rgb);
        decoder.resize(Region::whole([8, 8]), [8, 8], &mut out).unwrap();
    });
    assert_eq!(out, rgb);
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
fn what_is_no_image_is_named() {
    let named = |bytes: &[u8]| rgb(bytes, 1000).unwrap_err();
    for (bytes, part) in [
        (&b"II*\0\x08\0\0\0"[..], "a TIFF image, which is not read"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "an AVIF image, which is not read"),
        (b"\0\0\x01\0\x01\0\x10\x10", "an icon (ico), which is not read"),
        (b"<html>404</html>", "a web page, not an image; the download"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"", "it is empty"),
        (b"some text", "its content is not a JPEG, PNG"),
    ] {
        let message = named(bytes);
        assert!(message.contains(part), "{message}");
    }
}

/// Every value of Pillow's: `Image.open(...).convert("RGB")`.
#[test]
fn portable_maps_are_read() {
    let grey = |bytes: &[u8]| rgb(bytes, 1000).unwrap().pixels.chunks(3).map(|pixel| pixel[0]).collect::<Vec<u8>>();
    assert_eq!(grey(b"P5\n2 2\n255\n\x00\x05\x0a\xff"), [0, 5, 10, 255]);
    assert_eq!(grey(b"P5\n2 2\n15\n\x00\x05\x0a\x0f"), [0, 85, 170, 255]);
    assert_eq!(grey(b"P2\n# made by hand\n2 1\n255\n7 9\n"), [7, 9]);
    assert_eq!(rgb(b"P6\n1 1\n255\n\x01\x02\x03", 10).unwrap().pixels, [1, 2, 3]);
    let cut = rgb(b"P6\n2 2\n255\n\x01\x02\x03", 10).unwrap_err();
    assert!(cut.contains("failed to fill whole buffer"), "{cut}");
}

#[test]
fn what_follows_a_whole_jpeg_does_not_make_it_broken() {
    for name in ["photo.jpg", "progressive.jpg"] {
        let bytes = fs::read(fixtures().join(name)).unwrap();
        let whole = rgb(&bytes, 100_000).unwrap();
        // The last is what the start of another scan looks like.
        for tail in [&b"hello"[..], &[0; 100], &bytes[..bytes.len() / 2], b"\xff\xda\x00\x08 and on"] {
            assert!(rgb(&[&bytes, tail].concat(), 100_000).as_ref() == Ok(&whole), "{name}");
            // The tail does not make a cut one whole.
            assert!(rgb(&[&bytes[..bytes.len() - 2], b"\xff\xda\x00\x02"].concat(), 100_000).is_err());
        }
    }
}

#[test]
fn a_cut_file_is_broken_unless_nothing_of_the_image_is_missing() {
    let room = tempfile::tempdir().unwrap();
    for name in ["rgba.png", "photo.jpg", "progressive.jpg", "rgb.bmp", "two_frames.gif", "lossless.webp"] {
        let whole = decode(&fixtures().join(name), 8, 1000).unwrap();
        let bytes = fs::read(fixtures().join(name)).unwrap();
        let path = room.path().join(name);
        let mut broken = 0;
        for cut in 0..bytes.len() {
            fs::write(&path, &bytes[..cut]).unwrap();
            match decode(&path, 8, 1000) {
                Ok(pixels) => assert!(pixels == whole, "{name} cut at {cut} gives another image"),
                Err(_) => broken += 1,
            }
        }
        assert!(broken > 400, "{name}: only {broken} of {} cuts noticed", bytes.len());
    }
}

#[test]
fn damage_is_told_or_decoded_but_ends_nothing() {
    let mut random = crate::math::random::stream(4, "test damage", 0, 0);
    for name in ["photo.jpg", "progressive.jpg", "cmyk.jpg", "grey.jpg", "large.jpg", "palette.png", "lossless.webp"] {
        let whole = fs::read(fixtures().join(name)).unwrap();
        let mut reported = 0;
        for _ in 0..300 {
            let mut bytes = whole.clone();
            for _ in 0..1 + random.below(4) {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] = random.bits() as u8;
            }
            match rgb(&bytes, 1 << 16) {
                Ok(image) => assert_eq!(image.pixels.len(), rgb_len([image.height, image.width])),
                Err(_) => reported += 1,
            }
        }
        assert!(reported > 0, "{name}: no damage was reported");
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

#[test]
fn three_and_four_channels_are_resized_alike_and_parts_as_if_cut_out() {
    let size = [37, 53];
    let rgb: Vec<u8> = (0..rgb_len(size)).map(|i| (i * i * 31 % 253) as u8).collect();
    let part = Region { top: 5, left: 11, rows: 29, columns: 31 };
    let mut cut = vec![0; rgb_len([29, 31])];
    copy_part(Bitmap { size, bytes: &rgb }, part, &mut cut);
    let resized = |size: Size, pixels: &[u8], part: Region| {
        let mut decoder = Decoder { pixels: pixels.to_vec(), ..Decoder::default() };
        decoder.hold(size);
        let mut out = vec![0; rgb_len([12, 44])];
        decoder.resize(part, [12, 44], &mut out).unwrap();
        out
    };
    let of_part = resized(size, &rgb, part);
    assert_eq!(of_part, resized([29, 31], &cut, Region::whole([29, 31])));
    let four: Vec<u8> = rgb.chunks(3).flat_map(|p| [p[0], p[1], p[2], (p[0] ^ 85)]).collect();
    assert_eq!(of_part, resized(size, &four, part));
}

#[test]
fn a_jpeg_is_scaled_in_its_transform_only_to_twice_the_target() {
    assert_eq!(dct_part([375, 500], [256, 341]), 1);
    assert_eq!(dct_part([1023, 2000], [256, 500]), 2);
    assert_eq!(dct_part([1022, 1300], [256, 325]), 1);
    assert_eq!(dct_part([1024, 1300], [256, 325]), 2);
    assert_eq!(dct_part([5000, 6000], [256, 307]), 8);
    let bytes = fs::read(fixtures().join("large.jpg")).unwrap();
    let shrunk = |target: Option<&dyn Fn(Size) -> Size>| {
        decoder(|decoder| {
            let size = decoder.decode(&bytes, 1 << 20, target).unwrap().size;
            let mut out = vec![0; rgb_len([8; 2])];
            decoder.resize(Region::whole(size), [8; 2], &mut out).unwrap();
            (size, out)
        })
    };
    let (full, exact) = shrunk(None);
    let (scaled, near) = shrunk(Some(&|_| [8; 2]));
    assert_eq!((full, scaled), ([131, 163], [17, 21]));
    let off = exact.iter().zip(&near).map(|(&a, &b)| a.abs_diff(b)).max().unwrap();
    // Pillow's draft mode, which takes the rounded rows and columns for the image's, is off by 33 on this picture.
    assert!(off > 0 && off < 33, "{off}");
}

/// Found by tests/fuzz.rs: its frame and its scan name different components, on which the library panics.
#[test]
fn a_jpeg_on_which_the_decoder_panics_is_broken() {
    let bytes = include_bytes!("../../../tests/data/damaged/components.jpg");
    assert!(rgb(bytes, 1 << 22).is_err());
}
