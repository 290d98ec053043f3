use super::combine::{each, visit, weighted};
use super::ram::EPSILON;
use super::sparse::whole;
use super::{Dense, Failure, Method, Param, Run};

pub(super) const METHOD: Method = Method {
    name: "ramplus-tl",
    what: "as ram, and what one adapter alone changes a little stronger where the adapter shares much with others",
    formula: "as ram, each element that adapter i alone changes times 1 + 0.1·min(0.2, sᵢ/uᵢ), with uᵢ the number of those \
              elements and sᵢ that of the others it changes",
    source: "mergekit 0.1.5 `ramplus_tl` with its r and alpha, in f64; it knows no weights wᵢ",
    warning: None,
    params: &[Param::Epsilon(EPSILON)],
    run: Run::Dense(run),
};

/// What an adapter's own elements gain for each element that it shares, and the most that counts.
const GAIN: f64 = 0.1;
const MOST: f64 = 0.2;

fn run(dense: &Dense<'_>) -> Result<Vec<f32>, Failure> {
    let epsilon = dense.params.epsilon.unwrap_or(EPSILON);
    let parts = whole(dense);
    let is_active = |delta: f64| delta.abs() > epsilon;
    let (mut own, mut shared) = (vec![0_u64; parts.len()], vec![0_u64; parts.len()]);
    visit(&parts, dense, |row| {
        let of_row = || weighted(&parts, row).enumerate().filter(|(_, delta)| is_active(*delta));
        let counts = if of_row().count() == 1 { &mut own } else { &mut shared };
        of_row().for_each(|(part, _)| counts[part] += 1);
    });
    let gain = |(own, shared): (&u64, &u64)| 1.0 + GAIN * (*shared as f64 / (*own).max(1) as f64).min(MOST);
    let gains: Vec<f64> = own.iter().zip(&shared).map(gain).collect();
    Ok(each(&parts, dense, |row| {
        let (mut sum, mut count, mut last) = (0.0, 0_usize, 0);
        for (part, delta) in weighted(&parts, row).enumerate().filter(|(_, delta)| is_active(*delta)) {
            (sum, count, last) = (sum + delta, count + 1, part);
        }
        if count == 1 { sum * gains[last] } else { sum / count.max(1) as f64 }
    }))
}
