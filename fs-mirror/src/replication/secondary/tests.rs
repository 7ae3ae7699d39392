//! Tests of the secondary against a real directory.
