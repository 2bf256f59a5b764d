//! To come.

crate::tests![];
