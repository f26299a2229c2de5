//! Secure bits: how user ids and capabilities act on each other.

use crate::named_bits::named_bits;

named_bits! {
    /// The secure bits of a process (`PR_SET_SECUREBITS`, `capabilities(7)`). Setting them needs
    /// `CAP_SETPCAP`. In JSON a list of names.
    Securebits(u32), "secure bit":
    /// Root gets no capabilities from its user id at `execve(2)`.
    NOROOT = 0, "noroot";
    /// `NOROOT` cannot be changed any more.
    NOROOT_LOCKED = 1, "noroot_locked";
    /// A change of user ids leaves the capability sets alone.
    NO_SETUID_FIXUP = 2, "no_setuid_fixup";
    /// `NO_SETUID_FIXUP` cannot be changed any more.
    NO_SETUID_FIXUP_LOCKED = 3, "no_setuid_fixup_locked";
    /// The permitted set outlives the switch to an ordinary user; cleared by `execve(2)`.
    KEEP_CAPS = 4, "keep_caps";
    /// `KEEP_CAPS` cannot be changed any more.
    KEEP_CAPS_LOCKED = 5, "keep_caps_locked";
    /// Nothing may be added to the ambient set.
    NO_CAP_AMBIENT_RAISE = 6, "no_cap_ambient_raise";
    /// `NO_CAP_AMBIENT_RAISE` cannot be changed any more.
    NO_CAP_AMBIENT_RAISE_LOCKED = 7, "no_cap_ambient_raise_locked";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn securebits_are_the_kernels() {
        let bits = Securebits::NOROOT.union(Securebits::KEEP_CAPS_LOCKED);
        assert_eq!(bits.bits(), 0x21);
        let json = serde_json::to_string(&bits).unwrap();
        assert_eq!(json, r#"["noroot","keep_caps_locked"]"#);
        assert_eq!(serde_json::from_str::<Securebits>(&json).unwrap(), bits);
        assert!(serde_json::from_str::<Securebits>(r#"["x"]"#).is_err());
    }
}
