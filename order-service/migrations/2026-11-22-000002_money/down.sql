DROP TABLE sandbox_payments;
DROP INDEX items_tag, sales_by_start, sales_by_time, orders_by_time, payments_one_started;
