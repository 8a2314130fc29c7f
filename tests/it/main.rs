//! The gateway from outside: real sockets, the embedded model, and a fake cloud that keeps every
//! byte that reaches it.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test ends where an unwrap fails")]

mod cloud;
mod dialect;
mod gateway;

mod activation;
mod admin;
mod callers;
mod cancellation;
mod checkpoints;
mod choice;
mod complaints;
mod dialects;
mod edge;
mod failover;
mod faults;
mod goldens;
mod hostile;
mod memory;
mod privacy;
mod redaction;
mod replies;
mod retries;
mod routing;
mod shared_state;
mod streaming;
mod taint;
mod tls;
mod tools;
mod upstreams;

#[path = "../sim/mod.rs"]
mod sim;
