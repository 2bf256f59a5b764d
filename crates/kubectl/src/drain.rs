//! Evicting
