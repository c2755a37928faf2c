-- Who may not buy. Gateways have the whole list; its version tells them when to read it again.
CREATE TABLE blocks (
    id         uuid PRIMARY KEY,
    kind       text NOT NULL,
    -- A user id, a device id, or a network in its shortest spelling.
    value      text NOT NULL,
    reason     text NOT NULL,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- NULL: until it is lifted.
    expires_at timestamptz,
    CHECK (kind IN ('user', 'device', 'network'))
);
CREATE UNIQUE INDEX blocks_once ON blocks (kind, value);
CREATE INDEX blocks_by_time ON blocks (created_at DESC, id DESC);

-- One row. Whoever changes the list counts it up first, so that one change at a time is made.
CREATE TABLE block_list (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    version bigint NOT NULL DEFAULT 0
);
INSERT INTO block_list DEFAULT VALUES;
