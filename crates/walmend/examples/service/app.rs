//! Counters over HTTP. A request that adds is answered once its commit is on the disk, and meanwhile blocks no thread.
//!
//! | request | answer |
//! |---|---|
//! | `POST /counters/N`, with a number | the new value |
//! | `GET /counters/N` | the value |
//! | `GET /stats` | how the store stands |

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, serve};
use std::future::Future;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;
use walmend::{CommitOutcome, Error, PageNumber, Store, Txn};

/// Serves until `shutdown`, answers what is under way, and closes the store.
pub(crate) async fn run(
    store: Store,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    serve(listener, router(store.clone()))
        .with_graceful_shutdown(shutdown)
        .await?;
    // Closing waits for the commit thread, so it has no place on a thread of the runtime. For repair it does not wait
    // inside a runtime, not even here: the runtime might be the one that repairs.
    spawn_blocking(|| {
        let repairable = store.wait_for_repair(Duration::from_secs(10));
        store.close().and(repairable)
    })
    .await??;
    Ok(())
}

fn router(store: Store) -> Router {
    Router::new()
        .route("/counters/{number}", get(value).post(add))
        .route("/stats", get(stats))
        .with_state(store)
}

async fn add(State(store): State<Store>, Path(number): Path<u32>, by: String) -> Result<String, Refusal> {
    let by: u64 = by
        .trim()
        .parse()
        .map_err(|_| Refusal::BadRequest("the body is a number"))?;
    let page = page_of(number)?;
    loop {
        let mut txn = store.begin()?;
        let value = counter(&txn, page)?
            .checked_add(by)
            .ok_or(Refusal::BadRequest("that is too much"))?;
        let mut image = vec![0; txn.page_size().as_usize()];
        image[..8].copy_from_slice(&value.to_le_bytes());
        txn.write(page, image)?;
        // A client that goes away drops this future: what has its place in the queue is committed all the same.
        match txn.commit_async().await {
            CommitOutcome::Conflict(_) => {}
            outcome => {
                let seq = outcome.into_result()?;
                tracing::debug!(target: "service", number, value, %seq, "added");
                return Ok(format!("{value}\n"));
            }
        }
    }
}

async fn value(State(store): State<Store>, Path(number): Path<u32>) -> Result<String, Refusal> {
    Ok(format!("{}\n", counter(&store.begin()?, page_of(number)?)?))
}

async fn stats(State(store): State<Store>) -> String {
    format!("{:#?}\n", store.stats())
}

fn page_of(number: u32) -> Result<PageNumber, Refusal> {
    // Page 1 stays free, for whatever the service will have to know about itself one day.
    let page = number.checked_add(2).filter(|_| number < 100_000);
    let page = page.ok_or(Refusal::BadRequest("there are 100000 counters"))?;
    Ok(PageNumber::new(page)?)
}

/// Reads within the call: these few pages are in memory. A service with a large database reads on a blocking thread.
fn counter(txn: &Txn, page: PageNumber) -> Result<u64, Refusal> {
    if page.get() > txn.db_pages() {
        return Ok(0);
    }
    let image = txn.read(page)?;
    Ok(u64::from_le_bytes(image[..8].try_into().unwrap_or_default()))
}

/// Why a request was not done.
enum Refusal {
    BadRequest(&'static str),
    Store(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let error = match self {
            Self::BadRequest(why) => return (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response(),
            Self::Store(error) => error,
        };
        tracing::warn!(target: "service", %error, hint = error.recovery_hint(), "refused");
        let text = format!("{error}\n");
        match &error {
            // Nothing was done, and the client may come again: here, or at the instance that follows.
            Error::Closed { .. } => (StatusCode::SERVICE_UNAVAILABLE, text).into_response(),
            error if error.is_transient() => (
                StatusCode::SERVICE_UNAVAILABLE,
                [(header::RETRY_AFTER, "1")],
                text,
            )
                .into_response(),
            // Among them `OutcomeUnknown`: the client has to look before it does anything again.
            _ => (StatusCode::INTERNAL_SERVER_ERROR, text).into_response(),
        }
    }
}
