//! The signals that are passed on to the command.

use std::io;

use rustix::process::Signal;
use tokio::signal::unix::{Signal as Caught, SignalKind, signal};

/// What ends a program in good order, or is for it to understand.
const PASSED: [(Signal, SignalKind); 6] = [
    (Signal::TERM, SignalKind::terminate()),
    (Signal::INT, SignalKind::interrupt()),
    (Signal::HUP, SignalKind::hangup()),
    (Signal::QUIT, SignalKind::quit()),
    (Signal::USR1, SignalKind::user_defined1()),
    (Signal::USR2, SignalKind::user_defined2()),
];

/// Signals to this process. They end it no more by themselves.
#[derive(Debug)]
pub(super) struct Signals(Vec<(Signal, Caught)>);

impl Signals {
    /// Catches the signals, except those that are ignored here, as under `nohup`: the command is to ignore them too.
    pub(super) fn caught() -> io::Result<Self> {
        let ignored = ignored();
        let heard = PASSED.into_iter().filter(|(number, _)| ignored & bit(*number) == 0);
        heard
            .map(|(number, kind)| Ok((number, signal(kind)?)))
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// Waits for a signal.
    pub(super) async fn next(&mut self) -> Signal {
        std::future::poll_fn(|cx| {
            for (number, caught) in &mut self.0 {
                if caught.poll_recv(cx).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

/// Returns whether the terminal has sent this to the command as well, as it does for a key such as Ctrl-C. Which terminal that is does
/// not depend on where the standard input comes from.
pub(super) fn is_of_the_terminal(signal: Signal) -> bool {
    let foreground = || {
        let terminal = std::fs::File::open("/dev/tty").ok();
        terminal.is_some_and(|terminal| {
            rustix::termios::tcgetpgrp(&terminal).is_ok_and(|group| group == rustix::process::getpgrp())
        })
    };
    matches!(signal, Signal::INT | Signal::QUIT) && foreground()
}

/// The status of a command that this signal has ended, as shells say it.
pub(super) fn code(signal: Signal) -> u8 {
    128_u8.saturating_add(u8::try_from(signal.as_raw()).unwrap_or(127))
}

fn bit(signal: Signal) -> u64 {
    1 << (signal.as_raw() - 1)
}

/// What this process was started to ignore. Where the system does not tell, that is nothing.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}
