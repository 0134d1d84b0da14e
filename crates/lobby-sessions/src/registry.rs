//! Who is logged in on one shard, and what a second login of the same user does.
//!
//! Pure: keys in, keys out. All sessions of a user live on the same shard, so that a login, its duplicate and a
//! unicast never race.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use notify_protocol::UserId;
use smallvec::SmallVec;

/// Names a session within its shard.
pub(crate) type Key = usize;

/// The sessions of one user; nearly always one.
pub(crate) type Keys = SmallVec<[Key; 2]>;

/// What a login does when the user is logged in already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DuplicateLogin {
    /// The new session takes the place of the old one (FAF's rule).
    Replace,
    /// Up to `max` sessions a user; a unicast reaches all of them. One more replaces the oldest.
    Allow {
        /// Sessions a user, at least 1.
        max: usize,
    },
    /// The new login is refused.
    Reject,
}

/// Whether a login is let in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admittance {
    /// It is; these sessions of the same user must be closed.
    Granted { replaced: Keys },
    /// It is not.
    Refused,
}

/// The sessions of a shard by user.
#[derive(Debug)]
pub(crate) struct Registry {
    policy: DuplicateLogin,
    users: HashMap<UserId, Keys, RandomState>,
}

impl Registry {
    pub(crate) fn new(policy: DuplicateLogin) -> Self {
        Self { policy, users: HashMap::default() }
    }

    /// Decides about a login of `user` and enters it under `key` when granted; the replaced ones are out at once.
    pub(crate) fn login(&mut self, user: UserId, key: Key) -> Admittance {
        let max = match self.policy {
            DuplicateLogin::Reject if self.users.contains_key(&user) => return Admittance::Refused,
            DuplicateLogin::Replace | DuplicateLogin::Reject => 1,
            DuplicateLogin::Allow { max } => max.max(1),
        };
        let keys = self.users.entry(user).or_default();
        keys.push(key);
        let surplus = keys.len().saturating_sub(max);
        Admittance::Granted { replaced: keys.drain(..surplus).collect() }
    }

    /// Takes a session out; one that was replaced is out already.
    pub(crate) fn logout(&mut self, user: UserId, key: Key) {
        if let Some(keys) = self.users.get_mut(&user) {
            keys.retain(|k| *k != key);
            if keys.is_empty() {
                self.users.remove(&user);
            }
        }
    }

    /// The sessions of `user`, oldest first; none when the user is not connected here.
    pub(crate) fn sessions_of(&self, user: UserId) -> Keys {
        self.users.get(&user).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn granted(replaced: &[Key]) -> Admittance {
        Admittance::Granted { replaced: replaced.into() }
    }

    #[test]
    fn each_policy_does_what_its_name_says() {
        let user = UserId::new(42);
        let mut registry = Registry::new(DuplicateLogin::Replace);
        assert_eq!([1, 2].map(|k| registry.login(user, k)), [granted(&[]), granted(&[1])]);
        assert_eq!(registry.sessions_of(user)[..], [2]);

        let mut registry = Registry::new(DuplicateLogin::Reject);
        assert_eq!([1, 2].map(|k| registry.login(user, k)), [granted(&[]), Admittance::Refused]);
        assert_eq!(registry.sessions_of(user)[..], [1]);

        let mut registry = Registry::new(DuplicateLogin::Allow { max: 2 });
        let got = [1, 2, 3].map(|k| registry.login(user, k));
        assert_eq!(got, [granted(&[]), granted(&[]), granted(&[1])]);
        assert_eq!(registry.sessions_of(user)[..], [2, 3]);
    }

    #[test]
    fn a_replaced_session_that_leaves_late_does_not_log_its_successor_out() {
        let user = UserId::new(42);
        let mut registry = Registry::new(DuplicateLogin::Replace);
        registry.login(user, 1);
        registry.login(user, 2);
        registry.logout(user, 1);
        assert_eq!(registry.sessions_of(user)[..], [2]);
        registry.logout(user, 2);
        assert!(registry.users.is_empty(), "a user without sessions takes no memory");
    }

    proptest! {
        #[test]
        fn registry_agrees_with_a_list_of_pairs(
            steps in prop::collection::vec((0i64..4, any::<bool>()), 0..60),
            policy in prop_oneof![
                Just(DuplicateLogin::Replace),
                Just(DuplicateLogin::Reject),
                (1usize..4).prop_map(|max| DuplicateLogin::Allow { max }),
            ],
        ) {
            let mut registry = Registry::new(policy);
            let mut model: Vec<(UserId, Key)> = Vec::new();
            for (key, (user, logs_in)) in steps.into_iter().enumerate() {
                let user = UserId::new(user);
                let held: Vec<Key> = model.iter().filter(|(u, _)| *u == user).map(|(_, k)| *k).collect();
                if !logs_in {
                    if let Some(first) = held.first() {
                        registry.logout(user, *first);
                        model.retain(|(_, k)| k != first);
                    }
                    continue;
                }
                let limit = match policy { DuplicateLogin::Allow { max } => max, _ => 1 };
                let want = if policy == DuplicateLogin::Reject && !held.is_empty() {
                    Admittance::Refused
                } else {
                    model.push((user, key));
                    let gone = if held.len() >= limit { &held[..1] } else { &[] };
                    model.retain(|(_, k)| !gone.contains(k));
                    granted(gone)
                };
                prop_assert_eq!(registry.login(user, key), want);
            }
            for user in (0..4).map(UserId::new) {
                let held: Vec<Key> = model.iter().filter(|(u, _)| *u == user).map(|(_, k)| *k).collect();
                prop_assert_eq!(registry.sessions_of(user).to_vec(), held);
            }
        }
    }
}
