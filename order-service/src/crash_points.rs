//! Every place at which a fault campaign can make this service crash, stand still or fail; see [`common::failpoint`].
//!
//! `before` and `after` name the step between them. An error at a point is taken for a failure of its step.

/// A batch of reservations has arrived and nothing was done about it.
pub const ORDER_RECEIVE_BEFORE: &str = "order.receive.before";
/// Its events are in hand.
pub const ORDER_RECEIVE_AFTER: &str = "order.receive.after";
/// There is no transaction yet.
pub const ORDER_BEGIN_BEFORE: &str = "order.begin.before";
/// The transaction is open, nothing is locked.
pub const ORDER_BEGIN_AFTER: &str = "order.begin.after";
/// The items are locked and all is decided, nothing is written.
pub const ORDER_WRITE_BEFORE: &str = "order.write.before";
/// Orders, figures, fences and outbox are written.
pub const ORDER_WRITE_AFTER: &str = "order.write.after";
/// About to commit.
pub const ORDER_COMMIT_BEFORE: &str = "order.commit.before";
/// Committed; as an error: the answer to the commit was lost.
pub const ORDER_COMMIT_AFTER: &str = "order.commit.after";
/// Committed and parked, not acknowledged.
pub const ORDER_ACK_BEFORE: &str = "order.ack.before";
/// The acknowledgement is on its way.
pub const ORDER_ACK_AFTER: &str = "order.ack.after";

/// The relay is about to look into the outbox.
pub const OUTBOX_SELECT_BEFORE: &str = "outbox.select.before";
/// Rows are locked.
pub const OUTBOX_SELECT_AFTER: &str = "outbox.select.after";
/// Nothing was sent.
pub const OUTBOX_PUBLISH_BEFORE: &str = "outbox.publish.before";
/// On its way, and no confirm was looked at: messages may or may not have reached the broker.
pub const OUTBOX_CONFIRM_BEFORE: &str = "outbox.confirm.before";
/// All confirms that come are in.
pub const OUTBOX_CONFIRM_AFTER: &str = "outbox.confirm.after";
/// Published, not marked.
pub const OUTBOX_MARK_BEFORE: &str = "outbox.mark.before";
/// Marked, not committed.
pub const OUTBOX_MARK_AFTER: &str = "outbox.mark.after";

/// The broker is a new one; what was confirmed by the old one is to be told again, nothing is written yet.
pub const GENERATION_FORGET_BEFORE: &str = "generation.forget.before";
/// The new broker is marked, Postgres does not know it.
pub const GENERATION_MARK_AFTER: &str = "generation.mark.after";

/// A payment is about to be begun.
pub const PAY_COMMIT_BEFORE: &str = "pay.commit.before";
/// It is begun, and the buyer does not know it.
pub const PAY_COMMIT_AFTER: &str = "pay.commit.after";
/// The provider is about to hear of a payment.
pub const PROVIDER_REGISTER_BEFORE: &str = "provider.register.before";
/// It has; as an error: its answer was lost.
pub const PROVIDER_REGISTER_AFTER: &str = "provider.register.after";
/// The provider is about to be asked how a payment stands.
pub const PROVIDER_QUERY_BEFORE: &str = "provider.query.before";
/// It has said so; as an error: its answer was lost.
pub const PROVIDER_QUERY_AFTER: &str = "provider.query.after";
/// The provider is about to be told to close a payment.
pub const PROVIDER_CLOSE_BEFORE: &str = "provider.close.before";
/// It has; as an error: its answer was lost.
pub const PROVIDER_CLOSE_AFTER: &str = "provider.close.after";
/// The provider has said how a payment stands, and nothing was done about it.
pub const ASKING_MARK_BEFORE: &str = "asking.mark.before";
/// A cancellation is about to be committed.
pub const CANCEL_COMMIT_BEFORE: &str = "cancel.commit.before";
/// It is committed, and the buyer does not know it.
pub const CANCEL_COMMIT_AFTER: &str = "cancel.commit.after";
/// The inventory has withdrawn units, and the total is not lowered yet; as an error: its answer was lost.
pub const LOWER_WITHDRAW_AFTER: &str = "lower.withdraw.after";
/// A lower total is about to be committed.
pub const LOWER_COMMIT_BEFORE: &str = "lower.commit.before";
/// It is committed, and nobody knows it.
pub const LOWER_COMMIT_AFTER: &str = "lower.commit.after";

/// A notice has arrived, nobody knows whose.
pub const PAYMENT_VERIFY_BEFORE: &str = "payment.verify.before";
/// It is genuine.
pub const PAYMENT_VERIFY_AFTER: &str = "payment.verify.after";
/// What it says is written, not committed.
pub const PAYMENT_COMMIT_BEFORE: &str = "payment.commit.before";
/// Committed; as an error: the answer to the commit was lost.
pub const PAYMENT_COMMIT_AFTER: &str = "payment.commit.after";
/// The provider is about to be told that its notice was taken.
pub const PAYMENT_REPLY_BEFORE: &str = "payment.reply.before";

