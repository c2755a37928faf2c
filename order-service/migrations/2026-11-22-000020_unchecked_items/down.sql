ALTER TABLE orders ADD CONSTRAINT orders_item_id_fkey FOREIGN KEY (item_id) REFERENCES items (id);
