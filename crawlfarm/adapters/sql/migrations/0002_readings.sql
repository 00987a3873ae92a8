-- How often a lock daemon has read the table. Only the one that read it last may write,
-- so that one whose connection broke off cannot write over its successor.
INSERT INTO meta (name, value) VALUES ('reading', 0);
