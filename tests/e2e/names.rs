//! Names, titles and scores from elsewhere: they never break, hide or run anything.

use crate::space::Space;

/// A pipeline with one table whose rows are `axis`.
fn table_over(axis: &str) -> String {
    format!(
        "
axes: {{ {axis}: [1, 2], seed: 0..2 }}
stages:
  s: {{ run: 'echo \"{{\\\"metrics\\\": {{\\\"acc\\\": 0.${{{axis}}}${{seed}}}}}}\" > ${{out.s}}', out: {{ s: s.json }} }}
  t: {{ uses: report, in: {{ s: s }}, with: {{ rows: {axis}, columns: [metric], over: seed }} }}
"
    )
}

#[test]
fn an_axis_may_have_the_name_of_a_column_of_the_table() {
    let own = "input baseline n mean standard_deviation half_width min max best tied test difference p p_holm value";
    for axis in own.split(' ').chain(["axis_n", "seed_n"]) {
        let space = Space::new(&table_over(axis));
        let ran = space.run(&["run"]);
        assert_eq!(ran.code, 0, "{axis}: {}", ran.err);
        let heading = if own.contains(axis) { format!("axis_{axis}") } else { axis.to_owned() };
        for file in ["table.csv", "scores.csv"] {
            let text = space.read(&format!("reports/pipeline/t/{file}"));
            assert!(text.starts_with(&format!("{heading},metric,")), "{axis}: {text}");
        }
    }
}

#[test]
fn an_axis_with_the_name_of_a_word_of_the_kind_is_refused_before_anything_runs() {
    let space = Space::new(&table_over("metric"));
    space.edit("rows: metric", "rows: seed");
    space.edit(", over: seed", "");
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 2, "{}", ran.err);
    assert!(ran.err.contains("error[reserved_axis]") && ran.err.contains("reserved here: `metric`"), "{}", ran.err);
    assert!(!space.path("cache/v1/runs").exists());
}

#[test]
fn names_that_are_not_valid_file_names_are_refused_before_anything_runs() {
    let long = "x".repeat(241);
    for pipeline in [
        format!("stages: {{ a: {{ run: 'touch ${{out.x}}', out: {{ x: {long} }} }} }}"),
        format!(
            "axes: {{ i: [{long}] }}\nstages: {{ a: {{ run: 'echo ${{i}} > ${{out.x}}', out: {{ x: '${{i}}' }} }} }}"
        ),
        format!("stages: {{ a: {{ run: 'touch ${{out.x}}', out: {{ x: {} }} }} }}", "deep/".repeat(300) + "x"),
        format!(
            "axes: {{ i: [{0}], j: [{0}] }}\nstages:\n  a: {{ run: 'echo ${{i}} ${{j}} > ${{out.x}}', out: [x] }}\n  \
             b: {{ run: 'ls ${{in.a}} > ${{out.x}}', in: {{ a: {{ from: a, gather: all }} }}, out: [x] }}",
            "y".repeat(130)
        ),
        format!("name: {long}\nstages: {{ a: {{ run: 'touch ${{out.x}}', out: [x] }} }}"),
    ] {
        let space = Space::new(&pipeline);
        let ran = space.run(&["run"]);
        assert_eq!(ran.code, 2, "{pipeline}: {}", ran.err);
        assert!(ran.err.contains("error[name_too_long]"), "{pipeline}: {}", ran.err);
        assert!(!space.path("cache/v1/runs").exists());
    }
    let just = "x".repeat(240);
    let space = Space::new(&format!("stages: {{ a: {{ run: 'echo > ${{out.x}}', out: {{ x: {just} }} }} }}"));
    assert_eq!(space.run(&["run"]).code, 0);
    assert!(space.path(&format!("reports/pipeline/{just}")).exists());
}

