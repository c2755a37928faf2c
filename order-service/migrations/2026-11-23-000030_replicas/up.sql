-- The running processes of order-service, so that they share the partitions evenly. Nothing rests on it but speed.
CREATE TABLE replicas (
    id      uuid PRIMARY KEY,
    seen_at timestamptz NOT NULL DEFAULT now()
);
