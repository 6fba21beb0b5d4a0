use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;
use crate::data::checksum::Verifier;

/// How the server answers one request.
#[derive(Debug, Clone)]
enum Answer {
    /// As RFC 9110 says, `Range` and `If-Range` included.
    Properly,
    /// Announces everything, sends only this many bytes, and closes the connection.
    Cut(usize),
    /// As a cut, but the connection stays open and silent.
    Stall(usize),
    /// Sends the whole file whatever range was asked for.
    Whole,
    /// Sends the whole file without saying how long it is.
    WithoutLength,
    /// A range other than the one asked for.
    WrongRange,
    Status(u16),
    /// Changes the file and its tag, then answers properly.
    Changed(Vec<u8>),
}

struct Server {
    url: String,
    /// The `Range` header of each request so far.
    ranges: Arc<Mutex<Vec<Option<String>>>>,
}

/// Serves `content` under one tag; answers by `script`, then always properly.
fn serve(content: &[u8], tag: Option<&str>, script: &[Answer]) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/file.bin", listener.local_addr().unwrap());
    let ranges = Arc::new(Mutex::new(Vec::new()));
    let (seen, mut script) = (ranges.clone(), VecDeque::from(script.to_vec()));
    let (mut content, mut tag) = (content.to_vec(), tag.map(str::to_owned));
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let Some(headers) = request(&stream) else { continue };
            let find = |name: &str| headers.iter().find(|h| h.0 == name).map(|h| h.1.clone());
            seen.lock().unwrap().push(find("range"));
            let answer = script.pop_front().unwrap_or(Answer::Properly);
            if let Answer::Changed(other) = &answer {
                content = other.clone();
                tag = tag.map(|tag| tag.replace("v1", "v2"));
            }
            let tag_line = tag.as_ref().map(|t| format!("ETag: {t}\r\n")).unwrap_or_default();
            let asked: Option<usize> =
                find("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
            let unchanged = find("if-range").is_none_or(|t| Some(t) == tag);
            let (mut head, from, mut to) = match asked.filter(|_| unchanged) {
                Some(from) if from >= content.len() => ("416 Range Not Satisfiable".to_owned(), 0, 0),
                Some(from) => (
                    format!("206 Partial\r\nContent-Range: bytes {from}-{}/{}", content.len() - 1, content.len()),
                    from,
                    content.len(),
                ),
                None => ("200 OK".to_owned(), 0, content.len()),
            };
            let mut length = format!("Content-Length: {}\r\n", to - from);
            match answer.clone() {
                Answer::Properly | Answer::Changed(_) => {}
                Answer::Cut(n) | Answer::Stall(n) => to = to.min(from + n),
                Answer::Whole => head = "200 OK".to_owned(),
                Answer::WithoutLength => length.clear(),
                Answer::WrongRange => {
                    head = format!("206 Partial\r\nContent-Range: bytes 0-{}/{}", content.len() - 1, content.len());
                }
                Answer::Status(status) => head = format!("{status} No"),
            }
            let from = if head.starts_with("200") || head.contains("bytes 0-") { 0 } else { from };
            if from == 0 && to == content.len() && !length.is_empty() {
                length = format!("Content-Length: {to}\r\n");
            }
            let _ = write!(stream, "HTTP/1.1 {head}\r\n{length}{tag_line}Connection: close\r\n\r\n");
            let _ = stream.write_all(&content[from..to]);
            if let Answer::Stall(_) = answer {
                silent.push(stream);
            }
        }
    });
    Server { url, ranges }
}

/// Header names in lower case, and their values.
fn request(stream: &TcpStream) -> Option<Vec<(String, String)>> {
    let mut lines = BufReader::new(stream).lines();
    lines.next()?.ok()?;
    let mut headers = Vec::new();
    for line in lines {
        match line.ok()?.split_once(": ") {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.to_owned())),
            None => break,
        }
    }
    Some(headers)
}

