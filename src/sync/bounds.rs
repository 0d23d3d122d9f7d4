//! How many callers are woken in a row, and how deep polls may stand inside each other. In a model both are small.

/// Returns the number of callers that are woken as a flight lands, and are in the queues of a runtime from then on at any time. It
/// is half of what the queue of one of tokio's workers takes: what comes to a full queue goes to the one that all workers share.
#[cfg(not(any(oneflight_loom, oneflight_shuttle)))]
pub(crate) const fn first_round() -> usize {
    128
}

/// Returns the number of callers of which one wakes as many others. It is half of those that are in the queues, so that it is
/// reached even if half of these are not polled.
#[cfg(not(any(oneflight_loom, oneflight_shuttle)))]
pub(crate) const fn together() -> u32 {
    64
}

/// Returns the number of callers that a task wakes in a row if few leave: some ten microseconds' worth.
#[cfg(not(any(oneflight_loom, oneflight_shuttle)))]
pub(crate) const fn round() -> usize {
    512
}

/// Returns the number of callers that leave between two looks of this task, and are not few.
#[cfg(not(any(oneflight_loom, oneflight_shuttle)))]
pub(crate) const fn few() -> u32 {
    32
}

/// Returns four, so that two of them wake others together.
#[cfg(oneflight_shuttle)]
pub(crate) const fn round() -> usize {
    4
}

#[cfg(not(any(oneflight_loom, oneflight_shuttle)))]
const _: () = {
    assert!(together() as usize * 2 == first_round());
    assert!(together().is_power_of_two());
    assert!(few() < together());
    assert!(first_round() <= round());
    // The queue of one of tokio's workers takes 256.
    assert!(first_round() + together() as usize <= 256);
};

#[cfg(oneflight_shuttle)]
pub(crate) const fn first_round() -> usize {
    round()
}

#[cfg(any(oneflight_loom, oneflight_shuttle))]
pub(crate) fn together() -> u32 {
    u32::try_from(round().div_ceil(2)).unwrap_or(1)
}

#[cfg(any(oneflight_loom, oneflight_shuttle))]
pub(crate) const fn few() -> u32 {
    1
}

#[cfg(oneflight_loom)]
std::thread_local! {
    static ROUND: std::cell::Cell<usize> = const { std::cell::Cell::new(usize::MAX) };
    static FIRST_ROUND: std::cell::Cell<usize> = const { std::cell::Cell::new(usize::MAX) };
}

#[cfg(oneflight_loom)]
pub(crate) fn round() -> usize {
    ROUND.get()
}

#[cfg(oneflight_loom)]
pub(crate) fn first_round() -> usize {
    FIRST_ROUND.get()
}

/// Sets the number of callers that are woken in a row in the models of this thread, in the first round as well.
#[cfg(oneflight_loom)]
pub fn wake_in_rounds_of(callers: usize) {
    ROUND.set(callers);
    FIRST_ROUND.set(callers);
}

/// Sets the number of callers that are woken in the first round, on workers of one runtime, in the models of this thread.
#[cfg(oneflight_loom)]
pub fn wake_first(callers: usize) {
    FIRST_ROUND.set(callers);
}

/// Returns how deep polls of work may stand one inside the other on one stack, and likewise wake-ups and ends of flights. It is
/// much deeper than calls are nested by design, and takes little enough of a stack of two megabytes.
#[cfg(not(oneflight_loom))]
pub(crate) const fn deepest() -> u32 {
    16
}

#[cfg(oneflight_loom)]
std::thread_local! {
    static DEEPEST: std::cell::Cell<u32> = const { std::cell::Cell::new(u32::MAX) };
}

#[cfg(oneflight_loom)]
pub(crate) fn deepest() -> u32 {
    DEEPEST.get()
}

/// Sets this depth in the models of this thread.
#[cfg(oneflight_loom)]
pub fn nest_at_most(deepest: u32) {
    DEEPEST.set(deepest);
}
