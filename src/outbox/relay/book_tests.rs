//! Order within a key, back-off included, and what memory holds.

use super::*;

const LIMIT: Load = Load {
    messages: 100,
    bytes: 10_000,
};

fn load(messages: usize, bytes: usize) -> Load {
    Load { messages, bytes }
}

fn message(id: i64, key: Option<&str>) -> StoredMessage {
    let text = |text: &str| Arc::<str>::from(text);
    StoredMessage {
        id: MessageId::new(id),
        position: id,
        shard: Shard::new(0),
        attempts: 0,
        due_in: None,
        expires_in: None,
        is_cancelled: false,
        age: Duration::ZERO,
        done: Vec::new(),
        topic: text("t"),
        key: text("k"),
        ordering_key: key.map(text),
        content_type: text("text/plain"),
        payload: Arc::from(&b"payload"[..]),
        payload_bytes: 7,
        headers: Vec::new(),
        correlation_id: None,
        trace_parent: None,
    }
}

fn book(ids: &[(i64, Option<&str>)], now: Instant) -> Book {
    let mut book = Book::new(1, LIMIT);
    for (id, key) in ids {
        book.add(message(*id, *key), (0, 0), now);
    }
    book
}

fn taken(book: &mut Book) -> Vec<i64> {
    std::iter::from_fn(|| book.pop(0)).map(MessageId::get).collect()
}

#[tokio::test(start_paused = true)]
async fn one_message_of_a_key_at_a_time_and_all_without_one() {
    let now = Instant::now();
    let mut book = book(
        &[(1, Some("a")), (2, Some("a")), (3, None), (4, None), (5, Some("b"))],
        now,
    );
    assert_eq!(taken(&mut book), [1, 3, 4, 5]);
    book.end(MessageId::new(1), now);
    assert_eq!(taken(&mut book), [2]);
}

