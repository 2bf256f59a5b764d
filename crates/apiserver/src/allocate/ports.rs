//! The range of node ports, and the order in which it is given.

use std::ops::RangeInclusive;

/// Like addresses: at least 16, at most 128 ports at the lower end are left to those who ask for one by number.
const BAND_MIN: u16 = 16;
const BAND_MAX: u16 = 128;
const BAND_STEP: u16 = 32;

/// Candidates from a start: the upper band, going round, then the lower.
pub fn candidates(range: &RangeInclusive<u16>, start: u32) -> impl Iterator<Item = u16> + use<> {
    let first = *range.start();
    let count = range.end().saturating_sub(first).saturating_add(1);
    let band = match (count / BAND_STEP).clamp(BAND_MIN, BAND_MAX) {
        // Small ranges are not divided.
        band if band >= count || count <= BAND_MIN * 2 => 0,
        band => band,
    };
    let upper = count - band;
    let start = u16::try_from(start % u32::from(upper.max(1))).expect("less than a port number");
    let round = move |step: u16, size: u16| {
        u16::try_from((u32::from(start) + u32::from(step)) % u32::from(size)).expect("less than a port number")
    };
    (0..upper)
        .map(move |step| first + band + round(step, upper))
        .chain((0..band).map(move |step| first + round(step, band)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_once() {
        #[track_caller]
        fn check(range: RangeInclusive<u16>, first: u16) {
            let mut all: Vec<u16> = candidates(&range, 0).collect();
            assert_eq!(all[0], first);
            all.sort_unstable();
            assert_eq!(all, range.collect::<Vec<_>>());
        }
        check(30000..=32767, 30086);
        check(30000..=30003, 30000);
    }
}
