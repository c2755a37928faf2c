DROP TABLE audit_log, delivery_attempts, deliveries, webhook_messages, webhooks, events, user_sequences;
