//! Credentials for the servers of a download: sent over TLS or to this machine alone, never with a redirect, and shown by
//! no message.

use ureq::http::{HeaderValue, Uri};

use super::DownloadConfig;
use crate::data::Problem;

/// What `Authorization` says for a secret: `Bearer` and the secret, or the secret as it is if it names its scheme, as
/// `Basic dXNlcjpwYXNz` does.
///
/// # Errors
/// The secret has a character that no header can hold.
pub fn authorization(secret: &str) -> Result<HeaderValue, ureq::http::header::InvalidHeaderValue> {
    let secret = secret.trim();
    let text = if secret.contains(' ') { secret.to_owned() } else { format!("Bearer {secret}") };
    let mut value = HeaderValue::try_from(text)?;
    value.set_sensitive(true);
    Ok(value)
}

/// URLs that show a password, or that would show the token of `config` to anything on the network.
pub(super) fn check(config: &DownloadConfig) -> Vec<Problem> {
    let problem = |(i, url): (usize, &String)| {
        let uri: Uri = url.parse().ok()?;
        let field = format!("urls.{i}");
        if uri.authority()?.as_str().contains('@') {
            let what = "holds a name or password, which keys and logs would show: name a variable with its token below \
                        `secrets:` of the stage";
            return Some((field, what.to_owned()));
        }
        let open = uri.scheme_str() == Some("http") && !matches!(uri.host()?, "localhost" | "127.0.0.1" | "[::1]");
        (config.token.is_some() && open).then(|| (field, format!("is {url:?}: a secret is sent to https:// only")))
    };
    config.urls.iter().enumerate().filter_map(problem).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_out_over_tls_alone_and_a_password_is_no_part_of_a_url() {
        let refused = |url: &str, token: Option<&str>| {
            let token = token.map(|token| authorization(token).unwrap());
            check(&DownloadConfig { urls: vec![url.to_owned()], token, ..DownloadConfig::default() }).pop()
        };
        for url in ["https://example.org/a", "http://localhost:1/a", "http://[::1]/a", "file:///a", "/a"] {
            assert_eq!(refused(url, Some("t")), None, "{url}");
        }
        assert!(refused("http://example.org/a", Some("t")).unwrap().1.contains("https:// only"));
        assert_eq!(refused("http://example.org/a", None), None);
        let (field, message) = refused("https://me:pass-1@example.org/a", None).unwrap();
        assert!(field == "urls.0" && message.contains("secrets") && !message.contains("pass-1"), "{message}");
    }

    #[test]
    fn a_secret_is_a_bearer_token_unless_it_names_its_scheme() {
        assert_eq!(authorization("t-1\n").unwrap(), "Bearer t-1");
        assert_eq!(authorization("Basic eDp5").unwrap(), "Basic eDp5");
        assert!(!format!("{:?}", authorization("t-1")).contains("t-1"));
        assert!(authorization("a\u{1}").is_err());
    }
}