/// Due orders are about to be looked for.
pub const EXPIRY_SELECT_BEFORE: &str = "expiry.select.before";
/// They are locked.
pub const EXPIRY_SELECT_AFTER: &str = "expiry.select.after";
/// Their end is written, not committed.
pub const EXPIRY_COMMIT_BEFORE: &str = "expiry.commit.before";
/// They have ended.
pub const EXPIRY_COMMIT_AFTER: &str = "expiry.commit.after";

/// Money that is to go back: its payment does not say so yet.
pub const REFUND_INSERT_BEFORE: &str = "refund.insert.before";
/// It says so, not committed.
pub const REFUND_INSERT_AFTER: &str = "refund.insert.after";
/// The provider is about to be asked.
pub const REFUND_CALL_BEFORE: &str = "refund.call.before";
/// It has answered; as an error: the answer was lost.
pub const REFUND_REPLY_AFTER: &str = "refund.reply.after";
/// The money is back, and the books do not know it.
pub const REFUND_MARK_BEFORE: &str = "refund.mark.before";
/// The books know it.
pub const REFUND_MARK_AFTER: &str = "refund.mark.after";

/// Parked messages have been taken from their queue.
pub const DEAD_LETTER_RECEIVE_AFTER: &str = "dead_letter.receive.after";
/// They are in the table, not committed.
pub const DEAD_LETTER_COMMIT_BEFORE: &str = "dead_letter.commit.before";
/// Committed, not acknowledged.
pub const DEAD_LETTER_COMMIT_AFTER: &str = "dead_letter.commit.after";
/// A parked message is about to be sent again.
pub const DEAD_LETTER_REPLAY_BEFORE: &str = "dead_letter.replay.before";
/// It is on its queue and still a dead letter.
pub const DEAD_LETTER_REPLAY_AFTER: &str = "dead_letter.replay.after";

/// All of them.
pub const ALL: [&str; 53] = [
    ORDER_RECEIVE_BEFORE,
    ORDER_RECEIVE_AFTER,
    ORDER_BEGIN_BEFORE,
    ORDER_BEGIN_AFTER,
    ORDER_WRITE_BEFORE,
    ORDER_WRITE_AFTER,
    ORDER_COMMIT_BEFORE,
    ORDER_COMMIT_AFTER,
    ORDER_ACK_BEFORE,
    ORDER_ACK_AFTER,
    OUTBOX_SELECT_BEFORE,
    OUTBOX_SELECT_AFTER,
    OUTBOX_PUBLISH_BEFORE,
    OUTBOX_CONFIRM_BEFORE,
    OUTBOX_CONFIRM_AFTER,
    OUTBOX_MARK_BEFORE,
    OUTBOX_MARK_AFTER,
    GENERATION_FORGET_BEFORE,
    GENERATION_MARK_AFTER,
    PAY_COMMIT_BEFORE,
    PAY_COMMIT_AFTER,
    PROVIDER_REGISTER_BEFORE,
    PROVIDER_REGISTER_AFTER,
    PROVIDER_QUERY_BEFORE,
    PROVIDER_QUERY_AFTER,
    PROVIDER_CLOSE_BEFORE,
    PROVIDER_CLOSE_AFTER,
    ASKING_MARK_BEFORE,
    CANCEL_COMMIT_BEFORE,
    CANCEL_COMMIT_AFTER,
    LOWER_WITHDRAW_AFTER,
    LOWER_COMMIT_BEFORE,
    LOWER_COMMIT_AFTER,
    PAYMENT_VERIFY_BEFORE,
    PAYMENT_VERIFY_AFTER,
    PAYMENT_COMMIT_BEFORE,
    PAYMENT_COMMIT_AFTER,
    PAYMENT_REPLY_BEFORE,
    EXPIRY_SELECT_BEFORE,
    EXPIRY_SELECT_AFTER,
    EXPIRY_COMMIT_BEFORE,
    EXPIRY_COMMIT_AFTER,
    REFUND_INSERT_BEFORE,
    REFUND_INSERT_AFTER,
    REFUND_CALL_BEFORE,
    REFUND_REPLY_AFTER,
    REFUND_MARK_BEFORE,
    REFUND_MARK_AFTER,
    DEAD_LETTER_RECEIVE_AFTER,
    DEAD_LETTER_COMMIT_BEFORE,
    DEAD_LETTER_COMMIT_AFTER,
    DEAD_LETTER_REPLAY_BEFORE,
    DEAD_LETTER_REPLAY_AFTER,
];
