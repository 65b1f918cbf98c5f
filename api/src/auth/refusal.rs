//! Why a token is refused.

/// Why a token is refused. The texts are sent to the caller; they contain nothing of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    /// The header is repeated, or of another scheme.
    #[error("Send one Authorization header: `Bearer`, a space, and a token.")]
    NotBearer,
    /// Longer than any token that is read.
    #[error("The token is longer than 8 KiB.")]
    TooLong,
    /// Not three parts of base64url, or a part that is not the JSON that it should be.
    #[error("This is not a JSON Web Token.")]
    Malformed,
    /// `alg` is another than RS256: none, a symmetric one, another signature.
    #[error("The token is not signed with RS256.")]
    Algorithm,
    /// The header carries a key, or says where one is: only configured keys count.
    #[error("The token's header must not carry a key or the address of one (jwk, jku, x5u, x5c).")]
    KeyInHeader,
    /// `crit`: extensions that must be understood. None is.
    #[error("The token's header has critical extensions, and none is supported.")]
    Critical,
    /// `typ` is that of something else, such as a logout token.
    #[error("The token's type is neither JWT nor at+jwt.")]
    Type,
    /// No configured key fits.
    #[error("The token is signed with a key that is not known here.")]
    UnknownKey,
    /// The signature is not the named key's.
    #[error("The token's signature is wrong.")]
    Signature,
    /// `iss`.
    #[error("The token is from another issuer.")]
    Issuer,
    /// `aud`.
    #[error("The token is for another audience.")]
    Audience,
    /// `exp` is missing, or no number.
    #[error("The token must have an expiry: `exp`, a number.")]
    NoExpiry,
    /// `exp` has passed.
    #[error("The token has expired.")]
    Expired,
    /// `nbf` has not come, or is no number.
    #[error("The token is not valid yet.")]
    NotYet,
    /// `sub` is missing, or does not follow the rule.
    #[error("The token must have a subject: `sub`, 1-200 visible characters.")]
    Subject,
    /// This process has no keys at all: it runs with `no_auth`.
    #[error("No token can be checked here: no keys are configured.")]
    NoKeysHere,
}

impl Refusal {
    /// Every reason.
    pub const ALL: [Self; 16] = [
        Self::NotBearer,
        Self::TooLong,
        Self::Malformed,
        Self::Algorithm,
        Self::KeyInHeader,
        Self::Critical,
        Self::Type,
        Self::UnknownKey,
        Self::Signature,
        Self::Issuer,
        Self::Audience,
        Self::NoExpiry,
        Self::Expired,
        Self::NotYet,
        Self::Subject,
        Self::NoKeysHere,
    ];

    /// Returns its label in metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::NotBearer => "not_bearer",
            Self::TooLong => "too_long",
            Self::Malformed => "malformed",
            Self::Algorithm => "algorithm",
            Self::KeyInHeader => "key_in_header",
            Self::Critical => "critical",
            Self::Type => "type",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::NoExpiry => "no_expiry",
            Self::Expired => "expired",
            Self::NotYet => "not_yet",
            Self::Subject => "subject",
            Self::NoKeysHere => "no_keys_here",
        }
    }
}

/// Why a token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAccepted {
    /// The token is at fault.
    Refused(Refusal),
    /// The keys have never been read, so nothing can be said about the token.
    KeysAway,
}

impl From<Refusal> for NotAccepted {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}
