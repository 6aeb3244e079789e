//! Tests of the relayer from the outside: configuration, bodies, HTTP. A real relay, on a node that is a stub.

mod bodies;
mod config;
mod http;
mod node;
mod problems;
