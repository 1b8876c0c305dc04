//! The client's end of one HTTP/2 connection.

use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::codegen::{Service, http};

/// One connection that is there, as tonic wants it: nothing is connected anew.
#[derive(Debug)]
pub struct Line(pub SendRequest<Body>);

impl Service<http::Request<Body>> for Line {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, hyper::Result<Self::Response>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
