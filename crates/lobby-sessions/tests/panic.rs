//! A shard that panics. This is a program of its own: it has to end.

mod rig;

use std::{fmt, io::Write, os::unix::process::ExitStatusExt, process::Command, sync::Arc};

use lobby_sessions::{Frame, FrameKind, Sessions, SessionsConfig};
use notify_protocol::UserId;
use tokio::runtime::Handle;
use tracing::{Event, Metadata, Subscriber, span};

/// Set in the process that panics.
const CHILD: &str = "LOBBY_TEST_PANIC";
const SIGABRT: i32 = 6;

/// A log that panics in the middle of a delivery: when nobody is there to receive it.
struct Touchy;

impl Subscriber for Touchy {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn event(&self, event: &Event<'_>) {
        event.record(&mut |_: &tracing::field::Field, value: &dyn fmt::Debug| {
            assert_ne!(format!("{value:?}"), "user is not connected here");
        });
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

struct Telltale;

impl Drop for Telltale {
    fn drop(&mut self) {
        let mut out = std::io::stdout();
        out.write_all(b"ticket dropped").and_then(|()| out.flush()).expect("written");
    }
}

#[tokio::test]
async fn a_shard_that_panics_ends_the_process_and_acks_nothing_on_the_way() {
    if std::env::var_os(CHILD).is_some() {
        tracing::subscriber::set_global_default(Touchy).expect("the only one");
        let sessions =
            Sessions::start(SessionsConfig::default(), Arc::new(rig::Trusting), &Handle::current())
                .expect("threads");
        sessions.unicast(UserId::new(1), Frame::control("{}", FrameKind::Text), Arc::new(Telltale));
        std::thread::sleep(rig::PATIENCE);
        return;
    }
    let mut program = Command::new(std::env::current_exe().expect("a path"));
    let child = program.env(CHILD, "1").arg("--nocapture").output().expect("it runs");
    let (out, log) = (String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    assert_eq!(child.status.signal(), Some(SIGABRT), "{log}");
    assert!(!out.contains("ticket dropped"), "what nobody got would be acked");
}
