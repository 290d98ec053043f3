//! Random draws that depend on nothing but the seed, the target's name, the adapter's place and the element's index.

use super::Dense;
use fitment_core::identity::sha256;

/// Gives the next draw in [0, 1) of the task of that index; the draws of a task follow its elements in row-major order.
pub(super) type Draw<'d> = dyn FnMut(usize) -> f64 + 'd;

/// The draws of one task: a counter, mixed with a key.
struct Stream {
    key: [u64; 2],
    count: u64,
}

impl Stream {
    fn new(seed: u64, name: &str, place: usize) -> Self {
        let mut text = b"fitment1.draw\n".to_vec();
        text.extend(seed.to_le_bytes());
        text.extend((place as u64).to_le_bytes());
        text.extend(name.as_bytes());
        let digest = sha256(&text);
        let word = |at: usize| {
            digest[at..at + 8].iter().rev().fold(0_u64, |word, byte| (word << 8) | u64::from(*byte))
        };
        Self { key: [word(0), word(8)], count: 0 }
    }

    fn next(&mut self) -> f64 {
        self.count = self.count.wrapping_add(1);
        let counted = self.key[0].wrapping_add(self.count.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let word = mixed(mixed(counted) ^ self.key[1]);
        (word >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014), whose state is a counter.
fn mixed(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// A rule with the draws of its target.
pub(super) fn with_draws<T>(dense: &Dense<'_>, rule: impl FnOnce(&Dense<'_>, &mut Draw<'_>) -> T) -> T {
    let stream = |place: &usize| Stream::new(dense.params.seed, dense.name, *place);
    let mut streams: Vec<Stream> = dense.places.iter().map(stream).collect();
    rule(dense, &mut |task| streams.get_mut(task).map_or(0.0, Stream::next))
}

#[cfg(test)]
mod tests {
    use super::Stream;

    fn draws(seed: u64, name: &str, place: usize) -> Vec<f64> {
        let mut stream = Stream::new(seed, name, place);
        (0..4096).map(|_| stream.next()).collect()
    }

    #[test]
    fn seed_name_and_place_decide_and_nothing_else() {
        let first = draws(7, "w", 0);
        assert_eq!(draws(7, "w", 0), first);
        for other in [draws(8, "w", 0), draws(7, "v", 0), draws(7, "w", 1)] {
            assert!(other.iter().zip(&first).filter(|(a, b)| a == b).count() < 2);
        }
        // Files made today are made the same tomorrow.
        assert_eq!(first[..2], [0.8036035955651347, 0.020697964948366954]);
    }

    #[test]
    fn they_are_uniform() {
        let draws = draws(0, "w", 3);
        let mean = draws.iter().sum::<f64>() / 4096.0;
        let square = draws.iter().map(|draw| draw * draw).sum::<f64>() / 4096.0;
        assert!(draws.iter().all(|draw| (0.0..1.0).contains(draw)));
        assert!((mean - 0.5).abs() < 0.02 && (square - 1.0 / 3.0).abs() < 0.02, "{mean} {square}");
    }
}
