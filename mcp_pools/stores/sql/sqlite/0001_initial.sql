-- Small columns first and the result last: reading a task's status never touches its result's pages.
CREATE TABLE tasks (
    n INTEGER PRIMARY KEY,
    task_id TEXT NOT NULL UNIQUE,
    task_type TEXT NOT NULL,
    caller TEXT NOT NULL,
    created_at REAL NOT NULL,
    cwd TEXT NOT NULL,
    roots TEXT NOT NULL,
    timeout REAL NOT NULL,
    priority INTEGER NOT NULL,
    max_attempts INTEGER NOT NULL,
    depth INTEGER NOT NULL,
    strategy TEXT NOT NULL,
    pinned INTEGER NOT NULL,
    selector TEXT,
    affinity_key TEXT,
    distribution_id TEXT,
    idempotency_key TEXT,
    request_hash TEXT,
    cancel_requested_at REAL,
    status TEXT NOT NULL,
    pool TEXT,
    pool_type TEXT,
    worker TEXT,
    attempt INTEGER NOT NULL,
    launch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    not_before REAL,
    started_at REAL,
    finished_at REAL,
    progress TEXT,
    error TEXT,
    payload BLOB,
    output_tail TEXT,
    result BLOB
);
CREATE INDEX tasks_open ON tasks (task_id) WHERE finished_at IS NULL;
CREATE INDEX tasks_done ON tasks (pool, finished_at) WHERE finished_at IS NOT NULL;
CREATE UNIQUE INDEX tasks_key ON tasks (caller, idempotency_key) WHERE idempotency_key IS NOT NULL;

-- Payloads too large to be rewritten with each change of their task.
CREATE TABLE payloads (task_id TEXT PRIMARY KEY, payload BLOB NOT NULL) WITHOUT ROWID;
CREATE TRIGGER payload_goes_with_its_task AFTER DELETE ON tasks
BEGIN DELETE FROM payloads WHERE task_id = old.task_id; END;

CREATE TABLE pools (
    name TEXT PRIMARY KEY,
    pool_id TEXT NOT NULL,
    spec TEXT NOT NULL,
    status TEXT NOT NULL,
    fixed_workers INTEGER,
    configured INTEGER NOT NULL,
    created_at REAL NOT NULL
);

CREATE TABLE affinities (key TEXT PRIMARY KEY, pool TEXT NOT NULL) WITHOUT ROWID;

-- One row an owner, the latest last: its number is the epoch that tasks carry.
CREATE TABLE owners (epoch INTEGER PRIMARY KEY, started_at REAL NOT NULL);

-- The oldest are pruned, never the newest, so cursors only grow.
CREATE TABLE events (
    cursor INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    pool TEXT,
    task_id TEXT,
    data TEXT NOT NULL
);
