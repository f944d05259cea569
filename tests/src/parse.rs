//! One function for each parser of disk bytes: the stable tests and the fuzz targets share them.
//!
//! Not here: where the bytes come from (`tests/corpus`, `fuzz`).

pub mod doctored;
pub mod mangle;
pub mod parsers;
