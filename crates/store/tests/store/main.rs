//! The one suite that every store passes, and the kill test of the one with a disk.

mod crash;
mod etcd;
mod properties;
mod rules;
mod speed;
