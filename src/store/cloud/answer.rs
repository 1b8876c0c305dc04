//! What a cloud's HTTP answer means. `object_store` folds answers together that must stay apart here: "no such key" and "no such
//! bucket" are both 404 to it, a conflict that is still going on and an object that exists are both 409, and it drops `Retry-After`.
//! So the HTTP client is wrapped, and each request's last answer is kept beside the library's own error.

use super::Dialect;
use crate::store::StoreError;
use async_trait::async_trait;
use futures::StreamExt;
use object_store::ClientOptions;
use object_store::client::{HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// An error's explanation is not read beyond this.
const EXPLANATION_MAX: usize = 64 << 10;

/// The parts of an HTTP answer that decide.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// HTTP status.
    pub(super) status: u16,
    /// The store's own word for the error, such as `NoSuchKey`.
    pub(super) code: String,
    /// Its sentence for people.
    pub(super) message: String,
    /// What the store asks a client to wait.
    pub(super) retry_after: Option<Duration>,
    /// S3: where the bucket really is.
    pub(super) region: Option<String>,
}

tokio::task_local! {
    static LAST: Arc<Mutex<Option<Answer>>>;
}

/// Runs one request and says how the store answered it last, if it did.
pub(super) async fn observed<T>(request: impl Future<Output = T>) -> (T, Option<Answer>) {
    let last = Arc::new(Mutex::new(None));
    let outcome = LAST.scope(Arc::clone(&last), request).await;
    let answer = last.lock().take();
    (outcome, answer)
}

/// Makes clients that keep their answers for [`observed`].
#[derive(Debug)]
pub(super) struct Observing;

#[derive(Debug)]
struct Observed(HttpClient);

impl HttpConnector for Observing {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Observed(ReqwestConnector::default().connect(options)?)))
    }
}

#[async_trait]
impl HttpService for Observed {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        // Nothing heard yet: an answer to an earlier request (for credentials, say) must not explain this one.
        keep(None);
        let response = self.0.execute(request).await?;
        let (parts, body) = response.into_parts();
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut answer = Answer {
            status: parts.status.as_u16(),
            code: header("x-ms-error-code").unwrap_or_default(),
            message: String::new(),
            retry_after: header("retry-after").and_then(|text| text.trim().parse().ok()).map(Duration::from_secs),
            region: header("x-amz-bucket-region"),
        };
        if parts.status.is_success() {
            keep(Some(answer));
            return Ok(HttpResponse::from_parts(parts, body));
        }
        let mut explanation = Vec::new();
        let mut stream = body.bytes_stream();
        while let Some(Ok(chunk)) = stream.next().await {
            explanation.extend_from_slice(&chunk[..chunk.len().min(EXPLANATION_MAX - explanation.len())]);
            if explanation.len() == EXPLANATION_MAX {
                break;
            }
        }
        if answer.code.is_empty() {
            answer.code = element(&explanation, "Code").filter(|code| is_word(code)).unwrap_or_default();
        }
        let message = element(&explanation, "Message").unwrap_or_else(|| String::from_utf8_lossy(&explanation).into_owned());
        answer.message = line(&message, 200);
        keep(Some(answer));
        Ok(HttpResponse::from_parts(parts, explanation.into()))
    }
}

fn keep(answer: Option<Answer>) {
    // Outside `observed` (a client's own background work) there is nobody to tell.
    let _ = LAST.try_with(|last| *last.lock() = answer);
}

/// `NoSuchKey` in `<Error><Code>NoSuchKey</Code>...`.
fn element(explanation: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(explanation);
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (content, _) = rest.split_once(&format!("</{name}>"))?;
    Some(content.to_owned())
}

fn is_word(code: &str) -> bool {
    code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// What a failed request comes down to.
#[derive(Debug)]
pub(super) enum Meaning {
    /// An object of this name is there.
    Exists,
    /// The store says that there is no such object.
    Absent,
    /// 404, without saying of what: an answer to HEAD has no body, and a proxy or a wrong endpoint says it too. Proves nothing.
    Missing(String),
    /// The object is there and has nothing in the range asked for.
    BeyondEnd,
    /// No answer that may be built upon.
    Fault(StoreError),
}

/// The request that failed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) dialect: Dialect,
    pub(super) verb: &'static str,
    pub(super) name: &'a str,
    /// For people: which bucket, where.
    pub(super) place: &'a str,
}

