-- A buyer has at most one payment under way: asking again returns it.
CREATE UNIQUE INDEX payments_one_started ON payments (order_id) WHERE status = 'started';

-- Listings of admins.
CREATE INDEX orders_by_time ON orders (created_at DESC, id DESC);
CREATE INDEX sales_by_time ON sales (created_at DESC, id DESC);
CREATE INDEX sales_by_start ON sales (starts_at DESC, id DESC) WHERE published_at IS NOT NULL;

-- An order id names its item by the last 32 bits of the item's id, so no two items may share them.
CREATE UNIQUE INDEX items_tag ON items (right(id::text, 8));

-- The ledger of the sandbox provider, a stand-in for a third party. order-service asks it for nothing but refunds
-- and learns of captures from its signed notices alone; a checker may read it. A refund without a capture shows
-- that somebody who holds the secret signed a notice in the provider's place, as a test driver may.
CREATE TABLE sandbox_payments (
    payment_id      uuid PRIMARY KEY,
    order_id        uuid NOT NULL,
    amount_cents    bigint NOT NULL,
    currency        text NOT NULL,
    -- What the checkout page says that is bought.
    item_name       text NOT NULL,
    quantity        integer NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    -- What the buyer decided, once.
    outcome         text CHECK (outcome IN ('success', 'failure')),
    captured_at     timestamptz,
    -- The refund that the provider made, known by the number that the merchant gave it.
    refund_no       uuid UNIQUE,
    refunded_at     timestamptz,
    -- The notice: the same bytes at every repetition.
    notice          text,
    attempts        integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz,
    delivered_at    timestamptz,
    last_status     integer,
    CHECK ((captured_at IS NOT NULL) = (outcome IS NOT NULL AND outcome = 'success')),
    CHECK ((refund_no IS NULL) = (refunded_at IS NULL))
);
CREATE INDEX sandbox_payments_to_tell ON sandbox_payments (next_attempt_at)
    WHERE next_attempt_at IS NOT NULL AND delivered_at IS NULL;
