//! Tests of the decisions against vectors, random input and scripted chains.

mod ceilings;
mod chain_vectors;
mod data_fee_vectors;
mod forecast_vectors;
mod lane_scenarios;
mod lane_simulation;
mod merkle_vectors;
mod recorded_fees;
mod request_authorizations;
mod request_signatures;
mod request_vehicle;
mod rpc_error_corpus;
mod schedule_queue;
mod schedule_timing;
