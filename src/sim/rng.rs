//! A random number generator with the same numbers for the same seed on every machine.

use std::time::Duration;

/// A random number generator for simulations: small, fast, and not for secrets.
///
/// It is `SplitMix64` (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
/// 2014).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Creates the generator of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Derives a generator for one part of a simulation, named by `salt`. Its numbers do not depend
    /// on how many numbers other parts draw.
    #[must_use]
    pub fn fork(&self, salt: u64) -> Self {
        let mut rng = Self(self.0 ^ salt.wrapping_mul(0xd605_1c5b_6a09_e667));
        Self(rng.next_u64())
    }

    /// The next number.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number in `0..end`.
    ///
    /// # Panics
    /// If `end` is 0.
    #[inline]
    pub fn below(&mut self, end: usize) -> usize {
        assert!(end > 0, "an empty range");
        // The remainder of 64 bits is even enough.
        (self.next_u64() % end as u64) as usize
    }

    /// A number in `low..=high`.
    ///
    /// # Panics
    /// If `high` is less than `low`.
    #[inline]
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        assert!(low <= high, "an empty range: {low} to {high}");
        low + self.below(high - low + 1)
    }

    /// A number in `low..=high`, with each order of magnitude equally likely. `low` is at least 1.
    pub fn magnitude(&mut self, low: usize, high: usize) -> usize {
        let (from, to) = (low.max(1).ilog2() as usize, high.max(1).ilog2() as usize);
        let bits = self.between(from, to.max(from));
        self.between(1 << bits, (2 << bits) - 1).clamp(low, high)
    }

    /// A duration below `end`; zero if `end` is zero.
    pub fn duration(&mut self, end: Duration) -> Duration {
        let nanos = u64::try_from(end.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(if nanos == 0 {
            0
        } else {
            self.next_u64() % nanos
        })
    }

    /// True in `rate` of a million calls.
    #[inline]
    pub fn chance(&mut self, rate: u32) -> bool {
        rate > 0 && self.below(1_000_000) < rate as usize
    }

    /// True in one of `many` calls.
    #[inline]
    pub fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    /// One of the elements of `of`.
    ///
    /// # Panics
    /// If `of` is empty.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_match_the_reference_of_splitmix64() {
        let mut rng = Rng::new(1_234_567);
        assert_eq!(
            [rng.next_u64(), rng.next_u64()],
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]
        );
    }

    #[test]
    fn fork_depends_on_seed_and_salt_only() {
        let rng = Rng::new(7);
        assert_eq!(rng.fork(1).next_u64(), Rng::new(7).fork(1).next_u64());
        assert_ne!(rng.fork(1).next_u64(), rng.fork(2).next_u64());
    }

    #[test]
    fn drawn_numbers_stay_in_their_ranges() {
        let mut rng = Rng::new(1);
        for _ in 0..10_000 {
            assert!(rng.below(3) < 3);
            assert!((5..=9).contains(&rng.between(5, 9)));
            assert!((3..=100_000).contains(&rng.magnitude(3, 100_000)));
            assert!(rng.duration(Duration::from_millis(1)) < Duration::from_millis(1));
        }
        assert!(!rng.chance(0) && rng.chance(1_000_000));
    }
}
