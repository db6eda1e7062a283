-- Says which home this is: cursors of another one are refused.
CREATE TABLE identity (id TEXT NOT NULL);
INSERT INTO identity VALUES (lower(hex(randomblob(16))));

-- One row a task, under the task's own n. `facets` holds one word for the type, and for the status and the
-- pool once the task has ended; until then the word `open`: whatever else a task says then may still change.
CREATE VIRTUAL TABLE search USING fts5 (text, facets, columnsize = 0, tokenize = 'unicode61 remove_diacritics 2');

-- Tasks up to this n are in the index, but those in `indexed_open` only as they were before they ended.
CREATE TABLE indexed (upto INTEGER NOT NULL);
INSERT INTO indexed VALUES (0);
CREATE TABLE indexed_open (n INTEGER PRIMARY KEY);

-- The n of a task that was the newest may be given out again, so the index must not be ahead of the tasks.
CREATE TRIGGER index_goes_with_its_task AFTER DELETE ON tasks
BEGIN
    DELETE FROM search WHERE rowid = old.n;
    DELETE FROM indexed_open WHERE n = old.n;
    UPDATE indexed SET upto = coalesce((SELECT max(n) FROM tasks), 0)
    WHERE upto > coalesce((SELECT max(n) FROM tasks), 0);
END;

-- Grows at one end only, so that it costs a new task next to nothing.
CREATE INDEX tasks_created ON tasks (created_at);