impl Asked<'_> {
    pub(super) fn meaning(self, error: &object_store::Error, answer: Option<&Answer>) -> Meaning {
        use object_store::Error as E;
        let why = reason(error);
        match (error, answer) {
            // Our own providers of credentials, and the library's own checks: no request was made.
            (E::Unauthenticated { .. }, answer) if answer.is_none_or(|answer| answer.status != 401) => Meaning::Fault(self.denied(why)),
            (E::NotImplemented { .. } | E::NotSupported { .. } | E::InvalidPath { .. } | E::UnknownConfigurationKey { .. }, _) => {
                Meaning::Fault(self.unsupported(why))
            }
            // Azure deletes by batches, whose answer holds the answers.
            (E::NotFound { .. }, Some(answer)) if self.verb == "delete" && (200..300).contains(&answer.status) => Meaning::Absent,
            (_, Some(answer)) if !(200..300).contains(&answer.status) => {
                self.of_status(answer, format!("{} {} {}", answer.status, answer.code, answer.message).trim_end().to_owned())
            }
            // Success that did not arrive whole, or no answer at all.
            _ => Meaning::Fault(self.unreachable(why)),
        }
    }

    fn of_status(self, answer: &Answer, why: String) -> Meaning {
        let code = answer.code.as_str();
        Meaning::Fault(match (answer.status, code) {
            (404, "NoSuchBucket" | "ContainerNotFound") => StoreError::NoBucket { what: self.place.to_owned() },
            (404, "NoSuchKey" | "BlobNotFound") => return Meaning::Absent,
            // Some compatibles choose 404 for an unknown access key, the last also a word of its own (Versity).
            (400..=404, "InvalidAccessKeyId" | "AccessDenied" | "ExpiredToken" | "InvalidToken" | "XAdminUserNotFound") => self.denied(why),
            (404, _) => return Meaning::Missing(why),
            (304 | 412, _) if self.verb == "put_if_absent" => return Meaning::Exists,
            (409, "BlobAlreadyExists") if self.dialect == Dialect::Azure => return Meaning::Exists,
            // S3: another put of this name is under way; which one wins is not known yet.
            (409, _) => self.unreachable(format!("a conflicting request is under way: {why}")),
            (416, _) => return Meaning::BeyondEnd,
            (429 | 503, _) | (_, "SlowDown" | "TooManyRequests") => {
                StoreError::Throttled { verb: self.verb, name: self.name.to_owned(), retry_after: answer.retry_after }
            }
            (403, "RequestTimeTooSkewed") => self.denied(format!("this machine's clock is too far from the store's: {why}")),
            (401 | 403, _) | (400, "TokenRefreshRequired") => self.denied(why),
            (400, "RequestTimeout") | (408, _) => self.unreachable(why),
            (300..=308, _) | (400, "AuthorizationHeaderMalformed") => match &answer.region {
                Some(region) => self.unsupported(format!("the bucket is in the region `{region}`; say so in the store's URL")),
                None => self.unsupported(format!("it answers from another place; check endpoint and region: {why}")),
            },
            (501, _) | (400..=499, _) => self.unsupported(why),
            _ => self.unreachable(why),
        })
    }

    pub(super) fn unreachable(self, why: String) -> StoreError {
        StoreError::Unreachable { verb: self.verb, name: self.name.to_owned(), why }
    }

    pub(super) fn unsupported(self, why: String) -> StoreError {
        StoreError::Unsupported { verb: self.verb, name: self.name.to_owned(), why }
    }

    fn denied(self, why: String) -> StoreError {
        StoreError::Denied { verb: self.verb, name: self.name.to_owned(), why }
    }
}

/// The innermost cause that adds something, in one line of bounded length.
fn reason(error: &object_store::Error) -> String {
    let mut why = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let text = cause.to_string();
        if !why.contains(&text) {
            why = format!("{why}: {text}");
        }
        source = cause.source();
    }
    line(&why, 600)
}

/// A text in one line of bounded length without control characters.
fn line(text: &str, length: usize) -> String {
    let mut line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.retain(|c| !c.is_control());
    if line.len() > length {
        line.truncate(line.floor_char_boundary(length));
        line.push_str("..");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(dialect: Dialect, verb: &'static str, status: u16, code: &str) -> String {
        let asked = Asked { dialect, verb, name: "n", place: "the bucket b" };
        let error = object_store::Error::Generic { store: "s", source: "x".into() };
        let answer = Answer { status, code: code.to_owned(), ..Answer::default() };
        let text = format!("{:?}", asked.meaning(&error, Some(&answer)));
        text.trim_start_matches("Fault(").split([' ', ')']).next().unwrap_or_default().to_owned()
    }

    #[test]
    fn each_answer_has_its_meaning() {
        use Dialect::{Azure, S3};
        for (dialect, verb, status, code, want) in [
            (S3, "get", 404, "NoSuchKey", "Absent"),
            (S3, "get", 404, "NoSuchBucket", "NoBucket"),
            (S3, "get", 404, "", "Missing(\"404\""),
            (S3, "get", 404, "InvalidAccessKeyId", "Denied"),
            (Azure, "get", 404, "BlobNotFound", "Absent"),
            (Azure, "get", 404, "ContainerNotFound", "NoBucket"),
            (S3, "put_if_absent", 412, "PreconditionFailed", "Exists"),
            (S3, "put_if_absent", 409, "ConditionalRequestConflict", "Unreachable"),
            (Azure, "put_if_absent", 409, "BlobAlreadyExists", "Exists"),
            (S3, "get", 412, "PreconditionFailed", "Unsupported"),
            (S3, "get_range", 416, "InvalidRange", "BeyondEnd"),
            (S3, "get", 503, "SlowDown", "Throttled"),
            (S3, "get", 429, "", "Throttled"),
            (S3, "get", 500, "InternalError", "Unreachable"),
            (S3, "get", 502, "", "Unreachable"),
            (S3, "get", 403, "AccessDenied", "Denied"),
            (S3, "get", 400, "ExpiredToken", "Denied"),
            (S3, "get", 301, "PermanentRedirect", "Unsupported"),
            (S3, "put_if_absent", 501, "NotImplemented", "Unsupported"),
            (S3, "put_if_absent", 413, "EntityTooLarge", "Unsupported"),
            (S3, "put_if_absent", 200, "", "Unreachable"),
        ] {
            assert_eq!(meaning(dialect, verb, status, code), want, "{verb} {status} {code}");
        }
    }

    #[test]
    fn the_code_is_found_in_the_explanation() {
        let explanation = b"<?xml?><Error><Code>NoSuchKey</Code><Key>a</Key><Message>No\n such</Message></Error>";
        assert_eq!(element(explanation, "Code").as_deref(), Some("NoSuchKey"));
        assert_eq!(element(b"<html>not found</html>", "Code"), None);
        assert!(!is_word("a b"));
        assert_eq!(line(&element(explanation, "Message").expect("there"), 5), "No su..");
    }
}
