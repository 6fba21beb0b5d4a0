//! Where in a shell text a reference is, and so what makes its value one word there.
//!
//! A value of plain characters is written into the text. Any other goes into the environment, and the text expands its
//! variable: a shell never reads what an expansion gives as a command, so that a mistake made here can split a word and
//! cannot start a program. Where an expansion would be read once more (`eval`, `sh -c`, arithmetic, backquotes), such a
//! value is refused.

use std::collections::VecDeque;
use std::sync::Arc;

/// One part of a shell text.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part<'a> {
    Literal(&'a str),
    Reference,
}

/// Where a reference is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Outside of quotes. `joined` if even plain characters would join with a name before them, as in `$a${x}`; `redirects` if
    /// a number would join with what follows, as in `${n}>f`.
    Bare { joined: bool, redirects: bool },
    /// Between double quotes.
    Double { joined: bool },
    /// Between single quotes.
    Single,
    /// In a here-document that ends at this word.
    Document { end: Arc<str> },
    /// In a here-document that ends at this word and expands nothing.
    Verbatim { end: Arc<str> },
    /// In a comment.
    Comment,
    /// Where no quoting makes a value one word; why, after "is ".
    Refused(&'static str),
}

impl Place {
    /// Whether `value` can be written here as it is.
    pub(super) fn takes(&self, value: &str) -> bool {
        let plain = is_plain(value);
        match self {
            Place::Bare { joined, redirects } => {
                plain && !joined && !(*redirects && value.chars().all(|c| c.is_ascii_digit()))
            }
            Place::Double { joined } => plain && !joined,
            Place::Single | Place::Refused(_) => plain,
            Place::Document { end } | Place::Verbatim { end } => plain && !end.contains(value),
            Place::Comment => !value.contains(['\n', '\r']),
        }
    }

    /// The text that gives the variable's value as one word, or why there is none.
    pub(super) fn expansion(&self, variable: &str) -> Result<String, &'static str> {
        match self {
            Place::Bare { .. } => Ok(format!("\"${{{variable}}}\"")),
            Place::Double { .. } | Place::Document { .. } | Place::Comment => Ok(format!("${{{variable}}}")),
            Place::Single => Ok(format!("'\"${{{variable}}}\"'")),
            Place::Verbatim { .. } => Err("in a here-document whose end is quoted, where nothing is expanded"),
            Place::Refused(why) => Err(why),
        }
    }
}

/// Whether an array's name and an open bracket begin the word.
fn is_subscript(word: &str) -> bool {
    word.split_once('[').is_some_and(|(name, rest)| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !rest.contains(']')
    })
}

/// Whether no shell reads anything but itself in this text.
pub(super) fn is_plain(value: &str) -> bool {
    !value.is_empty()
        && !value.starts_with('=')
        && value.chars().all(|c| c.is_ascii_alphanumeric() || "_./:@%+,=-".contains(c))
}

/// A character that looks like another one which a shell or YAML would understand, and what it is.
pub(super) fn look_alike(c: char) -> Option<(&'static str, &'static str)> {
    Some(match c {
        '\u{a0}' | '\u{2007}' | '\u{202f}' => ("a no-break space", "a blank"),
        '\u{3000}' => ("an ideographic space", "a blank"),
        '\u{2000}'..='\u{200a}' | '\u{205f}' | '\u{1680}' => ("a space of another width", "a blank"),
        '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}' | '\u{ad}' | '\u{180e}' => {
            ("an invisible character", "nothing")
        }
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => ("an invisible change of writing direction", "nothing"),
        '\u{2018}' | '\u{2019}' | '\u{201a}' | '\u{201b}' => ("a typographic quote", "'"),
        '\u{201c}'..='\u{201f}' | '\u{ab}' | '\u{bb}' => ("a typographic quote", "\""),
        _ => return None,
    })
}

/// Programs that take a program's text as an argument.
const INTERPRETERS: [&str; 18] = [
    "ash", "bash", "dash", "fish", "ksh", "lua", "mksh", "node", "perl", "php", "psql", "python", "python2", "python3",
    "Rscript", "ruby", "sh", "zsh",
];

/// Builtins that read their arguments as a program.
const READERS: [&str; 5] = ["alias", "eval", "let", "trap", "watch"];

/// Words after which a command still has to come.
const OPENERS: [&str; 12] = ["!", "do", "elif", "else", "exec", "if", "in", "then", "time", "until", "while", "{"];

