-- Which broker we have told everything: also the name of a durable queue there. A broker without that queue has lost
-- its data and is told again. One row; NULL until the first broker has been marked.
CREATE TABLE broker_generation (
    one        boolean PRIMARY KEY DEFAULT true CHECK (one),
    generation uuid
);
INSERT INTO broker_generation DEFAULT VALUES;
