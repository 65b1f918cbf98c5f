-- A row leaves an index when it is sent, and another when it is numbered. Until a vacuum whoever looks for the next rows passes
-- over what has left: by the default, a fifth of a table that is kept for more than a year.
ALTER TABLE notifications SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