fn content() -> Vec<u8> {
    (0..200_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn sha256(bytes: &[u8]) -> Option<String> {
    let mut verifier = Verifier::new(&Expected::default());
    verifier.update(bytes);
    verifier.finish().ok().map(|v| v.sha256)
}

fn config(urls: &[&str]) -> DownloadConfig {
    let urls = urls.iter().map(|&url| url.to_owned()).collect();
    DownloadConfig { urls, retries: 0, backoff_ms: 0, timeout_s: 5, ..DownloadConfig::default() }
}

struct Room(tempfile::TempDir);

impl Room {
    fn new() -> Room {
        Room(tempfile::tempdir().unwrap())
    }

    fn fetch(&self, config: &DownloadConfig) -> Result<Fetched, DownloadError> {
        download(config, &self.0.path().join("parts"), &self.file(), &mut |_, _| {})
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("file.bin")
    }

    fn read(&self) -> Vec<u8> {
        fs::read(self.file()).unwrap()
    }

    fn parts(&self) -> Vec<u64> {
        let entries = fs::read_dir(self.0.path().join("parts")).unwrap().map(Result::unwrap);
        entries
            .filter(|e| e.path().extension().is_some_and(|x| x == "part"))
            .map(|e| e.metadata().unwrap().len())
            .collect()
    }
}

fn only_reason(result: Result<Fetched, DownloadError>) -> FetchError {
    match result {
        Err(DownloadError::EveryUrlFailed { mut failures }) if failures.len() == 1 => failures.remove(0).reason,
        other => panic!("expected one failed URL, got {other:?}"),
    }
}

#[test]
fn a_file_comes_whole_is_verified_and_leaves_no_part() {
    let (room, server) = (Room::new(), serve(&content(), None, &[]));
    let mut last = None;
    let config = DownloadConfig { sha256: sha256(&content()), size: Some(200_000), ..config(&[&server.url]) };
    let parts = room.0.path().join("parts");
    let fetched = download(&config, &parts, &room.file(), &mut |done, total| last = Some((done, total))).unwrap();
    assert_eq!(fetched.url, server.url);
    assert_eq!(Some(fetched.verified.sha256), sha256(&content()));
    assert_eq!(last, Some((200_000, Some(200_000))));
    assert_eq!(room.read(), content());
    assert_eq!(fs::read_dir(parts).unwrap().count(), 0);
}

#[test]
fn a_cut_download_resumes_in_a_later_call() {
    let (room, server) = (Room::new(), serve(&content(), Some("\"v1\""), &[Answer::Cut(70_000)]));
    let config = config(&[&server.url]);
    let first = room.fetch(&config);
    assert!(matches!(only_reason(first), FetchError::Cut { .. } | FetchError::Transport(_)));
    assert!(!room.file().exists());
    assert_eq!(room.parts(), [70_000]);
    room.fetch(&config).unwrap();
    assert_eq!(room.read(), content());
    assert_eq!(*server.ranges.lock().unwrap(), [None, Some("bytes=70000-".to_owned())]);
}

#[test]
fn a_second_download_waits_for_the_first_and_resumes_what_it_left() {
    let (room, server) = (Room::new(), serve(&content(), Some("\"v1\""), &[Answer::Stall(70_000)]));
    let config = DownloadConfig { timeout_s: 1, ..config(&[&server.url]) };
    let parts = room.0.path().join("parts");
    let second = std::thread::scope(|scope| {
        let first = scope.spawn(|| download(&config, &parts, &room.0.path().join("first"), &mut |_, _| {}));
        while server.ranges.lock().unwrap().is_empty() {
            std::thread::yield_now();
        }
        let second = room.fetch(&config);
        assert!(matches!(only_reason(first.join().unwrap()), FetchError::Transport(_)));
        second
    });
    second.unwrap();
    assert_eq!(room.read(), content());
    assert_eq!(*server.ranges.lock().unwrap(), [None, Some("bytes=70000-".to_owned())]);
}

#[test]
fn a_silent_server_is_given_up_and_the_part_kept() {
    let (room, server) = (Room::new(), serve(&content(), None, &[Answer::Stall(70_000)]));
    let config = DownloadConfig { timeout_s: 1, ..config(&[&server.url]) };
    assert!(matches!(only_reason(room.fetch(&config)), FetchError::Transport(_)));
    assert_eq!(room.parts(), [70_000]);
}

#[test]
fn a_complete_part_of_a_killed_process_needs_no_request() {
    let (room, server) = (Room::new(), serve(&content(), None, &[Answer::Cut(150_000)]));
    let config = DownloadConfig { sha256: sha256(&content()), ..config(&[&server.url]) };
    room.fetch(&config).unwrap_err();
    let mut part = PartialFile::claim(&config, &room.0.path().join("parts")).unwrap();
    part.resume(&server.url, true).unwrap();
    part.append(&content()[150_000..]).unwrap();
    drop(part);
    room.fetch(&config).unwrap();
    assert_eq!(room.read(), content());
    assert_eq!(server.ranges.lock().unwrap().len(), 1);
}

#[test]
fn a_changed_file_an_ignored_range_and_a_wrong_range_restart() {
    // Of the same length, so that only If-Range shows it.
    let other: Vec<u8> = content().into_iter().rev().collect();
    let longer = [other.clone(), vec![1, 2, 3]].concat();
    for (answer, result) in [
        (Answer::Changed(other.clone()), &other),
        (Answer::Changed(longer.clone()), &longer),
        (Answer::Whole, &content()),
        (Answer::WrongRange, &content()),
        (Answer::Status(416), &content()),
    ] {
        let script = [Answer::Cut(70_000), answer.clone()];
        let (room, server) = (Room::new(), serve(&content(), Some("\"v1\""), &script));
        room.fetch(&config(&[&server.url])).unwrap_err();
        room.fetch(&config(&[&server.url])).unwrap();
        assert!(room.read() == *result, "{answer:?}");
        assert_eq!(server.ranges.lock().unwrap()[1].as_deref(), Some("bytes=70000-"), "{answer:?}");
    }
}

#[test]
fn without_a_strong_validator_only_a_digest_allows_to_resume() {
    let tag = Some("W/\"v1\"");
    for (pinned, range) in [(false, None), (true, Some("bytes=70000-".to_owned()))] {
        let (room, server) = (Room::new(), serve(&content(), tag, &[Answer::Cut(70_000)]));
        let sha256 = sha256(&content()).filter(|_| pinned);
        let config = DownloadConfig { sha256, ..config(&[&server.url]) };
        room.fetch(&config).unwrap_err();
        room.fetch(&config).unwrap();
        assert_eq!(room.read(), content());
        assert_eq!(server.ranges.lock().unwrap()[1], range);
    }
}

#[test]
fn a_pinned_file_that_changed_under_a_part_is_fetched_again() {
    // Same length, no validator: only the digest shows that the halves do not belong together.
    let other: Vec<u8> = content().into_iter().rev().collect();
    let (room, server) = (Room::new(), serve(&other, None, &[Answer::Cut(9), Answer::Changed(content())]));
    let config = DownloadConfig { sha256: sha256(&content()), ..config(&[&server.url]) };
    room.fetch(&config).unwrap_err();
    room.fetch(&config).unwrap();
    assert_eq!(room.read(), content());
    assert_eq!(*server.ranges.lock().unwrap(), [None, Some("bytes=9-".to_owned()), None]);
}

#[test]
fn passing_failures_are_retried_and_lasting_ones_are_not() {
    let script = [Answer::Status(503), Answer::Cut(10), Answer::Status(429)];
    for (retries, works) in [(3, true), (2, false)] {
        let (room, server) = (Room::new(), serve(&content(), Some("\"v1\""), &script));
        let config = DownloadConfig { retries, ..config(&[&server.url]) };
        assert_eq!(room.fetch(&config).is_ok(), works);
    }
    let (room, server) = (Room::new(), serve(&content(), None, &[Answer::Status(404)]));
    let config = DownloadConfig { retries: 9, ..config(&[&server.url]) };
    assert!(matches!(only_reason(room.fetch(&config)), FetchError::Status(404)));
    assert_eq!(server.ranges.lock().unwrap().len(), 1);
}

#[test]
fn mirrors_are_tried_in_order_and_all_failures_are_reported() {
    let (gone, wrong, good) =
        (serve(&[], None, &[Answer::Status(404)]), serve(b"other", None, &[]), serve(&content(), None, &[]));
    let pinned = |urls: &[&str]| DownloadConfig { sha256: sha256(&content()), ..config(urls) };
    let room = Room::new();
    let fetched = room.fetch(&pinned(&[&gone.url, &wrong.url, &good.url])).unwrap();
    assert_eq!((fetched.url, room.read()), (good.url, content()));

    let message = Room::new().fetch(&pinned(&[&gone.url, &wrong.url])).unwrap_err().to_string();
    let (expected, found) = (sha256(&content()).unwrap(), sha256(b"other").unwrap());
    assert!(message.contains(&format!("sha256 is {found}, expected {expected}")), "{message}");
    assert!(message.contains(&wrong.url) && message.contains(&gone.url), "{message}");
}

#[test]
fn a_wrong_size_is_refused_before_and_after_the_bytes() {
    for (script, size) in [
        (vec![], 199_999),
        (vec![], 200_001),
        (vec![Answer::WithoutLength], 199_999),
        (vec![Answer::WithoutLength], 200_001),
    ] {
        let (room, server) = (Room::new(), serve(&content(), None, &script));
        let config = DownloadConfig { size: Some(size), ..config(&[&server.url]) };
        let message = room.fetch(&config).unwrap_err().to_string();
        assert!(message.contains(&size.to_string()) && message.contains("200000"), "{message}");
        assert!(!room.file().exists());
    }
}

#[test]
fn file_urls_are_read_verified_and_percent_decoded() {
    let room = Room::new();
    let source = room.0.path().join("with space%.bin");
    fs::write(&source, content()).unwrap();
    let url = format!("file://{}", source.display()).replace('%', "%25").replace(' ', "%20");
    room.fetch(&DownloadConfig { sha256: sha256(&content()), ..config(&[&url]) }).unwrap();
    assert_eq!(room.read(), content());
    let reason = only_reason(room.fetch(&config(&["file:///no/such/file"])));
    assert!(matches!(reason, FetchError::Unreadable(_)), "{reason}");
}

#[test]
fn a_path_that_was_not_encoded_and_one_that_is_no_url_are_read() {
    let room = Room::new();
    for name in ["per%20cent.bin", "100%.bin", "with space.bin"] {
        let source = room.0.path().join(name);
        fs::write(&source, content()).unwrap();
        for url in [format!("file://{}", source.display()), source.display().to_string()] {
            room.fetch(&DownloadConfig { sha256: sha256(&content()), ..config(&[&url]) }).unwrap();
            assert_eq!(room.read(), content(), "{url}");
        }
    }
}

#[test]
fn a_page_or_a_pointer_in_place_of_the_file_is_named() {
    for (answer, part) in [
        (&b"<!DOCTYPE html><html>Virus scan warning</html>"[..], "the answer is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "the answer is a Git-LFS pointer"),
    ] {
        let (room, server) = (Room::new(), serve(answer, None, &[]));
        for expected in [
            DownloadConfig { sha256: sha256(&content()), ..config(&[&server.url]) },
            DownloadConfig { size: Some(200_000), ..config(&[&server.url]) },
        ] {
            let error = room.fetch(&expected).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains(&server.url), "{error}");
            assert!(!room.file().exists());
        }
    }
}

/// Answers every request with these bytes, again and again the last of them if there is `more`.
fn raw(answer: &[u8], more: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/x", listener.local_addr().unwrap());
    let answer = answer.to_vec();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, answer) = (stream.unwrap(), answer.clone());
            std::thread::spawn(move || {
                request(&stream);
                let mut sent = stream.write_all(&answer);
                while sent.is_ok() && !more.is_empty() {
                    sent = stream.write_all(more);
                }
            });
        }
    });
    url
}

