//! The operations against a cache in a temporary directory, without a kernel.