/// A control character, or one that changes the direction of text.
fn acts(text: &str) -> Option<char> {
    let acts = |c: char| {
        c.is_control() && c != '\n'
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().find(|c| acts(*c))
}

#[test]
fn control_characters_are_escaped_in_every_output() {
    let evil = r"\u001b]0;pwned\u0007\u001b[2J\u202e\u200f\u009b2J\t\r";
    let pipeline = format!(
        "
description: \"{evil}description\"
params: {{ text: \"{evil}param\" }}
axes: {{ k: [u, v] }}
stages:
  s:
    run: 'cp ${{in.s}} ${{out.s}} # ${{k}}'
    in: {{ s: ./s.json }}
    out: {{ s: s.json }}
  t: {{ uses: report, in: {{ s: s }}, with: {{ rows: k, columns: [metric], title: \"{evil}title\" }} }}
  u: {{ run: 'echo ${{params.text}} > ${{out.x}}', out: {{ x: x.txt }}, env: {{ A: \"{evil}value\" }} }}
  f: {{ run: 'printf \"\\033[2Jlog\\n\" >&2; exit 1', out: [x] }}
"
    );
    let space = Space::new(&pipeline);
    let scores = format!(
        r#"{{"metrics": {{"{evil}acc": 0.5, "=cmd|' /C calc'!A0": 0.6, "a\nb": 0.7, "-0.5": 1, "@x": 1}}, "remarks": ["{evil}remark"]}}"#
    );
    space.write("s.json", scores);
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    space.run(&["run", "--set", "params.text=\u{1b}[2J", "u"]);
    space.edit("param\"", "other\"");
    let mut said = vec![("run".to_owned(), ran.out), ("run, errors".to_owned(), ran.err)];
    for words in [
        &["plan"][..],
        &["why"],
        &["show"],
        &["history"],
        &["status"],
        &["graph"],
        &["table"],
        &["table", "--format", "md"],
        &["table", "--format", "csv"],
        &["plan", "\u{1b}[2J"],
        &["plan", "--set", "\u{1b}[2J=1"],
        &["plan", "--set", "params.\u{1b}[2J=1"],
        &["plan", "\u{1b}[2J.yaml"],
    ] {
        let ran = space.run(words);
        said.push((format!("{words:?}"), ran.out));
        said.push((format!("{words:?}, errors"), ran.err));
    }
    for file in ["table.txt", "table.csv", "scores.csv", "table.md", "index.html"] {
        said.push((file.to_owned(), space.read(&format!("reports/pipeline/t/{file}"))));
    }
    let acting: Vec<String> = said
        .iter()
        .filter_map(|(what, text)| {
            let found = acts(text)?;
            let line = text.lines().find(|line| acts(line).is_some()).unwrap_or_default();
            Some(format!("{what}: {found:?} in {line:?}"))
        })
        .collect();
    assert_eq!(acting, Vec::<String>::new());

    let table = space.read("reports/pipeline/t/table.csv");
    let metrics: Vec<&str> = table.lines().skip(1).map(|line| line.split(',').nth(1).unwrap()).collect();
    assert_eq!(
        metrics[..5],
        [
            "\\u{1b}]0;pwned\\u{7}\\u{1b}[2J\\u{202e}\\u{200f}\\u{9b}2J\\t\\racc",
            "'=cmd|' /C calc'!A0",
            "a\\nb",
            "-0.5",
            "'@x"
        ]
    );
    let html = space.read("reports/pipeline/t/index.html");
    assert!(html.contains("title</title>") && space.read("reports/pipeline/t/table.md").contains("title"));
}

#[test]
fn scores_of_other_tools_are_read_correctly_or_refused_with_their_names() {
    let pipeline = "
axes: { k: [u, v] }
stages:
  s: { run: 'cp ${in.s} ${out.s} # ${k}', in: { s: ./scores }, out: { s: s } }
  t: { uses: report, in: { s: s }, with: { rows: k, columns: [metric] } }
";
    for (scores, expected) in [
        ("\u{feff}epoch,\"acc, top 1\"\r\n1,\"0.25\"\r\n2,\"0.5\"\r\n", Ok("u,\"acc, top 1\",s,false,1,0.5,")),
        ("{\"metrics\": {\"acc\": \"0.5\"}}", Ok("u,acc,s,false,1,0.5,")),
        ("\u{feff}{\"metrics\": {\"acc\": NaN, \"loss\": 0.5}}", Ok("u,acc,s,false,1,,")),
        ("{\"metrics\": {\"acc\": \"high\"}}", Err("the metric `acc` is \"high\", expected a number")),
        ("model,acc\nr50,0.5\n", Err("the metric `model` is `r50`, expected a number")),
        ("acc;loss\n0,5;0,25\n", Err("the metric `acc` is `0,5`, expected a number")),
    ] {
        let space = Space::new(pipeline);
        space.write("scores", scores);
        let ran = space.run(&["run"]);
        match expected {
            Ok(line) => {
                assert_eq!(ran.code, 0, "{scores}: {}", ran.err);
                let table = space.read("reports/pipeline/t/table.csv");
                assert!(table.contains(line), "{scores}: {table}");
            }
            Err(message) => assert!(ran.code == 1 && ran.err.contains(message), "{scores}: {}", ran.err),
        }
    }
}
