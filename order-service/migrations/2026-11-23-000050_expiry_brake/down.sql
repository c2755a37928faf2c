DROP TABLE expiry_brake;
