-- Which broker we have told everything: also the name of a durable queue there. A broker without that queue has lost
-- its data and is told again. One row.
CREATE TABLE broker_generation (
    one        boolean PRIMARY KEY DEFAULT true CHECK (one),
    generation uuid NOT NULL
);
INSERT INTO broker_generation (generation) VALUES (gen_random_uuid());
