ALTER TABLE sandbox_payments DROP COLUMN closed_at;
ALTER TABLE payments DROP COLUMN asked;
ALTER TABLE payments DROP COLUMN next_ask_at;
