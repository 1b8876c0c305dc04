//! Probe and conformance suite on stores that somebody else runs:
//! `HOLDFAST_STORES='s3://... s3://...' cargo test --test store given -- --ignored --nocapture`. Empty prefixes, please.

use crate::conformance::{Expect, SURE, conforms};
use crate::plainly;
use holdfast::env::Env;
use holdfast::store::{Verdict, probe};

#[tokio::test]
#[ignore = "needs stores: HOLDFAST_STORES"]
async fn given_stores() {
    let urls = std::env::var("HOLDFAST_STORES").expect("HOLDFAST_STORES names the stores");
    let mut refused = 0;
    for url in urls.split_whitespace() {
        let store = plainly(url);
        match probe(store.as_ref(), &Env::real()).await {
            Ok(report) => {
                println!("{url}: {:?}, median put {:?}, {:#?}", report.verdict, report.put_time, report.reasons());
                refused += u32::from(report.verdict != Verdict::Trusted);
            }
            Err(error) => panic!("{url}: {error}"),
        }
        if std::env::var_os("HOLDFAST_STORES_CONFORM").is_some() {
            conforms(store.as_ref(), Expect { many: 2100, ..SURE }).await;
            println!("{url}: conforms");
        }
    }
    assert_eq!(refused, 0, "stores that were not trusted");
}
