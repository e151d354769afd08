//! What can go wrong between here and an API server, and what follows from it.

use std::time::Duration;

use serde::Deserialize;

use super::access::AccessError;

/// Why a listing or a watch ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// Address or credentials cannot be read.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// There is no connection, or it broke.
    #[error("{0}")]
    Connection(String),
    /// Nothing came for too long.
    #[error("nothing came for {0:?}")]
    Silent(Duration),
    /// Nothing came on a watch for too long, of a server that sends bookmarks.
    #[error("nothing came for {0:?}")]
    Stalled(Duration),
    /// Something came, but not to its end in time.
    #[error("not complete within {0:?}")]
    Slow(Duration),
    /// It does not fit.
    #[error("more than {0} bytes at once")]
    TooLarge(usize),
    /// The server said no.
    #[error("{0}")]
    Refused(Refusal),
    /// The server ended a watch as soon as it had begun.
    #[error("the server ended the watch as soon as it had begun")]
    Ended,
    /// What came is not what an API server says.
    #[error("not an API server's answer: {0}")]
    Garbled(String),
    /// Nobody listens any more.
    #[error("the receiver is gone")]
    Closed,
}

/// An API server's `Status`, as far as it matters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Refusal {
    /// HTTP status code.
    pub(super) code: u16,
    /// In one word.
    pub(super) reason: String,
    /// For people; it names verb and resource where a right is missing.
    pub(super) message: String,
    /// For programs.
    pub(super) details: Option<Details>,
}

/// What a `Status` says to programs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Details {
    causes: Option<Vec<Cause>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Cause {
    reason: String,
}

impl Refusal {
    /// Whether it is only said since the namespace is on its way out, in which nothing can be made any more.
    pub(super) fn is_of_ending_namespace(&self) -> bool {
        let causes = self.details.as_ref().and_then(|details| details.causes.as_ref());
        causes.into_iter().flatten().any(|cause| cause.reason == "NamespaceTerminating")
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { code, reason, message, .. } = self;
        match (reason.as_str(), message.as_str()) {
            ("", "") => write!(out, "answered {code}"),
            ("", message) => write!(out, "answered {code}: {message}"),
            (reason, message) => write!(out, "answered {code} {reason}: {message}"),
        }
    }
}

impl Fault {
    /// Whether another server may do better: not where all would say the same.
    pub(super) fn suspects_server(&self) -> bool {
        match self {
            Self::Connection(_) | Self::Silent(_) | Self::Slow(_) | Self::Garbled(_) | Self::Ended => true,
            Self::Refused(refusal) => refusal.code >= 500,
            // The server answers, as far as is known: the next question will show.
            Self::Stalled(_) | Self::TooLarge(_) | Self::Access(_) | Self::Closed => false,
        }
    }

    /// Whether the place in the stream of changes is lost, so that everything must be listed again. `is_at_start`: the
    /// watch was to go on from there and brought nothing.
    pub(super) fn loses_place(&self, is_at_start: bool) -> bool {
        match self {
            // 504: a place that this server has not come to.
            Self::Refused(refusal) => match refusal.code {
                410 => true,
                401 | 403 | 404 | 429 => false,
                code => is_at_start && (code < 500 || code == 504),
            },
            _ => false,
        }
    }

    /// Whether the server does not know the way of listing that it was asked for.
    pub(super) fn is_unsupported(&self) -> bool {
        matches!(self, Self::Refused(refusal) if matches!(refusal.code, 400 | 405 | 406 | 422))
    }

    /// The status code, if the server gave one.
    pub(super) fn code(&self) -> Option<u16> {
        match self {
            Self::Refused(refusal) => Some(refusal.code),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16) -> Fault {
        Fault::Refused(Refusal { code, ..Refusal::default() })
    }

    #[test]
    fn only_what_another_server_may_do_better_moves_on() {
        assert!(Fault::Connection(String::new()).suspects_server() && refused(503).suspects_server());
        for code in [401, 403, 404, 410, 422, 429] {
            assert!(!refused(code).suspects_server(), "{code}");
        }
    }

    #[test]
    fn a_place_is_lost_where_going_on_would_fail_for_ever() {
        assert!(refused(410).loses_place(false));
        assert!(refused(504).loses_place(true) && refused(422).loses_place(true));
        assert!(!refused(504).loses_place(false) && !refused(500).loses_place(true));
        assert!(!refused(401).loses_place(true) && !Fault::Ended.loses_place(true));
    }

    #[test]
    fn a_refusal_says_all_it_knows() {
        let refusal =
            Refusal { code: 403, reason: "Forbidden".into(), message: "no".into(), ..Refusal::default() };
        assert_eq!(Fault::Refused(refusal).to_string(), "answered 403 Forbidden: no");
        assert_eq!(refused(502).to_string(), "answered 502");
    }
}
