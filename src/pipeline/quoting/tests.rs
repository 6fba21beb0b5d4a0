use std::process::Command;

use proptest::prelude::*;

use super::*;

/// `@` is a reference.
fn split(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    for (i, literal) in text.split('@').enumerate() {
        if i > 0 {
            parts.push(Part::Reference);
        }
        parts.push(Part::Literal(literal));
    }
    parts
}

fn place(text: &str) -> Place {
    let (mut places, _) = places(&split(text));
    assert_eq!(places.len(), 1, "{text}");
    places.remove(0)
}

/// The text with `value` in the place of every reference, and the value of the variable `V` that it may expand.
fn write(text: &str, value: &str) -> String {
    let parts = split(text);
    let (places, _) = places(&parts);
    let mut places = places.iter();
    let word = |part: &Part<'_>| match part {
        Part::Literal(literal) => (*literal).to_owned(),
        Part::Reference => {
            let place = places.next().unwrap();
            if place.takes(value) { value.to_owned() } else { place.expansion("V").unwrap() }
        }
    };
    parts.iter().map(word).collect()
}

/// What a shell prints for the text.
fn printed(shell: &str, text: &str, value: &str) -> String {
    let mut command = Command::new(shell);
    let ran = command.args(["-euc", text]).env("V", value).env("LC_ALL", "C.UTF-8").output().unwrap();
    assert!(ran.status.success(), "{shell}: {text}\n{}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap()
}

/// Texts that print one word with the value in it, and what comes before and after it there.
const PRINTERS: [(&str, &str, &str); 18] = [
    ("printf '%s\\n' @", "", "\n"),
    ("printf '%s\\n' a@b", "a", "b\n"),
    ("printf '%s\\n' \"a @ b\"", "a ", " b\n"),
    ("printf '%s\\n' 'a @ b'", "a ", " b\n"),
    ("printf '%s\\n' 'it'\\''s '@\"s\"", "it's ", "s\n"),
    ("n=x; printf '%s\\n' $n@", "x", "\n"),
    ("n=x; printf '%s\\n' \"$n@\"", "x", "\n"),
    ("printf '%s\\n' \"$(printf '%s' @.)\"", "", ".\n"),
    ("printf '%s\\n' \"$(printf '%s' \"(@)\".)\"", "(", ").\n"),
    ("x=$(case a in (a) printf '%s' @.;; esac); printf '%s\\n' \"$x\"", "", ".\n"),
    ("x=$(case a in b|a) printf '%s' @.;; esac); printf '%s\\n' \"$x\"", "", ".\n"),
    ("if true; then # it's @\n  printf '%s\\n' @; fi", "", "\n"),
    ("cat <<END\na @ b\nEND", "a ", " b\n"),
    ("cat <<-'Q' | cat\n\tit's\n\tQ\nprintf '%s\\n' @", "it's\n", "\n"),
    ("cat <<END\n$(printf '%s' \"@.\")\nEND", "", ".\n"),
    ("{ cat <<A; cat <<B; }\nit's\nA\n\"@\nB", "it's\n\"", "\n"),
    ("x=@; printf '%s\\n' \"$x\" # \"@", "", "\n"),
    ("(printf '%s\\n' \"$((1 + 2))@\" | cat) && true # '@", "3", "\n"),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever surrounds it, a shell sees exactly the value, as one word, and nothing of it runs.
    #[test]
    fn a_value_is_one_word_wherever_it_stands(
        which in prop::collection::vec(0..PRINTERS.len(), 1..5),
        value in prop_oneof![
            "[ -~]{0,12}",
            "[a-z'\"`$(){};&|<>*?~#!\\\\ \n\té-]{0,10}",
            Just("$(touch pwned)".to_owned()),
            Just("a; echo injected".to_owned()),
            Just("END\necho injected".to_owned()),
            Just("END".to_owned()),
            Just("B".to_owned()),
            Just("2".to_owned()),
            Just(String::new()),
        ],
    ) {
        let texts: Vec<&str> = which.iter().map(|&i| PRINTERS[i].0).collect();
        let text = write(&texts.join("\n"), &value);
        let expected: String =
            which.iter().map(|&i| format!("{}{value}{}", PRINTERS[i].1, PRINTERS[i].2)).collect();
        for shell in ["sh", "bash"] {
            prop_assert_eq!(&printed(shell, &text, &value), &expected, "{}: {}", shell, &text);
        }
    }

    /// Every text can be read, and every reference in it has a place.
    #[test]
    fn every_text_is_read(text in "[a-z@'\"`$(){};&|<>*#!\\\\ \n\t\\[\\]=-]{0,60}") {
        let (places, _) = places(&split(&text));
        prop_assert_eq!(places.len(), text.matches('@').count());
    }
}

#[test]
fn a_number_before_an_arrow_and_a_word_after_a_name_stay_words() {
    assert_eq!(write("echo @>f", "2"), "echo \"${V}\">f");
    assert_eq!(write("echo @ >f", "2"), "echo 2 >f");
    assert_eq!(write("echo a@>f", "2"), "echo a2>f");
    assert_eq!(write("echo @>f", "x"), "echo x>f");
    assert_eq!(write("echo $a@", "x"), "echo $a\"${V}\"");
    assert_eq!(write("echo \\$a@", "x"), "echo \\$ax");
}

#[test]
fn where_an_expansion_would_be_read_again_only_plain_words_stand() {
    for text in [
        "eval echo @",
        "sh -c 'echo @'",
        "sh -c \"echo @\"",
        "sh -c @",
        "/usr/bin/env bash -euo pipefail -c \"@\"",
        "python3 -c 'print(\"@\")'",
        "perl -ne 'print \"@\"'",
        "find . -exec sh -c 'cat @' {} +",
        "trap \"rm @\" EXIT",
        "echo $((1 + @))",
        "(( x = @ ))",
        "[[ @ -gt 3 ]]",
        "echo `cat @`",
        "echo \"`cat @`\"",
        "echo ${x:-@}",
        "echo \"${x:-@}\"",
        "echo $'@'",
        "echo \\@",
        "a[@]=1",
        "cat <<'E'\n@\nE",
    ] {
        let place = place(text);
        assert!(place.takes("plain-1.5"), "{text}: {place:?}");
        assert!(!place.takes("a b") && place.expansion("V").is_err(), "{text}: {place:?}");
    }
    for text in
        ["wc -c @", "bash run.sh -c @", "sh -c 'cat \"$1\"' sh @", "grep -e @ f", "echo 'sh -c' @", "python3 x.py -c @"]
    {
        assert!(place(text).expansion("V").is_ok(), "{text}: {:?}", place(text));
    }
}

#[test]
fn look_alikes_are_found_outside_of_quotes_only() {
    let found = |text: &str| places(&[Part::Literal(text)]).1;
    assert_eq!(found("echo\u{a0}a"), ['\u{a0}']);
    assert_eq!(found("echo \u{201c}a\u{201d}"), ['\u{201c}', '\u{201d}']);
    assert_eq!(found("echo '\u{201c}a\u{201d}' \"\u{a0}\" # \u{a0}\ncat <<E\n\u{a0}\nE\n"), []);
}
