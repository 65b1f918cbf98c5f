-- The span in which the event of a notification was processed (W3C traceparent), so that the span in which it is sent is
-- below it. Null where nothing was traced.
ALTER TABLE notifications ADD COLUMN traceparent text;
