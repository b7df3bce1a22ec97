//! argon2id hashes in PHC string format.

use argon2::password_hash::phc::PasswordHash as Phc;
use argon2::password_hash::{self, PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};

/// The longest password that is looked at, in bytes: sshd's bound.
pub(super) const LONGEST_PASSWORD: usize = 1024;

/// Bounds on a configured hash, so that one login cannot take the whole machine:
/// KiB of memory, passes, lanes.
const MAX_MEMORY_KIB: u32 = 1 << 20;
const MAX_PASSES: u32 = 64;
const MAX_LANES: u32 = 16;

/// Why a password was not hashed.
#[derive(Debug, thiserror::Error)]
pub enum HashPasswordError {
    /// Nothing to hash.
    #[error("an empty password cannot be used")]
    Empty,
    /// Longer than any login accepts.
    #[error("the password is longer than {LONGEST_PASSWORD} bytes")]
    TooLong,
    /// The hash function failed, for want of memory or randomness.
    #[error("the password could not be hashed")]
    Hash(#[source] password_hash::Error),
}

/// Hashes a password for `[accounts.NAME] password`: argon2id with OWASP's first choice of
/// parameters (19 MiB, two passes, one lane) and a random salt. Takes tens of milliseconds.
///
/// # Errors
/// Passwords that no login could give, and a lack of memory or randomness.
pub fn hash_password(password: &str) -> Result<String, HashPasswordError> {
    if password.is_empty() {
        return Err(HashPasswordError::Empty);
    }
    if password.len() > LONGEST_PASSWORD {
        return Err(HashPasswordError::TooLong);
    }
    let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::DEFAULT);
    let hash = hasher.hash_password(password.as_bytes()).map_err(HashPasswordError::Hash)?;
    Ok(hash.to_string())
}

/// Whether `password` has the hash `phc`, in constant time once the parameters are known.
pub(super) fn verify(password: &str, phc: &str) -> bool {
    Argon2::default().verify_password(password.as_bytes(), phc).is_ok()
}

/// Checks a PHC string; `Ok` may hold a weakness to warn about, `Err` the rule that it breaks.
pub(crate) fn check(phc: &str) -> Result<Option<&'static str>, &'static str> {
    let hash = Phc::new(phc).map_err(|_| "is not a hash in PHC string format")?;
    if hash.algorithm != Algorithm::Argon2id.ident() {
        return Err("is not an argon2id hash");
    }
    if hash.salt.is_none() || hash.hash.is_none() {
        return Err("lacks the salt or the hash itself");
    }
    if hash.version.is_some_and(|version| Version::try_from(version).is_err()) {
        return Err("has a version of argon2 that does not exist");
    }
    let params = Params::try_from(&hash).map_err(|_| "has wrong argon2 parameters")?;
    if params.m_cost() > MAX_MEMORY_KIB
        || params.t_cost() > MAX_PASSES
        || params.p_cost() > MAX_LANES
    {
        return Err("costs too much to verify (at most m=1048576, t=64, p=16)");
    }
    let work = u64::from(params.m_cost()) * u64::from(params.t_cost());
    let recommended = u64::from(Params::DEFAULT_M_COST) * u64::from(Params::DEFAULT_T_COST);
    Ok((work < recommended)
        .then_some("is a weak hash; make a new one with \"waltgate hash-password\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: &str = "$argon2id$v=19$m=16,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE";

    #[test]
    fn a_hash_verifies_its_password_only_and_is_accepted_as_strong() {
        let hash = hash_password("correct horse").unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert_eq!(check(&hash), Ok(None));
        assert!(verify("correct horse", &hash));
        assert!(!verify("correct horsf", &hash));
        assert!(!verify("", &hash));
    }

    #[test]
    fn two_hashes_of_one_password_differ() {
        assert_ne!(hash_password("x").unwrap(), hash_password("x").unwrap());
    }

    #[test]
    fn passwords_that_no_login_could_give_are_refused() {
        assert!(matches!(hash_password(""), Err(HashPasswordError::Empty)));
        let long = "x".repeat(LONGEST_PASSWORD + 1);
        assert!(matches!(hash_password(&long), Err(HashPasswordError::TooLong)));
    }

    #[test]
    fn only_argon2id_hashes_that_can_be_verified_are_accepted() {
        assert!(check(CHEAP).unwrap().is_some(), "weak ones are warned about");
        for (phc, rule) in [
            ("secret".to_owned(), "is not a hash in PHC string format"),
            (String::new(), "is not a hash in PHC string format"),
            (CHEAP.replace("argon2id", "argon2i"), "is not an argon2id hash"),
            (CHEAP.replace("argon2id", "scrypt"), "is not an argon2id hash"),
            ("$argon2id$v=19$m=16,t=1,p=1".to_owned(), "lacks the salt or the hash itself"),
            (CHEAP.replace("v=19", "v=20"), "has a version of argon2 that does not exist"),
            (CHEAP.replace("m=16", "m=1"), "has wrong argon2 parameters"),
            (
                CHEAP.replace("m=16", "m=2000000"),
                "costs too much to verify (at most m=1048576, t=64, p=16)",
            ),
        ] {
            assert_eq!(check(&phc), Err(rule), "{phc}");
        }
    }
}
