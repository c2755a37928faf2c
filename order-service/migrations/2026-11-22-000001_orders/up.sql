-- The source of truth. Every guard that a promise rests on is a constraint here too.

CREATE TABLE sales (
    id                     uuid PRIMARY KEY,
    title                  text NOT NULL,
    -- 'draft' until published; the window decides between scheduled, active and ended.
    published_at           timestamptz,
    paused_at              timestamptz,
    ended_at               timestamptz,
    starts_at              timestamptz NOT NULL,
    ends_at                timestamptz NOT NULL,
    payment_window_seconds integer NOT NULL CHECK (payment_window_seconds BETWEEN 1 AND 86400),
    created_at             timestamptz NOT NULL DEFAULT now(),
    CHECK (starts_at < ends_at)
);

CREATE TABLE items (
    id             uuid PRIMARY KEY,
    sale_id        uuid NOT NULL REFERENCES sales (id),
    position       integer NOT NULL,
    sku            text NOT NULL,
    name           text NOT NULL,
    image_url      text NOT NULL,
    price_cents    bigint NOT NULL CHECK (price_cents >= 0),
    currency       text NOT NULL,
    total          bigint NOT NULL,
    -- Units held or sold. Never more than there are, whatever Redis believed.
    taken          bigint NOT NULL DEFAULT 0,
    per_user_limit integer NOT NULL CHECK (per_user_limit BETWEEN 1 AND 100),
    -- Counts every change that the inventory has to know of.
    version        bigint NOT NULL DEFAULT 1,
    -- The newest right to load this item into the inventory, and the newest one whose fence has come through.
    epoch          bigint NOT NULL DEFAULT 0,
    epoch_token    uuid,
    fenced_epoch   bigint NOT NULL DEFAULT 0,
    UNIQUE (sale_id, position),
    CHECK (taken >= 0 AND taken <= total)
);

CREATE TABLE orders (
    id               uuid PRIMARY KEY,
    item_id          uuid NOT NULL REFERENCES items (id),
    sale_id          uuid NOT NULL,
    user_id          text NOT NULL,
    quantity         integer NOT NULL CHECK (quantity > 0),
    unit_price_cents bigint NOT NULL,
    currency         text NOT NULL,
    status           text NOT NULL,
    units            text NOT NULL,
    reason           text,
    refund           text,
    version          bigint NOT NULL,
    epoch            bigint NOT NULL,
    reserved_at      timestamptz NOT NULL,
    created_at       timestamptz NOT NULL,
    expires_at       timestamptz,
    CHECK (status IN ('pending_payment', 'paid', 'cancelled', 'expired', 'rejected', 'refund_pending', 'refunded')),
    CHECK (units IN ('held', 'sold', 'returned'))
);
CREATE INDEX orders_by_user ON orders (user_id, created_at DESC, id DESC);
CREATE INDEX orders_by_sale ON orders (sale_id, created_at DESC, id DESC);
-- For the per-user guard and the audit: every order of an item.
CREATE INDEX orders_by_item_and_user ON orders (item_id, user_id);
CREATE INDEX orders_due ON orders (expires_at) WHERE status = 'pending_payment';

-- Every change of an order, in the transaction that made it.
CREATE TABLE order_transitions (
    order_id    uuid NOT NULL,
    version     bigint NOT NULL,
    from_status text,
    to_status   text NOT NULL,
    units       text NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (order_id, version)
);

CREATE TABLE payments (
    id             uuid PRIMARY KEY,
    order_id       uuid NOT NULL REFERENCES orders (id),
    provider       text NOT NULL,
    amount_cents   bigint NOT NULL,
    currency       text NOT NULL,
    -- 'kept' is the one payment that an order is paid by.
    status         text NOT NULL,
    captured_at    timestamptz,
    refunded_at    timestamptz,
    -- Refunds: how often asked of the provider, and when next.
    refund_attempts integer NOT NULL DEFAULT 0,
    next_refund_at timestamptz,
    created_at     timestamptz NOT NULL DEFAULT now(),
    CHECK (status IN ('started', 'failed', 'kept', 'refund_pending', 'refunded'))
);
CREATE INDEX payments_by_order ON payments (order_id);
CREATE UNIQUE INDEX payments_one_kept ON payments (order_id) WHERE status = 'kept';
CREATE INDEX payments_to_refund ON payments (next_refund_at) WHERE status = 'refund_pending';

-- Every notice of a provider that was accepted as genuine; the same one again changes nothing.
CREATE TABLE payment_notices (
    provider    text NOT NULL,
    event_id    text NOT NULL,
    payment_id  uuid NOT NULL REFERENCES payments (id),
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, event_id)
);

-- Messages to publish, one row each, written by the transaction that they tell of. Kept for a day after their
-- confirm, so that a broker that lost its data can be told again.
CREATE TABLE outbox (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    message_id   uuid NOT NULL,
    exchange     text NOT NULL,
    routing_key  text NOT NULL,
    kind         text NOT NULL,
    body         bytea NOT NULL,
    traceparent  text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz
);
CREATE INDEX outbox_unpublished ON outbox (id) WHERE published_at IS NULL;
CREATE INDEX outbox_published ON outbox (published_at) WHERE published_at IS NOT NULL;

-- What admins did. Append-only.
CREATE TABLE audit_log (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT now(),
    actor   text NOT NULL,
    action  text NOT NULL,
    subject uuid NOT NULL,
    before  jsonb,
    after   jsonb
);

-- Parked messages of every queue.
CREATE TABLE dead_letters (
    id            uuid PRIMARY KEY,
    queue         text NOT NULL,
    kind          text NOT NULL,
    reason        text NOT NULL,
    body          bytea NOT NULL,
    first_seen_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX dead_letters_by_queue ON dead_letters (queue, first_seen_at);
