//! Promise 8: a follower whose fingerprint differs from the flight's gets `Conflict`, never another request's result.

use crate::common::{Gate, Task};
use oneflight::{Fingerprint, FlightError, Group};

#[test]
fn fingerprints_are_compared_one_side_without_included() {
    let (group, gate) = (Group::<u8, u8>::new(), Gate::new());
    let work = |value| {
        let gate = gate.clone();
        move || async move {
            gate.pass().await;
            value
        }
    };
    let (this, other) = (Fingerprint::from_digest([1; 32]), Fingerprint::from_digest([2; 32]));
    let mut leader = Task::new(group.run(1, work(1)).fingerprint(this));
    leader.pending();
    let mut same = Task::new(group.run(1, work(2)).fingerprint(this));
    same.pending();
    let mut joins = Task::new(group.join(&1).fingerprint(this));
    joins.pending();
    let another = Task::new(group.run(1, work(3)).fingerprint(other)).ready();
    assert_eq!(another.unwrap_err(), FlightError::Conflict);
    let without = Task::new(group.run(1, work(4))).ready();
    assert_eq!(without.unwrap_err(), FlightError::Conflict);
    let joins_without = Task::new(group.join(&1)).ready();
    assert_eq!(joins_without.unwrap().unwrap_err(), FlightError::Conflict);
    gate.open(1);
    assert_eq!(leader.ready().unwrap().value, 1);
    assert_eq!(same.ready().unwrap().value, 1);
    assert_eq!(joins.ready().unwrap().unwrap().value, 1);

    let mut plain = Task::new(group.run(1, work(5)));
    plain.pending();
    let with = Task::new(group.run(1, work(6)).fingerprint(this)).ready();
    assert_eq!(with.unwrap_err(), FlightError::Conflict);
    gate.open(1);
    assert_eq!(plain.ready().unwrap().value, 5);
    assert_eq!(group.stats().refused, 4);
}