#[derive(Debug)]
enum Frame {
    /// Words and operators, up to this character if there is one; `cases` counts `case` without its `esac`.
    Words {
        close: Option<char>,
        cases: u32,
    },
    Double,
    Single,
    /// `$'...'`
    Ansi,
    Backquote,
    /// `${...}`
    Parameter,
    /// `((...))` with this many open parentheses.
    Arithmetic(u32),
    /// `[[ ... ]]`
    Test,
    Comment,
    Document(Document),
}

#[derive(Debug, Clone)]
struct Document {
    end: Arc<str>,
    verbatim: bool,
    tabs: bool,
    /// The line so far; nothing once it holds a reference.
    line: Option<String>,
}

/// How far an interpreter's arguments have been read.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Interpreter {
    None,
    Options,
    OptionsValue,
    Text,
}

/// A simple command, as far as it has been read.
#[derive(Debug)]
struct Command {
    /// The word, quotes left out; a reference is U+FFFC.
    word: Option<String>,
    first: bool,
    reads_programs: bool,
    interpreter: Interpreter,
}

impl Command {
    fn new() -> Command {
        Command { word: None, first: true, reads_programs: false, interpreter: Interpreter::None }
    }
}

/// Reads a shell text: the place of each reference, and each look-alike outside of quotes.
pub(super) fn places(parts: &[Part<'_>]) -> (Vec<Place>, Vec<char>) {
    let mut tokens = Vec::new();
    for part in parts {
        match part {
            Part::Literal(text) => tokens.extend(text.chars().map(Some)),
            Part::Reference => tokens.push(None),
        }
    }
    let mut reader = Reader {
        tokens: &tokens,
        at: 0,
        frames: vec![Frame::Words { close: None, cases: 0 }],
        commands: vec![Command::new()],
        pending: VecDeque::new(),
        places: Vec::new(),
        look_alikes: Vec::new(),
        escaped: false,
    };
    while reader.at < tokens.len() {
        reader.step();
    }
    (reader.places, reader.look_alikes)
}

struct Reader<'a> {
    tokens: &'a [Option<char>],
    at: usize,
    /// Never empty: the first is the text itself.
    frames: Vec<Frame>,
    /// One for each frame of words.
    commands: Vec<Command>,
    /// Here-documents that begin on the next line.
    pending: VecDeque<Document>,
    places: Vec<Place>,
    look_alikes: Vec<char>,
    /// Whether a backslash comes right before.
    escaped: bool,
}

