//! Downloads from servers that lie, by a seed: whatever they answer and whenever the client is killed, what is stored
//! is the file, or nothing is.
//!
//! `LIES=1000 cargo test --test e2e servers_that_lie` makes 1,000 downloads; `LIES_FROM=N` begins with the Nth, so that
//! `LIES_FROM=N LIES=1` repeats one.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use crate::random::Random;
use crate::space::Space;

/// A run that takes longer than this hangs.
const LIMIT: Duration = Duration::from_secs(300);

/// The timeouts that the library is given: short, so that a test ends soon.
const FETCH: &str = "
kind: download
params:
  urls: { type: list, of: string }
  sha256: { type: string, required: false }
with: { urls: '${with.urls}', sha256: '${with.sha256}', unpack: false, retries: 2, backoff_ms: 1, timeout_s: 1, min_rate: 4096, max_bytes: 1000000 }
";

impl Random {
    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| (self.next() >> 56) as u8).collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Lie {
    /// None: as RFC 9110 says.
    Truth,
    Cut,
    Chunked,
    ChunkedCut,
    NoEnd,
    NoEndCut,
    WrongStart,
    /// An end before the file's, which a server may choose.
    ShorterRange,
    RangeAndLengthDiffer,
    OtherTotal,
    TotalUnknown,
    SeveralRanges,
    RangeUnasked,
    RangeIgnored,
    OtherVersionOtherTag,
    OtherVersionNoTag,
    NoRange,
    SaysGzip,
    IsGzip,
    TransferGzip,
    LongLength,
    TwoLengths,
    LengthIsNoNumber,
    BytesBehindTheEnd,
    Endless,
    Drip,
    Silence,
    Status,
    Loop,
    OtherScheme,
    Garbage,
    HugeHeader,
    ChunkIsNoNumber,
    /// From now on the file is another one, and says so.
    NewVersion,
    // What only a digest can detect:
    ShortLength,
    OtherVersionSameTag,
    FlippedBit,
    SameTagFromNowOn,
}

const DETECTED: [Lie; 34] = {
    use Lie::*;
    [
        Truth,
        Cut,
        Chunked,
        ChunkedCut,
        NoEnd,
        NoEndCut,
        WrongStart,
        ShorterRange,
        RangeAndLengthDiffer,
        OtherTotal,
        TotalUnknown,
        SeveralRanges,
        RangeUnasked,
        RangeIgnored,
        OtherVersionOtherTag,
        OtherVersionNoTag,
        NoRange,
        SaysGzip,
        IsGzip,
        TransferGzip,
        LongLength,
        TwoLengths,
        LengthIsNoNumber,
        BytesBehindTheEnd,
        Endless,
        Drip,
        Silence,
        Status,
        Loop,
        OtherScheme,
        Garbage,
        HugeHeader,
        ChunkIsNoNumber,
        NewVersion,
    ]
};
const BY_DIGEST: [Lie; 4] = [Lie::ShortLength, Lie::OtherVersionSameTag, Lie::FlippedBit, Lie::SameTagFromNowOn];

/// The file as it is at one time.
#[derive(Clone)]
struct Version {
    bytes: Vec<u8>,
    tag: String,
}

struct Server {
    port: u16,
    state: Arc<State>,
}

struct State {
    random: Mutex<Random>,
    versions: Mutex<(Version, Version)>,
    pinned: bool,
    honest: AtomicBool,
    stopped: AtomicBool,
    /// Bytes of content that were sent.
    sent: AtomicU64,
    lies: Mutex<Vec<Lie>>,
}

