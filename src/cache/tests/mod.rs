//! The cache against a model of a file system in memory, through crashes, seals, fetches and evictions.
#![allow(clippy::disallowed_methods, reason = "tests")]

mod armed;
mod compare;
mod crash;
#[path = "../../../tests/common/cut.rs"]
mod cut;
mod distrust;
mod health;
mod lab;
mod load;
mod model;
mod operations;
mod power;
mod reviewed;
mod scrub;
mod seals;
mod speed;
mod spoiled;
mod stored;
