-- A distribution's parts are tasks; what became of its items is read from those.
CREATE TABLE distributions (
    distribution_id TEXT PRIMARY KEY,
    task_type TEXT NOT NULL,
    caller TEXT NOT NULL,
    created_at REAL NOT NULL,
    strategy TEXT NOT NULL,
    reduce TEXT NOT NULL,
    on_error TEXT NOT NULL,
    total INTEGER NOT NULL,
    cwd TEXT NOT NULL,
    idempotency_key TEXT,
    request_hash TEXT,
    cancel_requested_at REAL,
    status TEXT NOT NULL,
    finished_at REAL,
    error TEXT,
    reduced BLOB
);
CREATE UNIQUE INDEX distributions_key ON distributions (caller, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE INDEX distributions_open ON distributions (distribution_id) WHERE finished_at IS NULL;

-- Which task is which part, and how many items it holds; null: it is one by itself.
CREATE TABLE parts (
    distribution_id TEXT NOT NULL,
    part INTEGER NOT NULL,
    task_id TEXT NOT NULL,
    items INTEGER,
    PRIMARY KEY (distribution_id, part)
) WITHOUT ROWID;
CREATE TRIGGER parts_go_with_their_distribution AFTER DELETE ON distributions
BEGIN DELETE FROM parts WHERE distribution_id = old.distribution_id; END;

-- Not WITHOUT ROWID: finding one row there means reading whole the large ones on the way.
DROP TRIGGER payload_goes_with_its_task;
CREATE TABLE large_payloads (task_id TEXT PRIMARY KEY, payload BLOB NOT NULL);
INSERT INTO large_payloads SELECT task_id, payload FROM payloads;
DROP TABLE payloads;
ALTER TABLE large_payloads RENAME TO payloads;
CREATE TRIGGER payload_goes_with_its_task AFTER DELETE ON tasks
BEGIN DELETE FROM payloads WHERE task_id = old.task_id; END;
