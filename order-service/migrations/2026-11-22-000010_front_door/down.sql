ALTER TABLE sales DROP COLUMN waiting_room, DROP COLUMN challenge;
