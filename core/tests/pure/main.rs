//! Tests without a runtime: vectors, requests, queue, timing, lanes, the browser's relay, and the dependencies between
//! rooms.

mod ceilings;
mod chain_vectors;
mod data_fee_vectors;
mod direction;
mod forecast_vectors;
mod lane_scenarios;
mod lane_simulation;
mod local_relay;
mod merkle_vectors;
mod recorded_fees;
mod request_authorizations;
mod request_signatures;
mod request_vehicle;
mod rpc_error_corpus;
mod schedule_queue;
mod schedule_timing;
