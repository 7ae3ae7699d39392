//! Tests of leases and declarations.