#[tokio::test(start_paused = true)]
async fn a_message_in_back_off_is_not_overtaken_by_the_next_of_its_key() {
    let now = Instant::now();
    let mut book = book(&[(1, Some("a")), (2, Some("a")), (3, Some("b"))], now);
    assert_eq!(taken(&mut book), [1, 3]);
    book.fail(MessageId::new(1), Duration::from_secs(9), now);
    book.wake(now + Duration::from_secs(8));
    assert_eq!(taken(&mut book), [] as [i64; 0]);
    book.wake(now + Duration::from_secs(9));
    assert_eq!(taken(&mut book), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_parked_message_keeps_its_place_and_comes_back_to_it() {
    let now = Instant::now();
    let mut book = book(&[(1, Some("a")), (2, Some("a"))], now);
    assert_eq!(taken(&mut book), [1]);
    book.park(MessageId::new(1), true, now);
    book.add(message(3, Some("a")), (0, 0), now);
    assert_eq!(taken(&mut book), [] as [i64; 0]);
    let mut back = message(1, Some("a"));
    back.position = 9;
    book.add(back, (0, 0), now);
    assert_eq!(taken(&mut book), [1]);
    book.end(MessageId::new(1), now);
    assert_eq!(taken(&mut book), [2]);
    book.park(MessageId::new(2), false, now);
    assert_eq!(taken(&mut book), [3]);
}

#[tokio::test(start_paused = true)]
async fn what_was_written_earlier_and_read_later_takes_its_place() {
    let now = Instant::now();
    let mut book = book(&[(5, Some("a")), (7, Some("a"))], now);
    assert_eq!(taken(&mut book), [5]);
    book.add(message(6, Some("a")), (0, 0), now);
    book.end(MessageId::new(5), now);
    assert_eq!(taken(&mut book), [6]);
    book.end(MessageId::new(6), now);
    // It is ready, and one that belongs before it is read.
    let mut back = message(6, Some("a"));
    back.position = 9;
    book.add(back, (0, 0), now);
    assert_eq!(taken(&mut book), [6]);
}

#[tokio::test(start_paused = true)]
async fn what_comes_back_does_not_join_the_one_of_its_key_that_is_being_delivered() {
    let now = Instant::now();
    let mut book = book(&[(2, Some("a"))], now);
    assert_eq!(taken(&mut book), [2]);
    // A dead letter that was skipped, and that an operator has redriven.
    let mut back = message(1, Some("a"));
    back.position = 9;
    book.add(back, (0, 0), now);
    assert_eq!(taken(&mut book), [] as [i64; 0]);
    book.give_back(MessageId::new(2), now);
    assert_eq!(taken(&mut book), [1]);
    book.end(MessageId::new(1), now);
    assert_eq!(taken(&mut book), [2]);
}

#[tokio::test(start_paused = true)]
async fn what_waits_behind_a_long_pause_leaves_its_room_to_others() {
    let now = Instant::now();
    let mut book = book(&[(1, Some("a")), (2, Some("a")), (3, Some("a")), (4, None)], now);
    assert_eq!(taken(&mut book), [1, 4]);
    book.fail(MessageId::new(1), Duration::from_secs(60), now);
    assert_eq!((book.loaded(), book.len()), (load(1, 7), 4));
    book.wake(now + Duration::from_secs(60));
    assert_eq!(taken(&mut book), [1]);
    book.park(MessageId::new(1), true, now);
    assert_eq!((book.loaded(), book.len()), (load(1, 7), 3));
}

#[tokio::test(start_paused = true)]
async fn what_waits_behind_a_pause_is_kept_without_its_content() {
    let now = Instant::now();
    let mut book = book(&[(1, Some("a"))], now);
    assert_eq!(book.loaded(), load(1, 7));
    assert_eq!(taken(&mut book), [1]);
    book.fail(MessageId::new(1), Duration::from_secs(60), now);
    book.add(message(2, Some("a")), (0, 0), now);
    assert_eq!((book.loaded(), book.len()), (load(0, 0), 2));
    book.forget(&HashSet::from([Shard::new(0)]));
    assert_eq!(book.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_read_twice_is_delivered_once() {
    let now = Instant::now();
    let mut book = book(&[(1, None), (1, None)], now);
    assert_eq!(taken(&mut book), [1]);
    book.add(message(1, None), (0, 0), now);
    assert_eq!(taken(&mut book), [] as [i64; 0]);
}

#[tokio::test(start_paused = true)]
async fn what_is_large_or_too_much_is_kept_without_its_content() {
    let now = Instant::now();
    let mut book = Book::new(1, load(2, 10_000));
    let mut large = message(1, None);
    (large.payload, large.payload_bytes) = (Arc::from(&[][..]), 1 << 20);
    book.add(large, (0, 0), now);
    for id in 2..6 {
        book.add(message(id, None), (0, 0), now);
    }
    assert_eq!((book.loaded(), book.len()), (load(2, 14), 5));
    assert_eq!(taken(&mut book), [1, 2, 3, 4, 5]);
    book.load(message(5, None));
    assert_eq!((book.loaded(), book.reloaded(0)), (load(2, 14), 7));
    for id in 1..6 {
        book.end(MessageId::new(id), now);
    }
    assert_eq!((book.loaded(), book.reloaded(0)), (load(0, 0), 0));
}

#[tokio::test(start_paused = true)]
async fn a_message_is_ready_in_the_class_that_it_has() {
    let now = Instant::now();
    let mut book = book(&[(1, None)], now);
    assert_eq!(taken(&mut book), [1]);
    book.entry_mut(MessageId::new(1)).unwrap().class = 3;
    book.give_back(MessageId::new(1), now);
    assert_eq!(taken(&mut book), [] as [i64; 0]);
    assert!(book.is_ready(3));
    assert_eq!(book.pop(3), Some(MessageId::new(1)));
}

#[tokio::test(start_paused = true)]
async fn a_key_waits_for_what_stands_elsewhere_until_it_is_read_or_has_ended_there() {
    let now = Instant::now();
    let a = Arc::<str>::from("a");
    let mut book = Book::new(1, LIMIT);
    book.block(Arc::clone(&a), MessageId::new(1));
    book.block(Arc::clone(&a), MessageId::new(2));
    book.add(message(3, Some("a")), (0, 0), now);
    assert_eq!(taken(&mut book), [] as [i64; 0]);
    book.unblock(&a, MessageId::new(1), now);
    assert_eq!(taken(&mut book), [] as [i64; 0]);
    book.add(message(2, Some("a")), (0, 0), now);
    assert_eq!(taken(&mut book), [2]);
    book.end(MessageId::new(2), now);
    assert_eq!(taken(&mut book), [3]);
    book.block(Arc::from("b"), MessageId::new(4));
    book.add(message(5, Some("b")), (0, 0), now);
    book.unblock(&Arc::from("b"), MessageId::new(4), now);
    assert_eq!(taken(&mut book), [5]);
}

#[tokio::test(start_paused = true)]
async fn one_that_comes_back_cancelled_is_not_delivered_and_lets_its_key_go_on() {
    let now = Instant::now();
    let mut book = Book::new(1, LIMIT);
    let first = StoredMessage {
        due_in: Some(Duration::from_secs(60)),
        ..message(1, Some("a"))
    };
    book.add(first, (0, 0), now);
    book.add(message(2, Some("a")), (0, 0), now);
    assert_eq!(taken(&mut book), [] as [i64; 0]);
    let cancelled = StoredMessage {
        position: 3,
        expires_in: Some(Duration::ZERO),
        is_cancelled: true,
        ..message(1, Some("a"))
    };
    book.add(cancelled, (0, 0), now);
    assert_eq!(taken(&mut book), [1]);
    let entry = book.entry(MessageId::new(1)).unwrap();
    assert!(entry.is_cancelled && entry.expires.unwrap() <= now && entry.position == 3);
    book.end(MessageId::new(1), now);
    assert_eq!(taken(&mut book), [2]);
}

fn of(topic: &str, id: i64, key: Option<&str>) -> StoredMessage {
    StoredMessage {
        topic: topic.into(),
        ..message(id, key)
    }
}

fn topics(names: &[&str]) -> HashSet<Arc<str>> {
    names.iter().map(|name| Arc::from(*name)).collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_paused_is_held_with_its_key_and_without_content_and_goes_on_in_its_order() {
    let now = Instant::now();
    let mut book = Book::new(1, LIMIT);
    book.add(of("paused", 1, Some("a")), (0, 0), now);
    book.add(of("other", 2, Some("a")), (0, 0), now);
    assert!(!book.pause(topics(&["paused"]), now));
    book.add(of("paused", 3, Some("a")), (0, 0), now);
    book.add(of("paused", 4, Some("b")), (0, 0), now);
    book.add(of("other", 5, Some("c")), (0, 0), now);
    assert_eq!(taken(&mut book), [5]);
    assert_eq!(book.loaded().messages, 1, "what is not delivered has its content here");
    // All that was held is in the book.
    assert!(!book.pause(topics(&["another"]), now));
    assert_eq!(taken(&mut book).len(), 2);
    book.end(MessageId::new(1), now);
    assert_eq!(taken(&mut book), [2]);
    book.end(MessageId::new(2), now);
    assert_eq!(taken(&mut book), [3]);
}

#[tokio::test(start_paused = true)]
async fn what_is_paused_and_holds_up_nothing_leaves_the_book_and_is_read_once_more() {
    let now = Instant::now();
    let mut book = Book::new(1, LIMIT);
    for id in 1..=3 {
        book.add(of("paused", id, None), (0, 0), now);
    }
    assert_eq!(book.pop(0), Some(MessageId::new(1)));
    assert!(!book.pause(topics(&["paused", "empty"]), now));
    book.add(of("paused", 4, None), (0, 0), now);
    // What is being delivered goes on, and waits if that fails.
    assert_eq!((book.len(), book.count_of(0)), (1, 1));
    book.fail(MessageId::new(1), Duration::ZERO, now);
    book.wake(now);
    assert_eq!(taken(&mut book), [] as [i64; 0]);
    assert!(
        !book.pause(topics(&["paused"]), now),
        "nothing of a topic is read for another one"
    );
    assert!(book.pause(topics(&[]), now));
    assert_eq!(taken(&mut book), [1]);
    for id in 1..=4 {
        book.add(of("paused", id, None), (0, 0), now);
    }
    assert_eq!(taken(&mut book), [2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn what_expires_while_it_is_paused_is_taken_out_of_the_way() {
    let (now, minute) = (Instant::now(), Duration::from_secs(60));
    let mut book = Book::new(1, LIMIT);
    book.pause(topics(&["paused"]), now);
    let expires_in = Some(minute);
    let expires = StoredMessage {
        expires_in,
        ..of("paused", 1, Some("a"))
    };
    book.add(expires, (0, 0), now);
    assert_eq!(taken(&mut book), [] as [i64; 0]);
    book.wake(now + minute);
    assert_eq!(taken(&mut book), [1]);
}

#[tokio::test(start_paused = true)]
async fn however_many_wait_under_one_key_each_is_looked_at_once_when_their_topic_is_paused() {
    const WAIT: i64 = 50_000;
    let now = Instant::now();
    let mut book = Book::new(1, load(100_000, 10_000_000));
    for id in 1..=WAIT {
        book.add(of("paused", id, Some("a")), (0, 0), now);
    }
    assert_eq!(taken(&mut book), [1]);
    book.fail(MessageId::new(1), Duration::from_millis(1), now);
    let before = book.unloads;
    book.pause(topics(&["paused"]), now);
    let unloads = book.unloads - before;
    assert!(unloads <= 2 * WAIT as u64, "{unloads}");
    book.wake(now + Duration::from_secs(1));
    assert_eq!(taken(&mut book), [] as [i64; 0]);
    assert!(book.entries().all(|entry| entry.content.is_none()));
    book.pause(topics(&[]), now + Duration::from_secs(1));
    assert_eq!(taken(&mut book), [1]);
}
