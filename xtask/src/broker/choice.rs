//! Which broker to take: from facts about the machine to the ways worth trying, in order.
//!
//! Pure. A broker that merely listens on 5672 is no fact here: it is not ours.

use std::fmt;

/// A way to a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// The broker at `AMQP_URL`.
    Url,
    /// A container through testcontainers.
    Docker,
    /// A private node of the installed RabbitMQ.
    Native,
    /// The same, after installing the package.
    Apt,
}

impl Way {
    /// Reads `LOBBY_TEST_BROKER`.
    pub(crate) fn forced(text: &str) -> Result<Self, String> {
        match text {
            "url" => Ok(Self::Url),
            "docker" => Ok(Self::Docker),
            "native" => Ok(Self::Native),
            other => Err(format!("LOBBY_TEST_BROKER=`{other}` is none of: native, docker, url")),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Url => "AMQP_URL",
            Self::Docker => "Docker",
            Self::Native => "native node",
            Self::Apt => "apt",
        })
    }
}

/// What was found out about the machine; an `Err` is the reason why a way is closed.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// `AMQP_URL`, if it is set and not empty.
    pub(crate) amqp_url: Option<String>,
    /// The image to run, with an engine that answers.
    pub(crate) docker: Result<String, String>,
    /// RabbitMQ's server script is installed.
    pub(crate) native: Result<(), String>,
    /// It could be installed.
    pub(crate) apt: Result<(), String>,
}

/// A way that leads nowhere, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tried {
    pub(crate) way: Way,
    pub(crate) reason: String,
}

/// The open ways in order, and the closed ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) open: Vec<Way>,
    pub(crate) closed: Vec<Tried>,
}

/// Decides. `AMQP_URL` never falls through to another way; `forced` beats it.
pub(crate) fn plan(forced: Option<Way>, facts: &Facts) -> Plan {
    let mut plan = Plan { open: Vec::new(), closed: Vec::new() };
    let mut consider = |way: Way, fact: Result<(), String>| {
        match fact {
            Ok(()) => plan.open.push(way),
            Err(reason) => plan.closed.push(Tried { way, reason }),
        }
        plan.open.contains(&way)
    };
    let url = facts.amqp_url.as_ref().map(drop).ok_or_else(|| "not set".to_owned());
    let docker = facts.docker.clone().map(drop);
    let native = |consider: &mut dyn FnMut(Way, Result<(), String>) -> bool| {
        if !consider(Way::Native, facts.native.clone()) {
            consider(Way::Apt, facts.apt.clone());
        }
    };
    match forced {
        Some(Way::Url) => drop(consider(Way::Url, url)),
        Some(Way::Docker) => drop(consider(Way::Docker, docker)),
        Some(Way::Native | Way::Apt) => native(&mut consider),
        None => {
            if !consider(Way::Url, url) {
                consider(Way::Docker, docker);
                native(&mut consider);
            }
        }
    }
    plan
}

/// No way led to a broker.
#[derive(Debug)]
pub(crate) struct NoBroker {
    pub(crate) forced: Option<Way>,
    pub(crate) tried: Vec<Tried>,
}

impl fmt::Display for NoBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.forced {
            Some(way) => {
                writeln!(f, "no RabbitMQ for this run, and LOBBY_TEST_BROKER allows only one way ({way}):")?
            }
            None => writeln!(f, "no RabbitMQ for this run; tried in this order:")?,
        }
        for Tried { way, reason } in &self.tried {
            writeln!(f, "  - {way}: {}", reason.trim_end().replace('\n', "\n      "))?;
        }
        write!(
            f,
            "three ways to fix it:\n  \
             1. use a RabbitMQ that runs: AMQP_URL=amqp://guest:guest@127.0.0.1:5672/%2f\n  \
             2. start Docker, then let it fetch the image (`cargo xtask run --pull`) or build it (`cargo xtask broker-image`)\n  \
             3. install RabbitMQ: `apt-get install --no-install-recommends rabbitmq-server`; as root on Debian or \
             Ubuntu xtask does it itself"
        )
    }
}

impl std::error::Error for NoBroker {}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing() -> Facts {
        let closed = |reason: &str| Err(reason.to_owned());
        Facts {
            amqp_url: None,
            docker: Err("no engine".to_owned()),
            native: closed("absent"),
            apt: closed("not root"),
        }
    }

    fn everything() -> Facts {
        let url = Some("amqp://h".to_owned());
        Facts { amqp_url: url, docker: Ok("image".to_owned()), native: Ok(()), apt: Ok(()) }
    }

    #[test]
    fn amqp_url_never_falls_through() {
        assert_eq!(plan(None, &everything()), Plan { open: vec![Way::Url], closed: vec![] });
    }

    #[test]
    fn docker_comes_before_a_native_node_and_apt_only_where_none_is_installed() {
        let facts = Facts { amqp_url: None, ..everything() };
        assert_eq!(plan(None, &facts).open, [Way::Docker, Way::Native]);
        let facts = Facts { native: Err("absent".to_owned()), ..facts };
        assert_eq!(plan(None, &facts).open, [Way::Docker, Way::Apt]);
        let facts = Facts { docker: Err("no image".to_owned()), ..facts };
        assert_eq!(plan(None, &facts).open, [Way::Apt]);
    }

    #[test]
    fn a_forced_way_is_the_only_one() {
        assert_eq!(plan(Some(Way::Native), &everything()).open, [Way::Native]);
        assert_eq!(plan(Some(Way::Docker), &everything()).open, [Way::Docker]);
        assert_eq!(plan(Some(Way::Url), &everything()).open, [Way::Url]);
        let facts = Facts { docker: Err("no engine".to_owned()), ..everything() };
        assert!(plan(Some(Way::Docker), &facts).open.is_empty(), "a forced way falls through to none");
        assert!(plan(Some(Way::Url), &nothing()).open.is_empty());
        let facts = Facts { native: Err("absent".to_owned()), ..everything() };
        assert_eq!(plan(Some(Way::Native), &facts).open, [Way::Apt]);
    }

    #[test]
    fn the_error_lists_every_way_with_its_reason_and_three_fixes() {
        let tried = plan(None, &nothing()).closed;
        let text = NoBroker { forced: None, tried }.to_string();
        let part =
            "  - AMQP_URL: not set\n  - Docker: no engine\n  - native node: absent\n  - apt: not root\n";
        assert!(text.contains(part), "{text}");
        assert!(["  1. ", "  2. ", "  3. "].iter().all(|fix| text.contains(fix)), "{text}");
    }

    #[test]
    fn an_unknown_forced_way_is_named() {
        assert_eq!(Way::forced("native"), Ok(Way::Native));
        assert!(Way::forced("podman").unwrap_err().contains("`podman`"));
    }
}
