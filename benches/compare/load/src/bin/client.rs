//! `client reqwest|hyper ADDRESS CALLS`: the bridge's request for an Invoke, sent to the stub CALLS times. reqwest sends through
//! hyper-util's client, so the difference in instructions is reqwest's own.

use std::env;

use alim_bridge_compare::AnyError;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

const BODY: &[u8] = br#"{"message":"invoke"}"#;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), AnyError> {
    let words: Vec<String> = env::args().skip(1).collect();
    let [who, address, calls] = &words[..] else {
        return Err("usage: client reqwest|hyper ADDRESS CALLS".into());
    };
    let url = format!("http://{address}/api/v1/graph/invoke");
    let calls: u32 = calls.parse()?;
    match who.as_str() {
        "reqwest" => by_reqwest(&url, calls).await,
        _ => by_hyper(&url, calls).await,
    }
}

async fn by_reqwest(url: &str, calls: u32) -> Result<(), AnyError> {
    let builder = reqwest::Client::builder().no_proxy();
    let client = builder
        .redirect(reqwest::redirect::Policy::none())
        .build()?;
    let url: reqwest::Url = url.parse()?;
    for _ in 0..calls {
        let mut request = reqwest::Request::new(Method::POST, url.clone());
        *request.headers_mut() = headers();
        *request.body_mut() = Some(Bytes::from_static(BODY).into());
        let response = client.execute(request).await?.error_for_status()?;
        response.bytes().await?;
    }
    Ok(())
}

async fn by_hyper(url: &str, calls: u32) -> Result<(), AnyError> {
    let client: Client<HttpConnector, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).build_http();
    let uri: Uri = url.parse()?;
    for _ in 0..calls {
        let mut request = Request::new(Full::new(Bytes::from_static(BODY)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = headers();
        let response = client.request(request).await?;
        if !response.status().is_success() {
            return Err("the stub rejects".into());
        }
        response.into_body().collect().await?;
    }
    Ok(())
}

fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        (header::CONTENT_TYPE, "application/json"),
        (header::ACCEPT, "application/json"),
        (header::USER_AGENT, "alim-bridge"),
        (header::HeaderName::from_static("x-api-key"), "key"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
}
