//! Whether what waits grows.

/// Share of the samples at the beginning of a step that do not count: there it goes from nothing to its level.
const WARM_UP: f64 = 0.2;

/// By how much a depth grew from the beginning of a step to its end, after the warm-up: the slope of the line through
/// the samples (least squares) times their number. One late sample does not decide.
pub fn growth(samples: &[f64]) -> f64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share of the number of samples"
    )]
    let skip = (samples.len() as f64 * WARM_UP).ceil() as usize;
    let samples = &samples[skip.min(samples.len())..];
    if samples.len() < 3 {
        return 0.0;
    }
    #[expect(clippy::cast_precision_loss, reason = "few samples")]
    let count = samples.len() as f64;
    let mean_x = (count - 1.0) / 2.0;
    let mean_y = samples.iter().sum::<f64>() / count;
    let (mut covariance, mut variance, mut x) = (0.0, 0.0, 0.0);
    for y in samples {
        covariance += (x - mean_x) * (y - mean_y);
        variance += (x - mean_x) * (x - mean_x);
        x += 1.0;
    }
    covariance / variance * (count - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_and_goes_does_not_grow_and_what_piles_up_does() {
        let waves: Vec<f64> = (0..60).map(|n| if n % 2 == 0 { 100.0 } else { 500.0 }).collect();
        assert!(growth(&waves).abs() < 50.0);
        let piling: Vec<f64> = (0..60).map(|n| f64::from(n) * 10.0).collect();
        assert!((growth(&piling) - 470.0).abs() < 1.0);
        let from_nothing: Vec<f64> = (0..60).map(|n| if n < 3 { 0.0 } else { 300.0 }).collect();
        assert!(growth(&from_nothing).abs() < 1.0);
        assert!(growth(&[1.0, 2.0]).abs() < f64::EPSILON);
    }
}