impl Server {
    fn start(seed: u64, versions: (Version, Version), pinned: bool) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            random: Mutex::new(Random(seed)),
            versions: Mutex::new(versions),
            pinned,
            honest: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            lies: Mutex::new(Vec::new()),
        });
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (stream, state) = (stream.unwrap(), shared.clone());
                std::thread::spawn(move || state.answer(stream));
            }
        });
        Server { port, state }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl State {
    /// Answers one request; a client that is gone ends it.
    fn answer(&self, mut stream: TcpStream) {
        let Some((start, condition)) = request(&stream) else { return };
        let mut random = {
            let mut random = self.random.lock().unwrap();
            Random(random.next())
        };
        let lie = match self.honest.load(Ordering::SeqCst) || random.one_in(4) {
            true => Lie::Truth,
            false if self.pinned && random.one_in(4) => BY_DIGEST[random.below(BY_DIGEST.len())],
            // Answers that cost a second of waiting are rarer.
            false => match DETECTED[random.below(DETECTED.len())] {
                Lie::Drip | Lie::Silence if !random.one_in(4) => Lie::Cut,
                lie => lie,
            },
        };
        self.lies.lock().unwrap().push(lie);
        let _ = self.tell(&mut stream, lie, start, condition.as_deref(), &mut random);
    }

    fn tell(
        &self,
        stream: &mut TcpStream,
        lie: Lie,
        asked: Option<usize>,
        condition: Option<&str>,
        random: &mut Random,
    ) -> std::io::Result<()> {
        let (now, other) = {
            let mut versions = self.versions.lock().unwrap();
            match lie {
                Lie::NewVersion => {
                    let (now, other) = versions.clone();
                    *versions = (other, now);
                }
                Lie::SameTagFromNowOn => {
                    let (now, other) = versions.clone();
                    *versions = (Version { tag: now.tag.clone(), ..other }, now);
                }
                _ => {}
            }
            versions.clone()
        };
        let total = now.bytes.len();
        let tag = format!("ETag: {}\r\n", now.tag);
        let valid = condition.is_none_or(|tag| tag == now.tag);
        let asked = asked.filter(|_| valid);
        let start = asked.unwrap_or(0).min(total);
        if asked.is_some_and(|start| start >= total) {
            return write!(stream, "HTTP/1.1 416 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        let rest = &now.bytes[start..];
        let part =
            |first: usize, last: usize, total: &str| format!("206 Part\r\nContent-Range: bytes {first}-{last}/{total}");
        let truth = match asked {
            Some(start) => part(start, total - 1, &total.to_string()),
            None => "200 OK".to_owned(),
        };
        let mut send = |head: &str, length: Option<usize>, body: &[u8]| -> std::io::Result<()> {
            let length = length.map_or_else(String::new, |n| format!("Content-Length: {n}\r\n"));
            write!(stream, "HTTP/1.1 {head}\r\n{length}Connection: close\r\n\r\n")?;
            for piece in body.chunks(1 << 13) {
                stream.write_all(piece)?;
                self.sent.fetch_add(piece.len() as u64, Ordering::SeqCst);
            }
            Ok(())
        };
        let honestly = format!("{truth}\r\n{}", tag.trim_end());
        let cut = random.below(rest.len());
        match lie {
            Lie::Truth | Lie::NewVersion | Lie::SameTagFromNowOn => send(&honestly, Some(rest.len()), rest),
            Lie::Cut => send(&honestly, Some(rest.len()), &rest[..cut]),
            Lie::Chunked => send(&format!("{honestly}\r\nTransfer-Encoding: chunked"), None, &chunked(rest, true)),
            Lie::ChunkedCut => {
                send(&format!("{honestly}\r\nTransfer-Encoding: chunked"), None, &chunked(&rest[..cut], false))
            }
            Lie::NoEnd => send(&honestly, None, rest),
            Lie::NoEndCut => send(&honestly, None, &rest[..cut]),
            Lie::WrongStart if asked.is_some() && total > 0 => {
                let first = random.below(total);
                let head = format!("{}\r\n{}", part(first, total - 1, &total.to_string()), tag.trim_end());
                send(&head, Some(total - first), &now.bytes[first..])
            }
            Lie::ShorterRange if asked.is_some() => {
                let last = start + cut;
                let head = format!("{}\r\n{}", part(start, last, &total.to_string()), tag.trim_end());
                send(&head, Some(last + 1 - start), &now.bytes[start..=last])
            }
            Lie::RangeAndLengthDiffer if asked.is_some() => send(&honestly, Some(cut), &rest[..cut]),
            Lie::OtherTotal if asked.is_some() => {
                let total = total + 1 + random.below(9);
                let head = format!("{}\r\n{}", part(start, total - 1, &total.to_string()), tag.trim_end());
                send(&head, Some(total - start), &[rest, &random.bytes(total - now.bytes.len())].concat())
            }
            Lie::TotalUnknown if asked.is_some() => {
                send(&format!("{}\r\n{}", part(start, total - 1, "*"), tag.trim_end()), Some(rest.len()), rest)
            }
            Lie::SeveralRanges => {
                let body = [b"--x\r\nContent-Type: text/plain\r\n\r\n", rest, b"\r\n--x--\r\n"].concat();
                let head = format!("206 Part\r\n{}\r\nContent-Type: multipart/byteranges; boundary=x", tag.trim_end());
                send(&head, Some(body.len()), &body)
            }
            Lie::RangeUnasked if total > 1 => {
                let head = format!("{}\r\n{}", part(1, total - 1, &total.to_string()), tag.trim_end());
                send(&head, Some(total - 1), &now.bytes[1..])
            }
            Lie::RangeIgnored => send(&format!("200 OK\r\n{}", tag.trim_end()), Some(total), &now.bytes),
            Lie::NoRange if asked.is_some() => send(&format!("206 Part\r\n{}", tag.trim_end()), Some(rest.len()), rest),
            Lie::OtherVersionOtherTag | Lie::OtherVersionNoTag | Lie::OtherVersionSameTag => {
                let total = other.bytes.len();
                let start = if asked.is_some() { start.min(total) } else { 0 };
                let tag = match lie {
                    Lie::OtherVersionOtherTag => format!("ETag: {}", other.tag),
                    Lie::OtherVersionSameTag => format!("ETag: {}", now.tag),
                    _ => "X-Tag: none".to_owned(),
                };
                let head = match asked.filter(|_| start < total) {
                    Some(_) => part(start, total - 1, &total.to_string()),
                    None => "200 OK".to_owned(),
                };
                let start = if head.starts_with("200") { 0 } else { start };
                send(&format!("{head}\r\n{tag}"), Some(total - start), &other.bytes[start..])
            }
            Lie::SaysGzip => send(&format!("{honestly}\r\nContent-Encoding: gzip"), Some(rest.len()), rest),
            Lie::IsGzip => {
                let names = ["gzip", "x-gzip", "deflate", "br", "GZIP", "zstd"];
                let body = gzip(&now.bytes);
                let name = names[random.below(names.len())];
                send(&format!("200 OK\r\n{}\r\nContent-Encoding: {name}", tag.trim_end()), Some(body.len()), &body)
            }
            Lie::TransferGzip => {
                let body = gzip(&now.bytes);
                send(&format!("200 OK\r\n{}\r\nTransfer-Encoding: gzip", tag.trim_end()), Some(body.len()), &body)
            }
            Lie::LongLength => send(&honestly, Some(rest.len() + 1 + random.below(999)), rest),
            Lie::TwoLengths => {
                send(&format!("{honestly}\r\nContent-Length: {}", rest.len() / 2), Some(rest.len()), rest)
            }
            Lie::LengthIsNoNumber => send(&format!("{honestly}\r\nContent-Length: -{}", rest.len()), None, rest),
            Lie::BytesBehindTheEnd => send(&honestly, Some(rest.len()), &[rest, &random.bytes(1000)].concat()),
            Lie::Endless => {
                // Of other bytes, hence of another tag.
                send("200 OK\r\nETag: \"endless\"\r\nTransfer-Encoding: chunked", None, &[])?;
                loop {
                    send_all(stream, &chunked(&[0; 1 << 14], false))?;
                }
            }
            Lie::Drip | Lie::Silence => {
                let mut at = cut.min(2000);
                send(&honestly, Some(rest.len()), &rest[..at])?;
                let since = Instant::now();
                // Until the client has given up.
                stream.set_read_timeout(Some(Duration::from_millis(50)))?;
                while since.elapsed() < LIMIT && waits(stream) {
                    if lie == Lie::Drip && at < rest.len() {
                        send_all(stream, &rest[at..=at])?;
                        at += 1;
                    }
                }
                Ok(())
            }
            Lie::Status => {
                let all = [
                    "404 No",
                    "416 No",
                    "500 No",
                    "503 No",
                    "429 No",
                    "204 No",
                    "304 No",
                    "403 No",
                    "203 Other",
                    "999 What",
                ];
                send(all[random.below(all.len())], Some(rest.len()), rest)
            }
            Lie::Loop => send("302 Found\r\nLocation: /x", Some(0), &[]),
            Lie::OtherScheme => {
                let all = ["file:///etc/passwd", "ftp://127.0.0.1/x", "//", "http://", "data:,x", "gopher://x/"];
                send(&format!("302 Found\r\nLocation: {}", all[random.below(all.len())]), Some(0), &[])
            }
            Lie::Garbage => send_all(stream, &random.clone().bytes(300)),
            Lie::HugeHeader => {
                send_all(stream, b"HTTP/1.1 200 OK\r\nX: ")?;
                (0..1 << 8).try_for_each(|_| send_all(stream, &[b'x'; 1 << 12]))
            }
            Lie::ChunkIsNoNumber => {
                let body = [chunked(&rest[..cut], false), b"zz\r\n".to_vec(), rest[cut..].to_vec()].concat();
                send(&format!("{honestly}\r\nTransfer-Encoding: chunked"), None, &body)
            }
            Lie::ShortLength if asked.is_none() => send(&honestly, Some(cut), &rest[..cut]),
            Lie::FlippedBit if !rest.is_empty() => {
                let mut body = rest.to_vec();
                body[cut] ^= 1 << random.below(8);
                send(&honestly, Some(body.len()), &body)
            }
            _ => send(&honestly, Some(rest.len()), rest),
        }
    }
}

fn send_all(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes)
}

/// Whether the client still waits: it sends nothing more, and closes when it has given up.
fn waits(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0]) {
        Ok(read) => read > 0,
        Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

/// First byte of `Range`, and `If-Range`.
fn request(stream: &TcpStream) -> Option<(Option<usize>, Option<String>)> {
    let (mut start, mut condition) = (None, None);
    let mut lines = BufReader::new(stream).lines();
    lines.next()?.ok()?;
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "range" => start = value.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok(),
            "if-range" => condition = Some(value.to_owned()),
            _ => {}
        }
    }
    Some((start, condition))
}

