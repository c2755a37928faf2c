DROP TABLE dead_letters, audit_log, outbox, payment_notices, payments, order_transitions, orders, items, sales;
