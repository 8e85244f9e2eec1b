//! Tests of the state machine: the table row by row, the whole product, and the matrix as it is published.

mod foreign;
mod matrix;
mod product;
mod rows;
