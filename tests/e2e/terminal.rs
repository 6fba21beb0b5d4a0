//! What a run shows on a terminal: the real binary on a pseudo-terminal of a given width.

use std::fs::File;
use std::io::Read;
use std::os::fd::FromRawFd;
use std::process::Child;
use std::ptr::null_mut;

use crate::space::Space;

const ROWS: u16 = 30;

/// 103 cells, of which four wait for the file `go`, two fail and one cannot run because of them.
const PIPELINE: &str = r"
axes:
  dataset: [glyphs, textures]
  loss: [contrastive, mean_field_class_wise_multi_similarity]
  seed: 0..25
stages:
  images: { run: 'echo ${dataset} > ${out.x}', out: [x] }
  model:
    run: |
      if [ ${dataset}-${seed} = glyphs-7 ]; then echo 'epoch 3: the loss is not a number'; exit 3; fi
      if [ ${seed} = 0 ]; then while [ ! -e ~/go ]; do sleep 0.01; done; fi
      cat ${in.images} > ${out.x}; echo ${loss} >> ${out.x}
    in: { images: images }
    out: [x]
  table: { run: 'cat ${in.models}/* > ${out.t}', in: { models: { from: model, gather: all } }, out: { t: t.txt } }
";

/// A command whose standard output and error are a terminal.
struct Terminal {
    child: Child,
    master: File,
    parser: vt100::Parser,
    bytes: Vec<u8>,
}

impl Terminal {
    fn open(space: &Space, words: &[&str], columns: u16, variables: &[(&str, &str)]) -> Terminal {
        let mut size = libc::winsize { ws_row: ROWS, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let (mut master, mut slave) = (-1, -1);
        // SAFETY: the pointers are to live variables, or null where the call allows it; it returns two new descriptors.
        let (master, slave) = unsafe {
            assert_eq!(libc::openpty(&mut master, &mut slave, null_mut(), null_mut(), &raw mut size), 0);
            (File::from_raw_fd(master), File::from_raw_fd(slave))
        };
        let mut command = space.command(words);
        command.stdout(slave.try_clone().unwrap()).stderr(slave).env_remove("NO_COLOR").envs(variables.iter().copied());
        let child = command.spawn().unwrap();
        // The reader sees the end of the terminal only if no other process holds it.
        drop(command);
        Terminal { child, master, parser: vt100::Parser::new(ROWS, columns, 0), bytes: Vec::new() }
    }

    /// Reads until the screen satisfies `enough`, or to the end. No line but the path of a log is ever wrapped.
    fn until(&mut self, enough: impl Fn(&str) -> bool) -> String {
        let mut buffer = [0; 4096];
        loop {
            let text = self.parser.screen().contents();
            if enough(&text) {
                return text;
            }
            let Ok(count @ 1..) = self.master.read(&mut buffer) else { return text };
            self.parser.process(&buffer[..count]);
            self.bytes.extend_from_slice(&buffer[..count]);
            let (_, columns) = self.parser.screen().size();
            for (row, line) in self.parser.screen().rows(0, columns).enumerate() {
                let wrapped = self.parser.screen().row_wrapped(row as u16);
                assert!(!wrapped || line.trim_start().starts_with("log "), "{columns} columns: {line:?} wraps");
            }
        }
    }

    /// The screen at the end of the command, and its exit code.
    fn end(&mut self) -> (String, i32) {
        let text = self.until(|_| false);
        (text, self.child.wait().unwrap().code().unwrap())
    }
}

/// A space whose images are cached.
fn space() -> Space {
    let space = Space::new(PIPELINE);
    assert_eq!(space.run(&["run", "images"]).code, 0);
    space
}

#[test]
fn progress_fits_terminals_of_60_80_and_120_columns() {
    for columns in [60, 80, 120] {
        let space = space();
        let mut terminal = Terminal::open(&space, &["run", "-j", "4"], columns, &[("TERM", "xterm-256color")]);
        let middle = terminal.until(|screen| screen.contains("70/101") && screen.contains("4 running"));
        space.write("go", "");
        let (end, code) = terminal.end();
        assert_eq!(code, 1, "{end}");
        assert!(terminal.bytes.windows(2).any(|part| part == b"\x1b["), "colours and redrawn lines");
        let shown = format!("In the middle:\n{middle}\n\nAt the end:\n{end}");
        insta::with_settings!({ filters => vec![
            (r"\[=* *\]", "[bar]"),
            (r"\d+(\.\d+)? s\b", "[time]"),
            (r"[0-9a-f]{64}|[0-9a-f\n]{65}", "[key]"),
        ] }, {
            insta::assert_snapshot!(format!("progress_at_{columns}_columns"), shown);
        });
    }
}

#[test]
fn a_dumb_terminal_gets_plain_lines_and_no_color_no_colours() {
    let space = space();
    space.write("go", "");
    let mut terminal = Terminal::open(&space, &["run", "-j", "4", "model[seed=0..3]"], 80, &[("TERM", "dumb")]);
    let (end, code) = terminal.end();
    assert_eq!(code, 0, "{end}");
    assert!(end.contains("[12/12]") && end.contains("Finished 12 cells run, 2 cached in"), "{end}");
    assert!(!terminal.bytes.contains(&0x1b), "{end}");
    let mut terminal = Terminal::open(&space, &["run", "model[seed=3]"], 80, &[("TERM", "xterm"), ("NO_COLOR", "1")]);
    let (end, code) = terminal.end();
    assert_eq!(code, 0, "{end}");
    let colours = terminal.bytes.windows(4).any(|part| part.starts_with(b"\x1b[1;") || part == b"\x1b[2m");
    assert!(!colours && end.contains("Done model: 4 run"), "{end}");
}
