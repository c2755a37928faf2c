-- When the provider is asked next how a payment stands, whose notice may be lost, and how often it was asked. Payments
-- that an older version begins are asked for at once.
ALTER TABLE payments ADD COLUMN next_ask_at timestamptz NOT NULL DEFAULT now();
ALTER TABLE payments ADD COLUMN asked integer NOT NULL DEFAULT 0;
CREATE INDEX payments_to_ask ON payments (next_ask_at) WHERE status = 'started';

-- The sandbox provider captures nothing for a payment that the merchant has closed.
ALTER TABLE sandbox_payments ADD COLUMN closed_at timestamptz;