impl Reader<'_> {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.tokens.get(self.at + ahead).copied().flatten()
    }

    fn starts(&self, text: &str) -> bool {
        text.chars().enumerate().all(|(ahead, c)| self.peek(ahead) == Some(c))
    }

    fn command(&mut self) -> &mut Command {
        if self.commands.is_empty() {
            self.commands.push(Command::new());
        }
        let last = self.commands.len() - 1;
        &mut self.commands[last]
    }

    fn open(&mut self, frame: Frame, length: usize) {
        if matches!(frame, Frame::Words { .. }) {
            self.commands.push(Command::new());
        }
        self.frames.push(frame);
        self.at += length;
    }

    fn close(&mut self, length: usize) {
        if self.frames.len() > 1 && matches!(self.frames.pop(), Some(Frame::Words { .. })) && self.commands.len() > 1 {
            self.commands.pop();
        }
        self.at += length;
    }

    fn step(&mut self) {
        let Some(c) = self.tokens[self.at] else {
            let place = self.place();
            self.places.push(place);
            if let Some(Frame::Document(document)) = self.frames.last_mut() {
                document.line = None;
            } else if !matches!(self.frames.last(), Some(Frame::Comment)) {
                self.command().word.get_or_insert_default().push('\u{fffc}');
            }
            self.escaped = false;
            self.at += 1;
            return;
        };
        if std::mem::take(&mut self.escaped) {
            // A continued line is not part of a word.
            if c != '\n' {
                self.letter(c);
            }
            self.at += 1;
            return;
        }
        match self.frames.last() {
            None | Some(Frame::Words { .. } | Frame::Test) => self.words(c),
            Some(Frame::Double) => match c {
                '"' => self.close(1),
                '\\' => self.backslash(),
                _ => self.expansion(c),
            },
            Some(Frame::Single) => match c {
                '\'' => self.close(1),
                _ => self.plain(c),
            },
            Some(Frame::Ansi) => match c {
                '\'' => self.close(1),
                '\\' => self.backslash(),
                _ => self.plain(c),
            },
            Some(Frame::Backquote) => match c {
                '`' => self.close(1),
                '\\' => self.backslash(),
                _ => self.at += 1,
            },
            Some(Frame::Parameter) => match c {
                '}' => self.close(1),
                '\\' => self.backslash(),
                '"' => self.open(Frame::Double, 1),
                '\'' if !matches!(self.frames.iter().nth_back(1), Some(Frame::Double | Frame::Document(_))) => {
                    self.open(Frame::Single, 1);
                }
                _ => self.expansion(c),
            },
            Some(Frame::Arithmetic(depth)) => {
                let depth = *depth;
                match c {
                    '(' => self.arithmetic(depth + 1),
                    ')' if depth <= 1 => self.close(1),
                    ')' => self.arithmetic(depth - 1),
                    _ => self.expansion(c),
                }
            }
            Some(Frame::Comment) => match c {
                '\n' => self.close(0),
                _ => self.at += 1,
            },
            Some(Frame::Document(_)) => self.document(c),
        }
    }

    fn arithmetic(&mut self, depth: u32) {
        if let Some(frame) = self.frames.last_mut() {
            *frame = Frame::Arithmetic(depth);
        }
        self.at += 1;
    }

    fn backslash(&mut self) {
        self.escaped = true;
        self.at += 1;
    }

    fn letter(&mut self, c: char) {
        match self.frames.last_mut() {
            Some(Frame::Document(document)) => {
                if let Some(line) = &mut document.line {
                    line.push(c);
                }
            }
            _ => self.command().word.get_or_insert_default().push(c),
        }
    }

    fn plain(&mut self, c: char) {
        self.letter(c);
        self.at += 1;
    }

    /// What begins with `$` or a backquote, else a character like others.
    fn expansion(&mut self, c: char) {
        match c {
            '$' if self.starts("$((") => self.open(Frame::Arithmetic(2), 3),
            '$' if self.starts("$(") => self.open(Frame::Words { close: Some(')'), cases: 0 }, 2),
            '$' if self.starts("${") => self.open(Frame::Parameter, 2),
            '`' => self.open(Frame::Backquote, 1),
            _ => self.plain(c),
        }
    }

    fn words(&mut self, c: char) {
        let fresh = self.command().word.is_none();
        if look_alike(c).is_some() {
            self.look_alikes.push(c);
        }
        match c {
            '\\' => self.backslash(),
            '\'' => self.quote(Frame::Single, 1),
            '"' => self.quote(Frame::Double, 1),
            '$' if self.starts("$'") => self.quote(Frame::Ansi, 2),
            '$' if self.starts("$\"") => self.quote(Frame::Double, 2),
            '#' if fresh => self.open(Frame::Comment, 1),
            ' ' | '\t' | '\r' => {
                self.end_word();
                self.at += 1;
            }
            '\n' => {
                self.end_command();
                self.at += 1;
                self.next_document();
            }
            '<' if self.starts("<<") && self.peek(2) != Some('<') => self.here(),
            '<' if self.starts("<<<") => {
                self.end_word();
                self.at += 3;
            }
            '<' | '>' => {
                self.end_word();
                self.at += 1;
            }
            '(' | ')' if matches!(self.frames.last(), Some(Frame::Test)) => {
                self.end_word();
                self.at += 1;
            }
            '(' if fresh && self.starts("((") && self.command().first => self.open(Frame::Arithmetic(2), 2),
            '(' => {
                self.end_word();
                self.open(Frame::Words { close: Some(')'), cases: 0 }, 1);
            }
            ')' => {
                self.end_command();
                match self.frames.last() {
                    Some(Frame::Words { close: Some(')'), cases: 0 }) => self.close(1),
                    _ => self.at += 1,
                }
            }
            ';' | '|' | '&' => {
                self.end_command();
                self.at += 1;
            }
            _ => self.expansion(c),
        }
    }

    fn quote(&mut self, frame: Frame, length: usize) {
        self.command().word.get_or_insert_default();
        self.open(frame, length);
    }

    fn end_command(&mut self) {
        self.end_word();
        *self.command() = Command::new();
    }

    fn end_word(&mut self) {
        let command = self.command();
        let Some(word) = command.word.take() else { return };
        let first = std::mem::replace(&mut command.first, OPENERS.contains(&word.as_str()));
        command.reads_programs |= READERS.contains(&word.as_str());
        let name = word.rsplit('/').next().unwrap_or_default();
        let option = word.starts_with(['-', '+']);
        command.interpreter = match command.interpreter {
            _ if INTERPRETERS.contains(&name) || name.starts_with("python3.") => Interpreter::Options,
            Interpreter::Options if option && word.ends_with(['c', 'e']) => Interpreter::Text,
            Interpreter::Options if option && word.ends_with('o') => Interpreter::OptionsValue,
            Interpreter::Options if option => Interpreter::Options,
            Interpreter::OptionsValue => Interpreter::Options,
            _ => Interpreter::None,
        };
        match (word.as_str(), self.frames.last_mut()) {
            ("case", Some(Frame::Words { cases, .. })) if first => *cases += 1,
            ("esac", Some(Frame::Words { cases, .. })) => *cases = cases.saturating_sub(1),
            ("[[", Some(Frame::Words { .. })) if first => self.frames.push(Frame::Test),
            ("]]", Some(Frame::Test)) => drop(self.frames.pop()),
            _ => {}
        }
    }

    /// `<<`: the word at which the document ends.
    fn here(&mut self) {
        self.end_word();
        self.at += 2;
        let tabs = self.peek(0) == Some('-');
        self.at += usize::from(tabs);
        while matches!(self.peek(0), Some(' ' | '\t')) {
            self.at += 1;
        }
        let (mut end, mut verbatim, mut quote) = (String::new(), false, None);
        while let Some(c) = self.peek(0) {
            match (quote, c) {
                (Some(open), _) if c == open => quote = None,
                (None, '\'' | '"') => (quote, verbatim) = (Some(c), true),
                (None, '\\') => verbatim = true,
                (None, ' ' | '\t' | '\n' | ';' | '|' | '&' | '<' | '>' | '(' | ')') => break,
                _ => end.push(c),
            }
            self.at += 1;
        }
        self.pending.push_back(Document { end: end.into(), verbatim, tabs, line: Some(String::new()) });
    }

    fn next_document(&mut self) {
        if let Some(document) = self.pending.pop_front() {
            self.frames.push(Frame::Document(document));
        }
    }

    fn document(&mut self, c: char) {
        let Some(Frame::Document(document)) = self.frames.last_mut() else { return };
        if c == '\n' {
            let line = document.line.replace(String::new());
            let line = line.as_deref().map(|line| if document.tabs { line.trim_start_matches('\t') } else { line });
            let over = line == Some(&*document.end);
            self.at += 1;
            if over {
                self.close(0);
                *self.command() = Command::new();
                self.next_document();
            }
        } else if document.verbatim {
            self.plain(c);
        } else if c == '\\' {
            self.backslash();
        } else {
            self.expansion(c);
        }
    }

    /// The place of the reference.
    fn place(&mut self) -> Place {
        if self.escaped {
            return Place::Refused("after a backslash");
        }
        // What encloses it up to the nearest place where words are words again.
        for frame in self.frames.iter().rev() {
            match frame {
                Frame::Words { .. } => break,
                Frame::Document(document) if document.verbatim => break,
                Frame::Parameter => return Place::Refused("inside `${...}` of the shell"),
                Frame::Arithmetic(_) => return Place::Refused("inside arithmetic, which the shell evaluates"),
                Frame::Test => return Place::Refused("inside `[[ ]]`, which may evaluate it; write `[ ]`"),
                Frame::Ansi => return Place::Refused("inside `$'...'`"),
                _ => {}
            }
        }
        if self.frames.iter().any(|frame| matches!(frame, Frame::Backquote)) {
            return Place::Refused("between backquotes; write `$(...)`");
        }
        let joined = self.joined();
        let in_words = !matches!(self.frames.last(), Some(Frame::Comment | Frame::Document(_)));
        if in_words {
            let command = self.command();
            if command.reads_programs {
                return Place::Refused("among the words of `eval` or the like, which are read as a program");
            }
            if command.interpreter == Interpreter::Text {
                return Place::Refused(
                    "inside the text of a program; give it to that program as an argument, or by `env:`",
                );
            }
            if command.word.as_deref().is_some_and(is_subscript) {
                return Place::Refused("inside a subscript, which the shell evaluates");
            }
        }
        match self.frames.last() {
            Some(Frame::Double) => Place::Double { joined },
            Some(Frame::Single) => Place::Single,
            Some(Frame::Comment) => Place::Comment,
            Some(Frame::Document(document)) if document.verbatim => Place::Verbatim { end: document.end.clone() },
            Some(Frame::Document(document)) => Place::Document { end: document.end.clone() },
            _ => {
                let redirects = matches!(self.tokens.get(self.at + 1), Some(Some('<' | '>')));
                Place::Bare { joined, redirects: redirects && self.command().word.is_none() }
            }
        }
    }

    /// Whether `$name` comes right before, whose name plain characters would lengthen.
    fn joined(&self) -> bool {
        let before = &self.tokens[..self.at];
        let name = before.iter().rev().take_while(|c| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_')).count();
        let rest = &before[..before.len() - name];
        let backslashes = rest.iter().rev().skip(1).take_while(|c| **c == Some('\\')).count();
        rest.last() == Some(&Some('$')) && backslashes % 2 == 0 && !matches!(self.frames.last(), Some(Frame::Single))
    }
}

#[cfg(test)]
mod tests;
