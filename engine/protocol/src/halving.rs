//! Finds the element that makes a batch fail: the batch is processed in ever smaller parts until the element is alone.

/// What to process after a part failed as a whole.
#[derive(Debug, PartialEq, Eq)]
pub enum Halved<'a, T> {
    /// The two halves of the part, in order.
    Halves(&'a [T], &'a [T]),
    /// The part has only this element, which is the cause of the failure.
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

/// The parts of a batch that remain to be processed, in order.
#[derive(Debug)]
pub struct Parts<'a, T>(Vec<&'a [T]>);

impl<'a, T> Parts<'a, T> {
    /// Creates one part from the batch; no part if the batch is empty.
    pub fn of(batch: &'a [T]) -> Self {
        Self(if batch.is_empty() { Vec::new() } else { vec![batch] })
    }

    /// Puts back the halves of a part; returns the element at fault if it was alone.
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
