-- What people are told, and how the telling went.

-- One row per user, for ever: a number that was given out is never given out again.
CREATE TABLE user_sequences (
    user_id  text PRIMARY KEY,
    last_seq bigint NOT NULL CHECK (last_seq > 0)
) WITH (fillfactor = 70);

-- What happened to a user's orders, in the order in which that user is told.
CREATE TABLE events (
    user_id   text NOT NULL,
    -- The user's own sequence number: the `id:` of the stream.
    seq       bigint NOT NULL,
    event_id  uuid NOT NULL,
    -- The order as its owner sees it, as JSON text: what was stored is what is sent.
    data      text NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, seq)
);
-- An event that comes again is known.
CREATE UNIQUE INDEX events_once ON events (event_id);
-- For retention; rows come in this order, so it only grows at its end.
CREATE INDEX events_by_age ON events (stored_at);

CREATE TABLE webhooks (
    id         uuid PRIMARY KEY,
    url        text NOT NULL,
    types      text[] NOT NULL,
    -- `whsec_` and base64; emptied when the webhook is deleted.
    secret     text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- Set first, so that nothing is sent any more; the rows go later, in small batches.
    deleted_at timestamptz
);

-- What is sent to webhooks: one row per event that some webhook asked for, shared by all of them.
CREATE TABLE webhook_messages (
    event_id uuid PRIMARY KEY,
    kind     text NOT NULL,
    -- The bytes of every attempt, so that they can be compared and signed alike.
    body     text NOT NULL
);

CREATE TABLE deliveries (
    id           uuid PRIMARY KEY,
    webhook_id   uuid NOT NULL REFERENCES webhooks (id),
    -- In webhook_messages, written by the same transaction; no foreign key, as it would be checked for every row.
    event_id     uuid NOT NULL,
    state        text NOT NULL DEFAULT 'pending',
    attempts     integer NOT NULL DEFAULT 0,
    -- Attempts since the delivery was made or last asked for again: the step on the retry ladder.
    step         integer NOT NULL DEFAULT 0,
    due_at       timestamptz NOT NULL DEFAULT now(),
    -- Until when the worker that took it may be at work; after that anybody may take it.
    leased_until timestamptz,
    -- Counts takings: a worker that lost its lease cannot write over the next one's result.
    claims       bigint NOT NULL DEFAULT 0,
    last_status  integer,
    last_error   text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    -- When it was delivered or given up.
    finished_at  timestamptz,
    CHECK (state IN ('pending', 'delivered', 'parked'))
) WITH (fillfactor = 85);
-- One delivery per event and webhook, however often the event comes.
CREATE UNIQUE INDEX deliveries_once ON deliveries (event_id, webhook_id);
CREATE INDEX deliveries_due ON deliveries (webhook_id, due_at) WHERE state = 'pending';
CREATE INDEX deliveries_parked ON deliveries (webhook_id, id) WHERE state = 'parked';
CREATE INDEX deliveries_delivered ON deliveries (finished_at) WHERE state = 'delivered';
CREATE INDEX deliveries_by_webhook ON deliveries (webhook_id, id);

-- Every attempt that was made.
CREATE TABLE delivery_attempts (
    delivery_id uuid NOT NULL REFERENCES deliveries (id) ON DELETE CASCADE,
    number      integer NOT NULL,
    at          timestamptz NOT NULL,
    status      integer,
    error       text,
    duration_ms integer NOT NULL,
    PRIMARY KEY (delivery_id, number)
);

-- What admins did. Append-only; secrets are not in it.
CREATE TABLE audit_log (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT now(),
    actor   text NOT NULL,
    action  text NOT NULL,
    subject uuid NOT NULL,
    before  jsonb,
    after   jsonb
);
