//! Prints the OpenAPI document, as the relayer serves it at `/openapi.json`.

#![allow(clippy::print_stdout, reason = "its only purpose")]

fn main() {
    println!("{}", slackwater_relayer::http::openapi_document());
}
