//! A service that commits per request: `cargo run -p walmend --example service -- counters.db 127.0.0.1:8080`,
//! then `curl -d 5 http://127.0.0.1:8080/counters/1`. Ctrl-C answers what is under way, and closes the store.
//!
//! What the store and the service have to say goes to standard error as JSON, one object a line; `RUST_LOG`
//! chooses, `walmend=debug` for everything.

mod app;

use tokio::net::TcpListener;
use tracing_subscriber::EnvFilter;
use walmend::{Options, Store};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .json()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let mut args = std::env::args().skip(1);
    let (Some(path), Some(address)) = (args.next(), args.next()) else {
        return Err("DATABASE ADDRESS?".into());
    };
    // Recovery reads files; nothing else runs yet, so it may take this thread.
    let (store, _) = Store::open(path, Options::new())?;
    let listener = TcpListener::bind(address).await?;
    tracing::info!(target: "service", address = %listener.local_addr()?, "listening");
    app::run(store, listener, async {
        if let Err(error) = tokio::signal::ctrl_c().await {
            tracing::error!(target: "service", %error, "Ctrl-C cannot be noticed");
            std::future::pending::<()>().await;
        }
    })
    .await
}
