-- Until when late orders end slowly: one row, for all processes of order-service, so that one that starts meanwhile
-- brakes with the others. NULL until the first time.
CREATE TABLE expiry_brake (
    one          boolean PRIMARY KEY DEFAULT true CHECK (one),
    braked_until timestamptz
);
INSERT INTO expiry_brake DEFAULT VALUES;
