//! Node and client tiers: real containers, a real registry on loopback, the real kubectl.

mod durability;
mod images;
mod one_machine;
