//! Tests of the replicator over a real link.
