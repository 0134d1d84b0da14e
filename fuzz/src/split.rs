//! Where bytes are cut into pieces: always the same places for the same bytes, so that a finding repeats.

/// Cuts `bytes` at places that `seed` decides, into at most `pieces` pieces and possibly empty ones.
pub fn at_random(bytes: &[u8], seed: u64, pieces: usize) -> Vec<&[u8]> {
    let mut state = seed | 1;
    let mut cuts: Vec<usize> = std::iter::repeat_with(|| {
        // A linear congruential step (Knuth): good enough to scatter cuts.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % (bytes.len() + 1)
    })
    .take(pieces.saturating_sub(1))
    .collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

/// A number from the bytes themselves (FNV-1a).
pub fn seed_of(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
