//! Downloads over https.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::Arc;

use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::space::{Ran, Space};

/// Serves `body` on the returned port with a self-signed certificate, returned as PEM.
fn serve(body: &'static str) -> (u16, String) {
    serve_as("200 OK", body)
}

/// [`serve`] with a status and headers.
fn serve_as(status: &'static str, body: &'static str) -> (u16, String) {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = versions.with_no_client_auth().with_single_cert(vec![certified.cert.der().clone()], key).unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = ServerConnection::new(config.clone()).unwrap();
            let mut stream = BufReader::new(StreamOwned::new(connection, stream.unwrap()));
            // A client that does not trust the certificate closes the connection during the handshake.
            let mut line = String::new();
            while stream.read_line(&mut line).is_ok_and(|read| read > 2) {
                line.clear();
            }
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.get_mut().write_all(format!("{head}{body}").as_bytes());
            let _ = stream.get_mut().flush();
        }
    });
    (port, certified.cert.pem())
}

fn run(space: &Space, trust: &str) -> Ran {
    let mut command = space.command(&["run"]);
    Ran::from(command.env("SSL_CERT_FILE", space.path(trust)).output().unwrap())
}

#[test]
fn https_trusts_the_certificates_of_ssl_cert_file_and_no_others() {
    let (port, pem) = serve("over TLS\n");
    let space = Space::new(&format!(
        "stages:
  raw: {{ uses: download, with: {{ urls: ['https://localhost:{port}/a.txt'], size: 9, unpack: false }} }}
  copy: {{ run: 'cat ${{in.raw}}/* > ${{out.a}}', in: {{ raw: raw }}, out: {{ a: a.txt }} }}
"
    ));
    let (_, stranger) = serve("");
    space.write("stranger.pem", stranger);
    space.write("server.pem", pem);
    space.write("empty.pem", "nothing\n");

    let ran = run(&space, "stranger.pem");
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("SSL_CERT_FILE"), "{}", ran.err);
    assert!(ran.err.contains("attempts: 1"), "{}", ran.err);
    let ran = run(&space, "empty.pem");
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("empty.pem holds no certificate in PEM form"), "{}", ran.err);
    let ran = run(&space, "server.pem");
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(space.read("reports/pipeline/a.txt"), "over TLS\n");
}

#[test]
fn a_redirect_from_https_to_http_needs_a_digest() {
    let (port, pem) = serve_as("302 Found\r\nLocation: http://127.0.0.1:9/a.txt", "");
    let space = Space::new(&format!(
        "stages: {{ raw: {{ uses: download, with: {{ urls: ['https://localhost:{port}/a.txt'], size: 9 }} }} }}\n"
    ));
    space.write("server.pem", pem);
    let ran = run(&space, "server.pem");
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("redirect from https to") && ran.err.contains("attempts: 1"), "{}", ran.err);
}

#[test]
fn a_file_larger_than_max_bytes_is_refused_and_an_invalid_limit_is_shown() {
    let space = Space::new(
        "stages:
  raw: { uses: download, with: { urls: ['FILE'], unpack: false, max_bytes: 1KiB, timeout_s: 9, min_rate: 1KiB } }
",
    );
    space.write("large.bin", [7; 3000]);
    space.edit("FILE", &space.path("large.bin").display().to_string());
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("has 3000 bytes, more than max_bytes: 1024"), "{}", ran.err);
    space.edit("max_bytes: 1KiB", "max_bytes: 3000");
    assert_eq!(space.run(&["run"]).code, 0);
    for (from, to, part) in [("timeout_s: 9", "timeout_s: 0", "pipeline.yaml:2:"), ("3000", "0", "max_bytes")] {
        let ran = space.run(&["plan"]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        space.edit(from, to);
        let ran = space.run(&["plan"]);
        assert!(ran.code == 2 && ran.err.contains(part), "{}", ran.err);
        space.edit(to, from);
    }
}
