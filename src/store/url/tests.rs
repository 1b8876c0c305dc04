//! The URL forms and what is said of wrong ones.

use super::*;
use proptest::prelude::*;

#[test]
fn every_form_parses_and_prints_as_itself() {
    for text in [
        "memory:",
        "file:///srv/backup",
        "file:///srv/b%20c%23?store-id=000102030405060708090a0b0c0d0e0f",
        "s3://bucket",
        "s3://bucket/a/b?endpoint=http://127.0.0.1:9000&region=us-east-1&style=path&ca=/etc/ca.pem&profile=p&credentials=/run/c",
        "gs://bucket/x?credentials=/run/key.json",
        "az://container/x?account=acc",
    ] {
        let url = StoreUrl::parse(text).expect(text);
        assert_eq!(url.to_string(), text);
    }
    assert_eq!(StoreUrl::parse("s3://bucket/a/").expect("slash").to_string(), "s3://bucket/a");
    assert_eq!(StoreUrl::parse("file:///srv//x/./y/").expect("slashes").to_string(), "file:///srv/x/y");
    let Location::S3(bucket) = StoreUrl::parse("s3://bucket?endpoint=https%3A%2F%2Fh%3A1%2F").expect("encoded").location else {
        panic!("not S3")
    };
    assert_eq!(bucket.endpoint.as_deref(), Some("https://h:1"));
}

#[test]
fn a_refusal_says_what_is_allowed() {
    for (text, says) in [
        ("", "it has no scheme; a store is `s3://bucket"),
        ("/srv/x", "for a directory write `file:///srv/x`"),
        ("file://srv/x", "three slashes"),
        ("file:///srv/../etc", "`..`"),
        ("file:///a%2", "two hexadecimal digits"),
        ("file:///a?region=x", "known are store-id"),
        ("ftp://x/y", "the scheme `ftp` is not known; a store is"),
        ("https://host/bucket", "s3://bucket/prefix?endpoint=URL"),
        ("s3://", "3 to 255 letters"),
        ("s3://bucket/../x", "a prefix has at most 100"),
        ("s3://bucket//x", "a prefix has at most 100"),
        ("s3://bucket?regoin=x", "`regoin` is not known here; known are endpoint, region"),
        ("s3://bucket?region=a&region=b", "twice"),
        ("s3://bucket?region=", "has no value"),
        ("s3://bucket?region=%C3%A4", "the region is not one"),
        ("az://container/x?account=a/b", "the account is not one"),
        ("s3://bucket?endpoint=host:9000", "an endpoint is `https://host`"),
        ("s3://bucket?endpoint=http://u:p@host", "an endpoint is `https://host`"),
        ("s3://bucket?ca=ca.pem", "absolute"),
        ("s3://bucket?style=x", "`path` or `virtual`"),
        ("s3://bucket?store-id=12", "32 hexadecimal digits"),
        ("s3://bucket?secret-access-key=key:secret", "leave them out"),
        ("s3://key:secret@bucket/x", "leave them out"),
        ("s3://bucket/x#y", "%23"),
        ("az://container/x", "account=NAME"),
        ("memory://x", "stands alone"),
    ] {
        let error = StoreUrl::parse(text).expect_err(text).to_string();
        assert!(error.contains(says), "{text}: {error}");
        assert!(!error.contains("key:secret"), "{error}");
    }
}

proptest! {
    #[test]
    fn a_directory_of_any_bytes_survives(parts in proptest::collection::vec("[^/\0]{1,12}", 1..4)) {
        let path: PathBuf = PathBuf::from(format!("/{}", parts.join("/"))).components().collect();
        prop_assume!(!path.components().any(|part| part.as_os_str() == ".."));
        let url = StoreUrl::file(path);
        prop_assert_eq!(StoreUrl::parse(&url.to_string()), Ok(url));
    }

    #[test]
    fn no_text_panics(text in ".{0,60}") {
        if let Ok(url) = StoreUrl::parse(&text) {
            prop_assert_eq!(StoreUrl::parse(&url.to_string()), Ok(url));
        }
    }
}
