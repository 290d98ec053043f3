//! Which tokens an intervention acts on (spec section 5.6).

use super::pass::Pass;
use fitment_core::model::{Phase, Positions, Select};

/// The columns of a row of `[batch, seq]` that an intervention changes in a pass: ascending, each once, never padding.
/// Panics when the pass has no such row.
pub fn columns(positions: &Positions, pass: &Pass<'_>, row: usize) -> Vec<usize> {
    let columns = pass.columns(row);
    let (seen, prompt) = pass.place(row);
    // Numbers of the tokens from the point where the selection counts, with the length that it counts in.
    let (first, n) = match positions.phase {
        Phase::Prompt | Phase::Decode => (seen, prompt),
        Phase::EveryForward => (0, columns.len() as u64),
    };
    let numbered = (first..).zip(columns);
    let in_phase = numbered.filter(|(number, _)| (*number < n) != (positions.phase == Phase::Decode));
    let chosen = match &positions.select {
        Select::All => None,
        select => Some(select.tokens(n)),
    };
    let is_chosen = |number: &u64| chosen.as_ref().is_none_or(|chosen| chosen.binary_search(number).is_ok());
    in_phase.filter(|(number, _)| is_chosen(number)).map(|(_, column)| column).collect()
}

#[cfg(test)]
mod tests {
    use super::{Pass, columns};
    use fitment_core::model::{FirstLast, Group, Phase, Positions, Select, ShortPrompt};
    use fitment_math::ndarray::{Array2, arr2};

    fn rule(first: u64, last: u64, short: ShortPrompt) -> FirstLast {
        FirstLast { first, last, end_offset: 0, short, group: Group::Both }
    }

    /// Rows of 3 and 5 tokens, padded left and right.
    fn padded() -> Array2<bool> {
        let (o, x) = (false, true);
        arr2(&[[o, o, x, x, x], [x, x, x, o, o], [x, x, x, x, x]])
    }

    fn all_rows(positions: &Positions, pass: &Pass<'_>) -> Vec<Vec<usize>> {
        (0..pass.shape()[0]).map(|row| columns(positions, pass, row)).collect()
    }

    #[test]
    fn numbers_count_tokens_on_whichever_side_the_padding_is() {
        let mask = padded();
        let pass = Pass::prompt(mask.view());
        let at = |select| all_rows(&Positions { phase: Phase::Prompt, select }, &pass);
        assert_eq!(at(Select::All), [vec![2, 3, 4], vec![0, 1, 2], vec![0, 1, 2, 3, 4]]);
        assert_eq!(
            at(Select::FirstLast(rule(1, 1, ShortPrompt::FloorHalf))),
            [vec![2, 4], vec![0, 2], vec![0, 4]]
        );
        assert_eq!(at(Select::Explicit(vec![0, 4, -4, -1])), [vec![2, 4], vec![0, 2], vec![0, 1, 4]]);
        let twice = Select::FirstLast(rule(3, 3, ShortPrompt::Overlap));
        assert_eq!(at(twice), [vec![2, 3, 4], vec![0, 1, 2], vec![0, 1, 2, 3, 4]]);
        let suffix = FirstLast { group: Group::Suffix, ..rule(1, 2, ShortPrompt::Overlap) };
        assert_eq!(at(Select::FirstLast(suffix)), [vec![3, 4], vec![1, 2], vec![3, 4]]);
    }

    #[test]
    fn phases_by_step() {
        let ones = Array2::from_elem((2, 1), true);
        let prompt = [3, 5];
        let at = |phase, step| {
            let pass = Pass::decode(ones.view(), &prompt, step).unwrap();
            all_rows(&Positions { phase, select: Select::All }, &pass)
        };
        assert_eq!(at(Phase::Prompt, 1), [vec![], Vec::<usize>::new()]);
        assert_eq!(at(Phase::Decode, 1), [vec![0], vec![0]]);
        assert_eq!(at(Phase::EveryForward, 7), [vec![0], vec![0]]);
        let prefix =
            Select::FirstLast(FirstLast { group: Group::Prefix, ..rule(2, 0, ShortPrompt::Overlap) });
        let pass = Pass::decode(ones.view(), &prompt, 1).unwrap();
        let every = Positions { phase: Phase::EveryForward, select: prefix };
        assert_eq!(all_rows(&every, &pass), [vec![0], vec![0]]);
    }

    #[test]
    fn a_prompt_in_two_passes_and_a_text_without_cache() {
        let mask = Array2::from_elem((1, 4), true);
        let last = Positions { phase: Phase::Prompt, select: Select::Explicit(vec![1, -1]) };
        let at = |positions: &Positions, seen, prompt| {
            columns(positions, &Pass::new(mask.view(), &[seen], &[prompt]).unwrap(), 0)
        };
        assert_eq!((at(&last, 0, 6), at(&last, 4, 6)), (vec![1], vec![1]));
        let decode = Positions { phase: Phase::Decode, select: Select::All };
        assert_eq!((at(&last, 0, 3), at(&decode, 0, 3)), (vec![1, 2], vec![3]));
        assert!(Pass::new(mask.view(), &[0, 0], &[1]).is_err());
    }
}
