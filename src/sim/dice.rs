//! Numbers that look random, and come the same for the same seed on every machine.

use std::time::Duration;

/// A generator of numbers for a simulation: small, fast, and fit for nothing that must not be guessed.
///
/// It is `SplitMix64` (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The numbers that belong to `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Dice for a part of the whole, named by `salt`: what is drawn from them does not change when another part draws more or less.
    #[must_use]
    pub fn fork(&self, salt: u64) -> Self {
        let mut dice = Self(self.0 ^ salt.wrapping_mul(0xd605_1c5b_6a09_e667));
        Self(dice.roll())
    }

    /// The next number.
    #[inline]
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 up to, and without, `end`.
    ///
    /// # Panics
    /// If `end` is 0.
    #[inline]
    pub fn below(&mut self, end: usize) -> usize {
        assert!(end > 0, "there is no number below 0");
        // Of 64 bits the remainder is even enough.
        (self.roll() % end as u64) as usize
    }

    /// A number from `low` to `high`, both included.
    ///
    /// # Panics
    /// If `high` is less than `low`.
    #[inline]
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        assert!(low <= high, "no number lies between {low} and {high}");
        low + self.below(high - low + 1)
    }

    /// A number from `low` to `high`, as often of one order of magnitude as of another. `low` is at least 1.
    pub fn magnitude(&mut self, low: usize, high: usize) -> usize {
        let (from, to) = (low.max(1).ilog2() as usize, high.max(1).ilog2() as usize);
        let bits = self.between(from, to.max(from));
        self.between(1 << bits, (2 << bits) - 1).clamp(low, high)
    }

    /// A time up to, and without, `end`; zero if that is zero.
    pub fn time(&mut self, end: Duration) -> Duration {
        let nanos = u64::try_from(end.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(if nanos == 0 { 0 } else { self.roll() % nanos })
    }

    /// Whether a thing happens that does so in `rate` of a million cases.
    #[inline]
    pub fn happens(&mut self, rate: u32) -> bool {
        rate > 0 && self.below(1_000_000) < rate as usize
    }

    /// One in `many`.
    #[inline]
    pub fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    /// One of several.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_paper() {
        let mut dice = Dice::new(1_234_567);
        assert_eq!(
            [dice.roll(), dice.roll()],
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]
        );
    }

    #[test]
    fn a_fork_depends_on_seed_and_name_only() {
        let dice = Dice::new(7);
        assert_eq!(dice.fork(1).roll(), Dice::new(7).fork(1).roll());
        assert_ne!(dice.fork(1).roll(), dice.fork(2).roll());
    }

    #[test]
    fn all_bounds_are_kept() {
        let mut dice = Dice::new(1);
        for _ in 0..10_000 {
            assert!(dice.below(3) < 3);
            assert!((5..=9).contains(&dice.between(5, 9)));
            assert!((3..=100_000).contains(&dice.magnitude(3, 100_000)));
            assert!(dice.time(Duration::from_millis(1)) < Duration::from_millis(1));
        }
        assert!(!dice.happens(0) && dice.happens(1_000_000));
    }
}
