/// Colours of rising lightness from dark blue to yellow, apart for every kind of colour vision: nine stops of viridis
/// (matplotlib, CC0).
const STOPS: [[u8; 3]; 9] = [
    [68, 1, 84],
    [72, 40, 120],
    [62, 74, 137],
    [49, 104, 142],
    [38, 130, 142],
    [31, 158, 137],
    [53, 183, 121],
    [110, 206, 88],
    [253, 231, 37],
];

/// The colour of a share between 0 and 1, as `#rrggbb`.
pub fn colour(share: f64) -> String {
    let place = share.clamp(0.0, 1.0) * (STOPS.len() - 1) as f64;
    let below = (place.floor() as usize).min(STOPS.len() - 2);
    let part = place - below as f64;
    let mixed = |channel: usize| {
        let (a, b) = (f64::from(STOPS[below][channel]), f64::from(STOPS[below + 1][channel]));
        (a + (b - a) * part).round() as u8
    };
    format!("#{:02x}{:02x}{:02x}", mixed(0), mixed(1), mixed(2))
}

#[cfg(test)]
mod tests {
    use super::colour;

    #[test]
    fn ends_and_beyond() {
        assert_eq!(
            [0.0, 1.0, -3.0, 7.0, f64::NAN].map(colour)[..4],
            ["#440154", "#fde725", "#440154", "#fde725"]
        );
    }

    #[test]
    fn lightness_rises() {
        let light = |share: f64| {
            let text = colour(share);
            let channel = |at: usize| f64::from(u8::from_str_radix(&text[at..at + 2], 16).unwrap());
            0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5)
        };
        for step in 0..100 {
            assert!(light(f64::from(step) / 100.0) < light(f64::from(step + 1) / 100.0), "{step}");
        }
    }
}
