//! Our operations as procedures in the server, which are an error inside of a transaction.
//!
//! A pool may lend a connection that is still inside of an earlier user's transaction: `sqlx` does not know of a
//! `BEGIN` whose answer was not waited for, nor of one that was sent as text. What a plain statement does there cannot
//! be seen from outside, and is rolled back in the end. Neither the answer to a statement nor anything that a statement
//! can read tells for certain: a transaction that was just begun differs from none by nothing but its age. But the
//! server lets a *procedure* end the transaction that it runs in if that is the call's own, and only then. So each of
//! ours begins with `COMMIT`:
//!
//! * Outside of a transaction, that ends the call's own, in which nothing was done, and begins another.
//! * Inside of one, it is an error (2D000), before anything was done. In one that has failed already, the call itself
//!   is an error (25P02). The connection is closed then, which rolls back what its owner had left, and another one is
//!   asked.
//!
//! The call is one statement and one round trip; see [`call`](super::call) for how it is put to the server. What the
//! session has for default transactions does not matter: each operation says what it needs, or looks whether it is so. Nor does it matter how the
//! session writes bytes where an answer is text. In a session that takes what is bound for another encoding than it is,
//! a call would concern another key, and so is an error as well (0A000).
//!
//! The text of a procedure is part of a [migration](super::schema), and says what it takes. A procedure that was
//! released is changed by another migration, and processes of both versions may call it meanwhile.

/// A procedure of ours.
pub(super) struct Procedure {
    pub(super) name: &'static str,
    /// The types of what it takes, `$1` and on.
    pub(super) takes: &'static [&'static str],
    /// The types of the columns of its one row; null if there is nothing to tell.
    pub(super) answers: &'static [&'static str],
}

/// The instant, and a record as it is read.
const RECORD: &[&str] = &[
    "bigint", "bytea", "bigint", "bytea", "bigint", "bigint", "bigint", "bigint", "bigint", "bytea", "boolean",
];

pub(super) const CLAIM: Procedure = Procedure {
    name: "claim",
    takes: &[
        "text", "text", "bytea", "bytea", "bigint", "bigint", "bigint", "boolean", "text",
    ],
    // Columns cost the server more than elements.
    answers: &["bigint[]", "bytea[]"],
};

pub(super) const CLAIM_TOGETHER: Procedure = Procedure {
    name: "claim_together",
    takes: &[
        "text[]", "text[]", "bytea[]", "bytea[]", "bigint[]", "bigint[]", "text[]",
    ],
    answers: &[
        "bigint",
        "bigint[]",
        "boolean[]",
        "bytea[]",
        "bigint[]",
        "bytea[]",
        "bigint[]",
        "bigint[]",
        "bigint[]",
        "bigint[]",
        "bytea[]",
        "boolean[]",
    ],
};

pub(super) const RENEW: Procedure = Procedure {
    name: "renew",
    takes: &["text", "text", "bigint", "bigint"],
    answers: &["bigint"],
};

/// Of many.
pub(super) const RENEW_TOGETHER: Procedure = Procedure {
    name: "renew_together",
    takes: &["text[]", "text[]", "bigint[]", "bigint[]"],
    answers: &["text"],
};

pub(super) const END_LEASE: Procedure = Procedure {
    name: "end_lease",
    takes: &["text", "text", "bigint", "bigint", "bigint", "text"],
    answers: &["bigint", "text"],
};

pub(super) const COMPLETE: Procedure = Procedure {
    name: "complete",
    takes: &["text", "text", "bigint", "bytea", "bigint", "bigint", "text"],
    answers: &["bigint"],
};

pub(super) const COMPLETE_TOGETHER: Procedure = Procedure {
    name: "complete_together",
    takes: &[
        "text[]", "text[]", "bigint[]", "bytea[]", "bigint[]", "bigint[]", "text",
    ],
    answers: &["bigint[]", "bigint"],
};

pub(super) const RELEASE: Procedure = Procedure {
    name: "release",
    takes: &["text", "text", "bigint", "bigint", "text"],
    answers: &["bigint", "text"],
};

pub(super) const LOAD: Procedure = Procedure {
    name: "load",
    takes: &["text", "text"],
    answers: RECORD,
};

pub(super) const PURGE: Procedure = Procedure {
    name: "purge",
    takes: &["bigint"],
    answers: &["bigint"],
};

pub(super) const BEGIN_STEPS: Procedure = Procedure {
    name: "begin_steps",
    takes: &[
        "text", "text", "bytea", "bytea", "bigint", "bigint", "bigint", "text", "text", "text", "bytea", "text",
        "bigint", "text",
    ],
    answers: &[
        "bigint", "bytea", "bigint", "bytea", "bigint", "bigint", "bigint", "bigint", "bigint", "bytea", "boolean",
        "boolean", "bigint", "text", "text", "bytea", "bigint", "boolean", "text", "bigint",
    ],
};

pub(super) const RECORD_STEP: Procedure = Procedure {
    name: "record_step",
    takes: &["text", "text", "bigint", "text", "text", "bytea", "bytea"],
    answers: &["bigint"],
};

pub(super) const LOAD_STEPS: Procedure = Procedure {
    name: "load_steps",
    takes: &["text", "text"],
    answers: &["bigint", "text", "text", "bytea", "bigint", "boolean", "text"],
};