fn chunked(bytes: &[u8], ends: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in bytes.chunks(5000) {
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    if ends {
        out.extend_from_slice(b"0\r\n\r\n");
    }
    out
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The outcome of one download.
#[derive(Default)]
struct Tally {
    downloads: usize,
    runs: usize,
    kills: usize,
    refused: usize,
    lies: usize,
}

/// Runs once, killed when the server has sent `kill` bytes more, if it gets so far. Whether it ended well.
fn run(space: &Space, server: &Server, kill: Option<u64>, tally: &mut Tally) -> bool {
    let log = std::fs::File::create(space.path("log")).unwrap();
    let mut child = space.command(&["run"]).stdout(Stdio::null()).stderr(log).spawn().unwrap();
    let (since, before) = (Instant::now(), server.state.sent.load(Ordering::SeqCst));
    tally.runs += 1;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.success();
        }
        if kill.is_some_and(|bytes| server.state.sent.load(Ordering::SeqCst) - before >= bytes) {
            child.kill().unwrap();
            child.wait().unwrap();
            tally.kills += 1;
            return false;
        }
        assert!(since.elapsed() < LIMIT, "it hangs: {:?}", server.state.lies.lock().unwrap());
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn one_download(seed: u64, tally: &mut Tally) {
    let mut random = Random(seed);
    let pinned = random.one_in(2);
    let length = [0, 1, 3000, 70_000, 70_000, 300_000, 300_000][random.below(7)];
    let length = length / 2 + random.below(length / 2 + 1);
    // Of equal length at least half of the time, so that only tags and digests differ.
    let second = if random.one_in(2) { length } else { length / 2 + random.below(length + 1) };
    let first = Version { bytes: random.bytes(length), tag: "\"one\"".to_owned() };
    let second = Version { bytes: random.bytes(second), tag: "\"two\"".to_owned() };
    let server = Server::start(random.next(), (first.clone(), second.clone()), pinned);
    let pin = if pinned { format!(", sha256: '{}'", sha256(&first.bytes)) } else { String::new() };
    let space = Space::new(&format!(
        "stages:
  raw: {{ uses: fetch, with: {{ urls: ['http://127.0.0.1:{}/x']{pin} }} }}
  copy: {{ run: 'cat ${{in.raw}}/* > ${{out.a}}', in: {{ raw: raw }}, out: {{ a: a.bin }} }}
",
        server.port
    ));
    space.write("stages/fetch.yaml", FETCH);
    tally.downloads += 1;
    let context = || {
        let lies = server.state.lies.lock().unwrap();
        format!("LIES_FROM={seed} (pinned: {pinned}): {lies:?}\n{}", space.read("log"))
    };
    let check = || {
        let stored = std::fs::read(space.path("reports/pipeline/a.bin")).unwrap();
        let right = stored == first.bytes || !pinned && stored == second.bytes;
        assert!(right, "{} of {} bytes are stored: {}", stored.len(), first.bytes.len(), context());
    };
    let mut well = false;
    for _ in 0..4 {
        let kill = random.one_in(3).then(|| random.below(length + 1) as u64 + 1);
        if run(&space, &server, kill, tally) {
            check();
            well = true;
            break;
        }
        tally.refused += 1;
    }
    tally.lies += server.state.lies.lock().unwrap().iter().filter(|lie| **lie != Lie::Truth).count();
    // The lies have left nothing behind that a truthful answer does not repair.
    server.state.honest.store(true, Ordering::SeqCst);
    if pinned {
        server.state.versions.lock().unwrap().0 = first.clone();
    }
    assert!(run(&space, &server, None, tally), "{}", context());
    check();
    assert!(!well || space.last_journal("executed").is_empty(), "{}", context());
}

#[test]
fn servers_that_lie_get_nothing_stored_but_the_file() {
    let number = |name: &str, default| std::env::var(name).ok().map_or(default, |text| text.parse::<u64>().unwrap());
    let (from, count) = (number("LIES_FROM", 0), number("LIES", 32));
    let next = AtomicUsize::new(0);
    let tallies = std::thread::scope(|scope| {
        let work = || {
            let mut tally = Tally::default();
            loop {
                let at = next.fetch_add(1, Ordering::SeqCst) as u64;
                if at >= count {
                    return tally;
                }
                one_download(from + at, &mut tally);
            }
        };
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect::<Vec<_>>()
    });
    let sum = |of: fn(&Tally) -> usize| tallies.iter().map(of).sum::<usize>();
    println!(
        "{} downloads in {} runs ({} killed, {} others refused), {} lies",
        sum(|t| t.downloads),
        sum(|t| t.runs),
        sum(|t| t.kills),
        sum(|t| t.refused) - sum(|t| t.kills),
        sum(|t| t.lies)
    );
    assert_eq!(sum(|t| t.downloads) as u64, count);
}
