-- What a buyer passes before an order, per sale. Off for the sales that are there, and for those that an old version makes.
ALTER TABLE sales
    ADD COLUMN waiting_room boolean NOT NULL DEFAULT false,
    ADD COLUMN challenge    boolean NOT NULL DEFAULT false;
