//! YAML as editors, mails and bad luck leave it: read correctly, or refused with its place and what to write instead.

use crate::space::{Ran, Space};

fn planned(pipeline: &str) -> Ran {
    Space::new(pipeline).run(&["plan"])
}

#[test]
fn scalars_that_yaml_reads_in_two_ways_are_refused_with_what_to_write() {
    let with = |with: &str| {
        planned(&format!("stages:\n  raw: {{ uses: download/miniature, with: {{ layout: cub, {with} }} }}\n"))
    };
    for (written, help) in [
        ("seed: 010", "write 10 without the leading zero"),
        ("seed: 1_000", "write 1000 without the underscores"),
        ("seed: 1e2", "write 100"),
        ("seed: 7.0", "write 7"),
        ("seed: '7'", "write 7 without quotes"),
        ("seed: 1:30", "this is 90"),
        ("seed: None", "write null for nothing"),
        ("seed: 99999999999999999999", "a whole number of more than 64 bits"),
        ("seed: 7\u{a0}", "a no-break space (U+00A0)"),
        ("seed:\u{a0}7", "a no-break space (U+00A0)"),
    ] {
        let ran = with(written);
        assert_eq!(ran.code, 2, "{written}: {}", ran.out);
        assert!(ran.err.contains(help) && ran.err.contains("pipeline.yaml:2:"), "{written}: {}", ran.err);
    }
    for written in ["seed: 0o10", "seed: 0x1F", "seed: +7", "seed: 9007199254740993"] {
        assert_eq!(with(written).code, 0, "{written}");
    }
    let space = Space::new("stages:\n  raw: { uses: download/miniature, with: { layout: cub } }\n");
    for (value, help) in [("010", "write 10"), ("1_000", "write 1000"), ("99999999999999999999", "more than 64 bits")] {
        let ran = space.run(&["plan", "--set", &format!("stages.raw.with.seed={value}")]);
        assert_eq!(ran.code, 2);
        assert!(ran.err.contains(help) && ran.err.contains("--set"), "{value}: {}", ran.err);
    }
}

#[test]
fn words_for_true_false_and_nothing_are_refused_by_their_field() {
    let with = |with: &str| {
        let space =
            Space::new(&format!("stages:\n  images: {{ uses: preprocess, in: {{ raw: ./d }}, with: {{ {with} }} }}\n"));
        space.write("d/a/x.png", "");
        space.run(&["plan"])
    };
    for (written, part) in [
        ("shared_classes: yes", "write true"),
        ("shared_classes: off", "write false"),
        ("shared_classes: 'true'", "write true without quotes"),
        ("split: None", "`split` is refused: unknown variant `None`, expected"),
    ] {
        let ran = with(written);
        assert_eq!(ran.code, 2, "{written}: {}", ran.out);
        assert!(ran.err.contains(part), "{written}: {}", ran.err);
    }
    let ran = planned("axes: { a: [no, null] }\nstages: { s: { run: 'echo ${a} > ${out.x}', out: [x] } }");
    assert!(ran.err.contains("leave it out, or put it in quotes"), "{}", ran.err);
}

#[test]
fn odd_files_are_read_or_refused_with_their_place() {
    let good = "stages:\n  a: { run: 'echo 1 > ${out.x}', out: { x: x } }\n";
    let laughs: String =
        (1..12).map(|i| format!("x{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(", "))).collect();
    for (text, place, part) in [
        (good.replace("  a", "\u{a0}\u{a0}a"), "2:1", "a no-break space (U+00A0)"),
        (good.replace("  a", "\u{3000}a"), "2:1", "an ideographic space (U+3000)"),
        (good.replace("a:", "a\u{200b}:"), "2:4", "an invisible character (U+200B)"),
        (good.replace("out:", "\u{feff}out:"), "2:", "U+FEFF"),
        (good.replace('\'', "\u{2019}"), "2:13", "a typographic quote (U+2019)"),
        (good.replace("echo 1", "echo\u{a0}1"), "2:18", "a no-break space (U+00A0)"),
        (good.replace("echo 1", "echo \u{201c}1\u{201d}"), "2:19", "a typographic quote (U+201C)"),
        (good.replace("echo 1", "echo 1\u{2028}"), "2:20", "U+2028"),
        (format!("{good}---\nname: two\n"), "3:1", "a second document begins here"),
        (format!("x0: &a0 [l, l]\n{laughs}{good}"), "2:10", "aliases repeat themselves"),
        ("stages: &s\n  b: *s\n".to_owned(), "2:6", "by an alias inside its own anchor"),
        (format!("stages:\n  a: {}{}\n", "[".repeat(20_000), "]".repeat(20_000)), "2:", "nested too deep"),
        (good.replace("  a", "\ta"), "2:", "takes no tabs"),
    ] {
        let ran = planned(&text);
        assert_eq!(ran.code, 2, "{text:.60}: {}", ran.out);
        assert!(
            ran.err.contains(part) && ran.err.contains(&format!("pipeline.yaml:{place}")),
            "{text:.80}: {}",
            ran.err
        );
    }
    for text in [
        good.to_owned(),
        format!("\u{feff}{good}"),
        good.replace('\n', "\r\n"),
        good.replace("echo 1", "echo \"\u{a0}\u{201c}\""),
        format!("description: \"\u{201c}in quotes\u{201d}\"\n{good}"),
        format!("description: il dit\u{a0}oui\n{good}"),
    ] {
        let ran = planned(&text);
        assert_eq!(ran.code, 0, "{text}: {}", ran.err);
    }
    let space = Space::new("");
    let utf16: Vec<u8> = format!("\u{feff}{good}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    space.write("pipeline.yaml", utf16);
    assert_eq!(space.run(&["run"]).code, 0, "UTF-16 as PowerShell writes it");
}
