use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn message(id: i64) -> MessageEntry {
    MessageEntry {
        id: MessageId::new(id),
        topic: "mail.receipt".into(),
        key: "k".into(),
        ordering_key: Some("customer 1".into()),
        state: MessageState::Waiting,
        attempts: 0,
        taken_by: None,
        age: MINUTE,
        due_in: None,
        expires_in: None,
        ended: None,
        error: None,
        blocks: false,
        done: Vec::new(),
        correlation_id: None,
        payload_bytes: 0,
    }
}

fn relay(number: i64) -> RelayEntry {
    RelayEntry {
        token: RelayToken::new(number),
        group: "default".into(),
        beats: 1,
        shards: 64,
    }
}

/// One relay lives, and another one shows no sign of life.
fn known() -> Known {
    Known {
        crew: Crew {
            relays: vec![relay(1), relay(2)],
            alive: vec![RelayToken::new(1)],
            watched: Duration::from_secs(6),
        },
        ..Known::default()
    }
}

fn dead(id: i64, blocks: bool) -> MessageEntry {
    MessageEntry {
        state: MessageState::Dead,
        attempts: 20,
        error: Some("no such address".into()),
        blocks,
        ..message(id)
    }
}

#[test]
fn a_message_that_has_ended_or_is_dead_needs_no_other_reason() {
    let ended = MessageEntry {
        state: MessageState::Ended,
        ended: Some(MINUTE),
        ..message(1)
    };
    let mut paused = known();
    paused.paused.push("mail.receipt".into());
    assert_eq!(reasons(&ended, &paused), [Reason::Ended { ago: MINUTE }]);
    let is_dead = Reason::Dead {
        attempts: 20,
        error: "no such address".into(),
    };
    assert_eq!(reasons(&dead(1, true), &known()), std::slice::from_ref(&is_dead));
    let topic = "mail.receipt".into();
    assert_eq!(reasons(&dead(1, true), &paused), [is_dead, Reason::Paused { topic }]);
}

#[test]
fn a_message_waits_for_the_first_of_its_key_that_holds_it_up_and_is_told_why() {
    let parked = |id, blocks| MessageEntry {
        state: MessageState::Parked,
        due_in: Some(MINUTE),
        error: Some("not now".into()),
        blocks,
        ..message(id)
    };
    // A dead letter that is skipped and one sent later hold nothing up.
    let others = [dead(1, false), message(9), parked(4, true), dead(3, true)];
    let first = first_before(MessageId::new(7), others);
    assert_eq!(first, Some(dead(3, true)));
    assert_eq!(first_before(MessageId::new(7), [dead(1, false), message(9)]), None);
    let behind = Known { first, ..known() };
    let why = vec![Reason::Dead {
        attempts: 20,
        error: "no such address".into(),
    }];
    let id = MessageId::new(3);
    assert_eq!(reasons(&message(7), &behind), [Reason::Behind { id, why }]);
    let behind = Known {
        first: Some(parked(4, true)),
        ..known()
    };
    let text = reasons(&message(7), &behind)[0].to_string();
    assert!(
        text.contains("message 4") && text.contains("not now") && text.contains("60 s"),
        "{text}"
    );
}

#[test]
fn what_was_taken_is_told_with_the_life_of_its_relay() {
    for (number, life, word) in [
        (1, Life::Lives, "alive"),
        (
            2,
            Life::Silent {
                watched: Duration::from_secs(6),
            },
            "no sign of life for 6 s",
        ),
        (3, Life::Gone, "gone"),
    ] {
        let by = RelayToken::new(number);
        let taken = MessageEntry {
            taken_by: Some(by),
            ..message(1)
        };
        let found = reasons(&taken, &known());
        assert_eq!(found, [Reason::Taken { by, life }]);
        assert!(found[0].to_string().contains(word), "{}", found[0]);
    }
}

#[test]
fn reasons_stand_in_the_order_of_their_weight_and_there_is_always_one() {
    let topic: Arc<str> = "mail.receipt".into();
    let all = MessageEntry {
        due_in: Some(MINUTE),
        expires_in: Some(Duration::ZERO),
        ..message(7)
    };
    let nobody = Known {
        paused: vec![Arc::clone(&topic)],
        first: Some(message(3)),
        ..Known::default()
    };
    let why = vec![
        Reason::Paused {
            topic: Arc::clone(&topic),
        },
        Reason::NoRelay {
            topic: Arc::clone(&topic),
        },
    ];
    let expected = [
        Reason::Paused {
            topic: Arc::clone(&topic),
        },
        Reason::Behind {
            id: MessageId::new(3),
            why,
        },
        Reason::NotDue {
            due_in: MINUTE,
            error: None,
        },
        Reason::Expired,
        Reason::NoRelay {
            topic: Arc::clone(&topic),
        },
    ];
    assert_eq!(reasons(&all, &nobody), expected);
    let turn = Known { before: 12, ..known() };
    assert_eq!(reasons(&message(1), &turn), [Reason::Turn { topic, before: 12 }]);
    let explanation = Explanation {
        message: message(1),
        reasons: reasons(&message(1), &turn),
    };
    assert!(
        explanation
            .to_string()
            .starts_with("message 1 of mail.receipt\n- it waits its turn: 12 of")
    );
}
