CREATE TABLE things (id int PRIMARY KEY);
INSERT INTO things VALUES (1);
GRANT SELECT ON things TO amends_things;
