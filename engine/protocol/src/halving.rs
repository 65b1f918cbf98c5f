//! What spoils a batch is found by halving: the batch is done in ever smaller parts until it is alone.

/// What is done instead of a part that failed as a whole.
#[derive(Debug, PartialEq, Eq)]
pub enum Halved<'a, T> {
    /// Its halves, one after the other.
    Halves(&'a [T], &'a [T]),
    /// It has only this: this is at fault.
    Alone(&'a T),
}

/// Halves a part that has at least one element.
pub fn halve<T>(part: &[T]) -> Option<Halved<'_, T>> {
    match part {
        [] => None,
        [alone] => Some(Halved::Alone(alone)),
        _ => {
            let (first, second) = part.split_at(part.len() / 2);
            Some(Halved::Halves(first, second))
        }
    }
}

/// Parts of a batch that are still to be done, in order.
#[derive(Debug)]
pub struct Parts<'a, T>(Vec<&'a [T]>);

impl<'a, T> Parts<'a, T> {
    /// The batch as one part; none of an empty one.
    pub fn of(batch: &'a [T]) -> Self {
        Self(if batch.is_empty() { Vec::new() } else { vec![batch] })
    }

    /// Puts the halves of a part back; answers what is at fault if it was alone.
    pub fn halve(&mut self, part: &'a [T]) -> Option<&'a T> {
        match halve(part)? {
            Halved::Alone(alone) => Some(alone),
            Halved::Halves(first, second) => {
                self.0.extend([second, first]);
                None
            }
        }
    }
}

impl<'a, T> Iterator for Parts<'a, T> {
    type Item = &'a [T];

    fn next(&mut self) -> Option<&'a [T]> {
        self.0.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_at_fault_is_found_and_the_rest_is_done_in_order() {
        let batch: Vec<u8> = (0..13).collect();
        let mut parts = Parts::of(&batch);
        let (mut done, mut at_fault): (Vec<u8>, Vec<u8>) = Default::default();
        while let Some(part) = parts.next() {
            if part.iter().any(|n| [3, 4, 12].contains(n)) {
                at_fault.extend(parts.halve(part));
            } else {
                done.extend(part);
            }
        }
        assert_eq!(at_fault, [3, 4, 12]);
        assert_eq!(done, [0, 1, 2, 5, 6, 7, 8, 9, 10, 11]);
        assert_eq!(Parts::of(&[] as &[u8]).next(), None);
    }
}
