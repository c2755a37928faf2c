DROP TABLE broker_generation;
