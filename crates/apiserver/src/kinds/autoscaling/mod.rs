//! Kinds of autoscaling.

pub mod horizontal_pod_autoscaler_v1;
pub mod horizontal_pod_autoscaler_v2;