#[test]
fn answers_other_than_the_whole_file_are_refused_with_the_reason() {
    const NONE: &[u8] = b"";
    const CHUNK: &[u8] = b"8\r\n01234567\r\n";
    let pinned = |bytes: &[u8]| DownloadConfig { sha256: sha256(bytes), ..config(&[]) };
    let sized = |size| DownloadConfig { size: Some(size), ..config(&[]) };
    let bounded = || DownloadConfig { max_bytes: 1000, ..config(&[]) };
    let impatient = || DownloadConfig { timeout_s: 1, ..config(&[]) };
    for (answer, more, config, part) in [
        ("200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", NONE, config(&[]), "encoded (gzip)"),
        ("200 OK\r\nContent-Encoding: identity, BR\r\nContent-Length: 3\r\n\r\nabc", NONE, config(&[]), "encoded (BR)"),
        ("200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", NONE, pinned(b"plain"), "encoded (gzip)"),
        ("200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", NONE, pinned(b"abc"), ""),
        ("200 OK\r\nContent-Encoding: identity\r\nContent-Length: 3\r\n\r\nabc", NONE, config(&[]), ""),
        ("200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc", NONE, config(&[]), "encoded (gzip)"),
        ("200 OK\r\n\r\nabc", NONE, config(&[]), "does not say where it ends"),
        ("200 OK\r\n\r\nabc", NONE, sized(3), ""),
        ("200 OK\r\n\r\nab", NONE, sized(3), "2 of 3 bytes"),
        ("200 OK\r\n\r\nabc", NONE, pinned(b"abc"), ""),
        ("200 OK\r\nContent-Length: 0\r\n\r\n", NONE, config(&[]), ""),
        ("200 OK\r\nContent-Length: 2000\r\n\r\n", NONE, bounded(), "has 2000 bytes, more than max_bytes: 1000"),
        ("200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", CHUNK, bounded(), "too many bytes, more than max_bytes: 1000"),
        ("200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", CHUNK, sized(999), "expected 999"),
        ("200 OK\r\n\r\n", CHUNK, sized(999), "expected 999"),
        (
            "206 Part\r\nContent-Range: bytes 0-2/3\r\nContent-Length: 3\r\n\r\nabc",
            NONE,
            config(&[]),
            "was not asked for",
        ),
        ("203 Other\r\nContent-Length: 3\r\n\r\nabc", NONE, config(&[]), "status 203"),
        ("302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", NONE, config(&[]), "too many redirects"),
        ("302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n", NONE, config(&[]), "(attempts: 1)"),
        ("302 Found\r\nLocation: ftp://127.0.0.1/x\r\nContent-Length: 0\r\n\r\n", NONE, config(&[]), "(attempts: 1)"),
        ("302 Found\r\nLocation: /x\r\nTransfer-Encoding: chunked\r\n\r\n", CHUNK, impatient(), "no answer within"),
        ("200 OK\r\nX: ", CHUNK, impatient(), "(attempts: 1)"),
        ("200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"A: b\r\n", impatient(), "nothing came for 1 s"),
    ] {
        let room = Room::new();
        let answer = format!("HTTP/1.1 {}", answer.replacen("\r\n", "\r\nConnection: close\r\n", 1));
        let url = raw(answer.as_bytes(), more);
        match room.fetch(&DownloadConfig { urls: vec![url], ..config }) {
            Ok(_) => assert!(part.is_empty(), "{answer}"),
            Err(error) => {
                let error = error.to_string();
                assert!(!part.is_empty() && error.contains(part), "{answer}: {error}");
                assert!(!room.file().exists(), "{answer}");
            }
        }
    }
}

#[test]
fn a_device_or_a_pipe_is_no_file_to_copy() {
    let room = Room::new();
    let pipe = room.0.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for path in [Path::new("/dev/zero"), &pipe, room.0.path()] {
        let reason = only_reason(room.fetch(&config(&[&path.display().to_string()])));
        assert!(matches!(reason, FetchError::Unreadable(_)), "{reason}");
    }
}

#[test]
fn parameters_outside_their_ranges_are_all_named() {
    let wrong = DownloadConfig {
        urls: ["ftp://host/a", "file://relative", "http://", "no", "file:///%zz"].map(String::from).to_vec(),
        retries: 101,
        backoff_ms: 60_001,
        timeout_s: 0,
        md5: Some("1".into()),
        ..DownloadConfig::default()
    };
    let fields: Vec<_> = wrong.check().into_iter().map(|(field, _)| field).collect();
    let urls = ["urls.0", "urls.1", "urls.2", "urls.3", "urls.4"];
    assert_eq!(fields[0], "md5");
    assert_eq!(fields[1..6], urls);
    assert_eq!(fields[6..], ["retries", "backoff_ms", "timeout_s"]);
    assert_eq!(DownloadConfig::default().check()[0].0, "urls");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Wherever the connection is cut, and however often, the joined file is the file.
    #[test]
    fn any_sequence_of_cuts_ends_in_the_same_bytes(cuts in prop::collection::vec(0usize..80_000, 0..5)) {
        let script: Vec<_> = cuts.iter().map(|&n| Answer::Cut(n)).collect();
        let (room, server) = (Room::new(), serve(&content(), Some("\"v1\""), &script));
        let config = DownloadConfig { retries: cuts.len() as u32, ..config(&[&server.url]) };
        room.fetch(&config).unwrap();
        prop_assert_eq!(room.read(), content());
    }
}
