//! Tokens whose signatures a set of keys has verified: the next request with one costs a hash in place of an RSA operation.
//! Only the signature is remembered. The claims, and with them the time, are checked at every request.

use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};

/// Number of tokens that are remembered; beyond it, those that have not come for long are forgotten.
const TOKENS_MOST: usize = 16 << 10;

/// Tokens by the hash of all their three parts: none of them is kept.
#[derive(Debug)]
pub struct VerifiedTokens(Cache<[u8; 32], ()>);

impl Default for VerifiedTokens {
    fn default() -> Self {
        Self(Cache::new(TOKENS_MOST))
    }
}

impl VerifiedTokens {
    /// Returns the result of a check, unless this token has passed it before.
    pub fn verify<E>(&self, token: &str, check: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let hash = Sha256::digest(token).into();
        if self.0.get(&hash).is_none() {
            check()?;
            self.0.insert(hash, ());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_token_that_has_passed_is_not_checked_again_and_one_that_has_not_is() {
        let (verified, checked) = (VerifiedTokens::default(), Cell::new(0));
        let verify = |token: &str, result: Result<(), ()>| {
            verified.verify(token, || {
                checked.set(checked.get() + 1);
                result
            })
        };
        assert_eq!([verify("a.b.c", Err(())), verify("a.b.c", Err(()))], [Err(()); 2]);
        assert_eq!([verify("a.b.c", Ok(())), verify("a.b.c", Err(()))], [Ok(()); 2]);
        assert_eq!(verify("a.b.d", Err(())), Err(()), "another signature is another token");
        assert_eq!(checked.get(), 4);
    }

    #[test]
    fn no_number_of_tokens_makes_the_memory_of_them_grow() {
        let verified = VerifiedTokens::default();
        for n in 0..3 * TOKENS_MOST {
            verified.verify(&n.to_string(), || Ok::<_, ()>(())).unwrap();
        }
        assert!(verified.0.len() <= TOKENS_MOST, "{}", verified.0.len());
    }
}
